"""Cells: which there are, in what order, and how problems of all of them are told at once."""

from pathlib import Path

import pytest

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.trial.cells import Cell, identity, sweep_cells, threads_of, trial_cells, with_threads
from tests.core.conftest import give_cores

QUICK = ["budget=smoke", "tracker=none"]


def labels(*overrides: str) -> list[str]:
    return [cell.label for cell in sweep_cells("prior", [*QUICK, *overrides])]


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        sweep_cells("prior", list(overrides))
    return str(caught.value)


def test_a_trial_goes_seed_by_seed_so_that_a_stopped_one_holds_whole_pairs() -> None:
    cells = trial_cells("prior", QUICK, ["prior", "ntp"], [3, 0])
    assert [cell.name for cell in cells] == ["prior-s3", "prior-s0", "ntp-s3", "ntp-s0"]
    assert [(cell.seed, cell.arm) for cell in cells] == [(3, "prior"), (0, "prior"), (3, "ntp"), (0, "ntp")]
    assert cells[2].overrides == (*QUICK, "arm=ntp", "seed=3")
    assert cells[2].folder.startswith("prior/ntp/") and cells[2].folder.endswith("-s3")


def test_what_a_seed_needs_once_is_made_by_its_first_cell_and_these_go_first() -> None:
    cells = trial_cells("prior", QUICK, ["prior", "ntp", "random"], [0, 1])
    assert [cell.name for cell in cells] == ["prior-s0", "prior-s1", "ntp-s0", "random-s0", "ntp-s1", "random-s1"]


def test_arms_of_a_seed_differ_in_their_folder_and_seeds_of_an_arm_share_their_hash() -> None:
    cells = trial_cells("prior", QUICK, ["prior", "ntp"], [0, 1])
    assert len({cell.folder for cell in cells}) == 4
    assert len({cell.folder.rpartition("-s")[0] for cell in cells}) == 2


def test_a_sweep_is_the_product_in_the_order_of_hydra() -> None:
    assert labels("weighting.alpha=0.5,1", "seed=range(2)") == [
        "weighting.alpha=0.5 seed=0",
        "weighting.alpha=0.5 seed=1",
        "weighting.alpha=1 seed=0",
        "weighting.alpha=1 seed=1",
    ]


def test_names_of_a_sweep_sort_as_its_cells_do() -> None:
    cells = sweep_cells("prior", [*QUICK, "seed=range(11)"])
    assert [cell.name for cell in cells] == sorted(cell.name for cell in cells)
    assert cells[3].name == "03"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("weighting.alpha=choice(0.5,2)", ["weighting.alpha=0.5", "weighting.alpha=2"]),
        ("weighting.alpha=range(1,2,0.5)", ["weighting.alpha=1.0", "weighting.alpha=1.5"]),
        ("weighting.cap=null,2", ["weighting.cap=null", "weighting.cap=2"]),
        ("trainer.schedule='cosine',constant", ["trainer.schedule='cosine'", "trainer.schedule=constant"]),
        ("arm=prior,ntp", ["arm=prior", "arm=ntp"]),
        ("data=digit-captions,easy-vqa", ["data=digit-captions", "data=easy-vqa"]),
    ],
)
def test_every_way_that_hydra_has_to_list_values(typed: str, expected: list[str]) -> None:
    assert labels(typed) == expected


def test_quoted_values_keep_their_commas_and_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a, b", "it's c"):
        (tmp_path / name).write_text(name)
    cells = sweep_cells("prior", [*QUICK, "data=image-text", "data.path='a, b','it\\'s c'"])
    assert [cell.overrides[-1] for cell in cells] == ["data.path='a, b'", "data.path='it\\'s c'"]
    assert len({cell.folder for cell in cells}) == 2


def test_a_swept_data_group_takes_the_presets_of_each_choice() -> None:
    cells = sweep_cells("prior", [*QUICK, "data=digit-captions,easy-vqa"])
    alone = sweep_cells("prior", [*QUICK, "data=easy-vqa", "model.patch=8,4"])
    assert cells[1].folder == alone[0].folder


def test_a_swept_arm_is_the_arm_of_the_cell() -> None:
    assert [cell.arm for cell in sweep_cells("prior", [*QUICK, "arm=ntp,random"])] == ["ntp", "random"]


def test_all_problems_of_all_cells_are_told_at_once_with_the_cells_that_have_them() -> None:
    text = refused("weighting.alpha=-1,1,-2", "trainer.batch_size=0", "seed=0,1")
    assert text.splitlines() == [
        "3 problems in the config",
        "  trainer.batch_size = 0: must be >= 1",
        "  weighting.alpha = -1.0: must be >= 0 (cell weighting.alpha=-1 seed=0 and 1 more)",
        "  weighting.alpha = -2.0: must be >= 0 (cell weighting.alpha=-2 seed=0 and 1 more)",
    ]


def test_a_problem_of_one_cell_names_only_that() -> None:
    text = refused("arm=prior,ntpp")
    assert text.splitlines() == ["1 problem in the config", "  arm = ntpp: did you mean ntp? (cell arm=ntpp)"]


def test_a_trial_tells_the_problem_of_one_arm_with_its_cells() -> None:
    with pytest.raises(UserError) as caught:
        trial_cells("prior", ["data=image-text", "data.path=x"], ["prior", "oracle"], [0, 1])
    assert str(caught.value).endswith(
        "(cell oracle-s0 and 1 more)\n  or leave out the arms that have them: --arms prior"
    )


def test_a_problem_of_all_arms_names_none_to_leave_out() -> None:
    with pytest.raises(UserError) as caught:
        trial_cells("prior", ["trainer.batch_size=0"], ["prior", "ntp"], [0, 1])
    assert str(caught.value).splitlines()[1:] == ["  trainer.batch_size = 0: must be >= 1"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("weighting.alpha=range(5,1)", "weighting.alpha=range(5,1): is an empty range; type key=1,2 or key=range(3)"),
        ("weighting.alpha=interval(0,1)", "has no values to go through; type key=1,2 or key=range(3), or --sweeper"),
        ("weighting.alpha=0.5,", "weighting.alpha=0.5,: holds an empty value; type key=1,2"),
        ("a b=1,2", "a b=1,2: does not begin with a key"),
        ("~weighting.alpha=1,2", "keys cannot be deleted"),
        ("weighting.alpa=1,2", "did you mean weighting.alpha?"),
    ],
)
def test_what_cannot_be_swept_says_what_to_type(typed: str, told: str) -> None:
    assert told in refused(typed, "seed=0,1")


def test_no_key_with_several_values_says_what_to_type() -> None:
    text = refused("weighting.alpha=1")
    assert text.startswith("weighting.alpha=1: no key has several values")
    assert "steelyard sweep prior seed=0,1,2" in text


def test_two_cells_that_are_the_same_run_are_refused() -> None:
    text = refused("weighting.alpha=1,1.0")
    assert text.startswith("two cells are the same run: 'weighting.alpha=1' and 'weighting.alpha=1.0'")


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("label=a,b", "label is the name that a run is filed under: each of its values would do the same run again"),
        ("outputs=here,there", "outputs is where runs are kept: each"),
        ("tracker=none,wandb", "tracker is no part of what a run computes: each"),
        ("trainer.save_steps=5,6", "trainer.save_steps is no part of what a run computes: each"),
    ],
)
def test_keys_that_change_no_result_are_not_swept(typed: str, why: str) -> None:
    key = typed.partition("=")[0]
    for words in ([typed], [typed, "seed=0,1"]):
        text = refused(*words)
        assert why in text and f"type one {key}, and several values of keys that change the result" in text


def test_threads_are_added_last_and_move_the_folder() -> None:
    cells = trial_cells("prior", QUICK, ["ntp"], [0])
    (one,), (two,) = with_threads(cells, 1), with_threads(cells, 2)
    assert one.overrides == (*cells[0].overrides, "trainer.threads=1")
    # The small model trains on one thread anyway: a run of its own and a cell share a folder.
    assert cells[0].folder == one.folder != two.folder
    assert (one.name, one.label) == (cells[0].name, cells[0].label)
    assert all(cell.config == compose.compose("prior", [*cell.overrides]) for cell in (cells[0], one, two))


def test_typed_threads_win() -> None:
    cells = trial_cells("prior", [*QUICK, "trainer.threads=3"], ["ntp"], [0])
    assert with_threads(cells, 1) == cells
    assert threads_of([cell.overrides for cell in cells], jobs=4) == 3


def test_a_launcher_gets_the_most_threads_that_a_cell_was_typed_with() -> None:
    cells = sweep_cells("prior", [*QUICK, "trainer.threads=2,8,1"])
    assert threads_of([cell.overrides for cell in cells], jobs=1) == 8


def test_untyped_threads_are_the_cores_divided_among_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cores(monkeypatch, 8)
    assert [threads_of([("seed=0",)], jobs) for jobs in (1, 3, 20)] == [8, 2, 1]
    assert threads_of([("trainer.threads=null",)], jobs=2) == 8


def test_the_identity_depends_on_the_cells_and_not_on_their_order() -> None:
    cells = trial_cells("prior", QUICK, ["prior", "ntp"], [0, 1])
    assert identity(cells) == identity(cells[::-1]) == identity(trial_cells("prior", QUICK, ["ntp", "prior"], [1, 0]))
    assert identity(cells) != identity(cells[:3])
    assert identity(cells) != identity(trial_cells("prior", QUICK[1:], ["prior", "ntp"], [0, 1]))


def test_what_cannot_change_a_result_does_not_change_the_identity() -> None:
    plain = trial_cells("prior", QUICK, ["ntp"], [0])
    assert identity(plain) == identity(trial_cells("prior", [*QUICK, "outputs=x", "tracker=wandb"], ["ntp"], [0]))


def test_a_cell_is_plain_data() -> None:
    (cell,) = trial_cells("prior", QUICK, ["ntp"], [0])
    assert cell.cell == Cell(cell.name, cell.label, cell.arm, cell.seed, cell.overrides, cell.folder)
