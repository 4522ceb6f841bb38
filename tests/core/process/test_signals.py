"""Signals that ask a run to stop: Ctrl-C, a scheduler's SIGTERM, a terminal that is closed."""

import os
import signal
from collections.abc import Iterator

import pytest

from recipes.core.process.signals import NUMBERS, say_at_once, sigterm_as_interrupt, stop_on_signal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


@pytest.mark.parametrize("number", NUMBERS)
def test_each_asks_training_to_stop(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on_signal("stopping\n") as stop:
        signal.raise_signal(number)
        assert stop.is_set()
    assert capfd.readouterr().err == "stopping\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_each_ends_what_cannot_be_saved(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        signal.raise_signal(number)


def test_nohup_outlives_the_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sigterm_as_interrupt(), stop_on_signal("") as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_takes_no_last_words() -> None:
    saved = os.dup(2)
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 2)
    try:
        say_at_once("stopping\n")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writing)
