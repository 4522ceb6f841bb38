"""Text generated with a larger vocabulary: new tokens have rows in the embedding and in the head, both predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.text.pieces import token_rows
from recipes.core.evaluation.scores import Scores
from recipes.core.models.head import decoder, output_head
from recipes.core.models.nearest import nearest
from recipes.core.runs.progress import progress
from recipes.tokenization.dynamic_tokenization.config import DynamicTokenizationConfig, RowsConfig
from recipes.tokenization.dynamic_tokenization.cuts import StaticVocabulary
from recipes.tokenization.dynamic_tokenization.decoder import DecoderTask
from recipes.tokenization.dynamic_tokenization.merging import Merger
from recipes.tokenization.dynamic_tokenization.method import Lookup
from recipes.tokenization.dynamic_tokenization.token_rows import TokenRows, make_predictor
from recipes.tokenization.dynamic_tokenization.vocabulary import Tokens

TITLES = {
    "exact": ("steps at which the search by inner product takes the most likely token", True),
    "cosine": ("steps at which a search by cosine proposes the most likely token", True),
    "recall": ("candidates by inner product that a search by cosine proposes as well", True),
    "bytes_per_token": ("bytes of a generated token", True),
    "base_bytes_per_token": ("bytes of a generated token of the base vocabulary", True),
    "new": ("generated tokens that the base vocabulary lacks", True),
    "agreement": ("share of the generated text that begins as that of the base vocabulary does", True),
}


@dataclass(frozen=True)
class Vocabulary:
    """What text is generated of.

    Attributes:
        numbers: Its tokens.
        inputs: [n, d] their rows in the embedding.
        outputs: [n, d + 1] their rows in the head, the bias behind them, 0 where there is none.
    """

    numbers: Sequence[int]
    inputs: Tensor
    outputs: Tensor


@torch.no_grad()
def large_vocabulary(task: DecoderTask, tokens: Tokens, config: RowsConfig, new: Sequence[int]) -> Vocabulary:
    """The base vocabulary and new tokens, both rows of which are predicted from those of their pieces."""
    head = output_head(task.model.language_model)
    bias = torch.zeros(head.vocabulary).to(head.weight) if head.bias is None else head.bias
    extended = torch.cat([head.weight, bias[:, None]], 1).detach().float()
    base = range(min(token_rows(task.base.tokenizer), head.vocabulary))
    numbers = [*base, *dict.fromkeys(number for number in new if not tokens.is_base(number))]

    def rows(lookup: Lookup) -> Tensor:
        return TokenRows(config, tokens, lookup, make_predictor(config, task.base, lookup).rows)(numbers)

    return Vocabulary(numbers, rows(task.lookup), rows(lambda ids: extended[ids.to(extended.device)]))


@dataclass(frozen=True)
class Written:
    """A generated text.

    Attributes:
        data: Its bytes.
        numbers: Its tokens.
        exact: Of each step, whether the search took the most likely token.
        cosine: Whether a search by cosine proposes it.
        recall: Share of the candidates that a search by cosine proposes.
    """

    data: bytes
    numbers: list[int]
    exact: list[float]
    cosine: list[float]
    recall: list[float]


@torch.no_grad()
def write_text(
    language_model: Any, prompt: Tensor, vocabulary: Vocabulary, tokens: Tokens, steps: int, candidates: int
) -> Written:
    """Continue a prompt greedily; at each step a search over all rows proposes tokens, and the best of them is taken.

    Scale and cap of a head change no order, so that logits are inner products with rows and bias.

    Args:
        language_model: Of `transformers`.
        prompt: [t, d] rows of its tokens.
        vocabulary: What is written.
        tokens: Says what tokens are; one that stands for no bytes ends the text.
        steps: Tokens at most.
        candidates: That are proposed.
    """
    written, cache, inputs = Written(b"", [], [], [], []), None, prompt
    data, keys = [], min(candidates, len(vocabulary.numbers))
    for _ in range(steps):
        output = decoder(language_model)(inputs_embeds=inputs[None], cache=cache, use_cache=True)
        cache, state = output.past_key_values, output.last_hidden_state[0, -1:].float()
        query = torch.cat([state, torch.ones_like(state[:, :1])], 1)
        proposed = nearest(query, vocabulary.outputs, keys).indices[0]
        by_cosine = nearest(query, vocabulary.outputs, keys, cosine=True).indices[0]
        likeliest = int((vocabulary.outputs @ query[0]).argmax())
        written.exact.append(float(proposed[0] == likeliest))
        written.cosine.append(float(likeliest in by_cosine))
        written.recall.append(float(torch.isin(proposed, by_cosine).float().mean()))
        number = vocabulary.numbers[int(proposed[0])]
        if not tokens.data(number):
            break
        written.numbers.append(number)
        data.append(tokens.data(number))
        inputs = vocabulary.inputs[int(proposed[0])][None]
    return Written(b"".join(data), written.numbers, written.exact, written.cosine, written.recall)


def score_generation(
    config: DynamicTokenizationConfig, task: DecoderTask, tokens: Tokens, learnt: StaticVocabulary, scores: Scores
) -> None:
    """Generate behind the first prompts, with the larger vocabulary and with the base one, and compare."""
    options, language_model = config.large, task.model.language_model
    new = [tokens.number(data) for data in learnt.learnt[: options.tokens]]
    vocabularies = [large_vocabulary(task, tokens, config.rows, each) for each in (new, [])]
    plain = task.texts[: options.prompts]
    merger = Merger(plain, tokens.join)
    while merger.step() is not None:
        pass
    prompts = learnt.spell(merger.texts(), options.tokens), plain
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(f"large/{name}", title, higher_is_better)
    with progress("generating", len(plain)) as show:
        for at, (name, document) in enumerate(task.names[: options.prompts]):
            ours, base = (
                write_text(
                    language_model, _rows(vocabulary, each[at]), vocabulary, tokens, options.steps, options.candidates
                )
                for vocabulary, each in zip(vocabularies, prompts, strict=True)
            )
            for metric, value in _compare(ours, base, tokens).items():
                scores.add(f"large/{metric}", name, document, value)
            show(at + 1)


def _rows(vocabulary: Vocabulary, prompt: Sequence[int]) -> Tensor:
    places = {number: place for place, number in enumerate(vocabulary.numbers)}
    return vocabulary.inputs[[places[token] for token in prompt]]


def _compare(ours: Written, base: Written, tokens: Tokens) -> dict[str, float]:
    shared = min(len(ours.data), len(base.data))
    return {
        **{name: sum(each) / len(each) for name, each in (("exact", ours.exact), ("cosine", ours.cosine))},
        "recall": sum(ours.recall) / len(ours.recall),
        "bytes_per_token": len(ours.data) / max(len(ours.numbers), 1),
        "base_bytes_per_token": len(base.data) / max(len(base.numbers), 1),
        "new": sum(not tokens.is_base(number) for number in ours.numbers) / max(len(ours.numbers), 1),
        "agreement": len(commonprefix([ours.data, base.data])) / shared if shared else float(ours.data == base.data),
    }
