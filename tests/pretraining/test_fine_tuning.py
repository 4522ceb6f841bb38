"""Short fine-tuning beside the probe: the same twice, by a copy, as config says."""

from dataclasses import replace
from pathlib import Path

import pytest

from recipes.core.config import compose
from recipes.core.config.settings import TrainerConfig
from recipes.core.config.unread import of_no_use
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.errors import UserError
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.models.banded import use_banded_attention
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.small_encoder import build_encoder, build_encoder_tokenizer
from recipes.core.scoring.fingerprints import module_hash
from recipes.pretraining.probing import ProbedEncoder
from recipes.pretraining.tuning_config import FineTuningConfig

SENTENCE = "the licensee may copy and modify this work provided that notices are kept in all copies of it"
TRAINER = TrainerConfig(device="cpu", threads=1, precision="fp32")


def texts() -> LabelledSet:
    words = SENTENCE.split()
    rows = [" ".join(words[(i + j) % len(words)] for j in range(4 + i % 5)) for i in range(40)]
    labelled = [LabelledText(f"{i}", f"{row} {'not' * (i % 2)}", "ab"[i % 2], f"{i}") for i, row in enumerate(rows)]
    return LabelledSet("sentences", labelled[:30], labelled[30:])


@pytest.mark.parametrize("window", [None, 4])
def test_a_copy_is_trained_and_twice_the_same(
    window: int | None, session_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SmallEncoderConfig(layers=1, width=16, heads=2, positions=16, vocabulary=300, dropout=0.1)
    tokenizer = build_encoder_tokenizer(shape, lambda: [SENTENCE] * 20, "fine-tuning tests")
    encoder = build_encoder(shape, tokenizer, 0)
    if window:
        use_banded_attention(encoder, window)
    before, data, probe = module_hash(encoder, encoder.config), texts(), ProbeConfig(max_tokens=12)
    config = FineTuningConfig(steps=12, batch_size=8, learning_rate=0.03)
    predictions = []
    for name in "ab":  # homes with a cache each: nothing is read again
        monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / name))
        probed = ProbedEncoder(encoder, tokenizer, data, 0, "cpu")
        predictions.append(probed.predict_tuned(config, probe, TRAINER))
    assert (predictions[0] == predictions[1]).all() and predictions[0].shape == (10,)
    assert (predictions[0] == data.numbers(data.test)).mean() > 0.7
    assert module_hash(encoder, encoder.config) == before and encoder.config.hidden_dropout_prob == 0.1
    with pytest.raises(UserError, match="does not fit the 16 positions"):
        long = replace(data.train[0], text=SENTENCE * 3)
        wide = replace(config, max_tokens=40)
        replace(probed, data=replace(data, train=[long])).predict_tuned(wide, probe, TRAINER)


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("electra", ("fine_tuning.max_tokens=65",), "is more than data.length=64"),
        ("budgetlongformer", ("fine_tuning.max_tokens=513",), "is more than model.positions=512"),
        ("electra", ("trainer.nproc=2",), "type fine_tuning.steps=0, or trainer.nproc=1"),
        ("electra", ("trainer.nodes=2",), "type fine_tuning.steps=0, or trainer.nodes=1"),
        ("electra", ("fine_tuning.layer_decay=1.1",), "must be > 0 and <= 1"),
    ],
)
def test_refused(recipe: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose.compose(recipe, list(words))
    assert message in str(caught.value)


def test_keys_of_no_use() -> None:
    def unread(recipe: str, *words: str) -> list[str]:
        return [key for key, _ in of_no_use([compose.compose(recipe, list(words))], words)]

    rate = "fine_tuning.learning_rate=1e-3"
    assert unread("electra", "fine_tuning.steps=0", rate) == ["fine_tuning.learning_rate"]
    assert unread("electra", rate) == []
    assert compose.compose("electra", ["fine_tuning.steps=0", "trainer.nproc=2"]).trainer.nproc == 2
    untrained = ("arm=untrained", "trainer.batch_size=4", "trainer.micro_batch_size=2")
    assert unread("budgetlongformer", *untrained) == ["trainer.batch_size"]
    assert set(unread("budgetlongformer", *untrained, "fine_tuning.steps=0")) == {
        "trainer.batch_size",
        "trainer.micro_batch_size",
    }


def test_texts_are_cut_as_for_the_probe_unless_it_is_typed() -> None:
    short = compose.compose("budgetlongformer", ["arm=rtd_128"])
    assert short.fine_tuning.tokens(short.probe) == 128
    typed = compose.compose("budgetlongformer", ["fine_tuning.max_tokens=64"])
    assert typed.fine_tuning.tokens(typed.probe) == 64
