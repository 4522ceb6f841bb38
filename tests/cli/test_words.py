"""Words that people type: habits of other tools, one spelling of outputs, and five hundred lines of nonsense."""

import random
from pathlib import Path

import pytest

from recipes.core.config import compose, registry

NASTY = (
    *("", "''", "0", "-1", "1e3", "1e999", "nan", "-inf", "null", "true", "99999999999999999999", "0x10", "1_000"),
    *(
        "[]",
        "[1,2]",
        "{}",
        "{a: 1}",
        "{a",
        "[1",
        "'a",
        '"',
        "a,b",
        "range(3)",
        "range(0)",
        "interval(0,1)",
        "choice(a)",
    ),
    *("glob(*)", "${oc.env:HOME}", "${seed}", "${", "$x", "~/x", "a=b", "a b", "é", "\x1b[31m", "\u200b", "x" * 3000),
    *("..", "/", "/dev/null", "nosuch/thing", "-", "--", "#", "a&b", "it's", "\\", "@", "!", "%"),
)
OPTIONS = {
    "run": ("--fresh", "--cfg job", "--lr 1", "--outputs ''", "--config-name x", "-c", "--multirun", "--nosuch"),
    "trial": ("--status", "--seeds 0", "--seeds x", "--arms nosuch", "--arms ,", "--jobs -1", "--launcher x"),
    "sweep": ("--status", "--sweeper x", "--sweeper optuna", "--trials 0", "--metric x", "--jobs 1"),
    "compare": ("--arm x", "--metric x", "--json", "--outputs nosuch"),
    "runs": ("--json", "--outputs nosuch", "--outputs ''"),
    "report": ("--outputs nosuch", "--format x", "--format ,", "--metrics x", "--arms ,", "--to ''", "--json"),
    "board": ("--outputs nosuch", "--outputs ''", "--json"),
    "list": ("--json",),
}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("run prior --lr 1e-3", "keys are typed without dashes: trainer.learning_rate=1e-3"),
        ("run prior --learning_rate=1e-3", "keys are typed without dashes: trainer.learning_rate=1e-3"),
        ("run prior --epochs", "keys are typed without dashes: trainer.max_steps=VALUE"),
        ("run prior --cfg job", "steelyard run RECIPE --dry-run shows the composed config"),
        ("run prior --config-name x", "the recipe is the first word after `run`; --config FILE reads keys"),
        ("run prior --resume", "the same command again resumes a run; --fresh starts anew"),
        ("run prior --frobnicate", "steelyard run --help shows what can be typed"),
    ],
)
def test_options_of_other_tools_point_to_what_is_typed_here(steelyard, words: str, text: str) -> None:
    ended = steelyard(*words.split())
    assert ended.code == 2 and text in ended.err


def test_the_version(steelyard) -> None:
    assert steelyard("--version").out.startswith("steelyard 0.")


@pytest.mark.parametrize("words", [["outputs=elsewhere"], ["--outputs", "elsewhere"], ["--outputs=elsewhere"]])
def test_outputs_has_one_spelling_in_all_commands(steelyard, words: list[str]) -> None:
    assert "in elsewhere" in steelyard("runs", *words).out
    assert "elsewhere" in steelyard("report", *words).err
    assert "no finished run" in steelyard("compare", "prior", *words).err
    assert "elsewhere/prior/prior/" in steelyard("run", "prior", "--dry-run", *words).out
    assert "elsewhere/prior/trials/" in steelyard("trial", "prior", "--seeds", "1", "--dry-run", *words).out
    assert "elsewhere/prior/sweeps/" in steelyard("sweep", "prior", "seed=0,1", "--dry-run", *words).out


@pytest.mark.parametrize("number", range(5))
def test_no_line_is_an_internal_error(steelyard, number: int) -> None:
    draw = random.Random(number)
    for _ in range(100):
        words = _line(draw)
        ended = steelyard(*words)
        assert "internal error" not in ended.err, words
        assert "Traceback" not in ended.err and ended.code in (0, 1, 2), words
        assert ended.code != 1 or ended.err, words
        assert "\x1b" not in ended.out + ended.err, words


def _line(draw: random.Random) -> list[str]:
    """A command line that starts no work: nonsense, or a dry run."""
    command = draw.choice(list(OPTIONS))
    recipe = draw.choice([*registry.recipe_names(), "priro", "", "seed=1"])
    words = [command, recipe] if draw.random() < 0.95 else [command]
    known = recipe if recipe in registry.recipe_names() else "prior"
    keys = [
        *compose.config_keys(known),
        *compose.groups(),
        "lr",
        "a.b.c",
        "",
        "hydra.run.dir",
        "launcher",
        "launcher.x",
    ]
    for _ in range(draw.randrange(4)):
        mark = draw.choice(["", "", "", "", "", "+", "++", "~", "@"])
        words.append(f"{mark}{draw.choice(keys)}{draw.choice(['=', '=', '=', '', ':'])}{draw.choice(NASTY)}")
    for option in draw.sample(OPTIONS[command], min(draw.randrange(3), len(OPTIONS[command]))):
        words += option.split(" ")
    if command in ("run", "trial", "sweep"):
        words.append("--dry-run")
    if command == "trial":
        words += ["--seeds", "1"]
    draw.shuffle(tail := words[2:])
    return words[:2] + tail


@pytest.mark.parametrize("command", [["runs"], ["compare", "prior"], ["report"], ["report", "prior"]])
def test_outputs_that_is_no_folder_is_named_in_commands_that_read_it(steelyard, command: list[str]) -> None:
    Path("file").write_text("")
    Path("link").symlink_to("nowhere")
    for typed, text in (
        ("outputs=file", "outputs=file: is a file, not a folder of runs"),
        ("outputs=link", "outputs=link: is a link to nothing, not a folder of runs"),
        ("--outputs=", "has no value"),
        ("outputs=", "has no value"),
        ("outputs=null", "is an empty text"),
        ("outputs=a\x1b[31m", "holds a control character"),
        ("outputs=a\nb", "holds a control character"),
        ("outputs=caf\udce9", "holds a byte that is not UTF-8 (0xe9)"),
        ("outputs=a,b", "takes one value"),
    ):
        ended = steelyard(*command, typed)
        assert (ended.code, ended.out) == (2, ""), typed
        assert text in ended.err, typed


def test_outputs_is_quoted_alike_in_all_commands(steelyard) -> None:
    assert "in a, b;" in steelyard("runs", "outputs='a, b'").out
    assert "run folder  a, b/prior/" in steelyard("run", "prior", "--dry-run", "outputs='a, b'").out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trial", "prior", "--seeds", "99999999"], "is more than 10,000 seeds"),
        (["trial", "prior", "--seeds", "9" * 5000], "is more than 10,000 seeds"),
        (["sweep", "prior", "seed=range(4000000000)"], "has more than 10,000 values"),
        (["sweep", "prior", "seed=range(5000)", "weighting.floor=0,0.1,0.2"], "15,000 cells are too many"),
        (["run", "prior", "--dry-run", f"seed={'9' * 5000}"], "seed"),
    ],
)
def test_more_cells_than_memory_holds_are_refused_at_once(steelyard, words: list[str], text: str) -> None:
    ended = steelyard(*words)
    assert (ended.code, ended.out) == (2, "") and text in ended.err
    assert len(ended.err) < 1_000
