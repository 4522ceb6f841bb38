"""`--config FILE`: keys count as typed before what was typed, arms as labelled runs, problems stand with lines."""

from pathlib import Path

import pytest
import yaml

from recipes.core.config import compose
from recipes.core.config.config_file import ConfigFile, cell_words, read_config_file, run_words
from recipes.core.errors import UserError
from recipes.core.runs import folder as runs
from recipes.core.runs.folder import RunFolder, run_folder
from recipes.core.runs.identity import identify
from recipes.core.trial.cells import trial_cells

RHO = "recipe: rho-1\nbudget: smoke\ntracker: none\n"
ARMS = f"""{RHO}arms:
  few:
    description: a tenth
    set: {{select.share: 0.1}}
  all: {{arm: uniform, set: {{noise: {{share: 0}}}}}}
"""


def read(folder: Path, text: str, recipe: str = "") -> ConfigFile:
    path = folder / "mine.yaml"
    path.write_text(text)
    return read_config_file(path, recipe)


def composed(file: ConfigFile, *typed: str):
    return compose.compose(file.recipe, run_words(file, typed))


def problems(file: ConfigFile, *typed: str, words=run_words) -> list[str]:
    with pytest.raises(UserError) as refused:
        words(file, typed)
    return refused.value.hint.replace(f"{file.path.parent}/", "").split("\n")


def test_keys_are_those_of_the_command_line_and_typed_ones_win(tmp_path):
    trainer, data = "{max_steps: 7, learning_rate: 3e-3}", "\n  name: licences\n  characters: 5000"
    file = read(tmp_path, f"{RHO}trainer: {trainer}\ndata: {data}\nmodel: gpt2-small\n")
    words = ["budget=smoke", "tracker=none", "trainer.max_steps=7", "trainer.learning_rate=3e-3", "data=licences"]
    assert composed(file) == compose.compose("rho-1", [*words, "data.characters=5000", "model=gpt2-small"])
    assert composed(file, "trainer.max_steps=9").trainer.max_steps == 9
    assert composed(file, "data=news", "data.characters=null").data.characters is None
    assert identify(composed(file, "model=small-lm", "data=domains")) == identify(
        compose.compose("rho-1", ["budget=smoke", "trainer.max_steps=7", "data.characters=5000"])
    )


def test_texts_stay_as_they_were_written(tmp_path):
    (tmp_path / "2024_11").write_text("x")
    file = read(tmp_path, RHO + "data.path: 2024_11\ntracker.group: 1e3\nreference.path: 'a, b=c'\n")
    config = composed(file)
    assert (config.data.path, config.tracker.group, config.reference.path) == ("2024_11", "1e3", "a, b=c")


def test_a_recipe_is_named_once_and_the_same(tmp_path):
    with pytest.raises(UserError, match=r"mine.yaml: names no recipe\n  write `recipe: NAME` into it"):
        read(tmp_path, "seed: 1\n")
    with pytest.raises(UserError, match="line 1: is a config of rho-1, and prior was typed"):
        read(tmp_path, RHO, "prior")
    with pytest.raises(UserError, match="line 1: unknown recipe 'rho'\n  did you mean rho-1?"):
        read(tmp_path, "recipe: rho\n")
    assert read(tmp_path, "seed: 1\n", "prior").recipe == "prior"


def test_all_problems_stand_with_their_lines_and_those_of_arms_nobody_chose_too(tmp_path):
    text = (
        "trainer:\n  learning_rat: 1\n  max_steps: many\n  max_steps: 7\ndata: domain\nsampler: x\n"
        "model.path: ${oc.env:HOME}\narms:\n  uniform: {set: {select.share: 1}}\n  a/b: {set: {select.share: 1}}\n"
        "  a: {sets: {x: 1}}\n  b: {arm: unform, set: {select.share: 1}}\n  c: {description: x}\n"
        "  d: {set: {seed: 1}}\n  e: {set: {select.shar: 1}}\n  f: {set: {select.share: 2}}\ndefaults: [x]\n"
    )
    expected = [
        "line 7: trainer.max_steps: is set before, in line 6",
        "line 13: arms.a/b: is no key, as trainer.max_steps is one",
        "line 12: arms.uniform: is an arm of rho-1, and stays what it is; choose another name, with arm: uniform to",
        "line 14: arms.a.sets.x = 1: an arm is written NAME: {description: TEXT, set: {KEY: VALUE}}, and arm: NAME",
        "line 15: arms.b.arm = unform: did you mean uniform?",
        "line 16: arms.c: sets no key; write set: {KEY: VALUE}",
        "line 17: seed: is nothing that an arm sets",
        "line 20: defaults: is Hydra's; write data: NAME to choose from a group",
        "line 10: model.path=${oc.env:HOME}: reads what is not in the config; type the value itself",
        "line 8: data = domain: did you mean domains?",
        "line 5: trainer.learning_rat = 1: unknown key; did you mean trainer.learning_rate?",
        "line 9: sampler = x: unknown key; ",
        "line 18: select.shar = 1: unknown key; did you mean select.share?",
        "line 6: trainer.max_steps = many: must be a whole number",
        "line 19: select.share = 2.0: must be > 0 and <= 1",
    ]
    for words in (run_words, lambda file, typed: cell_words(file, typed, chooses_arms=True)):
        lines = problems(read(tmp_path, RHO + text), words=words)
        for line in expected:
            assert any(line.replace("'", "") in one.replace("'", "") for one in lines), (line, lines)


def test_an_own_arm_is_a_run_filed_under_its_name(tmp_path):
    file = read(tmp_path, ARMS)
    config = composed(file, "arm=few")
    assert config == compose.compose("rho-1", ["budget=smoke", "tracker=none", "select.share=0.1", "label=few"])
    assert composed(file, "arm=all").arm == "uniform" and composed(file, "arm=all").noise.share == 0
    assert composed(read(tmp_path, ARMS + "arm: few\n")) == config
    assert composed(read(tmp_path, ARMS + "arm: few\n"), "arm=random").variant == "random"


def test_what_an_own_arm_sets_is_typed_over_under_another_name_only(tmp_path):
    file = read(tmp_path, ARMS)
    assert problems(file, "arm=few", "select.share=0.3") == [
        "select.share: arm few sets it; give the run a name of its own with label=NAME"
    ]
    config = composed(file, "arm=few", "select.share=0.3", "label=third")
    assert (config.variant, config.select.share) == ("third", 0.3)


def test_what_is_near_a_misspelt_arm_or_no_recipe(tmp_path):
    assert problems(read(tmp_path, ARMS), "arm=fw") == ["arm = fw: did you mean few?"]
    assert problems(read(tmp_path, "recipe: {name: rho-1}\n", "rho-1")) == [
        "mine.yaml, line 1: recipe.name = rho-1: is no key; write recipe: NAME"
    ]


def test_own_arms_are_cells_of_a_trial_that_need_no_file(tmp_path):
    file = read(tmp_path, ARMS)
    words = cell_words(file, ["outputs=here"], chooses_arms=True)
    cells = trial_cells("rho-1", words, ["rho1", "few"], [0], file.arms)
    assert [cell.name for cell in cells] == ["rho1-s0", "few-s0"] and cells[1].arm == "few"
    again = compose.compose("rho-1", [str(word) for word in cells[1].overrides])
    assert str(run_folder(again).path) == f"here/{cells[1].folder}" and cells[1].folder.startswith("rho-1/few/")
    with pytest.raises(UserError, match="select.share is what arms choose\n  set by few"):
        trial_cells("rho-1", [*words, "select.share=0.5"], ["rho1", "few"], [0], file.arms)
    twin = read(tmp_path, RHO + "arms: {twin: {arm: uniform, set: {select.by: rho1}}}\n")
    with pytest.raises(UserError, match="arms rho1 and twin are the same run"):
        trial_cells("rho-1", cell_words(twin, [], chooses_arms=True), ["rho1", "twin"], [0], twin.arms)


def finished(outputs: Path, *words: str) -> Path:
    """A run folder as far as its config goes."""
    config = compose.compose("rho-1", ["budget=smoke", "tracker=none", f"outputs={outputs}", *words])
    folder = run_folder(config)
    runs.start(folder, config, identify(config), "", {}, 0)
    return folder.path


@pytest.mark.parametrize(
    "words",
    [
        ["seed=3", "trainer.learning_rate=1e-3"],
        ["arm=random", "select.share=0.25", "data=news", "data.domains=[news]"],
        ["arm=uniform", "select.by=random", "label=mine", "reference.path='a, b'"],
        ["data.paths=[one:one.jsonl,two:two.jsonl]"],
    ],
)
def test_a_runs_config_is_the_same_run_in_the_same_folder_from_anywhere(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "a, b").mkdir()
    (tmp_path / "a, b" / "config.json").write_text("{}")
    path = tmp_path / finished(Path("results"), *words)
    monkeypatch.chdir("/")
    file = read_config_file(path / "config.yaml")
    short = run_words(file, [])
    assert file.run == path and run_folder(compose.compose("rho-1", short)).path == path
    assert len(short) < 12, short  # not all of the config


def test_of_a_run_that_was_moved(tmp_path):
    (tmp_path / "there").mkdir()
    path = finished(tmp_path / "here").rename(tmp_path / "there" / "run")
    with pytest.raises(UserError, match="does not lie where runs are filed .*\n  type outputs=FOLDER"):
        run_words(read_config_file(path / "config.yaml"), [])
    file = read_config_file(path / "config.yaml")
    assert compose.compose("rho-1", run_words(file, ["outputs=/x"])).outputs == "/x"
    path = finished(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / path.relative_to(tmp_path / "here")
    assert RunFolder(moved) == run_folder(composed(read_config_file(moved / "config.yaml")))


def test_a_trial_around_a_run_chooses_arms_and_seeds_itself(tmp_path):
    file = read_config_file(finished(tmp_path, "arm=random", "seed=3", "select.share=0.25") / "config.yaml")
    words = cell_words(file, [], chooses_arms=True)
    assert "select.share=0.25" in words and not [word for word in words if word.startswith(("arm=", "seed=", "label="))]
    assert [cell.seed for cell in trial_cells("rho-1", words, ["rho1", "uniform"], [0])] == [0, 0]


def again(folder: Path, *typed: str):
    return composed(read_config_file(folder / "config.yaml"), *typed)


def test_what_is_typed_over_a_runs_config_is_not_held_back_by_what_followed_from_the_old_choice(tmp_path):
    path = finished(tmp_path, "arm=random", "trainer.learning_rate=1e-3")
    rest = ["tracker=none", f"outputs={tmp_path}", "arm=random", "trainer.learning_rate=1e-3"]
    for typed in (["budget=full"], ["model=gpt2-small"], ["data=licences"], ["arm=uniform"]):
        changed = {word.partition("=")[0] for word in typed}
        same = [word for word in ["budget=smoke", *rest] if word.partition("=")[0] not in changed]
        assert again(path, *typed) == compose.compose("rho-1", [*same, *typed]), typed
    rest = ["data=licences", "data.length=48"]
    grown = again(finished(tmp_path, "model.layers=3", *rest), "model=gpt2-small")
    rest += ["budget=smoke", "tracker=none", f"outputs={tmp_path}"]
    assert grown == compose.compose("rho-1", [*rest, "model=gpt2-small"])


def test_in_a_sweep_the_order_of_values_does_not_count(tmp_path):
    file = read_config_file(finished(tmp_path) / "config.yaml")
    for values in (["smoke", "full"], ["full", "smoke"]):
        words = cell_words(file, [f"budget={','.join(values)}"], chooses_arms=False)
        assert not [word for word in words if word.startswith("trainer.max_steps")]
    assert cell_words(file, ["data=licences,news"], chooses_arms=False)[:-1] == cell_words(
        file, ["data=news,licences"], chooses_arms=False
    )[:-1]  # fmt: skip


@pytest.mark.parametrize("label", ["8bit", "2024", "1e3", "2024_11", "no"])
def test_a_label_that_reads_as_something_else_is_a_label(label, tmp_path):
    path = finished(tmp_path, f"label='{label}'", "select.share=0.2")
    assert run_folder(again(path)).path == path
    file = read(tmp_path, ARMS)
    assert composed(file, "arm=few", "select.share=0.3", f"label='{label}'").variant == label
    assert composed(file, "arm='few'", "label=null").variant == "few"


def test_a_typed_folder_wins_over_the_path_of_the_file_and_the_other_way_round(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
    wanted = compose.compose("rho-1", ["budget=smoke", "tracker=none", f"model={two}"])
    assert composed(read(tmp_path, f"{RHO}model: {one}\n"), f"model.path={two}") == wanted
    assert composed(read(tmp_path, f"{RHO}model: {one}\n"), f"model={two}") == wanted
    for written in (f"model.path: {one}", f"model: {{name: {wanted.model.name}, path: {one}}}"):
        assert composed(read(tmp_path, f"{RHO}{written}\n"), f"model={two}") == wanted
    words = cell_words(read(tmp_path, f"{RHO}model: {one}\n"), [f"model.path={one},{two}"], chooses_arms=False)
    assert words[-1] == f"model={one},{two}" and f"model={one}" not in words


def test_an_option_is_no_folder_where_one_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "news").mkdir()
    (tmp_path / "one.jsonl").touch()
    file = read(tmp_path, f"{RHO}data: news\n")
    wanted = compose.compose("rho-1", ["budget=smoke", "tracker=none", "data=news", "data.path=one.jsonl"])
    assert composed(file, "data.path=one.jsonl") == wanted
    assert cell_words(file, ["data.path=one.jsonl"], chooses_arms=False)[-1] == "data.path=one.jsonl"


def test_an_own_arm_is_refused_in_a_sweep_wherever_it_stands(tmp_path):
    for values in ("few,uniform", "uniform,few", "'few'"):
        lines = problems(
            read(tmp_path, ARMS), f"arm={values}", words=lambda file, typed: cell_words(file, typed, chooses_arms=False)
        )
        assert lines == ["arm = few: is an arm of the file's own; type `steelyard trial --arms`, or `steelyard run`"]


@pytest.mark.parametrize("kind", ["none", "wandb"])
def test_an_old_runs_config_calls_the_kind_of_tracker_its_name(kind, tmp_path):
    path = finished(tmp_path, "label=old", "select.share=0.2")
    tree = compose.to_tree(again(path)) | {"tracker": {"name": kind, "mode": "disabled", "project": "p"}}
    (path / "config.yaml").write_text(yaml.safe_dump(tree))
    config = again(path)
    assert (config.tracker.kind, config.tracker.name, config.tracker.mode) == (kind, None, "disabled")
    assert run_folder(config).path == path
    read_back = compose.from_tree(tree).tracker
    assert (read_back.kind, read_back.name, read_back.project) == (kind, None, "p")


def test_texts_in_a_list_stay_as_they_were_written(tmp_path):
    assert composed(read(tmp_path, RHO + "tracker.tags: [007, 1e3, '2', x]\n")).tracker.tags == ("007", "1e3", "2", "x")


def test_what_to_type_for_a_run_names_the_file_and_not_all_its_keys(tmp_path):
    file = read(tmp_path, RHO + "trainer.max_steps: 7\nselect.by: random\n")
    (line,) = problems(file, "seed=3")
    assert line.endswith(f"steelyard run rho-1 --config={file.path} seed=3 label=my-rho1".replace(f"{tmp_path}/", ""))
