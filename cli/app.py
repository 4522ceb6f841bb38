"""The `steelyard` command: assembles the commands and turns every error into a message and an exit code."""

import io
import os
import re
import sys
import traceback

import typer
from typer.exceptions import TyperException

from cli import assets, board, compare, doctor, evaluate, export, new, report, run, runs, sweep, trial
from cli import list as list_command
from cli.console import note, say
from cli.habits import pointer
from cli.keys import outputs_option
from cli.results import FLAG, only_the_result, print_error
from recipes.core.config.sources import CONFIG_DIR
from recipes.core.errors import SteelyardError, UserError
from recipes.core.messages import WIDEST, shorten
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.process.streams import guard_streams, start_in_utf8
from recipes.core.storage.disk import refusal

# Before anything asks whether it prints to a terminal.
guard_streams()

DEBUG = "--debug"
KEYLESS = ("runs", "compare", "report", "export", "evaluate", "board", "doctor")  # commands that take no keys

app = typer.Typer(
    name="steelyard",
    help="Run published methods that give tokens, samples or parameters unequal weight, beside their baselines.",
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"steelyard {version('steelyard')}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
    ),
    debug: bool = typer.Option(False, DEBUG, help="Show the traceback of an error; goes anywhere on the line."),
) -> None:
    # `main` reads --debug before the commands see the line; it is declared here to stand in the help.
    pass


app.command("run")(run.run)
app.command("trial")(trial.trial)
app.command("sweep")(sweep.sweep)
app.command("list")(list_command.list_recipes)
app.command("new")(new.new)
app.command("runs")(runs.runs)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("board")(board.board)
app.add_typer(assets.app, name="assets")
app.command("doctor")(doctor.doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: The words after `steelyard`; those of the process if None.

    Returns:
        0 done, 1 the run failed, 2 the input was wrong, 130 interrupted.
    """
    if arguments is None:
        start_in_utf8()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    words = sys.argv[1:] if arguments is None else arguments
    with only_the_result(FLAG in words):
        return _main(words)


def _main(words: list[str]) -> int:
    """Run one command line, and say what it refuses or fails at; returns the exit code."""
    debug = DEBUG in words
    command = typer.main.get_command(app)
    config_dir = os.environ.get(CONFIG_DIR)
    try:
        _check_values(words)
        # A scheduler's stop ends whatever a command does as Ctrl-C would; a run or trial takes signals itself.
        with sigterm_as_interrupt():
            args = _without_switches(words) or ["--help"]
            ended = command.main(args=args, prog_name="steelyard", standalone_mode=False)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report_error(error, words)
    finally:  # --config-dir holds for one command
        os.environ.pop(CONFIG_DIR, None)
        os.environ.update({CONFIG_DIR: config_dir} if config_dir is not None else {})
    return ended if isinstance(ended, int) else 0


def _check_values(words: list[str]) -> None:
    """Refuse an option whose value is empty text, as that of a variable of the shell that is not set.

    Raises:
        UserError: there is one.
    """
    for word, value in zip(words, [*words[1:], None], strict=False):
        option, equals, text = word.partition("=")
        if option.startswith("--") and (text if equals else value) == "":
            raise UserError("has no value (is a variable of the shell empty?)", option, "type one")


def _without_switches(words: list[str]) -> list[str]:
    """The words without --debug; `run -m` is `sweep`, and `outputs=FOLDER` of a command without keys is its option."""
    kept = [word for word in words if word != DEBUG]
    if kept[:1] and kept[0] in KEYLESS:
        return [part for word in kept for part in (outputs_option(word) if word.startswith("outputs=") else [word])]
    if kept[:1] != ["run"] or not set(kept) & set(run.MULTIRUN):
        return kept
    return ["sweep", *(word for word in kept[1:] if word not in run.MULTIRUN)]


def _report_error(error: Exception, words: list[str]) -> int:
    """Say on stderr what went wrong, and on stdout as JSON if that was asked for; returns the exit code."""
    failure = _failure(error, words)
    note(f"error: {failure}" if isinstance(failure, SteelyardError) else f"internal error: {failure}")
    if FLAG in words:
        print_error(_command(words), failure)
    return failure.exit_code if isinstance(failure, SteelyardError) else 1


def _failure(error: Exception, words: list[str]) -> SteelyardError | str:
    """An error as people read it; a text if it is a defect of ours."""
    if isinstance(error, OSError):
        error = refusal(error, hint="look at the path and its permissions") or error
    if isinstance(error, SteelyardError):
        return error
    if isinstance(error, TyperException):
        typed = _command(words)
        option = re.search(r"No such option: (-\S+)", error.message)
        hint = pointer(option[1].rstrip("."), words) if option else ""
        hint = hint or f"steelyard{f' {typed}' if typed else ''} --help shows what can be typed"
        if not typed and "command" in error.message and "Did you mean" not in error.message:
            hint = f"choose from {', '.join(sorted(_commands()))}"
        return UserError(shorten(error.format_message(), WIDEST), hint=hint)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}; type the same command with {DEBUG} for the traceback"


def _command(words: list[str]) -> str:
    """The command that was typed, as it runs (`run -m` is `sweep`), a group's with its name; empty if there is none."""
    typed = next((index for index, word in enumerate(words) if word in _commands()), None)
    if typed is None:
        return ""
    name, behind = words[typed], words[typed + 1 :]
    if name == "run" and set(words) & set(run.MULTIRUN):
        return "sweep"
    group = next((one.typer_instance for one in app.registered_groups if one.name == name), None)
    members = {str(command.name) for command in group.registered_commands} if group else set()
    return " ".join([name, *[word for word in behind if word in members][:1]])


def _commands() -> set[str]:
    commands, groups = app.registered_commands, app.registered_groups
    return {str(command.name) for command in commands} | {str(group.name) for group in groups}


if __name__ == "__main__":
    sys.exit(main())
