"""Progress on a terminal and in a log file: when something is shown, and what."""

import io
import sys
import time

import pytest

from recipes.core.runs import progress as module
from recipes.core.runs.progress import progress, stage


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until its one entry is changed."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal; not a fixture, as pytest sets the stream anew after those."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_a_log_file_gets_at_most_one_line_in_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("training", 100) as show:
        for done in range(1, 101):
            clock[0] += 0.25
            show(done)
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.splitlines() == [
        "training: 40/100, about 15 s left",
        "training: 80/100, about 5 s left",
    ]


def test_what_ends_within_ten_seconds_leaves_no_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", 10) as show:
        for done in range(1, 11):
            clock[0] += 0.9
            show(done)
    assert capsys.readouterr() == ("", "")


def test_the_time_left_of_a_resumed_run_counts_only_steps_of_its_own(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("training", 100, start=80) as show:
        clock[0] += 10
        show(90)
    assert capsys.readouterr().err == "training: 90/100, about 10 s left\n"


def test_a_terminal_gets_a_bar_after_two_seconds_and_not_before(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_a_terminal(monkeypatch)
    with progress("training", 40) as show:
        clock[0] += 1.9
        show(1)
        assert terminal.getvalue() == ""
        clock[0] += 0.2
        show(2)
        assert "training" in terminal.getvalue() and "2/40" in terminal.getvalue()


def test_the_bar_goes_away_when_its_block_fails(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with pytest.raises(ValueError), progress("training", 40) as show:
        clock[0] += 3
        show(2)
        raise ValueError
    assert terminal.getvalue().endswith("\x1b[2K")  # the line of the bar is wiped
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back


@pytest.mark.parametrize(("seconds", "said"), [(0.0, ""), (0.3, "evaluating ...\n")])
def test_a_stage_is_named_in_a_log_file_if_it_lasts(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SHOW_AFTER_SECONDS", 0.1)
    with stage("evaluating"):
        time.sleep(seconds)
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, False), (0.3, True)])
def test_a_stage_spins_on_a_terminal_if_it_lasts(seconds: float, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setattr(module, "SHOW_AFTER_SECONDS", 0.1)
    with stage("evaluating"):
        time.sleep(seconds)
    assert ("evaluating ..." in terminal.getvalue()) == shown


def test_a_stage_that_fails_says_nothing_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SHOW_AFTER_SECONDS", 0.1)
    with pytest.raises(ValueError), stage("evaluating"):
        raise ValueError
    time.sleep(0.2)
    assert capsys.readouterr() == ("", "")


def test_steps_that_are_lost_when_something_resumes_do_not_count_as_done(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("3 runs", 100, start=40) as show:
        show(20, 20)  # from its last checkpoint
        clock[0] += 10
        show(30, 20)
    assert capsys.readouterr().err == "3 runs: 30/100, about 70 s left\n"
