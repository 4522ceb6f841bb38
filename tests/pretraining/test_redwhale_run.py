"""RedWhale end to end: what is refused, a run on a user's text, and the folder that it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.text.windows import Texts
from recipes.core.errors import UserError
from recipes.core.training.toys.config import ToyLMConfig
from recipes.core.training.toys.language import ToyLM
from recipes.pretraining.redwhale.recipe import known_texts

SMALL = (
    *("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=8", "evaluation.watch_every=4"),
    *("model.steps=4", "model.layers=2", "model.width=16", "model.domains=[wordnet-glosses]", "model.characters=20000"),
    *("replay.domains=[wordnet-glosses]", "replay.characters=20000", "evaluation.windows=2"),
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.max_steps=3",), "begins after step 1 of 3 and has no step before the next one"),
        (("schedule.shares=[1,1,1,1e-6]",), "begins after step 8 of 8 and would reset after the last step"),
        (("schedule.shares=[1,1]",), "are 2, and schedule.name=staged has 4 stages"),
        (("arm=eeve", "extend.vocabulary=none", "trainer.max_steps=40"), "extend.vocabulary=none has none"),
        (("arm=old_tokens", "schedule.new_rows_only=true"), "trains new rows"),
        (("lora.rank=0",), "trains adapters; type 1 or more"),
        (("trainer.nproc=2",), "type trainer.nproc=1"),
        (("corpus.low=95",), "is not below high=90"),
        (("replay.domains=[wiki]",), "there is no wiki"),
        (("replay.domains=[wiki-en,wiki-en]",), "names no domain, or one twice"),
        (("extend.frequency=100000",), "no new token that occurs 100000 times"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        runner.run(compose.compose("redwhale", [*SMALL, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on a user's text."""
    folder = tmp_path_factory.mktemp("redwhale")
    text = "대한민국의 국민이 되는 요건은 법률로 정한다.\n국가는 법률이 정하는 바에 의하여 {} 번째 국민을 보호한다.\n"
    lines = [json.dumps({"text": "".join(text.format(n * 7 + m) for m in range(4))}) for n in range(60)]
    (folder / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    own = [f"data.path={folder}/mine.jsonl", "data.length=32", "corpus.similarity=1", "extend.ascii=false"]
    own += ["data.test_fraction=0.2", "data.near_duplicates=null"]
    overrides = [*SMALL, *own, f"outputs={folder}", "extend.match_norm=true", "label=mine"]
    return runner.run(compose.compose("redwhale", overrides), False, "run")


def test_what_a_run_measures(run: Any) -> None:
    metrics = run.metrics
    assert metrics["token_ratio"] < 0.8 and metrics["known/token_ratio"] == 1
    assert 0 < metrics["known/extension/bits_per_byte"] - metrics["known/base/bits_per_byte"] < 0.2  # more candidates
    forgot = metrics["known/bits_per_byte"] - metrics["known/base/bits_per_byte"]
    assert metrics["known/forgetting"] == pytest.approx(forgot)
    assert metrics["stages/2/state_bytes"] == 8 * metrics["stages/2/trained"] < metrics["stages/1/state_bytes"]
    stages = json.loads((run.folder / "stages.json").read_text("utf-8"))["stages"]
    assert [row["steps"] for row in stages] == [[1, 2], [3, 3], [4, 5], [6, 8]]
    tokens = [json.loads(line) for line in (run.folder / "tokens.jsonl").read_text("utf-8").splitlines()]
    assert len(tokens) == metrics["vocabulary/new"] and all(token["pieces"] for token in tokens)


def test_the_model_loads_with_transformers_alone(run: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(run.folder / "hf")
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "hf")
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert not model.config.tie_word_embeddings and not torch.equal(table, head)
    unused = [*range(len(tokenizer), len(table))]
    assert unused and model.generation_config.suppress_tokens == unused and not (run.folder / "hf" / "adapter").exists()
    ids = torch.tensor([tokenizer("국민이 되는 요건은", add_special_tokens=False)["input_ids"]])
    written = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert written.shape[1] == ids.shape[1] + 4 and int(written.max()) < len(tokenizer)


@pytest.mark.parametrize("fraction", [0.25, 0.05])
def test_what_is_held_out_of_the_known_language_was_read_by_no_toy_and_is_not_replayed(fraction: float) -> None:
    words = ["budget=small", f"data.test_fraction={fraction}", "model.characters=60000", "replay.characters=60000"]
    config = compose.compose("redwhale", words)
    assert isinstance(config.model, ToyLMConfig)
    toy = ToyLM(config.model, config.trainer, config.seed)
    read = {*toy._corpus.texts()}
    replayed = {text for _, _, text in Texts(known_texts(config)).documents("train")}
    measured = {text for _, _, text in Texts(known_texts(config, held_out=True)).documents("test")}
    assert measured and measured.isdisjoint(read | replayed)
    assert known_texts(config).near_duplicates == config.data.near_duplicates == 0.8


def test_without_training(tmp_path: Path) -> None:
    words = ["schedule.train=false", "data.characters=20000", "extend.pad_to=64"]
    overrides = [*SMALL, *words, f"outputs={tmp_path}"]
    outcome = runner.run(compose.compose("redwhale", overrides), False, "run")
    metrics = outcome.metrics
    assert metrics["bits_per_byte"] == metrics["extension/bits_per_byte"] and "stages/1/trained" not in metrics
    model = AutoModelForCausalLM.from_pretrained(outcome.folder / "hf")
    tokens = len(AutoTokenizer.from_pretrained(outcome.folder / "hf"))
    unused = [*range(tokens, len(model.get_input_embeddings().weight))]
    assert unused and model.generation_config.suppress_tokens == unused


def test_texts_that_the_old_tokenizer_does_not_know_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["schedule.train=false", "data.characters=20000", "arm=old_tokens", "model.tokenizer=characters"]
    runner.run(compose.compose("redwhale", [*SMALL, *words, f"outputs={tmp_path}"]), False, "run")
    assert (
        "do not come back from the old tokenizer (target language): their bits are too few" in capsys.readouterr().err
    )
