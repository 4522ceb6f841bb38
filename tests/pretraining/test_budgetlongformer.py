"""Parts of `budgetlongformer`: positions, FLOPs, the Longformer that is written, documents, bags."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoTokenizer, LongformerModel

from recipes.core.config import compose
from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.errors import UserError
from recipes.core.models.banded import use_banded_attention
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.costs import flops
from recipes.core.models.small_encoder import build_encoder, build_encoder_tokenizer
from recipes.pretraining.budgetlongformer.bags import predict_from_bags
from recipes.pretraining.budgetlongformer.config import BudgetLongformerConfig
from recipes.pretraining.budgetlongformer.data_config import LabelledDocumentsConfig
from recipes.pretraining.budgetlongformer.documents import family, read_texts
from recipes.pretraining.budgetlongformer.networks import build_networks, tile_positions, write_encoder
from recipes.pretraining.masked_rows import Masker
from recipes.pretraining.replaced_tokens import ReplacedTokenLoss

SENTENCE = "the licensee may copy and modify this work provided that notices are kept in all copies of it"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[(7 * i + j) % len(WORDS)] for j in range(40)) for i in range(20)]


def _config(*overrides: str) -> BudgetLongformerConfig:
    config: BudgetLongformerConfig = compose.compose("budgetlongformer", ["budget=smoke", *overrides])
    return config


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_encoder_tokenizer(SmallEncoderConfig(vocabulary=300), lambda: TEXTS, "budgetlongformer tests")


def test_positions_repeat_and_a_tiled_encoder_reads_short_texts_as_before(tokenizer: Any) -> None:
    short = torch.arange(6.0).view(3, 2)
    assert tile_positions(short, 7)[:, 0].tolist() == [0, 2, 4, 0, 2, 4, 0]
    shape: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "vocabulary": 300}
    small, long = (build_encoder(SmallEncoderConfig(positions=n, **shape), tokenizer, 0).eval() for n in (12, 36))
    weights, table = dict(small.state_dict()), "embeddings.position_embeddings.weight"
    long.load_state_dict(weights | {table: tile_positions(weights[table], 36)})
    use_banded_attention(long, 24)
    ids = torch.randint(5, len(tokenizer), (2, 12))
    states = [model(input_ids=ids).last_hidden_state for model in (small, long)]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", [False, True])
@torch.no_grad()
def test_the_folder_is_a_longformer_of_transformers(first: bool, tokenizer: Any, tmp_path: Path) -> None:
    config = SmallEncoderConfig(layers=2, width=16, heads=2, positions=40, vocabulary=300)
    encoder = build_encoder(config, tokenizer, 0).eval()
    use_banded_attention(encoder, 8, first)
    if first:
        encoder.encoder.layer[0].attention.self.globally.value.weight.add_(0.3)
    write_encoder(encoder, tokenizer, 8, tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(theirs, LongformerModel)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == config.positions
    ids = torch.randint(5, len(tokenizer), (2, 33))
    mask = torch.ones_like(ids)
    mask[1, 20:], ids[1, 20:] = 0, tokenizer.pad_token_id
    everywhere = torch.zeros_like(ids)
    everywhere[:, 0] = int(first)
    ours = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    out = theirs(input_ids=ids, attention_mask=mask, global_attention_mask=everywhere).last_hidden_state
    torch.testing.assert_close(out[mask.bool()], ours[mask.bool()], rtol=1e-4, atol=1e-5)


def test_flops_of_a_window_grow_with_the_length_alone() -> None:
    def macs(length: int, kind: str) -> float:
        config = _config(f"model.positions={length}", "attention.window=64", f"attention.kind={kind}")
        return config.encoder_macs(config.model) / length

    # 12 d^2 of projections and MLP, 2 d columns of attention in each layer: 96 columns of a window of 64.
    assert macs(512, "window") == macs(4096, "window") == 12 * 32**2 + 2 * 32 * 96
    assert macs(512, "full") == 12 * 32**2 + 2 * 32 * 512
    rtd, mlm, untrained = (_config(f"arm={arm}") for arm in ("rtd", "mlm", "untrained"))
    assert rtd.step_flops() > mlm.step_flops() and mlm.steps > rtd.steps > 1 and untrained.steps == 0


@pytest.mark.parametrize("first", [False, True])
def test_operations_are_those_that_torch_counts(first: bool, tokenizer: Any) -> None:
    config = _config("model.width=16", "model.layers=2", f"attention.first={first}")
    encoder = build_encoder(config.model, tokenizer, 0)
    use_banded_attention(encoder, config.attention.window, first)
    ids = torch.randint(5, len(tokenizer), (1, config.model.positions))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert counter.get_total_flops() == flops(config.encoder_macs(config.model))


@pytest.mark.parametrize("budget", ["small", "full"])
def test_short_rows_have_as_many_tokens_a_step(budget: str) -> None:
    configs = [compose.compose("budgetlongformer", [f"budget={budget}", f"arm={arm}"]) for arm in ("rtd", "rtd_128")]
    assert len({config.trainer.batch_size * config.model.positions for config in configs}) == 1


def test_arms_of_rows_of_one_length_draw_as_many() -> None:
    configs = [_config(f"arm={arm}") for arm in ("rtd", "rtd_15", "mlm", "rtd_full", "rtd_first")]
    assert len({config.stream for config in configs}) == 1 < len({config.steps for config in configs})
    assert all(config.stream >= config.steps * config.trainer.batch_size for config in configs)
    assert _config("trainer.max_steps=7").stream == 14


def test_keys_that_change_nothing() -> None:
    untrained, mine = _config("arm=untrained"), _config("model.tokenizer=/mine")
    assert {"pretraining.corpus", "pretraining.held_out"} <= dict(untrained.unread()).keys()
    # The vocabulary is that of the tokenizer, and what operations are counted with.
    assert dict(mine.unread()).keys() >= {"model.lower_case"} and "model.vocabulary" not in dict(mine.unread())


def test_micro_batches_and_padding_change_no_loss(tokenizer: Any) -> None:
    config = _config("model.width=16")
    model = build_networks(config, tokenizer)
    masker = Masker(config.masking, tokenizer, 64, 0)
    rows = [[tokenizer.cls_token_id, *range(5, 5 + n), tokenizer.sep_token_id] for n in (40, 12, 25)]
    loss = ReplacedTokenLoss()
    whole = masker.batch(rows, range(3))
    total = loss(model, whole, loss.normalizer(whole))[0]
    parts = [masker.batch([row], [number]) for number, row in enumerate(rows)]  # each of its own length
    normalizer = torch.stack([loss.normalizer(part) for part in parts]).sum(0)
    torch.testing.assert_close(sum(loss(model, part, normalizer)[0] for part in parts), total, rtol=1e-5, atol=1e-5)


def test_bags_find_a_word_and_only_where_it_is_read() -> None:
    def text(number: int, label: str) -> LabelledText:
        return LabelledText(str(number), "x", label, str(number))

    labels = ["a", "b"] * 20
    texts = [text(number, label) for number, label in enumerate(labels)]
    ids = [[number % 5, 3, 7 if label == "a" else 8] for number, label in enumerate(labels)]
    data = LabelledSet("words", texts[:30], texts[30:])
    right = data.numbers(data.test)
    assert (predict_from_bags(data, (ids[:30], ids[30:]), None) == right).all()
    assert (predict_from_bags(data, (ids[:30], ids[30:]), 2) != right).any()


def test_licences_lose_copies_and_families_stay_whole() -> None:
    texts = read_texts(_config("data.texts=null").data, ())
    sides = [{each.document for each in part} for part in (texts.labelled.train, texts.labelled.test)]
    assert not sides[0] & sides[1] and texts.labelled.classes == ("copyleft", "permissive")
    assert "gpl" in sides[0] | sides[1] and family("gpl-2.0-plus") == "gpl"
    held_out = {each.text for each in texts.labelled.test}
    assert not held_out & {text for part, text in texts.parts() if part == "in_domain/train"}
    assert len(texts.unlabelled) > 300


def test_your_documents_lose_copies_of_those_that_are_tested_on(tmp_path: Path) -> None:
    rows = [
        {"text": " ".join(f"{word}{i}{kind}" for word in WORDS), "label": kind}
        for i in range(12)
        for kind in ("one", "two")
    ]
    copies = [{**row, "text": row["text"] + " indeed"} for row in rows]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*rows, *copies]), encoding="utf-8")
    data = read_texts(LabelledDocumentsConfig(path=str(path), near_duplicates=0.7), ()).labelled
    tested = {each.text.removesuffix(" indeed") for each in data.test}
    assert not tested & {each.text.removesuffix(" indeed") for each in data.train}
    rows = [{"text": f"{SENTENCE} {n}", "label": str(n % 2)} for n in range(8)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match="has no text to"):
        read_texts(LabelledDocumentsConfig(path=str(path), near_duplicates=0.7), ())
