"""Strips of images: written and read back, put below each other, drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.core.evaluation.strips import Shot, Strip, data_uri, read_strips, write_strips
from recipes.core.report.strips import run_wall, trial_walls, wall_png
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord
from recipes.core.trial.report.arms import Arm


def shot(name: str, shade: int = 0, side: int = 4) -> Shot:
    return Shot(name, f"{name}?", f"says {shade}", data_uri(np.full((side, side, 3), shade, np.uint8)))


def arm(folder: Path, name: str, seeds: dict[int, list[Strip]]) -> Arm:
    runs = {}
    for seed, strips in seeds.items():
        path = folder / name / str(seed)
        path.mkdir(parents=True)
        write_strips(path, strips)
        runs[seed] = RunRecord(path, "r", name, seed, DONE, "", {})
    return Arm(name, "other", 1, runs, {}, None)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    strips = [Strip("a", "half", (shot("x"), shot("y", 9))), Strip("b", "all", (), compared=True)]
    assert read_strips(tmp_path) == []
    write_strips(tmp_path, strips)
    assert read_strips(tmp_path) == strips


def test_a_run_shows_all_its_strips(tmp_path: Path) -> None:
    assert run_wall(tmp_path) is None
    write_strips(tmp_path, [Strip("a", "all", (shot("x"), shot("y"))), Strip("b", "half", (shot("y", 9),))])
    wall = run_wall(tmp_path)
    assert wall is not None and wall.columns == ["x?", "y?"] and wall.pixelated and wall.hint == ""
    write_strips(tmp_path, [Strip("a", "all", (shot("x"),)), Strip("b", "half", (shot("y", 9),), hint="Dark is gone.")])
    explained = run_wall(tmp_path)
    assert explained is not None and explained.hint == "Dark is gone." and wall_png(explained)
    assert wall.rows == [("all", [shot("x"), shot("y")]), ("half", [None, shot("y", 9)])]


def test_a_trial_compares_arms_on_the_seed_that_most_have(tmp_path: Path) -> None:
    one, two = Strip("a", "8 of 64", (shot("x"),), compared=True), Strip("b", "4 of 64", (shot("x"),))
    arms = [
        arm(tmp_path, "first", {0: [one, two]}),
        arm(tmp_path, "second", {1: [one, two]}),
        arm(tmp_path, "third", {1: [two, one]}),
        arm(tmp_path, "bare", {1: []}),
    ]
    [wall] = trial_walls({each.name: each.runs for each in arms})
    assert (wall.title, wall.seed) == ("8 of 64", 1) and [label for label, _ in wall.rows] == ["second", "third"]
    assert trial_walls({}) == []


def test_titles_notes_and_images_are_drawn(tmp_path: Path) -> None:
    write_strips(tmp_path, [Strip("a", "all", (shot("x"), shot("y")))])
    wall = run_wall(tmp_path)
    assert wall is not None
    changed = [replace(wall, columns=["x?", "z?"]), replace(wall, rows=[("all", [shot("x"), None])])]
    drawn = {wall_png(each) for each in (wall, wall, *changed)}
    assert len(drawn) == 3 and all(png.startswith(b"\x89PNG") for png in drawn)


def test_large_images_are_not_pixelated(tmp_path: Path) -> None:
    write_strips(tmp_path, [Strip("a", "all", (shot("x", side=120),))])
    wall = run_wall(tmp_path)
    assert wall is not None and not wall.pixelated
