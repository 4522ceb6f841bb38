"""`dsir` end to end: a user's files, the selection as a file, the second half of the claim, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1")
LM = ("downstream=lm", "model.width=16", "model.vocabulary=300", "evaluation.length=16", "trainer.batch_size=8")
WORDS = {"sea": "wave tide salt ship sail", "land": "stone field grass hill road", "sky": "cloud wind star moon rain"}


def write(path: Path, domains: tuple[str, ...], documents: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    with path.open("w") as file:
        for number in range(documents):
            for domain in domains:
                text = " ".join(random.choice(WORDS[domain].split(), size=40))
                file.write(json.dumps({"text": f"{text} {number}", "domain": domain}) + "\n")
    return path


def files(folder: Path) -> list[str]:
    pool = write(folder / "pool.jsonl", ("sea", "land", "sky"), 60)
    target = write(folder / "target.jsonl", ("sea",), 30, seed=1)
    return [f"data.source={pool}", f"data.target={target}"]


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("dsir", [*SMOKE, f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run dsir " + " ".join(overrides))


def selected(outcome: runner.RunOutcome) -> list[dict[str, object]]:
    return [json.loads(line) for line in (outcome.folder / "selection.jsonl").read_text().splitlines()]


def test_a_users_files_become_a_selection_and_nothing_is_trained(tmp_path: Path) -> None:
    outcome = run(tmp_path / "runs", *files(tmp_path), "select.n=20")
    rows = selected(outcome)
    assert outcome.status == "done" and not (outcome.folder / "checkpoints").exists()
    assert len(rows) == 20 and {row["domain"] for row in rows} == {"sea"}
    assert rows[0].keys() == {"id", "text", "domain", "score"}
    assert outcome.metrics["kl_reduction"] > 0 and outcome.metrics["selected/sea"] == 1
    assert "nll/target" not in outcome.metrics
    assert "Scores of the pool and of the selection" in (outcome.folder / "report.html").read_text()


def test_near_duplicates_are_left_out_of_pool_and_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, target = (write(tmp_path / f"{name}.jsonl", ("sea", "land"), 20, seed) for seed, name in enumerate("pt"))
    pool.write_text(pool.read_text() * 3)
    words = [f"data.source={pool}", f"data.target={target}", "select.n=5", "data.near_duplicates=0.8"]
    run(tmp_path / "runs", *words)
    assert f"data.source={pool}: 80 documents were left out: p.jsonl@" in capsys.readouterr().err


@pytest.mark.parametrize("arm", compose.arms("dsir"))
def test_every_arm_selects_and_trains(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path / "runs", *files(tmp_path), *LM, f"arm={arm}", "select.n=30", "trainer.max_steps=4")
    assert {"nll/target", "nll/pool", "kl_reduction"} <= outcome.metrics.keys()
    assert len(selected(outcome)) == 30
    if arm != "random":
        assert outcome.metrics["selected/sea"] > 0.6  # a third of the pool


def test_two_processes_select_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = files(tmp_path)
    one = run(tmp_path / "one", *names, "select.n=25")
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    two = run(tmp_path / "two", *names, "select.n=25", "select.processes=2")
    assert selected(one) == selected(two)


def test_held_out_documents_are_not_selected(tmp_path: Path) -> None:
    keys = [*files(tmp_path), *LM, "evaluation.held_out_pool=0.3", "trainer.max_steps=2", "arm=random"]
    pool = compose.compose("dsir", [*SMOKE, *keys, "select.n=1"])
    from recipes.pretraining.dsir.corpora import open_corpora

    corpora = open_corpora(pool)
    kept = {document.id for document in corpora.pool.documents()}
    held = {document.id for document in corpora.pool_test.documents()}
    assert kept and held and not kept & held and len(kept | held) == 180
    outcome = run(tmp_path / "runs", *keys, f"select.n={len(kept)}")
    assert {row["id"] for row in selected(outcome)} == kept


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["select.n=500"], "500 documents were asked for and the source has 180"),
        (["select.n=100", "select.min_words=1000"], "180 of 180 are left out as too short or of low quality"),
    ],
)
def test_a_selection_larger_than_the_pool_is_refused(keys: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path / "runs", *files(tmp_path), *keys)
    assert not list((tmp_path / "runs").glob("*/*/*/*"))


def test_a_target_without_a_common_ngram_is_refused(tmp_path: Path) -> None:
    names = files(tmp_path)
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": "ζητα ητα θητα"}) + "\n")
    with pytest.raises(UserError, match="no n-gram in common"):
        run(tmp_path / "runs", *names)


def test_a_shard_that_is_cut_off_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    write(folder / "a.jsonl", ("sea",), 40)
    whole = write(folder / "b.jsonl", ("land",), 40).read_bytes()
    (folder / "b.jsonl").write_bytes(whole[:-40])
    names = [f"data.source={folder}", f"data.target={write(tmp_path / 'target.jsonl', ('sea',), 5)}"]
    with pytest.raises(UserError, match="b.jsonl"):
        run(tmp_path / "runs", *names)
    (folder / "b.jsonl").write_bytes(whole)
    assert run(tmp_path / "runs", *names, "select.n=10").status == "done"


def test_documents_that_are_left_out_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = files(tmp_path)
    with (tmp_path / "pool.jsonl").open("ab") as file:
        file.write(b'{"text": " ", "domain": "sea"}\n{"text": "caf\xe9", "domain": "sea"}\n')
    with pytest.raises(UserError, match="has an empty text"):
        run(tmp_path / "runs", *names, "select.n=5")
    outcome = run(tmp_path / "runs", *names, "select.n=5", "data.on_error=skip")
    assert outcome.status == "done" and len(selected(outcome)) == 5
    told = capsys.readouterr().err
    assert "2 documents were left out" in told and "line 181" in told and "pool.jsonl" in told


def test_source_and_target_belong_together() -> None:
    with pytest.raises(UserError) as raised:
        compose.compose("dsir", ["data.source=somewhere"])
    assert "data.target: is missing: data.source and data.target belong together" in raised.value.hint
