"""References: scores equal a plain forward, whatever the batch; cached once; the key changes with the content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.core.errors import RunFailed
from recipes.core.models.head import output_head
from recipes.core.models.vision_language import Readout
from recipes.core.scoring.references import ReferenceScores, batches, caption_nlls, reference_scores, weights_hash
from recipes.core.storage.files import sha256_json

BOS, EOS, VOCABULARY = 1, 2, 32


class FakeTokens:
    """Captions as ids, with the attributes of `TokenizedCaptions`."""

    def __init__(self, captions: list[list[int]]) -> None:
        self.captions = [np.array(caption, np.int32) for caption in captions]
        self.lengths = np.array([len(caption) for caption in captions], np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def ids(self, i: int) -> np.ndarray:
        return self.captions[i]

    def fingerprint(self) -> str:
        return sha256_json([caption.tolist() for caption in self.captions])


class FakeTextModel(nn.Module):
    """A causal LM behind the text model's forward; counts its calls."""

    def __init__(self, seed: int = 0, **config: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        self.language_model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **{**shape, **config}))
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: None, readout: Readout[Any]) -> Any:
        self.calls += 1
        hidden = self.language_model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return readout(hidden, output_head(self.language_model))


def scored(model: FakeTextModel, tokens: FakeTokens, batch_tokens: int = 24) -> ReferenceScores:
    return reference_scores(model, tokens, BOS, batch_tokens, "cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def model() -> FakeTextModel:
    return FakeTextModel()


@pytest.fixture
def tokens() -> FakeTokens:
    random = np.random.default_rng(0)
    return FakeTokens([[*random.integers(3, VOCABULARY, size).tolist(), EOS] for size in (5, 0, 11, 2, 7, 2, 1)])


def test_scores_equal_a_plain_forward_of_each_caption(model: FakeTextModel, tokens: FakeTokens) -> None:
    found = scored(model, tokens)
    for i, caption in enumerate(tokens.captions):
        ids = torch.tensor([[BOS, *caption.tolist()]])
        with torch.no_grad():
            logits = model.language_model(ids).logits[0, :-1]
        expected = cross_entropy(logits, ids[0, 1:], reduction="none")
        np.testing.assert_allclose(found.nll(i), expected.numpy(), atol=1e-5)
        assert found.nll(i).dtype == np.float32 and len(found.nll(i)) == tokens.lengths[i]


@pytest.mark.parametrize("batch_tokens", [1, 12, 30, 10_000])
def test_batch_composition_changes_nothing(model: FakeTextModel, tokens: FakeTokens, batch_tokens: int) -> None:
    whole = caption_nlls(model, tokens.captions, BOS, "cpu", 24)
    other = caption_nlls(model, tokens.captions[::-1], BOS, "cpu", batch_tokens)[::-1]
    for a, b in zip(whole, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_second_arm_makes_no_reference_forward(model: FakeTextModel, tokens: FakeTokens) -> None:
    first = scored(model, tokens)
    calls = model.calls
    again = scored(model, tokens)
    other = scored(FakeTextModel(), tokens)  # as another process would: same weights, other object
    assert first.forwards == calls > 1
    assert (again.forwards, other.forwards, model.calls) == (0, 0, calls)
    np.testing.assert_array_equal(again.flat, first.flat)
    np.testing.assert_array_equal(first.flat, np.concatenate(caption_nlls(model, tokens.captions, BOS, "cpu", 24)))


def test_a_damaged_entry_is_scored_again(
    model: FakeTextModel, tokens: FakeTokens, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = scored(model, tokens).flat.copy()
    (file,) = home.rglob("nll.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    again = scored(model, tokens)
    assert again.forwards > 0 and "damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(again.flat, expected)


def test_scores_are_mapped_not_read(model: FakeTextModel, tokens: FakeTokens) -> None:
    found = scored(model, tokens)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert found.nll(0) is not None and "nll.safetensors" in maps.read_text()


def test_a_changed_model_text_or_start_token_is_scored_again(model: FakeTextModel, tokens: FakeTokens) -> None:
    changed = FakeTokens([caption.tolist() for caption in tokens.captions])
    changed.captions[0][0] ^= 1
    assert scored(model, tokens).forwards > 0
    assert scored(FakeTextModel(seed=1), tokens).forwards > 0
    assert scored(model, changed).forwards > 0
    assert reference_scores(model, tokens, BOS + 1, 24, "cpu").forwards > 0
    assert scored(model, tokens).forwards == 0


def test_weights_hash_sees_all_that_changes_the_scores(model: FakeTextModel) -> None:
    nudged = FakeTextModel()
    with torch.no_grad():
        nudged.language_model.lm_head.weight[0, 0] += 1e-6
    hashes = [
        weights_hash(model),
        weights_hash(nudged),
        weights_hash(FakeTextModel(seed=1)),
        weights_hash(FakeTextModel(num_attention_heads=4)),  # same shapes, another model
        weights_hash(FakeTextModel(hidden_act="gelu")),
        weights_hash(FakeTextModel(rope_parameters={"rope_type": "default", "rope_theta": 5e3})),
        weights_hash(FakeTextModel().to(torch.bfloat16)),
    ]
    assert len(set(hashes)) == len(hashes)
    assert weights_hash(FakeTextModel()) == hashes[0]


def test_weights_hash_does_not_see_where_the_model_was_saved(model: FakeTextModel, tmp_path: Path) -> None:
    before = weights_hash(model)
    model.language_model.save_pretrained(tmp_path / "saved")
    model.language_model = LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    assert weights_hash(model) == before


def test_batches_hold_the_budget_and_every_caption_once() -> None:
    lengths = np.array([3, 50, 8, 8, 1, 4, 20, 2], np.int32)
    found = batches(lengths, 24)
    assert sorted(i for batch in found for i in batch) == list(range(8))
    assert found[0] == [1]
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 24 for batch in found)
    assert batches(np.zeros(0, np.int32), 24) == []


def test_scoring_keeps_the_models_mode_and_makes_no_gradient(model: FakeTextModel, tokens: FakeTokens) -> None:
    model.train()
    caption_nlls(model, tokens.captions, BOS, "cpu")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_broken_reference_is_named(model: FakeTextModel, tokens: FakeTokens, home: Path) -> None:
    with torch.no_grad():
        model.language_model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(RunFailed, match=r"caption 2, token 0: the reference gives a token no finite log-probability"):
        scored(model, tokens)
    assert not list(home.rglob("nll.safetensors"))
