"""A stand-in for models: derives all that pruners read from the tokens, by fixed random projections."""

from typing import Any

import torch
from torch import Tensor

from recipes.pruning.pruners import make
from recipes.pruning.tokens import Depth, Kept, Point, Tokens, apply

HEADS, WIDTH, LAYERS, WORDS = 2, 8, 6, 5
DEPTH = Depth(vit=LAYERS, llm=LAYERS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(counts: list[int], budgets: list[int], seed: int = 0) -> Tokens:
    """Samples of different lengths, padded with NaN, in float64; sample i is the same whatever stands beside it."""
    longest = max(counts)
    x = torch.full((len(counts), longest, WIDTH), torch.nan, dtype=torch.float64)
    valid = torch.arange(longest) < torch.tensor(counts)[:, None]
    words = torch.full((len(counts), WORDS, WIDTH), torch.nan, dtype=torch.float64)
    text_valid = torch.zeros(len(counts), WORDS, dtype=torch.bool)
    for row, count in enumerate(counts):
        draw = generator(1000 * seed + row)
        x[row, :count] = torch.randn(count, WIDTH, generator=draw, dtype=torch.float64)
        length = int(torch.randint(2, WORDS + 1, (), generator=draw))
        words[row, :length] = torch.randn(length, WIDTH, generator=draw, dtype=torch.float64)
        text_valid[row, :length] = True
    sizes = torch.ones_like(valid, dtype=torch.float64)
    seeds = tuple(seed + row for row in range(len(counts)))
    return Tokens.of(x, budgets, valid=valid, sizes=sizes, text_states=words, text_valid=text_valid, seeds=seeds)


def rows_of(tokens: Tokens, order: list[int]) -> Tokens:
    """The samples of a batch in another order."""
    given = {k: v[order] for k, v in vars(tokens).items() if isinstance(v, Tensor)}
    return Tokens(**{**vars(tokens), **given, "seeds": tuple(tokens.seeds[row] for row in order)})


def seen_at(tokens: Tokens, point: Point) -> Tokens:
    """The tokens with all the fields a model would have at this point."""
    draw = generator(7 + point.layer)

    def heads(values: Tensor) -> Tensor:
        matrix = torch.randn(WIDTH, WIDTH, generator=draw, dtype=torch.float64)
        return (values @ matrix).unflatten(-1, (HEADS, -1)).transpose(1, 2)

    special = 0 if point.place == "llm" else 1
    cls = torch.ones(len(tokens.x), 1, WIDTH, dtype=torch.float64)
    everything = torch.cat([cls[:, :special], tokens.x], 1)
    everyone = torch.cat([tokens.valid.new_ones(len(tokens.x), special), tokens.valid], 1)
    queries, keys, values = (heads(everything) for _ in range(3))
    logits = (queries @ keys.mT).masked_fill(~everyone[:, None, None], -torch.inf)
    attention = (logits / 2).softmax(3)
    words = given_words(tokens)
    text_queries = heads(words)
    text_rows = (
        (text_queries @ keys[:, :, special:].mT).masked_fill(~tokens.valid[:, None, None], -torch.inf).softmax(3)
    )
    first = words[:, 0]
    reads: dict[str, Any] = {
        "queries": queries,
        "keys": keys,
        "values": values,
        "attention": attention,
        "cls_row": attention[:, :, 0],
        "cls": cls[:, 0],
        "final_query": cls[:, 0],
        "final_keys": everything.flip(2),
        "last_row": text_rows[:, :, 0],
        "next_row": text_rows[:, :, 0],
        "last_query": text_queries[:, :, 0],
        "last_value": text_queries[:, :, 0].flip(2),
        "text_rows": text_rows,
        "text": first,
        "patch_text": tokens.x.roll(1, 2),
        "patch_text_raw": tokens.x.roll(2, 2),
        "feature_text": tokens.x.roll(3, 2),
        "newline": tokens.positions % 4 == 3,
        "point": point,
        "layers": LAYERS,
    }
    return Tokens(**{**vars(tokens), **reads})


def given_words(tokens: Tokens) -> Tensor:
    assert tokens.text_states is not None
    return tokens.text_states


def walk(options: Any, tokens: Tokens) -> list[Kept]:
    """What is left behind each point of a pruner; budgets that it cannot meet are raised to its smallest."""
    pruner, state, steps = make(options), {}, []
    least = torch.tensor([pruner.smallest_budget(count, LAYERS) for count in tokens.count.tolist()])
    tokens = Tokens(**{**vars(tokens), "budget": torch.maximum(tokens.budget, least)})
    for point in pruner.points(DEPTH):
        kept = apply(tokens, pruner(seen_at(tokens, point), state))
        steps.append(kept)
        changed = {"x": kept.x, "valid": kept.valid, "positions": kept.positions, "sizes": kept.sizes}
        tokens = Tokens(**{**vars(tokens), **changed})
    return steps
