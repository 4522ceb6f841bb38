"""What a trained model is asked: held-out text by the overlap of its neighbours, and questions about the database."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.dropout import evaluation
from recipes.pretraining.retro.config import (
    ANSWER,
    FIRST,
    HIGH,
    LONG,
    LOSS,
    LOW,
    MIDDLE,
    MODERATE,
    SHARE,
    RetroConfig,
)
from recipes.pretraining.retro.database import Database, Sequences
from recipes.pretraining.retro.items import Collate, lay_out
from recipes.pretraining.retro.method import chunk_ends, longest_shared_run
from recipes.pretraining.retro.model import RetroLM, token_losses

TITLES = {
    FIRST: "of the first chunk, which has no neighbours to read",
    LOW: f"where chunk and neighbours share at most {MODERATE - 1} tokens in a row",
    MIDDLE: f"where they share {MODERATE} to {LONG - 1} tokens in a row",
    HIGH: f"where they share {LONG} or more tokens in a row",
}


@dataclass(frozen=True)
class Example:
    """A held-out chunk.

    Attributes:
        name: Domain, sequence and chunk.
        group: The document that it begins in.
        row: Number of its sequence.
        chunk: Its number in the sequence.
        tokens: First and one past the last token of the sequence.
        overlap: Longest run shared with what was looked up with the chunk before; -1 for a first chunk.
    """

    name: str
    group: str
    row: int
    chunk: int
    tokens: tuple[int, int]
    overlap: int

    @property
    def bin(self) -> str:
        """Name of the bin of its overlap."""
        if self.overlap < 0:
            return FIRST
        return HIGH if self.overlap >= LONG else MIDDLE if self.overlap >= MODERATE else LOW


def held_out_examples(config: RetroConfig, database: Database, sequences: Sequences) -> list[Example]:
    """The chunks of held-out sequences, by the nearest neighbours of the chunk before them: the same in all arms."""
    size = config.retrieval.chunk
    ends = chunk_ends(sequences.tokens.shape[1], size).tolist()
    nearest = sequences.numbers[:, :-1, : config.evaluation.bin_neighbours]
    others, visible = database.chunks.with_continuation(nearest.reshape(-1, nearest.shape[-1]))
    later = np.asarray(sequences.tokens[:, ends[0] :]).reshape(-1, size)
    overlaps = longest_shared_run(later, others, visible).reshape(len(sequences), len(ends) - 1)
    examples = []
    for row, (documents, domain) in enumerate(zip(sequences.documents, sequences.domains, strict=True)):
        name = database.mixture.domains[domain]
        for chunk, last in enumerate(ends):
            begin, overlap = (0, -1) if chunk == 0 else (last - size, int(overlaps[row, chunk - 1]))
            group = f"{name} {documents[chunk]}"
            examples.append(Example(f"{name} {row}.{chunk}", group, row, chunk, (begin, last), overlap))
    present = {example.bin for example in examples}
    for name in (LOW, MIDDLE, HIGH):
        if name not in present:
            note(f"warning: there is no held-out chunk {TITLES[name]}: {LOSS}/{name} is not measured")
    return examples


def sequence_losses(
    config: RetroConfig, database: Database, model: RetroLM, sequences: Sequences, device: str
) -> np.ndarray:
    """float64 [S, n - 1] NLL of each token but the first, with what the arm reads beside it; its gate set."""
    collate, end = Collate(database.chunks), database.tokenizer.eos_token_id
    length = sequences.tokens.shape[1]
    size = max(config.evaluation.batch_tokens // length, 1)
    gate, model.gate = model.gate, model.gate * config.retrieval.gate
    rows = []
    try:
        with torch.no_grad(), evaluation(model):
            for at in range(0, len(sequences), size):
                pairs = zip(sequences.tokens[at : at + size], sequences.numbers[at : at + size], strict=True)
                batch = collate([lay_out(*pair, database.chunks, config.retrieval, end) for pair in pairs])
                batch = {name: part.to(device) for name, part in batch.items() if name != "ids"}
                rows.append(token_losses(model, batch)[1].double().cpu().numpy().reshape(-1, length - 1))
    finally:
        model.gate = gate
    return np.concatenate(rows)


def add_losses(scores: Scores, examples: list[Example], losses: np.ndarray) -> None:
    """`loss` and `loss/<bin>` of each chunk, and `share/<bin>` of chunks behind a first one."""
    scores.define(LOSS, "nats per token of held-out text", higher_is_better=False)
    for name, title in TITLES.items():
        scores.define(f"{LOSS}/{name}", f"nats per token {title}", higher_is_better=False)
    for example in examples:
        values = chunk_losses(example, losses)
        if len(values):
            for metric in (LOSS, f"{LOSS}/{example.bin}"):
                scores.add(metric, example.name, example.group, float(values.mean()), len(values))


def add_shares(scores: Scores, examples: list[Example]) -> None:
    """`share/<bin>`: how many of the chunks behind a first one are of each bin."""
    for name in (LOW, MIDDLE, HIGH):
        scores.define(f"{SHARE}/{name}", f"share of chunks {TITLES[name]}", higher_is_better=True)
        for example in examples:
            if example.overlap >= 0:
                scores.add(f"{SHARE}/{name}", example.name, example.group, float(example.bin == name))


def add_answers(scores: Scores, questions: Sequences, losses: np.ndarray, size: int) -> None:
    """`answer`: nats per token of the chunk that follows a chunk of the database."""
    scores.define(ANSWER, "nats per token of what follows a chunk of the database", higher_is_better=False)
    for number, (document, row) in enumerate(zip(questions.documents[:, 0], losses[:, size - 1 :], strict=True)):
        scores.add(ANSWER, f"question {number}", f"document {document}", float(row.mean()), len(row))


def chunk_losses(example: Example, losses: np.ndarray) -> np.ndarray:
    """NLLs of the predicted tokens of a chunk; the first token of a sequence is not."""
    begin, last = example.tokens
    return np.asarray(losses[example.row, max(begin - 1, 0) : last - 1])


def losses_by_overlap(examples: list[Example], losses: np.ndarray) -> list[tuple[float, float]]:
    """(longest shared run, nats per token) over all chunks with that run."""
    runs: dict[int, list[Any]] = {}
    for example in examples:
        if example.overlap >= 0:
            runs.setdefault(example.overlap, []).append(chunk_losses(example, losses))
    return [(float(run), float(np.concatenate(values).mean())) for run, values in sorted(runs.items())]
