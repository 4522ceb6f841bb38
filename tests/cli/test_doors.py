"""What a run would refuse is refused by --dry-run, and once for all cells before a trial or sweep starts."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from cli.new import write_skeleton
from recipes.core.config import registry
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.smollm2 import load_tokenizer

SEARCH = ("trainer.learning_rate=interval(0.001,0.1)", "--sweeper", "optuna")
COMMANDS = (
    ("run", "--dry-run"),
    ("run",),
    ("trial", "--dry-run"),
    ("trial",),
    ("sweep", "seed=0,1", "--dry-run"),
    ("sweep", "seed=0,1"),
    ("sweep", *SEARCH, "--dry-run"),
    ("sweep", *SEARCH),
)


def refusal(steelyard, recipe, keys, command, outputs):
    """What a command refuses with; it is to leave nothing."""
    word, *options = command
    ended = steelyard(word, recipe, "budget=smoke", "tracker=none", *keys, f"outputs={outputs}", *options)
    assert ended.code == 2 and not outputs.exists(), ended.err
    return ended.err


@pytest.fixture(scope="module")
def short_model(tmp_path_factory) -> Path:
    """A folder of a model with a context of 64 tokens, all but its weights."""
    folder = tmp_path_factory.mktemp("model")
    LlamaConfig(vocab_size=49152, hidden_size=32, max_position_embeddings=64).save_pretrained(folder)
    load_tokenizer(SmolLM2TextConfig()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_start_refuses_what_a_run_would(command, steelyard, tmp_path):
    keys = ["trainer.attention=flash_attention_2", "trainer.device=cpu"]
    assert "trains on CUDA devices only" in refusal(steelyard, "rho-1", keys, command, tmp_path / "outputs")


@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[3]], ids=" ".join)
@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": 5, "answer": "x"}, "prompt is no text"),
        ({"prompt": "a " * 400, "answer": "b"}, "question 'row 1' has 401 tokens, and the model's context 64"),
    ],
    ids=["malformed", "too long"],
)
def test_questions_are_read_before_anything_starts(row, what, command, short_model, steelyard, tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    keys = [f"model={short_model}", "data.length=32", f"evaluation.extra={tmp_path}/mine.jsonl"]
    assert what in refusal(steelyard, "rho-1", keys, command, tmp_path / "outputs")


@pytest.mark.parametrize(
    ("recipe", "keys", "key"),
    [
        ("rho-1", ["data.length=65"], "data.length"),
        ("sample-reweighting", ["data.length=65"], "data.length"),
        ("dsir", ["evaluation.length=65"], "evaluation.length"),
        ("sparsepo", ["data=preferences", "data.path=pairs.jsonl", "data.max_tokens=65"], "data.max_tokens"),
    ],
)
def test_sequences_longer_than_the_context_are_refused(recipe, keys, key, short_model, steelyard, tmp_path):
    Path("pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    text = refusal(steelyard, recipe, [f"model={short_model}", *keys], COMMANDS[0], tmp_path / "outputs")
    assert f"{key}=65: sequences of 65 tokens do not fit the model's context of 64" in text


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        (
            "door-import",
            "import nothing_such",
            "recipe.py, line 1: ModuleNotFoundError",
        ),
        ("door-type", "RECIPE = 1", "has no RECIPE"),
        ("door-bare", "class Mine:\n    pass\nRECIPE = Mine", "Mine has no prepare, no build, no watch, no evaluate"),
        (
            "door-base",
            "from recipes.core.text_recipe.base import TextRecipe\nclass Mine(TextRecipe):\n    pass\nRECIPE = Mine",
            "Mine has no weigh\n",
        ),
    ],
)
def test_an_outside_recipe_that_breaks_the_contract(name, code, what, steelyard, tmp_path, monkeypatch):
    write_skeleton(tmp_path, name, "", outside=True)
    monkeypatch.setenv(registry.RECIPES, str(tmp_path))
    (tmp_path / name.replace("-", "_") / "recipe.py").write_text(code + "\n")
    assert what in refusal(steelyard, name, [], COMMANDS[0], tmp_path / "outputs")


@pytest.mark.parametrize(
    ("recipe", "metric", "what"),
    [
        ("rho-1", "log_loss/auc", "is not measured while this recipe trains; did you mean log_loss?"),
        ("sparsepo", "nope", "measured are reward*, kl*, length, accuracy*, mask/*"),
        ("token-pruning", "accuracy", "nothing is trained"),
    ],
)
def test_a_metric_of_early_stopping_that_training_does_not_measure(recipe, metric, what, steelyard, tmp_path):
    keys = [f"trainer.early_stopping.metric={metric}"]
    for command in (COMMANDS[0], COMMANDS[3]):
        assert what in refusal(steelyard, recipe, keys, command, tmp_path / "outputs")


def test_list_and_doctor_name_a_recipe_that_cannot_be_used_and_go_on(steelyard, tmp_path, monkeypatch):
    for name in ("door-yaml", "door-keys", "door-right"):
        write_skeleton(tmp_path, name, "", outside=True)
    monkeypatch.setenv(registry.RECIPES, f"{tmp_path}:{tmp_path}/none")
    files = {
        name: tmp_path / name.replace("-", "_") / "conf" / "recipe" / f"{name}.yaml"
        for name in ("door-yaml", "door-keys")
    }
    for name, line in (("door-yaml", "x: ["), ("door-keys", "bogus: 1")):
        files[name].write_text(f"{files[name].read_text()}{line}\n")
    (tmp_path / "door_right" / "recipe.py").write_text("import nothing_such\n")
    listed, looked = steelyard("list"), steelyard("doctor")
    assert listed.code == looked.code == 0
    assert "Prior" in listed.out or "PRIOR" in listed.out
    for shown in (listed.err, looked.out):
        assert f"{files['door-yaml']}, line" in shown and "bogus = 1: unknown key" in shown
        assert f"{tmp_path}/none: there is no such folder" in shown
    assert "door_right/recipe.py, line 1: ModuleNotFoundError" in looked.out
    errors = {one["recipe"]: one.get("error") for one in json.loads(steelyard("list", "--json").out)["result"]}
    assert "bogus" in errors["door-keys"] and errors["door-right"] is None


@pytest.mark.parametrize("words", [["list"], ["run", "rho-1", "--dry-run"], ["trial", "rho-1", "--dry-run"]])
def test_a_config_dir_that_is_not_there_is_refused_however_it_is_named(words, steelyard, monkeypatch):
    ended = steelyard(*words, "--config-dir=/nodir")
    assert ended.code == 2 and "--config-dir /nodir: there is no such folder" in ended.err
    monkeypatch.setenv("STEELYARD_CONFIG_DIR", "/nodir")
    ended = steelyard(*words)
    assert ended.code == 2 and "STEELYARD_CONFIG_DIR=/nodir: there is no such folder" in ended.err


def test_a_folder_of_recipes_that_is_not_there_is_no_secret(steelyard, monkeypatch):
    monkeypatch.setenv(registry.RECIPES, "/nodir")
    ended = steelyard("run", "rho-1", "--dry-run")
    assert ended.code == 0 and "warning: STEELYARD_RECIPES=/nodir: there is no such folder" in ended.err
