"""Models whose logits are more than a product: pretraining objectives and references take the models' own logits."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.core.evaluation.texts import sequence_nlls
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import score
from recipes.pretraining.prior import method
from recipes.pretraining.prior.config import WeightingConfig
from recipes.pretraining.prior.objectives import Cal, Focal
from recipes.pretraining.sample_reweighting.config import ReweightConfig
from recipes.pretraining.sample_reweighting.objectives import Reweighted
from tests.core.models.heads import tiny

IDS = torch.tensor([[5, 9, 30, 17, 22, 8, 40], [3, 11, 19, 19, 4, 35, 6]])
KINDS = pytest.mark.parametrize("kind", ["llama", "granite", "cohere", "phi", "gemma2", "opt"])


def batch() -> dict[str, Tensor]:
    labels = torch.cat([IDS[:, 1:], torch.full((2, 1), IGNORE)], 1)
    image = torch.zeros_like(IDS, dtype=torch.bool)
    image[:, 1] = True
    labels[:, 0] = IGNORE
    weights = torch.where(labels != IGNORE, 0.1, 0.0)
    values = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": labels, "weights": weights}
    return values | {"normalizer": weights.sum(), "image_positions": image}


def logits(model: TextModel, mask: Tensor | None = None) -> Tensor:
    """[tokens, V] at the positions that predict."""
    own: Tensor = model.language_model(input_ids=IDS, attention_mask=mask).logits
    return own[batch()["labels"] != IGNORE]


@KINDS
def test_objectives_take_the_models_own_logits(kind: str) -> None:
    model, given = TextModel(tiny(kind)).eval(), batch()
    predicted = given["labels"] != IGNORE
    targets, at = given["labels"][predicted], torch.arange(10)
    z = logits(model).detach()
    blind = logits(model, given["attention_mask"] * ~given["image_positions"]).detach()
    nll = cross_entropy(z, targets, reduction="none")
    rows = torch.zeros_like(given["weights"])
    focal = method.focal_scores(rows.masked_scatter(predicted, nll), predicted, 2.0)
    focal = method.token_weights(focal, predicted, 0.0, None)[predicted]
    cal = method.cal_scores(rows.masked_scatter(predicted, z[at, targets] - blind[at, targets]), predicted)[predicted]
    means = nll.view(2, 5).mean(1)
    plain = Reweighted(ReweightConfig(strategy="uniform"), 1)
    expected = [
        (WeightedCrossEntropy(), nll.mean()),
        (Focal(WeightingConfig(alpha=2.0, floor=0.0)), (focal * nll).mean()),
        (Cal(), (cal * nll).sum() / (cal.sum() + 1e-6)),
        (plain, means.mean()),
    ]
    for objective, value in expected:
        normalizer = torch.ones(()) if objective is plain else given["normalizer"]
        loss, _ = objective(model, given, normalizer)  # type: ignore[operator]
        torch.testing.assert_close(loss.detach(), value.to(loss.dtype), atol=1e-4, rtol=1e-4)


@KINDS
def test_references_and_evaluations_take_the_models_own_logits(kind: str) -> None:
    model = TextModel(tiny(kind)).eval()
    nll = cross_entropy(model.language_model(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten(), reduction="none")
    own = nll.detach().view(2, 6).numpy()
    np.testing.assert_allclose(sequence_nlls(model, IDS.numpy(), "cpu"), own.mean(1), rtol=1e-4)
    captions = [row[1:].tolist() for row in IDS[:1]]
    scores = score(model, text_rows(captions, int(IDS[0, 0])), device="cpu")
    np.testing.assert_allclose(scores.nll(0), own[0], rtol=2e-4, atol=1e-4)
