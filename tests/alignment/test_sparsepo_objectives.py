"""The masked objective: gathered positions, micro-batches, equivalences, dead masks, MaPO's hooks, the frontier."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.alignment import losses
from recipes.alignment.config import LAST_STATES, LOSSES, PreferenceConfig
from recipes.alignment.evaluation import kl_weights
from recipes.alignment.mismatched import add_mismatches, mismatched_log_ratio, mismatched_pairs
from recipes.alignment.objectives import Preference, PreferenceModel, TokenScores, loss_of
from recipes.alignment.pairs import IGNORE, Pair, PairItems, PairSet, pair_collate
from recipes.alignment.reference_scores import StepReference, layers_of
from recipes.alignment.sparsepo.activations import hook_scores
from recipes.alignment.sparsepo.config import HOOKS, MaskConfig
from recipes.alignment.sparsepo.masks import Masked, start_masks, stored_mask
from recipes.core.errors import UserError
from recipes.core.models.head import OutputHead, output_head
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.forward import HEAD, every_layer, hidden_states

VOCABULARY = 40


def model(seed: int) -> TextModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return TextModel(LlamaForCausalLM(config)).eval()


def pair_set(count: int = 4) -> PairSet:
    random = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return random.integers(0, VOCABULARY, length).astype(np.int32)

    pairs = []
    for number in range(count):
        answers = ids(2 + number), ids(5 - number)
        marks = (answers[0] % 3 == 0, answers[1] % 3 == 0)
        pairs.append(Pair(str(number), ids(1 + number % 2), *answers, scores=(0.7, 0.1), important=marks))
    return PairSet(pairs)


def items(reference: TextModel, mask: np.ndarray | None = None) -> PairItems:
    """Pairs with their reference scores by plain softmaxes, an answer at a time."""
    pairs = pair_set()
    states, logps = [], []
    for number in range(2 * len(pairs)):
        prompt, answer = pairs.pairs[number // 2].prompt, pairs.answer(number)
        row = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
        with torch.no_grad():
            out = reference.language_model(row, output_hidden_states=True)
        place = slice(len(prompt) - 1, -1)
        states.append(torch.stack([out.hidden_states[layer][0, place] for layer in (1, 2)], 1))
        logp = out.logits[0, place].log_softmax(-1)
        logps.append(logp.gather(1, row[0, len(prompt) :, None])[:, 0])
    columns = {"states": torch.cat(states).numpy(), "ref_logps": torch.cat(logps).numpy()}
    if mask is not None:
        columns["mask"] = mask
    return add_mismatches(PairItems(pairs, columns), reference, "cpu")


def batch_of(made: PairItems, numbers: list[int]) -> dict[str, Tensor]:
    return pair_collate(0)([made[i] for i in numbers])


def head_of(reference: TextModel) -> OutputHead:
    return output_head(reference.language_model).detach()


def objective(reference: TextModel, mask: MaskConfig | None = None, **keys: object) -> Preference:
    config = PreferenceConfig(**keys)  # type: ignore[arg-type]
    scores = TokenScores(losses.LOSSES[config.loss].needs, head_of(reference))
    return Preference(config, scores) if mask is None else Masked(config, mask, scores)


def loss_and_gradient(goal: Preference, policy: PreferenceModel, batch: dict[str, Tensor]) -> tuple[float, Tensor]:
    policy.zero_grad()
    if goal.before_step:
        goal.before_step(0, policy, [batch])
    loss, _ = goal(policy, batch, goal.normalizer(batch))
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in policy.policy.parameters() if p.grad is not None])


def test_the_config_and_the_core_name_the_same_losses() -> None:
    assert set(LOSSES) == set(losses.LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_reference_beside_the_step_gives_the_same_loss_and_gradient(name: str) -> None:
    reference, policy = model(0), PreferenceModel(model(1))
    kept, beside = items(reference), StepReference(reference, layers_of(reference, LAST_STATES))
    bare = PairItems(kept.pairs, {}, kept.mismatched)
    needs, head = losses.LOSSES[name].needs, head_of(reference)
    goals = [Preference(PreferenceConfig(loss=name), TokenScores(needs, head, beside=each)) for each in (None, beside)]
    stored, live = (
        loss_and_gradient(goal, policy, batch_of(rows, [0, 1, 2, 3]))
        for goal, rows in zip(goals, (kept, bare), strict=True)
    )
    assert live[0] == pytest.approx(stored[0], rel=1e-4, abs=1e-6)
    torch.testing.assert_close(live[1], stored[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_equals_that_of_full_logits(name: str) -> None:
    reference, policy = model(0), model(1)
    batch = batch_of(items(reference), [0, 1, 2, 3])
    goal = objective(reference, loss=name, beta=0.3)
    value, _ = loss_and_gradient(goal, PreferenceModel(policy), batch)
    logits, ref_logits = (
        each.language_model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for each in (policy, reference)
    )
    valid = batch["labels"] != IGNORE
    logp, logq = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    at = batch["labels"].clamp(min=0)[..., None]
    answers = losses.Completions(
        logp.gather(-1, at)[..., 0],
        valid,
        logq.gather(-1, at)[..., 0],
        (logq.exp() * (logq - logp)).sum(-1),
        (2 * logp).logsumexp(-1),
    )
    half = len(valid) // 2
    first, second = (
        replace(answers, **{key: value[part] for key, value in vars(answers).items() if value is not None})
        for part in (slice(half), slice(half, None))
    )
    compute, coefficients = loss_of(goal.config)
    gaps, drift = torch.full((half,), 0.6), torch.tensor(drift_by_hand(policy, reference))
    expected = compute(losses.PreferenceBatch(first, second, None, None, gaps, drift), **coefficients).mean().detach()
    assert value == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def drift_by_hand(policy: TextModel, reference: TextModel) -> list[float]:
    """Summed log-ratio of each answer behind the prompt of the next pair, a sequence at a time."""
    pairs, ratios = pair_set().pairs, []
    for i, pair in enumerate(pairs):
        for answer in (pair.chosen, pair.rejected):
            prompt = pairs[(i + 1) % len(pairs)].prompt
            row = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
            with torch.no_grad():
                logps = [
                    each.language_model(row).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                    for each in (policy, reference)
                ]
            ratios.append(float((logps[0] - logps[1]).gather(1, row[0, len(prompt) :, None]).sum()))
    return ratios


def test_the_drift_of_kto_is_that_of_answers_behind_the_prompts_of_others() -> None:
    reference, policy = model(0), model(1)
    made = items(reference)
    expected = np.mean(drift_by_hand(policy, reference))
    assert abs(expected) > 0.1
    for parts in ([[0, 1, 2, 3]], [[2, 0], [3, 1]]):
        ratio = mismatched_log_ratio(PreferenceModel(policy), [batch_of(made, numbers) for numbers in parts])
        assert float(ratio) == pytest.approx(expected, rel=1e-5) and not ratio.requires_grad
    same = mismatched_log_ratio(PreferenceModel(reference), [batch_of(made, [0, 1, 2, 3])])
    assert float(same) == pytest.approx(0, abs=1e-5)


def test_mismatched_prompts_are_those_of_others_and_fit(capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*values: int) -> np.ndarray:
        return np.array(values, np.int32)

    prompts = [ids(1), ids(1), ids(2, 3, 4, 5), ids(1)]
    answers = [(ids(7, 8, 9), ids(7)), (ids(8), ids(9)), (ids(5), ids(6)), (ids(6), ids(5))]
    pairs = PairSet([Pair(str(i), prompts[i], *answers[i]) for i in range(4)])
    shifted = mismatched_pairs(pairs)
    # The longest sequence has 5 tokens, so the first pair's answers leave room for two of the prompt's last tokens.
    assert [pair.prompt.tolist() for pair in shifted.pairs] == [[4, 5], [2, 3, 4, 5], [1], [2, 3, 4, 5]]
    assert "1 of 4 prompts of other pairs are cut on their left" in capsys.readouterr().err
    assert [pair.chosen.tolist() for pair in shifted.pairs] == [pair.chosen.tolist() for pair in pairs.pairs]
    with pytest.raises(UserError, match="all training pairs have the same prompt"):
        mismatched_pairs(PairSet(pairs.pairs[:2]))


@pytest.mark.parametrize("name", ["tdpo1", "kto"])
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    reference = model(0)
    made, policy = items(reference), PreferenceModel(model(1))
    goal = objective(reference, loss=name)
    whole, gradient = loss_and_gradient(goal, policy, batch_of(made, [0, 1, 2, 3]))
    policy.zero_grad()
    batches = [batch_of(made, numbers) for numbers in ([2, 0], [3, 1])]
    if goal.before_step:
        goal.before_step(0, policy, batches)
    parts = [goal(policy, batch, torch.tensor(4.0))[0] for batch in batches]
    sum(parts).backward()  # type: ignore[union-attr]
    assert float(sum(parts).detach()) == pytest.approx(whole, rel=1e-6)  # type: ignore[union-attr]
    again = torch.cat([p.grad.flatten() for p in policy.policy.parameters() if p.grad is not None])
    assert torch.allclose(gradient, again, atol=1e-6)


def test_masks_of_ones_are_tdpo_and_a_masked_kl_of_zero_is_dpo() -> None:
    reference, policy = model(0), PreferenceModel(model(1))
    made = items(reference, np.ones(int(pair_set().lengths.sum()), np.float32))
    batch = batch_of(made, [0, 1, 2, 3])
    for name in ("tdpo1", "tdpo2"):
        plain = loss_and_gradient(objective(reference, loss=name), policy, batch)
        masked = loss_and_gradient(objective(reference, MaskConfig(kind="uniform"), loss=name), policy, batch)
        assert masked[0] == pytest.approx(plain[0], rel=1e-6) and torch.allclose(masked[1], plain[1], atol=1e-6)


def test_scaling_masks_scales_beta() -> None:
    reference, policy = model(0), PreferenceModel(model(1))
    size = int(pair_set().lengths.sum())
    random = np.random.default_rng(3).random(size, np.float32)
    batches = [batch_of(items(reference, scale * random), [0, 1, 2, 3]) for scale in (1, 3)]
    mask = MaskConfig(kind="random")
    first = loss_and_gradient(objective(reference, mask, beta=0.3), policy, batches[0])
    second = loss_and_gradient(objective(reference, mask, beta=0.1), policy, batches[1])
    assert first[0] == pytest.approx(second[0], rel=1e-5) and torch.allclose(first[1], second[1], atol=1e-5)


@pytest.mark.parametrize("share", ["common", "indep"])
def test_learned_masks_start_as_tdpo_and_get_a_gradient(share: str) -> None:
    reference = model(0)
    config = MaskConfig(share=share, norm="none")
    batch = batch_of(items(reference), [0, 1, 2, 3])
    policy = PreferenceModel(model(1), start_masks(config, batch, batch["tokens/states"], 0)[0])
    value, _ = loss_and_gradient(objective(reference, config), policy, batch)
    plain, _ = loss_and_gradient(objective(reference, loss="tdpo1"), PreferenceModel(policy.policy), batch)
    assert value == pytest.approx(plain, abs=0.02) and policy.masks is not None
    policy.zero_grad()
    goal = objective(reference, config)
    loss, metrics = goal(policy, batch, goal.normalizer(batch))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.masks.parameters())
    mean = metrics["mask/reward_mean"]
    assert float(mean[0] / mean[1]) == pytest.approx(1.0, abs=0.1)


def test_the_penalty_is_added() -> None:
    reference, policy = model(0), PreferenceModel(model(1))
    made = items(reference, np.ones(int(pair_set().lengths.sum()), np.float32))
    batch = batch_of(made, [0, 1, 2, 3])
    plain, _ = loss_and_gradient(objective(reference, MaskConfig(kind="uniform")), policy, batch)
    held, _ = loss_and_gradient(objective(reference, MaskConfig(kind="uniform", l1_u=0.01)), policy, batch)
    # One tensor for both masks: the coefficient is halved. 7 tokens a pair.
    assert held - plain == pytest.approx(0.005 * 7, rel=1e-4)
    for place, coefficient in (("reward", {"l1_u": 0.01}), ("kl", {"l1_d": 0.01})):
        config = MaskConfig(kind="uniform", place=place, **coefficient)
        alone, _ = loss_and_gradient(objective(reference, config), policy, batch)
        assert alone - plain == pytest.approx(0.01 * 7, rel=1e-4)  # one mask only


@pytest.mark.parametrize("key, place, other", [("l1_u", "kl", "l1_d"), ("l1_d", "reward", "l1_u")])
def test_a_penalty_on_a_mask_that_is_not_used_is_refused(key: str, place: str, other: str) -> None:
    [(where, message)] = MaskConfig(place=place, **{key: 0.1}).check()
    assert where == key and f"which place={place} does not use; type {other}" in message


def test_dead_masks_are_refused_with_what_to_type() -> None:
    reference, config = model(0), MaskConfig(init="official")
    batch = batch_of(items(reference), [0, 1])
    dead = []
    for seed in range(20):
        try:
            start_masks(config, batch, batch["tokens/states"], seed)
        except UserError as error:
            assert f"mask.init=official with seed={seed}" in str(error)
            assert "0 on nearly all tokens" in error.what and "type mask.init=positive" in error.hint
            dead.append(seed)
    assert 0 < len(dead) < 20
    masks, redraws = start_masks(replace(config, dead="redraw"), batch, batch["tokens/states"], dead[0])
    again, _ = start_masks(replace(config, dead="redraw"), batch, batch["tokens/states"], dead[0])
    assert redraws > 0 and masks is not None and again is not None
    assert torch.equal(masks.reward.weight, again.reward.weight)
    assert start_masks(MaskConfig(), batch, batch["tokens/states"], dead[0])[1] == 0


def test_a_mask_of_zeros_in_the_data_is_refused() -> None:
    batch = batch_of(items(model(0), np.zeros(int(pair_set().lengths.sum()), np.float32)), [0, 1])
    with pytest.raises(UserError, match="mask.kind=oracle"):
        start_masks(MaskConfig(kind="oracle"), batch, None, 0)


def test_stored_masks_of_each_kind() -> None:
    pairs = pair_set()
    size = int(pairs.lengths.sum())
    random = stored_mask(MaskConfig(kind="random"), pairs, None, 0)
    assert np.array_equal(random, stored_mask(MaskConfig(kind="random"), pairs, None, 0)) and 0 < random.min() < 1
    assert not np.array_equal(random, stored_mask(MaskConfig(kind="random"), pairs, None, 1))
    assert stored_mask(MaskConfig(kind="uniform"), pairs, None, 0).tolist() == [1] * size
    assert stored_mask(MaskConfig(kind="oracle"), pairs, None, 0).tolist() == pairs.important().tolist()  # type: ignore[union-attr]
    blind = PairSet([replace(pair, important=None) for pair in pairs.pairs])
    with pytest.raises(UserError, match="nobody knows which tokens"):
        stored_mask(MaskConfig(kind="oracle"), blind, None, 0)


def test_hidden_states_are_those_of_the_positions_that_predict() -> None:
    reference = model(0)
    made = items(reference)
    batch = batch_of(made, [0, 1, 2, 3])
    states = hidden_states(reference, batch, every_layer(reference))
    assert torch.allclose(states, batch["tokens/states"], atol=1e-5)
    assert torch.allclose(hidden_states(reference, batch, [HEAD]), states[:, -1:], atol=1e-6)


def gpt2() -> TextModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return TextModel(GPT2LMHeadModel(config)).eval()


@pytest.mark.parametrize(("make", "attention", "residual"), [(model, 8, 10), (gpt2, 2, 10)])
def test_every_hook_fires_once_and_reads_the_right_rows(make: object, attention: int, residual: int) -> None:
    reference = make(0) if make is model else make()  # type: ignore[operator]
    batch = batch_of(items(model(0)), [0, 1, 2, 3])
    scores = hook_scores(reference, batch, HOOKS, "zn_rescale")
    # Two layers: two norms, MLP and block each, embeddings and the final norm.
    assert {kind: len(hooks) for kind, hooks in scores.items()} == {
        "mlp": 2,
        "attn": attention,
        "resid": residual,
        "logits": 1,
    }
    logits = reference.language_model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    valid = batch["labels"] != IGNORE
    assert torch.allclose(scores["logits"][0], logits[valid].mean(-1), atol=1e-5)
    states = hidden_states(reference, batch, every_layer(reference))
    assert torch.allclose(scores["resid"][-1], states[:, -1].mean(-1), atol=1e-6)
    assert any(torch.allclose(hook, states[:, 0].mean(-1), atol=1e-6) for hook in scores["resid"])


@pytest.mark.parametrize(
    ("kls", "at", "area"),
    [
        ([0, 1], [0.5, 0.5], [0.75, 0.25]),
        ([0, 0.5, 1], [0, 1, 0], [0.5, 0.5, 0]),
        ([0, 0.25], [0, 1], [0.25, 0.75]),
        ([0, 0.25, 0.75], [0, 0.5, 0.5], [0.25, 0.625, 0.125]),
        ([0, 2, 0.1], [0.75, 0.25, 0], [0.875, 0.125, 0]),
        ([0], [1], [1]),
    ],
)
def test_rewards_are_read_at_one_kl(kls: list[float], at: list[float], area: list[float]) -> None:
    weights = kl_weights(kls, 0.5)
    assert weights[0].tolist() == pytest.approx(at) and weights[1].tolist() == pytest.approx(area)


def test_the_mean_up_to_a_kl_is_that_of_a_line() -> None:
    kls = [0, 0.1, 0.3, 0.9, 2.0]
    at, area = kl_weights(kls, 0.7)
    rewards = 1 + 2 * np.array(kls)
    assert at @ rewards == pytest.approx(1 + 2 * 0.7) and area @ rewards == pytest.approx(1 + 0.7)
