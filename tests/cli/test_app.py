"""What holds for every command: quick start, exit codes, messages, plain output."""

import os
import signal

import pytest

from recipes.core.config import registry
from recipes.core.errors import RunFailed
from tests.cli.conftest import in_process

HEAVY = ("torch", "transformers", "hydra", "omegaconf", "numpy", "pandas", "datasets", "wandb", "rich")


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    assert in_process("-c", code, environment=dict(os.environ)).stdout.strip() == "[]"


def test_a_config_error_comes_before_torch() -> None:
    code = "import sys; from cli.app import main; print(main(['run', 'prior', 'sed=1']), 'torch' in sys.modules)"
    ended = in_process("-c", code, environment=dict(os.environ))
    assert ended.stdout.strip() == "2 False"
    assert "sed = 1: unknown key; did you mean seed?" in ended.stderr


def test_no_words_at_all_show_the_help(steelyard) -> None:
    ended = steelyard()
    assert ended.code == 0
    assert ended == steelyard("--help")
    words = "run trial sweep list new runs compare report export evaluate board assets doctor"
    for command in words.split():
        assert f"\n  {command} " in ended.out
    assert "..." not in ended.out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rum", "prior"], ["No such command 'rum'. Did you mean 'run'"]),
        (
            ["frobnicate"],
            ["No such command 'frobnicate'.", "choose from assets, board, compare, doctor, evaluate, export,"],
        ),
        (["assets", "lst"], ["No such command 'lst'. Did you mean 'list'?", "steelyard assets --help"]),
        (["runs", "--outptus", "x"], ["No such option: --outptus", "--outputs", "steelyard runs --help"]),
        (["run"], ["Missing argument 'RECIPE'", "steelyard run --help"]),
        (["run", "priro"], ["unknown recipe 'priro'", "did you mean prior?"]),
        (["list", "priro"], ["did you mean prior?"]),
        (["runs", "priro"], ["did you mean prior?"]),
        (["compare", "priro"], ["did you mean prior?"]),
        (["report", "priro"], ["did you mean prior?"]),
        (["assets", "fetch", "easy-vqu"], ["unknown asset 'easy-vqu'", "did you mean easy-vqa?"]),
    ],
)
def test_unknown_words_are_answered_with_the_nearest(steelyard, words, told) -> None:
    ended = steelyard(*words)
    assert ended.code == 2
    assert ended.out == ""
    for text in told:
        assert text in ended.err
    assert "Traceback" not in ended.err


def test_all_wrong_keys_are_told_at_once(steelyard) -> None:
    ended = steelyard("run", "prior", "weighting.alpa=2", "trainer.batch_size=many", "arm=ntpp")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "error: 3 problems in the config",
        "  arm = ntpp: did you mean ntp?",
        "  weighting.alpa = 2: unknown key; did you mean weighting.alpha?",
        "  trainer.batch_size = 'many': must be a whole number",
    ]


@pytest.mark.parametrize(
    "words", [["--debug", "list", "priro"], ["list", "--debug", "priro"], ["list", "priro", "--debug"]]
)
def test_debug_anywhere_shows_the_traceback_and_keeps_the_code(steelyard, words) -> None:
    ended = steelyard(*words)
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert ended.err.endswith("error: unknown recipe 'priro'\n  did you mean prior?\n")


def test_an_unforeseen_error_is_one_line(steelyard, monkeypatch) -> None:
    def break_down() -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(registry, "recipe_names", break_down)
    ended = steelyard("list")
    assert (ended.code, ended.err) == (
        1,
        "internal error: ValueError: two lines; type the same command with --debug for the traceback\n",
    )
    assert "Traceback" in steelyard("list", "--debug").err


@pytest.mark.parametrize(("error", "code"), [(RunFailed("loss is NaN", "step 7"), 1), (KeyboardInterrupt(), 130)])
def test_failed_and_interrupted_have_their_own_codes(steelyard, monkeypatch, error, code) -> None:
    def stop() -> None:
        raise error

    monkeypatch.setattr(registry, "recipe_names", stop)
    ended = steelyard("list")
    assert ended.code == code
    assert ended.err == ("error: step 7: loss is NaN\n" if code == 1 else "")


@pytest.mark.parametrize(
    "words", [("new", "a-b", "--to", ""), ("runs", "--outputs="), ("trial", "prior", "--arms", "")]
)
def test_an_option_with_an_empty_value_is_refused_for_every_command(steelyard, words: tuple[str, ...]) -> None:
    ended = steelyard(*words)
    assert ended.code == 2 and ended.out == ""
    assert "has no value (is a variable of the shell empty?)" in ended.err


def test_a_value_may_end_as_an_option_without_one_does(steelyard) -> None:
    ended = steelyard("runs", "--outputs=a=")
    assert "has no value" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_schedulers_stop_ends_any_command_as_ctrl_c_does(steelyard, monkeypatch, number: int) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(registry, "recipe_names", lambda: os.kill(os.getpid(), number))
    assert steelyard("list").code == 130
    assert signal.getsignal(number) == before


def test_a_pipe_gets_text_without_colours_borders_or_breaks() -> None:
    environment = dict(os.environ) | {"COLUMNS": "40", "TERM": "xterm-256color"}
    ended = in_process("-m", "cli.app", "list", "prior", environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert not set(ended.stdout) & set("│─┃━┌└╭╰")
    lines = ended.stdout.splitlines()
    assert any(line.startswith("trainer.learning_rate ") and line.endswith("peak learning rate") for line in lines)
