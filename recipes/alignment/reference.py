"""The frozen reference: fine-tuned in the run if asked for, its hidden states and log-probs computed once and kept."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.alignment.chats import Chat
from recipes.alignment.config import ReferenceConfig, TuningConfig
from recipes.alignment.layouts import BadRow
from recipes.alignment.pairs import PairSet, answer_batch
from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.tokenized import tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.losses.logprobs import token_logprobs
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.models.from_config import load_text_model
from recipes.core.models.head import OutputHead, decoder, output_head
from recipes.core.models.text import TextModelConfig, build_language_model
from recipes.core.runs.identity import described
from recipes.core.runs.progress import progress
from recipes.core.scoring.references import batches, weights_hash
from recipes.core.storage.cache import cached
from recipes.core.storage.files import sha256_json
from recipes.core.training.batches import caption_collate, token_mean
from recipes.core.training.models import train_reference
from recipes.core.training.trainer import Training

BATCH_TOKENS = 8192
LARGEST = 1 << 30  # bytes of hidden states of all layers that are kept; else only the last layer's
VERSION = 2


@dataclass(frozen=True)
class AnswerScores:
    """What the reference says of the tokens of all answers, memory-mapped.

    Attributes:
        logps: float32 [tokens] log-probs in nats.
        states: float32 [tokens, layers, width] hidden states at the positions that predict the tokens, the last one
            that of the head. One layer where all of them would be too large to keep, or the head's has another width.
        complete: Whether all layers are there.
    """

    logps: np.ndarray
    states: np.ndarray
    complete: bool


def hidden_states(model: nn.Module, batch: dict[str, Tensor], every_layer: bool = True) -> Tensor:
    """Hidden states of a frozen model at the positions that predict completion tokens.

    Args:
        model: A `TextModel`.
        batch: As in `recipes.alignment.pairs`.
        every_layer: Those of all layers but the embeddings, or only what the head gets. Where that is a projection of
            the last layer (OPT 350m), it is not among all layers.

    Returns:
        [N, layers, width]
    """
    predicted = batch["labels"] != IGNORE
    with torch.no_grad():
        found = decoder(model.language_model)(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=every_layer
        )
    layers = (found.hidden_states or ())[1:-1] if every_layer else ()
    last = found.last_hidden_state
    same = not layers or last.shape[-1] == layers[0].shape[-1]
    return torch.stack([states[predicted] for states in (*layers, *((last,) if same else ()))], 1)


def answer_scores(model: nn.Module, pairs: PairSet, pad_id: int, device: str, every_layer: bool = True) -> AnswerScores:
    """Log-probs and hidden states of all answers, computed only if no run has done so before.

    Args:
        model: A frozen `TextModel`.
        pairs: The answers.
        pad_id: What pads.
        device: Where to compute.
        every_layer: Keep the hidden states of all layers if they are not too large, or only the last ones.
    """
    config: Any = model.language_model.config.get_text_config()  # type: ignore[union-attr, operator]
    tokens, width = int(pairs.lengths.sum()), output_head(model.language_model).weight.shape[1]
    fits = 4 * tokens * config.num_hidden_layers * width <= LARGEST
    complete = every_layer and fits and width == getattr(config, "hidden_size", width)

    def build(folder: Path) -> None:
        save_file(_score(model, pairs, pad_id, device, complete), folder / "scores.safetensors")

    parts = {"model": weights_hash(model), "pairs": pairs.fingerprint, "complete": complete, "version": VERSION}
    # The torch loader maps the file, the numpy loader would read all of it.
    stored = load_file(cached("answer-scores", sha256_json(parts), build) / "scores.safetensors")
    return AnswerScores(stored["logps"].numpy(), stored["states"].numpy(), complete)


def scoring_batches(
    pairs: PairSet, pad_id: int, device: str, what: str
) -> Iterator[tuple[list[np.ndarray], dict[str, Tensor]]]:
    """All answers in batches of similar length: where the tokens of each row belong, and the batch on the device."""
    return row_batches(pairs.rows(), pad_id, device, what)


def row_batches(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], pad_id: int, device: str, what: str
) -> Iterator[tuple[list[np.ndarray], dict[str, Tensor]]]:
    """Prompts with completions in batches of similar length, as `scoring_batches` has the answers of pairs."""
    offsets = np.concatenate([[0], np.cumsum([len(answer) for _, answer in rows])]).astype(np.int64)
    done = 0
    with progress(what, len(rows)) as show:
        for numbers in batches([len(prompt) + len(answer) for prompt, answer in rows], BATCH_TOKENS):
            places = [np.arange(offsets[i], offsets[i + 1]) for i in numbers]
            batch = answer_batch([rows[i] for i in numbers], pad_id)
            yield places, {name: values.to(device) for name, values in batch.items()}
            done += len(numbers)
            show(done)


@torch.no_grad()
def row_logps(
    model: Any, rows: Sequence[tuple[np.ndarray, np.ndarray]], pad_id: int, device: str, what: str
) -> np.ndarray:
    """float32 [tokens]: log-probs in nats of all completions' tokens, row after row.

    Args:
        model: A `TextModel`; its training mode is left as it was.
        rows: (prompt, completion) ids, none empty.
        pad_id: What pads.
        device: Where to compute.
        what: What is done, for people.
    """
    found = np.zeros(sum(len(answer) for _, answer in rows), np.float32)
    training = model.training
    model.to(device).eval()
    for places, batch in row_batches(rows, pad_id, device, what):
        predicted = batch["labels"] != IGNORE
        targets = batch["labels"][predicted]

        def read(hidden: Tensor, head: OutputHead, predicted: Tensor = predicted, targets: Tensor = targets) -> Tensor:
            return token_logprobs(hidden[predicted], head, targets)

        logps = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], pixels=None, readout=read)
        found[np.concatenate(places)] = logps.float().cpu().numpy()
    model.train(training)
    return found


def _score(model: nn.Module, pairs: PairSet, pad_id: int, device: str, complete: bool) -> dict[str, np.ndarray]:
    training = model.training
    model.to(device).eval()
    head = output_head(model.language_model).detach()
    logps, states = np.zeros(int(pairs.lengths.sum()), np.float32), None
    for places, batch in scoring_batches(pairs, pad_id, device, "scoring answers with the reference"):
        found = hidden_states(model, batch, complete)
        with torch.no_grad():
            logp = token_logprobs(found[:, -1], head, batch["labels"][batch["labels"] != IGNORE])
        if states is None:
            states = np.zeros((len(logps), *found.shape[1:]), np.float32)
        where = np.concatenate(places)
        logps[where], states[where] = logp.float().cpu().numpy(), found.float().cpu().numpy()
    model.train(training)
    return {"logps": logps, "states": np.zeros((0, 1, 1), np.float32) if states is None else states}


class _Texts:
    """Texts as items of `caption_collate`."""

    def __init__(self, texts: list[np.ndarray]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "id": f"text {index}", "tokens": self.texts[index]}


def prepare_reference(
    model: TextModelConfig,
    config: ReferenceConfig,
    trainer: TrainerConfig,
    tokenizer: Any,
    texts: Callable[[], list[np.ndarray]],
    fingerprint: str,
) -> Callable[[], Any]:
    """Fine-tune the reference on texts, or find the one fine-tuned before.

    Args:
        model: Which model.
        config: How it is fine-tuned.
        trainer: Device, precision and threads are taken from it.
        tokenizer: Its tokenizer.
        texts: Token ids of each text, with its begin-of-text token if it has one, and its end; called only to train.
        fingerprint: Hash of the texts.

    Returns:
        Makes a new `TextModel` with the reference's weights: the reference itself, or a policy at its start.
    """
    if not config.steps:
        return lambda: build_language_model(model, tokenizer, config.seed)
    key = {
        "model": described(model, "model"),
        "texts": fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "version": VERSION,
    }

    def training() -> Training:
        items: Any = _Texts(texts())
        collate = caption_collate([], pad_id(tokenizer), token_mean)
        return Training(build_language_model(model, tokenizer, config.seed), WeightedCrossEntropy(), items, collate)

    folder = train_reference(key, tuning_settings(config, trainer), config.seed, training, "the data's texts")
    return lambda: load_text_model(str(folder))


def tuning_settings(config: TuningConfig, trainer: TrainerConfig) -> TrainerConfig:
    """The run's trainer settings with the reference's own steps, batch, optimizer and schedule."""
    return dataclasses.replace(
        trainer,
        max_steps=config.steps,
        batch_size=config.batch_size,
        optimizer="adamw",
        learning_rate=config.learning_rate,
        weight_decay=0.01,
        max_grad_norm=1.0,
        warmup_ratio=0.05,
        schedule="cosine",
    )


def prompt_ids(text: str, reader: TextIds, begin: str = "") -> np.ndarray:
    """int32 ids of a question, up to where its answer begins: one turn of a chat if the tokenizer has a template.

    Args:
        text: The question.
        reader: Of the tokenizer, whose chat template, if it has one, sets the marks.
        begin: What stands between question and answer where there is no template.

    Raises:
        UserError: the chat template refuses it.
    """
    if reader.tokenizer.chat_template:
        try:
            return np.array(Chat(reader).ids([{"role": "user", "content": text}], ask=True), np.int32)
        except BadRow as error:
            raise UserError(str(error), f"prompt={text[:60]!r}", "choose a model with another chat template") from error
    return np.array([*reader.start, *reader.ids(text + begin)], np.int32)


def pad_id(tokenizer: Any) -> int:
    """What pads; it is masked everywhere, so that any token would do."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
