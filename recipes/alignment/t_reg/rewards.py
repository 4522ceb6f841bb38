"""Where token rewards come from: the reference under two prompts, the judge, a DPO model, controls."""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from recipes.alignment.config import NO_STATES, PreferenceConfig, Reads
from recipes.alignment.data import Ground
from recipes.alignment.pairs import PairItems, PairSet
from recipes.alignment.reference import prompt_ids
from recipes.alignment.reference_scores import AnswerScores, choose_scores
from recipes.alignment.t_reg.config import RegConfig, TRegConfig
from recipes.alignment.t_reg.method import flip, shuffle_within, token_rewards
from recipes.alignment.trained import train_policy
from recipes.core.data.tasks.judges import Judges
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.text import context
from recipes.core.scoring.score import score, score_once

NO_OP = 0.02  # mean |reward| below which the regulariser does next to nothing
# Where there is no chat template that says so, these words end the prompt.
BEGIN = "\n\nRewritten response:\n"


def compute_rewards(
    config: TRegConfig, ground: Ground, pairs: PairSet, reference: AnswerScores, device: str, seed: int
) -> np.ndarray:
    """float32 [tokens] in [-0.5, 0.5]: the reward of every token of all answers.

    Args:
        config: The run's.
        ground: Models, judges and tokenizer.
        pairs: The answers.
        reference: Scores of them under the reference.
        device: Where to compute.
        seed: Of flips and shuffles.

    Raises:
        UserError: a prompt exceeds the model's context.
    """
    treg = config.treg
    if treg.source is None:
        return _constant(pairs, treg.constant if treg.rewards == "constant" else 0.0)
    if treg.source == "self":
        better, worse = (self_logps(ground, pairs, prompt, device) for prompt in (treg.better, treg.worse))
        rewards = token_rewards(better, worse)
    elif treg.source == "oracle":
        rewards = flip(oracle_rewards(ground, pairs), treg.flip, seed)
    else:
        rewards = token_rewards(_dpo_logps(config, ground, pairs, device), reference.logps)
    if treg.rewards == "random":
        rewards = shuffle_within(rewards, pairs.offsets, seed)
    return rewards.astype(np.float32)


def warn_if_idle(rewards: np.ndarray) -> None:
    """Say so if rewards are so small that the regulariser does next to nothing."""
    if (size := float(np.abs(rewards).mean())) < NO_OP:
        note(f"warning: token rewards are {size:.3f} in the mean; below {NO_OP} the regulariser is a no-op")


def oracle_rewards(ground: Ground, pairs: PairSet) -> np.ndarray:
    """float64 [tokens]: half the sign of the valence of each token's word, 0 on words that the judge does not know."""
    judges = ground.data.judges
    if not isinstance(judges, Judges):
        hint = "type data=sentiment, or another arm"
        raise UserError("no judge knows which tokens of these pairs matter", "treg.rewards=oracle", hint)
    answers = (pairs.answer(number) for number in range(2 * len(pairs)))
    valences = [judges.lexicon.valences([judges.pieces[i] for i in answer]) for answer in answers]
    return 0.5 * np.sign(np.concatenate(valences))


def self_logps(ground: Ground, pairs: PairSet, prompt: str, device: str) -> np.ndarray:
    """float32 [tokens]: log-probs of all answers' tokens under the reference behind a prompt, computed only once.

    Args:
        ground: The reference and its tokenizer.
        pairs: The answers.
        prompt: What is asked of the reference; {x} stands for the prompt of the pair, {y} for the answer.
        device: Where to compute.

    Raises:
        UserError: prompt and answer exceed the reference's context.
    """
    rows = prompt_rows(ground.tokenizer, pairs, prompt)
    if long := too_long(ground, rows):
        longest, first = context(ground.frozen), pairs.pairs[min(long)]
        raise UserError(
            f"{len(long):,} of {len(pairs):,} pairs exceed the model's context of {longest} tokens with the prompts of "
            f"self rewards (first: {first.id})",
            where="treg.rewards=self",
            hint="type treg.on_long=skip to leave them out, or shorter answers",
        )

    return score_once(ground.frozen, rows, device=device, what="scoring answers behind a prompt")["logprob"]


def prompt_rows(tokenizer: Any, pairs: PairSet, prompt: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompt and answer ids of every answer, the answers' as they are in the pairs: they are never tokenised again."""
    rows, reader = [], TextIds(tokenizer)
    for number in range(2 * len(pairs)):
        pair, answer = pairs.pairs[number // 2], pairs.answer(number)
        x = tokenizer.decode(pair.prompt, skip_special_tokens=True) if pair.asked is None else pair.asked
        filled = {"{x}": x, "{y}": str(tokenizer.decode(answer, skip_special_tokens=True)).strip()}
        # In one go: an answer may contain {x}.
        text = "".join(filled.get(part, part) for part in re.split(r"(\{[xy]\})", prompt))
        rows.append((prompt_ids(text, reader, BEGIN), answer))
    return rows


def fitting(config: RegConfig, ground: Ground) -> Ground:
    """The ground without pairs that are too long for self rewards, which are counted.

    They are left out whatever the rewards are, so that all arms train on the same pairs.

    Raises:
        UserError: none is left.
    """
    data, kept = ground.data, []
    for pairs in (data.train, data.test):
        long = set[int]()
        for prompt in (config.better, config.worse):
            long |= too_long(ground, prompt_rows(ground.tokenizer, pairs, prompt))
        kept.append(PairSet([pair for number, pair in enumerate(pairs.pairs) if number not in long]))
        if not len(kept[-1]):
            message = (
                f"no pair fits the model's context of {context(ground.frozen)} tokens with the prompts of self rewards"
            )
            raise UserError(message, "treg.on_long=skip", "type shorter treg.better and treg.worse, or another model")
    dropped = len(data.train) + len(data.test) - len(kept[0]) - len(kept[1])
    title = "pairs left out: too long for the prompts of self rewards"
    facts = data.facts | {"data/too_long": (title, False, float(dropped))}
    if "data/pairs" in facts:
        facts["data/pairs"] = (*facts["data/pairs"][:2], float(len(kept[0])))
    return replace(ground, data=replace(data, train=kept[0], test=kept[1], facts=facts))


def too_long(ground: Ground, rows: list[tuple[np.ndarray, np.ndarray]]) -> set[int]:
    """Numbers of the pairs one of whose rows exceeds the reference's context. The last token is only predicted."""
    longest = context(ground.frozen)
    if longest is None:
        return set()
    return {number // 2 for number, (prompt, answer) in enumerate(rows) if len(prompt) + len(answer) - 1 > longest}


def _dpo_logps(config: TRegConfig, ground: Ground, pairs: PairSet, device: str) -> np.ndarray:
    train = ground.data.train
    reads = Reads(logps=True, states=NO_STATES)
    reference, beside = choose_scores(config, ground.frozen, train, reads, device)
    items = PairItems(train, reference.columns(reads) if beside is None else {})
    loss = PreferenceConfig(loss="dpo", beta=0.1)
    policy = train_policy(ground, items, loss, config.trained, config.trainer, beside=beside)()
    what = "scoring answers with the DPO model"
    return score(policy, pairs.rows(), device=device, what=what, bf16=reference.bf16)["logprob"]


def _constant(pairs: PairSet, value: float) -> np.ndarray:
    """`value` on every token of the chosen answers, 0 on those of the rejected ones."""
    return np.repeat(np.tile([value, 0.0], len(pairs)), pairs.lengths).astype(np.float32)
