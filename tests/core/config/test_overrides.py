"""What is typed, as keys with values: texts keep what was typed, and every refusal shows what to type in a shell."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.core.config import compose, overrides
from recipes.core.config.overrides import Override, in_shell, pieces, quote, read_overrides, sweep_choices
from recipes.core.errors import UserError

TEXTS = {"data.path": False, "data.domains": True, "trainer.max_steps": False}
NAMES = (
    "runs/epoch=3-step=5.jsonl",
    "~/caps.jsonl",
    "a & b.jsonl",
    "a(1).jsonl",
    "it's.jsonl",
    'say "x".jsonl',
    "a,b.jsonl",
    "a b.jsonl",
    "$HOME/x#1!.jsonl",
    "2024_11",
    "1e3",
    "007",
    "true",
    "-x",
    "Größe ✓.jsonl",
    "back\\slash",
    "{a}.jsonl",
    "[1.jsonl",
    "a;b|c>d.jsonl",
    "*.jsonl",
    "a:b",
    "range(3)",
)


def value(word: str) -> object:
    (override,) = read_overrides([word], TEXTS, ["data", "model"])
    assert isinstance(override, Override), override
    return override.value


def problem(*words: str) -> str:
    return str(read_overrides(list(words), TEXTS, ["data", "model"])[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_text_can_be_typed_as_the_message_shows_it(name: str) -> None:
    line = in_shell("data.path", name)
    (word,) = subprocess.run(["sh", "-c", f"printf %s {line}"], capture_output=True, text=True).stdout.split("\n")
    assert value(word) == name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("a,b.jsonl", "range(3)")])
def test_a_text_without_commas_needs_no_quotes_but_the_shell_s(name: str) -> None:
    assert value(f"data.path={name}") == name


@pytest.mark.parametrize("name", NAMES)
def test_quoted_texts_are_read_back(name: str) -> None:
    assert value(f"data.path={quote(name)}") == name


def test_numbers_and_null_stay_what_they_are_where_no_text_is_meant() -> None:
    assert value("weighting.alpha=1e3") == 1000.0 and value("seed=2_0") == 20
    assert value("data.path=null") is None
    assert value("data.domains=[2024_11,1e3,x,null]") == ["2024_11", "1e3", "x", None]
    assert value("weighting.alphas=[1,2.5]") == [1, 2.5]
    assert value("data={path: x, limit: 3}") == {"path": "x", "limit": 3}
    assert value("model=/my/folder=1") == "/my/folder=1" and value("model=2024_11") == "2024_11"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["~seed"], "~seed: keys cannot be deleted; leave seed out to have its default"),
        (["+seed=1"], "+seed=1: keys are set, not added; type seed=1"),
        (["++seed=1"], "++seed=1: keys are set, not added; type seed=1"),
        (["seed@x=3"], "seed@x=3: type seed=3"),
        (["data/path=x"], "data/path=x: type data.path=x"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: runs go below the outputs folder; type outputs=FOLDER"),
        (["hydra/job=x"], "hydra/job=x: is a setting of Hydra's; here outputs=, --launcher and --jobs are typed"),
        (["seed:3"], "seed:3: is not KEY=VALUE, as in seed=1; type seed=3"),
        (["seed"], "seed: is not KEY=VALUE, as in seed=1"),
        (
            ["data.path=my", "file.jsonl"],
            "file.jsonl: is not KEY=VALUE, as in seed=1; if it belongs to the word before it, "
            "type 'data.path=my file.jsonl'",
        ),
        (["data.path="], "data.path: has no value (is a variable of the shell empty?)"),
        (["=3"], "=3: does not begin with a key, as in trainer.max_steps=100"),
        (["a b=3"], "a b=3: does not begin with a key, as in trainer.max_steps=100"),
        (["trainer={}"], "trainer={}: sets nothing; type trainer.NAME=VALUE"),
        (["seed=${oc.env:HOME}"], "seed=${oc.env:HOME}: reads what is not in the config; type the value itself"),
        (["data.path=${now:%Y}"], "data.path=${now:%Y}: reads what is not in the config; type the value itself"),
        (
            ["data.path=a,b.jsonl"],
            "data.path=a,b.jsonl: a run takes one value for each key; type a value that holds a comma: "
            "'data.path=\"a,b.jsonl\"', or `steelyard sweep` for several",
        ),
        (
            ["seed=range(3)"],
            "seed=range(3): a run takes one value for each key; type one value, or `steelyard sweep` for several",
        ),
        (["data.path='a"], "data.path='a: has quotes that do not match; in a shell: 'data.path=\"'\"'\"'a\"'"),
    ],
)
def test_what_is_refused_says_what_to_type(words: list[str], text: str) -> None:
    assert problem(*words) == text


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("f(1,2)", ["f(1,2)"]),
        ("a\\,b", ["a\\,b"]),
        ("it's,b", ["it's", "b"]),
        ("1,2,", ["1", "2", ""]),
        ("a b , c", ["a b", "c"]),
    ],
)
def test_values_are_split_at_commas_of_the_top(raw: str, parts: list[str]) -> None:
    assert pieces(raw) == parts


def test_sweeps_keep_each_value_as_it_was_typed() -> None:
    words = ["data.path=2024_11,~/x=1.jsonl,'a,b'", "seed=range(2)", "weighting.alpha=choice(0.5,1)", "budget=smoke"]
    assert sweep_choices(words) == (
        ["budget=smoke"],
        [
            ["data.path=2024_11", "data.path=~/x=1.jsonl", "data.path='a,b'"],
            ["seed=0", "seed=1"],
            ["weighting.alpha=0.5", "weighting.alpha=1"],
        ],
    )


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        compose.compose("prior", list(words))
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "trainer.learning_rate?"),
        ("optim.lr", "trainer.learning_rate?"),
        ("trainer.learning_rte", "trainer.learning_rate?"),
        ("learning_rate", "trainer.learning_rate?"),
        ("epochs", "trainer.max_steps? (steps = epochs x examples / trainer.batch_size)"),
        ("training.num_train_epochs", "trainer.max_steps? (steps = epochs x examples / trainer.batch_size)"),
        ("batch", "trainer.batch_size?"),
        ("fp16", "trainer.precision? (auto, fp32 or bf16)"),
        ("experiment", "arm?"),
        ("output_dir", "outputs?"),
        ("dataset", "data?"),
        ("model_name_or_path", "model?"),
        ("trainer.alpha", "lora.alpha or weighting.alpha?"),
        ("alpha", "lora.alpha or weighting.alpha?"),
    ],
)
def test_the_nearest_key_is_found_by_its_last_segment(key: str, meant: str) -> None:
    assert f"{key} = 1: unknown key; did you mean {meant}" in refusal(f"{key}=1")


def test_a_group_is_chosen_by_its_own_name() -> None:
    assert refusal("model.name=llava").endswith("model.name=llava: type model=llava")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("weighting.alpha=inf", "weighting.alpha = inf: must be a number, not infinite and below 2^63"),
        ("trainer.max_steps=99999999999999999999", "must be a number, not infinite and below 2^63"),
        ("outputs=''", "outputs = '': is an empty text"),
        ("outputs=' '", "outputs = ' ': is an empty text"),
        ("outputs=a\x1b[31mb", "outputs = a\\x1b[31mb: holds a control character"),
        ("seed=[]", "seed = []: must be a whole number"),
        ("trainer.save_steps=${trainer.max_step}", "${...} names no key of the config; type the value itself"),
        ("trainer.save_steps=${trainer.save_steps}", "${...} names no key of the config; type the value itself"),
        ("trainer.save_steps=${", "${...} names no key of the config; type the value itself"),
        ("arm=" + "x" * 500, "arm = " + "x" * 51 + "..." + "x" * 26 + ": choose from prior"),
    ],
)
def test_senseless_values_are_refused(word: str, text: str) -> None:
    assert text in refusal(word)


def test_a_key_of_the_config_may_be_named() -> None:
    assert compose.compose("prior", ["trainer.save_steps=${trainer.max_steps}"]).trainer.save_steps == 300


def test_one_mistake_is_told_once() -> None:
    assert refusal("data=image-text", "data.path=a,b").count("data.path") == 2  # the word, and how to type it


def test_the_command_that_is_shown_runs(tmp_path: Path) -> None:
    name = "it's a,b & (1) = 2.jsonl"
    line = in_shell("data.path", name)
    code = "import sys; from recipes.core.config import compose as c; print(c.compose('prior', sys.argv[1:]).data.path)"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} data=image-text {line}"
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout == f"{name}\n"


@pytest.mark.parametrize(
    "typed", ["0", "1", "42", "9" * 18, "9" * 19, "007", "-1", "+1", "1_0", " 1", "1 ", "١", "1e3"]
)
@pytest.mark.parametrize(
    "key", ["seed", "trainer.max_steps", "data.path", "data.domains", "data", "a-b", "null", "é.x"]
)
def test_whole_numbers_that_need_no_parser_are_read_as_the_parser_reads_them(
    key: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> str:
        return repr((sweep_choices([f"{key}={typed}"]), read_overrides([f"{key}={typed}"], TEXTS, ["data", "model"])))

    quick = read() if overrides.KEY.fullmatch(key) else ""
    monkeypatch.setattr(overrides, "_is_whole", lambda key, raw: False)
    assert quick == (read() if overrides.KEY.fullmatch(key) else "")
