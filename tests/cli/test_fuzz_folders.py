"""300 random damages of run and trial folders: every command notices and names it, or prints what it printed before.

The runs are written, not trained; whatever would train or start a cell is an error here. Pictures are not drawn.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import app
from recipes.core import execution
from recipes.core.config import compose
from recipes.core.runs import folder as runs
from recipes.core.trial import launch
from recipes.core.trial import manifest as manifests
from recipes.core.trial.states import record_end, record_start
from tests.finished import finished_run, finished_trial

DAMAGES, SEED = 300, 20
WORDS = ["budget=smoke", "tracker=none", "trainer.max_steps=2", "trainer.threads=1"]
TRIAL = ["--arms", "prior,ntp", "--seeds", "2", "--launcher", "local"]
NONSENSE = (
    b"",
    b"\x00" * 64,
    b"3",
    b"null",
    b'{"config": 3, "state": 3, "cells": 3, "metrics": [], "version": "x"}',
    b"a: !!python/object/apply:os.system ['false']\n",
    b"a: &x [1]\nb: [*x, *x]\n",
    b"[" * 20_000,
    b"seed: 1\nrecipe: prior\narm: {}\n",
    b"\xff\xfe{\x00",
)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose `outputs` hold a finished trial of two arms and two seeds."""
    monkeypatch.chdir(tmp_path)
    finished_trial(WORDS)
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("something would be run")

    monkeypatch.setattr(execution, "work", started)
    monkeypatch.setattr(launch, "run_in_child", started)
    monkeypatch.setattr("cli.runs.age", lambda *_: "now")
    monkeypatch.setattr("recipes.core.report.run.draw", lambda *_: b"png")
    monkeypatch.setattr("recipes.core.trial.report.page.draw_trial", lambda *_: {"png": b"png", "svg": b"svg"})


def commands(outputs: Path) -> list[list[str]]:
    one, other = sorted(outputs.glob("prior/*/*-s0"))
    return [
        ["runs"],
        ["compare", "prior"],
        ["compare", str(other), str(one)],
        ["report", str(other)],
        ["report", "prior"],
        ["run", "prior", *WORDS, "arm=prior", "seed=0"],
        ["trial", "prior", *WORDS, *TRIAL],
        ["trial", "prior", *WORDS, *TRIAL, "--status"],
    ]


def damage(path: Path, draw: random.Random) -> str:
    """Do one random thing to a file; says what."""
    kind = draw.choice(["flip", "flip", "flip", "cut", "remove", "folder", "dangling", "loop", "nonsense", "nonsense"])
    content = bytearray(path.read_bytes())
    path.unlink()
    if kind == "flip" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif kind == "cut" and content:
        path.write_bytes(content[: draw.randrange(len(content))])
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nonsense":
        path.write_bytes(draw.choice(NONSENSE))
    return kind


def restore(path: Path, content: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(content)


def test_no_damage_changes_a_number_or_ends_in_an_internal_error(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(words: list[str]) -> tuple[int, str, str]:
        code = app.main(words)
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    draw, outputs = random.Random(SEED), finished / "outputs"
    lines = commands(Path("outputs"))
    clean = {tuple(words): line(words) for words in lines}
    assert {code for code, _, _ in clean.values()} == {0}, clean
    files = [path for path in sorted(outputs.rglob("*")) if path.is_file() and path.suffix not in (".html", ".md")]
    for number in range(DAMAGES):
        path = draw.choice(files)
        content = path.read_bytes()
        kind = damage(path, draw)
        words = draw.choice(lines)
        code, out, err = line(words)
        what = f"{number}: {kind} of {path.relative_to(finished)}, steelyard {' '.join(words)}:\n{out}\n{err}"
        assert "internal error" not in err and code in (0, 1, 2), what
        assert out == clean[tuple(words)][1] or _is_named(path, finished, out + err), what
        restore(path, content)
    for words in lines:
        assert line(words)[:2] == clean[tuple(words)][:2]


def _is_named(path: Path, root: Path, text: str) -> bool:
    """Whether a file, or the folder whose damage it is, stands in what was printed."""
    run = next((one for one in path.parents if one.parent.parent.parent == root / "outputs"), path)
    return path.name in text or str(run.relative_to(root)) in text


def test_a_trial_does_damaged_cells_anew_with_retry(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = (finished / "outputs").glob("prior/ntp/*-s1")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b" ")
    words = ["trial", "prior", *WORDS, *TRIAL]
    assert app.main(words) == 1
    told = capsys.readouterr()
    assert "metrics.jsonl has" in told.out and "--retry" in told.err

    def run_cells(folder: Path, names: list[str]) -> None:
        manifest = manifests.read(folder)
        for name in names:
            record_start(folder, name)
            cell = manifest.cell(name)
            finished_run(compose.compose("prior", [*cell.overrides]), cell.seed)
            record_end(folder, name, runs.DONE)
        launched.extend(names)

    launched: list[str] = []
    monkeypatch.setattr(launch, "run_in_child", run_cells)
    assert app.main([*words, "--retry"]) == 0 and launched == ["ntp-s1"]
    launched.clear()
    assert app.main([*words, "--fresh"]) == 0 and len(launched) == 4


@pytest.fixture
def steelyard(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def line(*words: str) -> tuple[int, str, str]:
        code = app.main(list(words))
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return line


def test_odd_folders_break_no_command_about_others(finished: Path, steelyard) -> None:
    lines = commands(Path("outputs"))
    clean = [steelyard(*words) for words in lines]
    odd = finished / "outputs"
    (odd / "notes" / "x" / "y-s1").mkdir(parents=True)
    (odd / "notes" / "x" / "y-s1" / "config.yaml").write_bytes(b"\x00: [")
    (odd / "prior" / "prior" / "file-s3").write_text("a file where a folder is expected")
    (odd / "loop").symlink_to(odd / "loop")
    (odd / "prior" / "ntp" / "loop-s1").symlink_to(odd / "prior" / "ntp" / "loop-s1")
    (odd / "prior" / "trials" / "x-s1").mkdir()
    for words, (code, out, _) in zip(lines, clean, strict=True):
        ended = steelyard(*words)
        assert (ended[0], ended[1]) == (code, out), words
        assert ended[2].count("y-s1") == (words == ["runs"]), ended[2]


def test_a_run_filed_under_another_name_is_left_out_and_named(finished: Path, steelyard) -> None:
    (run,) = (finished / "outputs").glob("prior/ntp/*-s1")
    shutil.copytree(run, run.with_name("0123456789-s1"))
    shutil.copytree(run, finished / "outputs" / "prior" / "random" / run.name)
    _, out, err = steelyard("runs")
    assert len(out.splitlines()) == 6
    assert "0123456789-s1 its config.yaml is not the one it was started with" in err
    assert "is filed under prior/random, its config says prior/ntp" in err


@pytest.mark.parametrize("place", ["outputs", "outputs/prior", "outputs/prior/ntp", "run"])
def test_a_link_below_outputs_is_followed_alike_by_all_commands(place: str, finished: Path, steelyard) -> None:
    lines = commands(Path("outputs"))
    clean = [steelyard(*words)[:2] for words in lines]
    (run,) = (finished / "outputs").glob("prior/ntp/*-s0")
    linked = run if place == "run" else finished / place
    elsewhere = finished / "elsewhere" / "deep" / "moved"
    elsewhere.parent.mkdir(parents=True)
    linked.rename(elsewhere)
    linked.symlink_to(elsewhere)
    assert [steelyard(*words)[:2] for words in lines] == clean
