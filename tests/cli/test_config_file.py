"""`--config FILE` of run, trial and sweep, from the command line."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.core import runner
from tests.cli.conftest import Ended

Steelyard = Callable[..., Ended]
TEXT = """
recipe: rho-1
budget: smoke
tracker: none
trainer.max_steps: 7
arms:
  few: {description: a tenth, set: {select.share: 0.1}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def test_a_run_takes_recipe_keys_and_arm_from_the_file(file: Path, steelyard: Steelyard) -> None:
    for words in (["run", "rho-1", "--config", file, "arm=few"], ["run", "arm=few", "--config", file]):
        ended = steelyard(*words, "--dry-run")
        assert ended.code == 0, ended.err
        assert "outputs/rho-1/few/" in ended.out and "share: 0.1" in ended.out and "max_steps: 7" in ended.out


def test_a_trial_runs_its_arms_beside_those_of_the_budget(file: Path, steelyard: Steelyard) -> None:
    ended = steelyard("trial", "--config", file, "--dry-run")
    assert ended.code == 0 and "6 queued" in ended.out
    assert "label=few seed=1" in ended.out and "uniform-s1" in ended.out
    ended = steelyard("trial", "--config", file, "--arms", "few,uniform", "--seeds", "1", "--dry-run")
    assert "2 queued" in ended.out
    ended = steelyard("trial", "--config", file, "--arms", "fw", "--dry-run")
    assert ended.code == 2 and "unknown arm 'fw' of rho-1\n  did you mean few?" in ended.err


def test_a_sweep_has_the_file_in_every_cell(file: Path, steelyard: Steelyard) -> None:
    ended = steelyard("sweep", "--config", file, "select.share=0.2,0.4", "--dry-run")
    assert ended.code == 0 and ended.out.count("trainer.max_steps=7") == 2


def test_what_a_trial_chooses_is_refused_with_its_line(file: Path, steelyard: Steelyard) -> None:
    file.write_text(TEXT + "seed: 3\n")
    ended = steelyard("trial", "--config", file, "--dry-run")
    assert ended.code == 2 and f"{file}, line 8: seed=3: a trial chooses arms and seeds itself" in ended.err
    file.write_text(TEXT + "select: {by: random}\n")
    ended = steelyard("trial", "--config", file, "--dry-run")
    assert ended.code == 2 and f"{file}, line 8: select.by=random: select.by is what arms choose" in ended.err


def test_nothing_is_written_for_a_file_with_problems(file: Path, steelyard: Steelyard, tmp_path: Path) -> None:
    file.write_text(TEXT + "seeds: 3\ndata: {lenght: 5}\n")
    for command in ("run", "trial", "sweep"):
        ended = steelyard(command, "--config", file, f"outputs={tmp_path}/out", *(["seed=0,1"] * (command == "sweep")))
        assert ended.code == 2 and ended.err.startswith("error: 2 problems in the config\n"), ended.err
        assert f"{file}, line 8: seeds = 3: unknown key; did you mean seed?" in ended.err
        assert f"{file}, line 9: data.lenght = 5: unknown key; did you mean data.length?" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_options_and_presets(file: Path, tmp_path: Path, steelyard: Steelyard) -> None:
    mine = "defaults: [licences, _self_]\nlength: 48\n"
    for group, name, text in (("data", "mine", mine), ("recipe", "quick", TEXT)):
        (tmp_path / "dir" / group).mkdir(parents=True)
        (tmp_path / "dir" / group / f"{name}.yaml").write_text(text)
    ended = steelyard("run", "quick", f"--config-dir={tmp_path}/dir", "data=mine", "arm=few", "--dry-run")
    assert ended.code == 0 and "outputs/rho-1/few/" in ended.out and "length: 48" in ended.out, ended.err
    assert "mine" in steelyard("list", "rho-1", "--config-dir", tmp_path / "dir").out
    ended = steelyard("trial", "rho-1", "--config-dir", tmp_path / "dir", "data=mine", "--dry-run")
    assert ended.code == 0 and "data=mine" in ended.out
    ended = steelyard("run", "rho-1", "data=mine", "--dry-run")  # it holds for one command
    assert ended.code == 2 and "data = mine: " in ended.err
    ended = steelyard("run", "rho-1", "--config-dir", tmp_path / "none", "--dry-run")
    assert ended.code == 2 and f"--config-dir {tmp_path}/none: there is no such folder" in ended.err


def test_the_command_of_a_preset_typed_again_is_the_same(
    tmp_path: Path, steelyard: Steelyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dir"
    (folder / "recipe").mkdir(parents=True)
    (folder / "recipe" / "quick.yaml").write_text(TEXT)
    for words in (["trial", "quick", "--arms", "few,uniform"], ["sweep", "quick", "select.share=0.2,0.4"]):
        first = json.loads(steelyard(*words, f"--config-dir={folder}", "--dry-run", "--json").out)["result"]
        typed = shlex.split(first["command"])[1:]
        second = json.loads(steelyard(*typed, "--dry-run", "--json").out)["result"]
        assert [second[key] for key in ("folder", "cells", "command")] == [
            first[key] for key in ("folder", "cells", "command")
        ]

    def stop(config: object, *_: object) -> None:
        stopped.append(config)
        raise KeyboardInterrupt

    stopped: list[object] = []
    monkeypatch.setattr(runner, "run", stop)
    ended = steelyard("run", "quick", f"--config-dir={folder}", "arm=few", "seed=3")
    assert ended.code == 130
    steelyard(*shlex.split(ended.err.splitlines()[-1])[1:])
    assert len(stopped) == 2 and stopped[0] == stopped[1]


@pytest.mark.slow
def test_a_runs_own_config_reuses_it_and_its_record_holds_without_the_file(
    file: Path, tmp_path: Path, steelyard: Steelyard
) -> None:
    ended = steelyard("run", "arm=few", "--config", file, f"outputs={tmp_path}/out", "trainer.threads=1")
    assert ended.code == 0, ended.err
    [folder] = tmp_path.glob("out/rho-1/few/*")
    command = json.loads((folder / "env.json").read_text())["command"]
    assert "--config" not in command and "select.share=0.1" in command and "label=few" in command
    written = (folder / "metrics.jsonl").stat().st_mtime_ns
    ended = steelyard("run", "--config", folder / "config.yaml")
    assert ended.code == 0 and f"run folder  {folder}" in ended.out and "reused" in ended.out, ended.out
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == written
    steelyard("run", "--config", folder / "config.yaml", "--fresh")
    assert (folder / "metrics.jsonl").stat().st_mtime_ns > written
    assert [path.name for path in tmp_path.glob("out/rho-1/*/*")] == [folder.name]
