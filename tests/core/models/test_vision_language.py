"""Caption models: what depends on what, layout, generation, tied weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from recipes.core.models import from_config as models
from recipes.core.models.vision_language import PatchEmbedding, SquarePixels, solo_layout
from tests.core.models.conftest import hidden


def test_padding_on_the_right_changes_nothing(model: Any, batch: dict[str, torch.Tensor]) -> None:
    plain = model(**batch, readout=hidden)
    padded = {name: torch.nn.functional.pad(batch[name], (0, 5)) for name in ("input_ids", "attention_mask")}
    wide = model(**padded, pixels=batch["pixels"], readout=hidden)
    torch.testing.assert_close(wide[:, : plain.shape[1]], plain, rtol=1e-5, atol=1e-6)


def test_a_later_token_changes_nothing_before_it(model: Any, batch: dict[str, torch.Tensor]) -> None:
    plain = model(**batch, readout=hidden)
    changed = batch["input_ids"].clone()
    changed[:, -1] = (changed[:, -1] + 1) % 100 + 20
    other = model(**{**batch, "input_ids": changed}, readout=hidden)
    torch.testing.assert_close(other[:, :-1], plain[:, :-1])
    assert not torch.allclose(other[:, -1], plain[:, -1])


def test_the_image_matters_to_the_caption_and_not_to_what_is_before_it(
    model: Any, batch: dict[str, torch.Tensor]
) -> None:
    plain = model(**batch, readout=hidden)
    other = model(**{**batch, "pixels": batch["pixels"].flip(0)}, readout=hidden)
    torch.testing.assert_close(other[:, 0], plain[:, 0])
    assert not torch.allclose(other[:, len(model.prefix_ids) :], plain[:, len(model.prefix_ids) :], atol=1e-4)


def test_hiding_the_image_in_attention_makes_it_not_matter(model: Any, batch: dict[str, torch.Tensor]) -> None:
    mask = batch["attention_mask"] * ~model.image_positions(batch["input_ids"])
    start = len(model.prefix_ids)
    one = model(**{**batch, "attention_mask": mask}, readout=hidden)[:, start:]
    two = model(**{**batch, "attention_mask": mask, "pixels": batch["pixels"].flip(0)}, readout=hidden)[:, start:]
    torch.testing.assert_close(one, two)


def test_the_read_out_gets_the_head_that_is_trained(model: Any, batch: dict[str, torch.Tensor]) -> None:
    head = model(**batch, readout=lambda states, head: head)
    assert head.plain and head.weight is model.language_model.lm_head.weight
    assert head.weight is model.language_model.model.embed_tokens.weight


def test_text_and_caption_model_of_a_seed_share_their_language_model(model: Any, config: Any, tokenizer: Any) -> None:
    text = models.build_text_model(config.model, tokenizer, 0)
    for (name, mine), (other, theirs) in zip(
        text.language_model.named_parameters(), model.language_model.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(mine, theirs)
    assert not torch.equal(
        models.build_text_model(config.model, tokenizer, 1).language_model.lm_head.weight,
        text.language_model.lm_head.weight,
    )


def test_a_text_model_reads_no_pixels(config: Any, tokenizer: Any) -> None:
    text = models.build_text_model(config.model, tokenizer, 0).eval()
    ids = torch.tensor([[1, 30, 31]])
    one = text(input_ids=ids, attention_mask=torch.ones_like(ids), pixels=None, readout=hidden)
    two = text(input_ids=ids, attention_mask=torch.ones_like(ids), pixels=torch.ones(1, 1, 8, 8), readout=hidden)
    assert torch.equal(one, two)


def test_building_leaves_the_global_generator_alone(config: Any, data: Any, tokenizer: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.build_caption_model(config.model, "U", tokenizer, data, 0, "cpu", 64)
    assert torch.equal(torch.rand(3), expected)


def test_generation_with_a_cache_equals_generation_without(model: Any, batch: dict[str, torch.Tensor]) -> None:
    captions = model.generate_captions(batch["pixels"], max_new_tokens=6)
    model.eos = -1  # never ends, so that all six steps are compared
    endless = model.generate_captions(batch["pixels"], max_new_tokens=6)
    for row, pixels in zip(endless, batch["pixels"], strict=True):
        ids = list(model.prefix_ids)
        for token in row:
            rows = torch.tensor([ids])
            logits = model(rows, torch.ones_like(rows), pixels[None], lambda states, head: head.logits(states[0, -1]))
            assert int(logits.argmax()) == token
            ids.append(token)
    assert [len(row) <= 6 for row in captions] == [True, True]


def test_generation_ends_at_the_end_of_text(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.eos = -1
    (first, *_), _ = model.generate_captions(batch["pixels"], max_new_tokens=2)
    model.eos = first
    assert model.generate_captions(batch["pixels"], max_new_tokens=4)[0] == []


def test_tied_weights_survive_saving(
    model: Any, batch: dict[str, torch.Tensor], config: Any, data: Any, tokenizer: Any, tmp_path: Path
) -> None:
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    setting = "U" if isinstance(model.vision, PatchEmbedding) else "H"
    other = models.build_caption_model(config.model, setting, tokenizer, data, 9, "cpu", 64).eval()
    assert not torch.allclose(other(**batch, readout=hidden), model(**batch, readout=hidden))
    safetensors.torch.load_model(other, str(tmp_path / "model.safetensors"))
    assert torch.equal(other(**batch, readout=hidden), model(**batch, readout=hidden))
    assert other.language_model.lm_head.weight is other.language_model.model.embed_tokens.weight


def test_the_layout_of_a_two_by_two_grid() -> None:
    vision, patch, row, end = 1, 2, 3, 4
    assert solo_layout(2, vision, patch, row, end) == [1, 2, 2, 3, 2, 2, 4]
    assert solo_layout(1, vision, patch, row, end) == [1, 2, 4]


def test_patches_are_taken_row_by_row() -> None:
    embedding = PatchEmbedding(image_size=4, patch=2, channels=3, width=12)
    embedding.project.weight.data = torch.eye(12)
    embedding.position.data.zero_()
    pixels = torch.arange(48.0).view(1, 3, 4, 4)
    expected = [pixels[0, :, r : r + 2, c : c + 2].reshape(12) for r in (0, 2) for c in (0, 2)]
    assert torch.equal(embedding(pixels)[0], torch.stack(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_squares_of_the_models_channels(channels: int) -> None:
    normalize = SquarePixels(4, channels, [0.5] * channels, [0.5] * channels)
    white = np.full((6, 3, 4 - channels), 255, np.uint8)
    pixels = normalize(white)
    assert pixels.shape == (channels, 4, 4) and torch.equal(pixels, torch.ones(channels, 4, 4))


def test_pixels_are_the_image_itself_where_it_fits() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    pixels = SquarePixels(4, 1, [0.0], [1.0])(image)
    torch.testing.assert_close(pixels[0] * 255, torch.arange(16.0).view(4, 4))
