"""What rides in a caption batch, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recipes.core.data.images.captions import Caption
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models.head import OutputHead
from recipes.core.training.caption_batches import CaptionItems, caption_collate, token_mean

CAPTIONS = [np.array([5, 6, 1], np.int32), np.array([7, 1], np.int32)]


def items() -> CaptionItems:
    split = SimpleNamespace(
        caption=lambda i: Caption(f"c{i}", f"g{i}", "", ()), image=lambda i, size=None: np.full((2, 2, 1), i, np.uint8)
    )
    tokens = SimpleNamespace(ids=lambda i: CAPTIONS[i])
    return CaptionItems(split, tokens, [0, 1], lambda image: torch.from_numpy(image).float())  # type: ignore[arg-type]


def test_labels_and_weights_sit_where_the_token_is_predicted() -> None:
    def weigh(indices: list[int], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mask * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor(5.0)

    data = items()
    batch = caption_collate([2, 9, 9], 0, weigh)([data[0], data[1]])
    assert batch["input_ids"].tolist() == [[2, 9, 9, 5, 6, 1], [2, 9, 9, 7, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 1, 0]]
    no = IGNORE
    assert batch["labels"].tolist() == [[no, no, 5, 6, 1, no], [no, no, 7, 1, no, no]]
    assert batch["weights"].tolist() == [[0, 0, 1, 2, 3, 0], [0, 0, 4, 5, 0, 0]]
    assert batch["ids"] == ["c0", "c1"]
    assert batch["pixels"].shape == (2, 2, 2, 1)


@pytest.mark.parametrize("extra", [0, 3])
def test_the_loss_is_the_weighted_mean_over_tokens_whatever_the_padding(extra: int) -> None:
    data = items()
    batch = caption_collate([2], 0, token_mean)([data[0], data[1]])
    batch = {name: value for name, value in batch.items() if name not in ("ids", "pixels")}
    for name in ("input_ids", "attention_mask", "labels", "weights"):
        fill = IGNORE if name == "labels" else 0
        batch[name] = torch.nn.functional.pad(batch[name], (0, extra), value=fill)
    torch.manual_seed(0)
    embed, head = torch.randn(10, 4), torch.randn(10, 4, requires_grad=True)

    def model(input_ids, attention_mask, pixels, readout):  # type: ignore[no-untyped-def]
        return readout(embed[input_ids], OutputHead(head))

    objective = WeightedCrossEntropy()
    loss, metrics = objective(model, batch, objective.normalizer(batch))  # type: ignore[arg-type]
    logits = (embed[batch["input_ids"]] @ head.T).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORE)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert metrics["nll"].tolist() == pytest.approx([expected.item() * 5, 5], rel=1e-6)
