"""Held-out rows: which are drawn and what they are called, what is said of them in batches, brute-force measures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.packed import pack
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.small_encoder import build_encoder
from recipes.core.models.tokenizer import train_wordpiece
from recipes.pretraining.held_out_rows import (
    ReadRow,
    add_judgements,
    detection_heatmap,
    held_out_rows,
    read_held_out,
)
from recipes.pretraining.masked_lm import MaskedLM
from recipes.pretraining.masked_rows import MaskedRows, Masker, RowMixture
from recipes.pretraining.masking_config import MaskingConfig
from recipes.pretraining.replaced_tokens import ReplacedTokens, Sampling

WORDS = [
    "nobody",
    "has",
    "ever",
    "seen",
    "a",
    "sentence",
    "that",
    "goes",
    "on",
    "about",
    "things",
    "like",
    "these",
    "for",
    "so",
    "very",
    "long",
]
TEXTS = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(4 + i % 9)) for i in range(40)]
CONFIG = SmallEncoderConfig(layers=1, width=16, heads=2, positions=16, vocabulary=200)


@pytest.fixture(scope="module")
def mixture(session_home: Path) -> RowMixture:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        tokenizer = train_wordpiece(lambda: TEXTS, "texts of test_held_out_rows", 200)
        parts = [(f"{domain}/{split}", text) for domain in "ab" for split in ("train", "test") for text in TEXTS]
        packed = pack(parts, "texts of test_held_out_rows", tokenizer)
        return RowMixture(Mixture(packed, ("a", "b"), (0.5, 0.5), 8), tokenizer, 8)


@pytest.fixture(scope="module")
def masker(mixture: RowMixture) -> Masker:
    return Masker(MaskingConfig(share=0.3, masked=0.85, any_token=0.0, short=0.5), mixture.tokenizer, 8, 3)


def detector(tokenizer: Any) -> ReplacedTokens:
    encoder = build_encoder(CONFIG, tokenizer, 0)
    generator = MaskedLM(build_encoder(replace(CONFIG, width=8, heads=1), tokenizer, 1))
    model = ReplacedTokens(encoder, generator, sampling=Sampling())
    torch.nn.init.normal_(model.head.out.weight, std=0.5)  # type: ignore[arg-type]
    return model


def test_rows_lie_evenly_over_documents_and_are_called_by_their_tokens(mixture: RowMixture) -> None:
    rows = held_out_rows(mixture, mixture.domains, 20)
    assert len(rows) == 40 and len({row.name for row in rows}) == 40 == len({row.number for row in rows})
    numbers = [int(row.document.removeprefix("a document ")) for row in rows[:20]]
    assert numbers == sorted(numbers) and max(np.diff([*numbers, 40])) <= 4 and rows[0].name.startswith("a document 0,")
    pieces = mixture.test("a")
    assert len(held_out_rows(mixture, ["a"], 10_000)) == len(pieces)
    longer = held_out_rows(replace(mixture, length=16), ["a"], 10_000)
    texts: dict[str, set[tuple[int, ...]]] = {}
    for row in [*held_out_rows(mixture, ["a"], 10_000), *longer]:
        texts.setdefault(row.name, set()).add(tuple(row.ids.tolist()))
    assert all(len(each) == 1 for each in texts.values()) and len(texts) > len(longer)


def test_domains_of_unknown_tokens_are_refused(mixture: RowMixture) -> None:
    packed = pack([("a/train", TEXTS[0]), ("a/test", "船 船 船 船")], "unknown texts", mixture.tokenizer)
    with pytest.raises(UserError, match="knows no token of domain 'a', to test on"):
        RowMixture(Mixture(packed, ("a",), (1.0,), 8), mixture.tokenizer, 8).check(["a"])


def test_neither_batches_nor_seeds_change_what_is_read(mixture: RowMixture, masker: Masker) -> None:
    model, rows = detector(mixture.tokenizer), held_out_rows(mixture, ["a"], 12)
    whole = read_held_out(model, rows, masker, "cpu", 1000)
    alone = read_held_out(model, rows[3:5], replace(masker, seed=8), "cpu", 1)
    for mine, other in zip(whole[3:5], alone, strict=True):
        assert mine.name == other.name and (mine.written == other.written).all() and len(mine.ids) == len(mine.chosen)
        assert mine.logits == pytest.approx(other.logits, abs=1e-5)
        assert mine.generator_nll == pytest.approx(other.generator_nll, abs=1e-5)
    assert [row.ids.tolist() for row in whole] == [row.ids.tolist() for row in rows]  # none is cut short


def test_measures_are_those_of_all_tokens(mixture: RowMixture, masker: Masker) -> None:
    rows = held_out_rows(mixture, ["a"], 12)
    read = read_held_out(detector(mixture.tokenizer), rows, masker, "cpu", 64)
    scores = Scores()
    add_judgements(scores, read, "disc")
    assert not {"mlm/nll", "mlm/accuracy"} & scores.metrics.keys()

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(row, name) for row in read])

    replaced, logits, chosen = join("replaced"), join("logits"), join("chosen")
    assert scores.overall() == pytest.approx(
        {
            "disc/auc": roc_auc_score(replaced, logits),
            "disc/recall": (logits[replaced] > 0).mean(),
            "disc/replaced": replaced[chosen].mean(),
            "generator/accuracy": (join("guessed") == join("ids")[chosen]).mean(),
            "generator/nll": join("generator_nll").mean(),
        }
    )
    assert {row[2] for row in scores.rows} == {row.document for row in rows}
    heatmap = detection_heatmap(read[:2], mixture.tokenizer)
    assert heatmap is not None and len(heatmap["examples"]) == 2


def test_a_masked_language_model_detects_nothing(mixture: RowMixture, masker: Masker) -> None:
    model = MaskedLM(build_encoder(CONFIG, mixture.tokenizer, 0))
    read = read_held_out(model, held_out_rows(mixture, ["b"], 5), masker, "cpu", 64)
    scores = Scores()
    add_judgements(scores, read, "disc")
    assert scores.overall().keys() == {"mlm/nll", "mlm/accuracy"} and detection_heatmap(read, mixture.tokenizer) is None


def test_without_a_replaced_token_there_is_no_auc() -> None:
    ids, nothing = np.array([2, 7, 3]), np.zeros(3, bool)
    row = ReadRow("row", "document", ids, ids, nothing, np.zeros(3), None, None, None, None)
    scores = Scores()
    add_judgements(scores, [row], "disc")
    add_judgements(scores, [], "disc")
    assert not scores.rows and not scores.metrics


def test_rows_to_train_on_say_their_lengths(mixture: RowMixture, masker: Masker) -> None:
    rows = MaskedRows(mixture, 30, 1, masker)
    assert rows.sequence_lengths.tolist() == [len(rows[index]["tokens"]) for index in range(30)]
    assert len(set(rows.sequence_lengths.tolist())) > 1
