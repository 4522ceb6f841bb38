"""Searches with Optuna: what can be searched, which cells are proposed, and that a restart proposes the same."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE, FAILED, RunFolder
from recipes.core.storage.files import write_json
from recipes.core.trial import drive as driving
from recipes.core.trial import manifest as manifests
from recipes.core.trial.manifest import Manifest, outputs_of
from recipes.core.trial.search import check_space, plan_search, read_space, search, search_identity
from recipes.core.trial.states import CellState, read_record
from tests.core.conftest import give_cores
from tests.core.trial.conftest import FakeLauncher, act

optuna = pytest.importorskip("optuna")
QUICK = ["budget=smoke", "tracker=none", "trainer.threads=1"]
ALPHA = "weighting.alpha=interval(0.1,4)"
METRIC = "grounded/auc"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "LOOK_EVERY_SECONDS", 0.02)


def distribution(value: str):
    (result,) = read_space("prior", [f"weighting.alpha={value}"]).distributions.values()
    return result


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        check_space(read_space("prior", list(overrides)))
    return str(caught.value)


def alpha_of(cell) -> float:
    return float(next(word.partition("=")[2] for word in cell.overrides if word.startswith("weighting.alpha=")))


def measures(value: Callable[[float], float], fails: Callable[[float], bool] = lambda alpha: False, metric=METRIC):
    """An act: every cell ends with a metric that follows from its alpha, or fails."""

    def play(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            cell = manifests.read(folder).cell(name)
            alpha = alpha_of(cell)
            if fails(alpha):
                act(folder, name, FAILED, "diverged")
                continue
            info = {metric: {"higher_is_better": True}, "nll/all": {"higher_is_better": False}}
            write_json(RunFolder(outputs_of(folder) / cell.folder).path / "metrics_info.json", info)
            act(folder, name, DONE, metrics={metric: value(alpha), "nll/all": value(alpha)})

    return play


def searched(
    folder: Path, launcher: FakeLauncher, *, trials: int = 6, metric: str = METRIC, retry: bool = False, space=None
) -> tuple[list[CellState], bool]:
    space = space or read_space("prior", [*QUICK, ALPHA])
    manifest = plan_search(folder, space, "steelyard sweep prior", launcher.jobs)
    return list(search(folder, manifest, space, launcher, metric=metric, trials=trials, retry=retry))[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "prior" / "sweeps" / "0123456789"


def test_every_kind_of_range_and_choice() -> None:
    kinds = optuna.distributions
    assert distribution("interval(0.1,4)") == kinds.FloatDistribution(0.1, 4)
    assert distribution("interval(1,4)") == kinds.FloatDistribution(1.0, 4.0)
    assert distribution("int(interval(1,4))") == kinds.IntDistribution(1, 4)
    assert distribution("tag(log,interval(0.1,4))") == kinds.FloatDistribution(0.1, 4, log=True)
    assert distribution("range(1,9)") == kinds.IntDistribution(1, 8)
    assert distribution("range(1,9,3)") == kinds.IntDistribution(1, 7, step=3)
    assert distribution("range(5,1,-1)") == kinds.IntDistribution(2, 5)
    assert distribution("range(0,1,0.25)") == kinds.FloatDistribution(0.0, 0.75, step=0.25)
    assert distribution("tag(log,range(1,9))") == kinds.IntDistribution(1, 8, log=True)
    assert distribution("0.5,null,true,'a, b',c") == kinds.CategoricalDistribution((0.5, None, True, "a, b", "c"))


def test_keys_with_one_value_are_fixed() -> None:
    space = read_space("prior", ["seed=3", ALPHA, "trainer.schedule=cosine,linear"])
    assert space.fixed == ("seed=3",)
    assert list(space.distributions) == ["weighting.alpha", "trainer.schedule"]


def test_proposed_texts_bools_and_nulls_are_typed_so_that_they_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a, b", "it's"):
        (tmp_path / name).mkdir()
    space = read_space("prior", ["data=image-text", "data.path='a, b',\"it's\"", "weighting.cap=null,2"])
    folders = {cell.overrides[1:] for cell in check_space(space)}
    assert folders == {
        ("data.path='a, b'", "weighting.cap=null"),
        ("data.path='it\\'s'", "weighting.cap=null"),
        ("data.path='a, b'", "weighting.cap=2"),
    }


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("weighting.alpha=interval(4,1)", "weighting.alpha=interval(4,1): `low <= high` must hold"),
        ("weighting.alpha=tag(log,interval(0,1))", "`low > 0` must hold for `log=True`"),
        ("weighting.alpha=range(5,1)", "weighting.alpha=range(5,1): an empty range; type key=interval(0,1)"),
        ("model=glob(*)", "model=glob(*): cannot be searched; type key=interval(0,1), key=range(1,9) or key=a,b"),
        ("weighting.alpha=[1],[2]", "cannot be searched"),
        ("label=a,b", "label is the name that a run is filed under: each of its values would do the same run again"),
        ("weighting.alpha=interval(a,b)", "type key=interval(0,1), key=range(1,9) or key=a,b"),
    ],
)
def test_what_cannot_be_searched_says_what_to_type(typed: str, told: str) -> None:
    assert told in refused(typed)


def test_a_search_needs_a_key_that_varies() -> None:
    assert "no key varies\n  type for example: 'weighting.alpha=interval(0.1,4)'" in refused("weighting.alpha=1")


def test_wrong_values_of_the_whole_space_are_told_before_anything_starts() -> None:
    text = refused("weighting.alpha=interval(-1,4)", "weighting.keep=interval(0.5,2)", "trainer.schedule=cosine,linera")
    assert text.splitlines()[0] == "3 problems in the config"
    assert "weighting.alpha = -1.0: must be >= 0" in text
    assert "weighting.keep = 2.0: must be > 0 and <= 1" in text
    assert "trainer.schedule = linera: did you mean linear?" in text


def test_a_key_that_only_the_space_gives_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    words = ["reference.source=path", f"reference.path={tmp_path}/a,{tmp_path}/b"]
    assert len(check_space(read_space("prior", words))) == 2


def test_the_identity_of_a_search_is_what_makes_it_propose_the_same() -> None:
    space = read_space("prior", [*QUICK, ALPHA])
    same = search_identity(space, METRIC, 2)
    assert same == search_identity(read_space("prior", [*QUICK, ALPHA]), METRIC, 2)
    others = [
        search_identity(space, "nll/all", 2),
        search_identity(space, METRIC, 1),
        search_identity(read_space("prior", [*QUICK, "weighting.alpha=interval(0.1,5)"]), METRIC, 2),
        search_identity(read_space("prior", ["seed=1", *QUICK, ALPHA]), METRIC, 2),
    ]
    assert len({same, *others}) == 5


def test_cells_are_proposed_in_batches_that_fill_the_jobs(folder: Path) -> None:
    launcher = FakeLauncher(measures(lambda alpha: -((alpha - 3) ** 2)))
    states, stopped = searched(folder, launcher, trials=5)
    assert launcher.launches == [["000", "001"], ["002", "003"], ["004"]]
    assert [state.state for state in states] == [DONE] * 5 and not stopped
    assert [cell.name for cell in manifests.read(folder).cells] == ["000", "001", "002", "003", "004"]


def test_the_sampler_learns_which_direction_is_better(folder: Path) -> None:
    launcher = FakeLauncher(measures(lambda alpha: (alpha - 3) ** 2), jobs=1)
    late_mean = {}
    for metric in (METRIC, "nll/all"):  # the same numbers; the first is to be raised, the second to be lowered
        states, _ = searched(folder.with_name(metric.replace("/", "-")), launcher, trials=14, metric=metric)
        late = [abs(alpha_of(state.cell) - 3) for state in states[10:]]
        late_mean[metric] = sum(late) / len(late)
    assert late_mean["nll/all"] < late_mean[METRIC] / 2


def test_a_search_that_is_started_again_proposes_the_same_and_starts_nothing(folder: Path) -> None:
    first, again = FakeLauncher(measures(float)), FakeLauncher(measures(float))
    states, _ = searched(folder, first)
    manifest = manifests.read(folder)
    assert searched(folder, again)[0] == states
    assert again.launches == []
    assert manifests.read(folder) == manifest


def test_a_search_goes_on_with_more_trials_and_keeps_all_with_fewer(folder: Path) -> None:
    launcher = FakeLauncher(measures(float))
    short, _ = searched(folder, launcher, trials=4)
    long, _ = searched(folder, launcher, trials=8)
    assert long[:4] == short
    assert sum(map(len, launcher.launches)) == 8
    assert searched(folder, launcher, trials=4)[0] == short
    assert len(manifests.read(folder).cells) == 8


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    import signal

    elsewhere = folder.parents[3] / "whole" / "prior" / "sweeps" / folder.name
    whole, _ = searched(elsewhere, FakeLauncher(measures(float)))

    def one_and_stop(at: Path, names: Sequence[str]) -> None:
        measures(float)(at, names[:1])
        signal.raise_signal(signal.SIGTERM)

    _, stopped = searched(folder, FakeLauncher(measures(float), one_and_stop))
    assert stopped and len(manifests.read(folder).cells) == 4
    again = FakeLauncher(measures(float))
    states, stopped = searched(folder, again)
    assert not stopped and again.launches == [["003"], ["004", "005"]]
    assert [state.cell.overrides for state in states] == [state.cell.overrides for state in whole]


def test_failed_cells_teach_nothing_and_stop_nothing(folder: Path) -> None:
    launcher = FakeLauncher(measures(float, fails=lambda alpha: alpha > 2))
    states, _ = searched(folder, launcher)
    assert {state.state for state in states} == {DONE, FAILED}
    assert all((state.state == FAILED) == (alpha_of(state.cell) > 2) for state in states)
    again = FakeLauncher(measures(float))
    assert searched(folder, again)[0] == states and again.launches == []


def test_a_retry_starts_each_failed_cell_once(folder: Path) -> None:
    fails = measures(float, fails=lambda alpha: alpha > 2)
    states, _ = searched(folder, FakeLauncher(fails))
    again = FakeLauncher(fails)
    searched(folder, again, retry=True)
    failed = [state.cell.name for state in states if state.state == FAILED]
    assert [name for names in again.launches for name in names] == failed


def test_a_retry_that_succeeds_may_lead_elsewhere_and_forgets_what_it_leaves(folder: Path) -> None:
    broken = FakeLauncher(measures(lambda alpha: -alpha, fails=lambda alpha: True), jobs=1)
    old, _ = searched(folder, broken, trials=12)
    new, _ = searched(folder, FakeLauncher(measures(lambda alpha: -alpha), jobs=1), trials=12, retry=True)
    assert {state.state for state in new} == {DONE}
    changed = [b.cell.name for a, b in zip(old, new, strict=True) if a.cell.folder != b.cell.folder]
    assert changed  # it has learned
    assert {read_record(folder, name)["attempts"] for name in changed} == {1}
    assert [cell.folder for cell in manifests.read(folder).cells] == [state.cell.folder for state in new]


def test_a_metric_that_is_not_finite_counts_as_failed(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    searched(folder, FakeLauncher(measures(lambda alpha: float("nan"))))
    assert [str(warning.message) for warning in recwarn if "not acceptable" in str(warning.message)] == []


def test_an_unknown_metric_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        searched(folder, FakeLauncher(measures(float)), metric="grounded/acu")
    text = str(caught.value)
    assert text.startswith("--metric: ") and "logs no final metric 'grounded/acu'" in text
    assert text.endswith("did you mean grounded/auc?")


def test_typed_threads_win_and_a_restart_keeps_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_cores(monkeypatch, 8)
    launcher = FakeLauncher(measures(float))
    states, _ = searched(folder, launcher, trials=2)
    assert launcher.threads == [1] and all("trainer.threads=4" not in state.cell.overrides for state in states)
    other, space = folder.with_name("other"), read_space("prior", [*QUICK[:2], ALPHA])
    searched(other, launcher, trials=2, space=space)
    give_cores(monkeypatch, 2)
    states, _ = searched(other, launcher, trials=4, space=space)
    assert launcher.threads[1:] == [4, 4]
    assert {state.cell.overrides[-1] for state in states} == {"trainer.threads=4"}


def test_a_second_search_is_refused_even_between_batches(folder: Path) -> None:
    space, launcher = read_space("prior", [*QUICK, ALPHA]), FakeLauncher(measures(float))
    manifest = plan_search(folder, space, "", 2)
    for _ in search(folder, manifest, space, launcher, metric=METRIC, trials=4, retry=False):
        with pytest.raises(UserError, match="is in use by process"):
            searched(folder, FakeLauncher(measures(float)))
    assert len(launcher.launches) == 2


def test_a_category_proposed_twice_is_one_run(folder: Path) -> None:
    space = read_space("prior", [*QUICK, "weighting.alpha=1,2"])
    states, _ = searched(folder, FakeLauncher(measures(float)), space=space)
    assert len({state.cell.folder for state in states}) == 2 and {state.state for state in states} == {DONE}


def test_the_manifest_is_there_before_the_first_cell_starts(folder: Path) -> None:
    def look(at: Path, names: Sequence[str]) -> None:
        seen.append(manifests.read(at))
        measures(float)(at, names)

    seen: list[Manifest] = []
    searched(folder, FakeLauncher(look), trials=2)
    assert [cell.name for cell in seen[0].cells] == ["000", "001"]
