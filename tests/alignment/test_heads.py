"""Models whose logits are more than a product: all that alignment reads of tokens equals what their own logits say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from recipes.alignment import reference
from recipes.alignment.aligndistil.evaluation import answer_distances
from recipes.alignment.aligndistil.objective import TEACHERS, Distillation, keep_chosen
from recipes.alignment.cdpo.method import Contrast, contrast
from recipes.alignment.cdpo.models import fill_contrast
from recipes.alignment.config import ALL_STATES, LAST_STATES, ReferenceConfig
from recipes.alignment.evaluation import _sequence_kls
from recipes.alignment.objectives import PreferenceModel, TokenScores
from recipes.alignment.pairs import PairItems, pair_collate
from recipes.alignment.reference_scores import AnswerScores, layers_of
from recipes.alignment.sparsepo.activations import hook_scores
from recipes.alignment.sparsepo.config import MaskConfig
from recipes.alignment.sparsepo.masks import start_masks
from recipes.core.config.settings import TrainerConfig
from recipes.core.models.config import CausalLMConfig
from recipes.core.models.head import output_head
from recipes.core.models.tokenizer import train_bpe
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.forward import HEAD, every_layer, hidden_states
from tests.alignment.test_aligndistil_objective import RULE
from tests.alignment.test_sparsepo_objectives import pair_set
from tests.core.models.heads import KINDS, tiny

PAIRS = pair_set()
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def full_logits(model: TextModel) -> Tensor:
    """[tokens, V] the model's own logits at the positions that predict completion tokens, an answer at a time."""
    rows = []
    for number in range(2 * len(PAIRS)):
        prompt, answer = PAIRS.pairs[number // 2].prompt, PAIRS.answer(number)
        row = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
        with torch.no_grad():
            rows.append(model.language_model(row).logits[0, len(prompt) - 1 : -1])
    return torch.cat(rows)


def tokens() -> Tensor:
    return torch.from_numpy(np.concatenate([PAIRS.answer(i) for i in range(2 * len(PAIRS))]).astype(np.int64))


def at_tokens(logits: Tensor) -> Tensor:
    return logits.log_softmax(1).gather(1, tokens()[:, None])[:, 0]


def kl(first: Tensor, second: Tensor) -> Tensor:
    first, second = first.log_softmax(1), second.log_softmax(1)
    return (first.exp() * (first - second)).sum(1)


def by_answer(values: Tensor) -> list[Tensor]:
    return list(values.split(PAIRS.lengths.tolist()))


def stacked(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values [tokens] as chosen and rejected answers [pairs, time]."""
    longest = int(PAIRS.lengths.max())
    rows = torch.stack([pad(row, (0, longest - len(row))) for row in by_answer(values)])
    return rows[0::2], rows[1::2]


def scored(model: TextModel, states: str = ALL_STATES) -> AnswerScores:
    return AnswerScores(model, PAIRS, "cpu", layers_of(model, states))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs, atol=1e-4, rtol=1e-4)


@ALL_KINDS
def test_scores_of_policy_and_reference_are_those_of_their_logits(kind: str) -> None:
    reference, policy = TextModel(tiny(kind)).eval(), TextModel(tiny(kind, 1)).eval()
    theirs, ours = full_logits(reference), full_logits(policy)
    said = scored(reference)
    close(torch.from_numpy(said.logps.copy()), at_tokens(theirs))
    items = PairItems(PAIRS, {"ref_logps": said.logps, "states": said.states})
    batch = pair_collate(0)([items[i] for i in range(len(PAIRS))])
    head = output_head(reference.language_model).detach()
    sides = TokenScores(("ref_logps", "kl"), head)(PreferenceModel(policy), batch)[:2]
    squares = TokenScores(("log_squares",), None)(PreferenceModel(policy), batch)[:2]
    expected = (stacked(at_tokens(ours)), stacked(at_tokens(theirs)), stacked(kl(theirs, ours)))
    for number, side in enumerate(sides):
        valid = side.mask.bool()
        for own, other in zip((side.logps, side.ref_logps, side.kl), expected, strict=True):
            assert own is not None
            close(own[valid], other[number][valid])
        squared, plain = squares[number].log_squares, stacked(ours.log_softmax(1).exp().square().sum(1).log())
        assert squared is not None
        close(squared[valid], plain[number][valid])


@ALL_KINDS
def test_masks_read_the_reference_and_its_logits(kind: str) -> None:
    reference = TextModel(tiny(kind)).eval()
    batch = pair_collate(0)([PairItems(PAIRS, {})[i] for i in range(len(PAIRS))])
    means = hook_scores(reference, batch, ("logits",), "zn_rescale")["logits"][0]
    order = [*range(0, 2 * len(PAIRS), 2), *range(1, 2 * len(PAIRS), 2)]
    close(means, torch.cat([by_answer(full_logits(reference).mean(1))[i] for i in order]))
    states = hidden_states(reference, batch, every_layer(reference))
    masks, _ = start_masks(MaskConfig(), batch, states, 0)
    assert masks is not None and len(masks(states.unbind(1)).reward) == len(means)
    # OPT with a projected width: what is cached is what the head gets, and masks read the other layers.
    assert (states.shape[1], scored(reference).layers) == ((1, (HEAD,)) if kind == "opt" else (2, (1, HEAD)))


@ALL_KINDS
def test_teachers_and_contrasts_are_those_of_the_models_logits(kind: str) -> None:
    dpo, other, policy = (TextModel(tiny(kind, seed)).eval() for seed in range(3))
    z_dpo, z_other, z = (full_logits(model) for model in (dpo, other, policy))
    columns = {
        name: scored(model, LAST_STATES).states[:, -1] for name, model in zip(TEACHERS, (dpo, other), strict=True)
    }
    items, heads = PairItems(PAIRS, columns), (output_head(dpo.language_model), output_head(other.language_model))
    distance = (z_dpo.softmax(1) - z_other.softmax(1)).abs().sum(1)
    close(torch.from_numpy(answer_distances(items, heads, slice(None), "cpu")), distance)
    alpha = RULE.extrapolation(distance)
    terms = RULE.weights(alpha) * kl(z, RULE.logits(z_dpo, z_other, alpha))
    goal = Distillation(RULE, "reverse", heads, keep_chosen)
    batch = pair_collate(0)([items[i] for i in range(len(PAIRS))])
    loss, _ = goal(PreferenceModel(policy), batch, goal.normalizer(batch))
    close(loss, torch.stack([row.mean() for row in by_answer(terms)[::2]]).mean())
    scores = {name: np.zeros(int(PAIRS.offsets[-1]), np.float32) for name in Contrast._fields}
    fill_contrast(scores, [dpo, other], 1.0, PAIRS, "cpu")
    plain = contrast(lambda p: z_dpo[p], lambda p: z_other[p], tokens())
    for name, values in plain._asdict().items():
        close(torch.from_numpy(scores[name]), values)
    rows = PAIRS.rows()
    sums = torch.stack([row.sum() for row in by_answer(kl(z, z_dpo))]).double()
    close(torch.from_numpy(_sequence_kls(policy, dpo, rows, "cpu")), sums)


def test_a_reference_is_trained_again_if_the_models_folder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    keys = []
    monkeypatch.setattr(reference, "train_reference", lambda key, *_: keys.append(key))
    for name in ("one", "two"):
        tiny("llama").save_pretrained(tmp_path / name)

    def prepare(name: str) -> None:
        own = CausalLMConfig(path=str(tmp_path / name))
        reference.prepare_reference(
            own, ReferenceConfig(steps=1), TrainerConfig(), train_bpe(["a b"], "x", 300), list, "y"
        )

    prepare("one")
    prepare("two")
    tiny("llama", 1).save_pretrained(tmp_path / "two")
    prepare("two")
    assert keys[0] == keys[1] != keys[2]


def test_every_kind_of_head_is_cached_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    model = TextModel(tiny("granite")).eval()
    first = scored(model).logps.copy()
    model.language_model.config.logits_scaling = 2.0
    assert np.abs(scored(model).logps - first).max() > 0.1
