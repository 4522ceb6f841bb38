"""How a hypernetwork is trained, once for a model: first the rows of old tokens from themselves, then its objective."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.text_ids import start_id, tokenizer_fingerprint
from recipes.core.evaluation.curves import regular_steps
from recipes.core.models.padded import pad_rows
from recipes.core.models.text import check_context
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.training.models import settings_beside, train_once
from recipes.core.training.task import TrainEvents, Training
from recipes.tokenization.config import LM, ROWS, HypernetworkConfig
from recipes.tokenization.hypernetwork import (
    Forms,
    Hypernetwork,
    auxiliary_loss,
    squared_errors,
)
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.sampled_tokenizers import TextWindows, TokenizerSampler

VERSION = 1
KIND, WEIGHTS, SNAPSHOT = "hypernetworks", "hypernetwork.safetensors", "step-{}.safetensors"


class RowItems:
    """Old tokens and the old tokens that spell them, `size` of them, each before any comes again.

    Args:
        tokens: Their ids.
        pieces: Of each the ids that spell it.
        size: How many items.
        seed: Decides the order.
    """

    def __init__(self, tokens: Sequence[int], pieces: Sequence[Sequence[int]], size: int, seed: int) -> None:
        draw, rounds = np.random.default_rng(seed), -(-size // len(tokens))
        self._order = np.concatenate([draw.permutation(len(tokens)) for _ in range(rounds)])[:size]
        self._tokens, self._pieces = tokens, pieces

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = int(self._order[index])
        return {"id": f"token {self._tokens[at]}", "token": self._tokens[at], "pieces": list(self._pieces[at])}

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """`tokens` [batch], their `pieces` as lists, `ids`."""
        tokens = torch.tensor([item["token"] for item in items])
        return {"tokens": tokens, "pieces": [item["pieces"] for item in items], "ids": [item["id"] for item in items]}


class RowLoss:
    """Mean squared distance of the rows of old tokens from what they are.

    Args:
        source: The old model.
        longest: Pieces that are read of a token.
    """

    def __init__(self, source: OldRows, longest: int) -> None:
        self._source, self._longest = source, longest

    def normalizer(self, batch: dict[str, Any]) -> Tensor:
        """Tokens of this micro-batch."""
        return torch.tensor(float(len(batch["pieces"])))

    def __call__(self, model: nn.Module, batch: dict[str, Any], normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Its sum over the normalizer, and the mean."""
        rows = model(Forms.of(batch["pieces"], self._longest)).float()
        total = squared_errors(rows, self._source.rows[batch["tokens"]], self._source.parts).sum()
        return total / normalizer, {"distance": torch.stack([total.detach(), torch.full_like(total, len(rows))])}


class TransferLoss:
    """What the frozen model pays for texts that random tokenizers cut, reading them through predicted rows.

        L = mean over tokens of -ln p + auxiliary * L_aux; p over the tokens of the step's tokenizer alone

    Args:
        source: The old model.
        sampler: Draws the tokenizer of a step.
        config: Length of texts, weight of the auxiliary loss.

    Source:
        ZeTT (arXiv 2405.07883), Sections 3.2 and 3.3.
    """

    def __init__(self, source: OldRows, sampler: TokenizerSampler, config: HypernetworkConfig) -> None:
        self._source, self._sampler, self._config = source, sampler, config
        start = start_id(source.tokenizer)
        self._kept = sorted({*source.control, start})
        self._start, self._sampled = self._kept.index(start), sampler(0)

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """A tokenizer for the step, the same for all its micro-batches and processes."""
        self._sampled = self._sampler(step)

    def normalizer(self, batch: dict[str, Any]) -> Tensor:
        """Predicted tokens of this micro-batch."""
        return torch.tensor(float(sum(map(len, self._sampled.rows(batch["texts"], self._config.length)))))

    def __call__(self, model: nn.Module, batch: dict[str, Any], normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch; the auxiliary loss is shared out by predicted tokens."""
        source, sampled, device = self._source, self._sampled, self._source.rows.device
        predicted = model(sampled.forms).float()
        # Control tokens keep their rows and stand behind the others.
        rows = torch.cat([predicted, source.rows[self._kept]])
        begin = len(predicted) + self._start
        texts = [[begin, *row] for row in sampled.rows(batch["texts"], self._config.length)]
        ids, mask = (part.to(device) for part in pad_rows(texts))
        loss, nll = source.nll(rows, ids, mask)
        old, single = source.rows[sampled.forms.first.to(device)], sampled.single.to(device)
        distance = auxiliary_loss(predicted, old, single, source.parts)
        count = torch.full_like(distance, float(len(nll)))
        metrics = {
            "nll": torch.stack([nll.sum().float(), count]),
            "auxiliary": torch.stack([distance.detach() * count, count]),
        }
        return (loss + self._config.auxiliary * distance * count) / normalizer, metrics


class _Snapshots(TrainEvents):
    """Keeps the network as it is after some steps.

    Args:
        folder: Where.
        steps: After which steps.
    """

    def __init__(self, folder: Path, steps: frozenset[int]) -> None:
        self._folder, self._steps = folder, steps

    def on_step_end(self, step: int, model: nn.Module) -> None:
        if step in self._steps:
            save_weights(model, self._folder / SNAPSHOT.format(step))


def trained_hypernetwork(
    source: OldRows,
    config: HypernetworkConfig,
    trainer: TrainerConfig,
    seed: int,
    texts: Sequence[str],
    fingerprint: str,
) -> "Trained":
    """A hypernetwork for a model, trained if no run has done so before.

    Args:
        source: The model.
        config: Size and training.
        trainer: The run's: device, threads, precision and steps between checkpoints are taken from it.
        seed: Of its weights, and of all that is drawn.
        texts: What random tokenizers are made from and the model reads.
        fingerprint: Hash of the texts.

    Raises:
        UserError: the pieces of old tokens are asked for, and the tokenizer has no merges; or texts of `length` tokens
            do not fit the context of the model.
    """
    if config.objective == LM:
        check_context(source.model, 1 + config.length, "hypernetwork.length")
    config = replace(config, identity_batch=min(config.identity_batch, len(source.text_tokens)))
    common = [VERSION, weights_hash(source.model), tokenizer_fingerprint(source.tokenizer)]
    if config.objective == ROWS:
        common.append(["without held-out rows", config.held_out])
    shape = [config.width, config.layers, config.pieces, config.clip]
    network = Hypernetwork(source.rows, source.width, config, seed)
    begun: Path | None = None
    if config.identity_steps:
        key = [*common, shape, config.identity_steps, config.identity_batch, config.identity_rate]
        begun = _train(key, _identity(source, config, network, seed), config, trainer, seed, identity=True)
        load_weights(network, begun / WEIGHTS)
    key = [*common, asdict(replace(config, snapshots=0)), config.snapshots, fingerprint]
    folder = _train(key, _transfer(source, config, network, texts, seed), config, trainer, seed, identity=False)
    return Trained(network, folder)


class Trained:
    """A trained hypernetwork, and what it was on the way.

    Args:
        network: Of its size.
        folder: What training has left.
    """

    def __init__(self, network: Hypernetwork, folder: Path) -> None:
        self._network, self._folder = network.eval().requires_grad_(False), folder
        names = [path.stem.partition("-")[2] for path in folder.glob(SNAPSHOT.format("*"))]
        self.steps = sorted(map(int, names))

    def network(self, step: int | None = None) -> Hypernetwork:
        """The network after a step, one of `steps`; None: at the end. The next call changes it."""
        load_weights(self._network, self._folder / (WEIGHTS if step is None else SNAPSHOT.format(step)))
        return self._network


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the weights of a hypernetwork; the old rows are no part of them."""
    save_file({name: values.detach().cpu().contiguous() for name, values in network.state_dict().items()}, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote."""
    network.load_state_dict(load_file(path))


def half_merged(source: OldRows, config: HypernetworkConfig, seed: int) -> tuple[list[int], list[list[int]], int]:
    """Old tokens as the first half of the merges spells them, in a random order.

    Returns:
        Ids, pieces of each, and how many of the first are to be trained on; the others are held out.
    """
    tokens = np.random.default_rng(seed).permutation(source.text_tokens).tolist()
    pieces = source.pieces(tokens, source.shorter())
    return tokens, pieces, max(1, round(len(tokens) * (1 - config.held_out)))


def _identity(source: OldRows, config: HypernetworkConfig, network: Hypernetwork, seed: int) -> Callable[[], Training]:
    tokens = source.text_tokens
    if config.objective == ROWS:
        shuffled, _, count = half_merged(source, config, seed)
        tokens = sorted(shuffled[:count])

    def training() -> Training:
        size = config.identity_steps * config.identity_batch
        items: Any = RowItems(tokens, [[token] for token in tokens], size, seed)
        return Training(network, RowLoss(source, config.pieces), items, RowItems.collate)

    return training


def _transfer(
    source: OldRows, config: HypernetworkConfig, network: Hypernetwork, texts: Sequence[str], seed: int
) -> Callable[[], Training]:
    every = max(1, config.steps // config.snapshots) if config.snapshots else 0
    steps = regular_steps(config.steps, every) if every else frozenset[int]()

    def training() -> Training:
        size = config.steps * config.batch_size
        if config.objective == LM:
            sampler = TokenizerSampler(config.sampled, texts, source.spell, config.pieces, seed)
            loss = TransferLoss(source, sampler, config)
            windows: Any = TextWindows(texts, size, config.sampled.characters, [seed, size])
            return Training(network, loss, windows, text_collate, {}, steps, loss.before_step)
        tokens, pieces, count = half_merged(source, config, seed)
        items: Any = RowItems(tokens[:count], pieces[:count], size, seed)
        return Training(network, RowLoss(source, config.pieces), items, RowItems.collate, {}, steps)

    return training


def text_collate(items: list[dict[str, str]]) -> dict[str, Any]:
    """`texts` and `ids`; the step's tokenizer cuts them."""
    return {"texts": [item["text"] for item in items], "ids": [item["id"] for item in items]}


def _train(
    key: Any,
    training: Callable[[], Training],
    config: HypernetworkConfig,
    trainer: TrainerConfig,
    seed: int,
    *,
    identity: bool,
) -> Path:
    settings = settings_beside(
        trainer,
        config.identity_steps if identity else config.steps,
        config.identity_batch if identity else config.batch_size,
        config.identity_rate if identity else config.learning_rate,
        max_grad_norm=config.clip,
        schedule="cosine",
        save_steps=trainer.save_steps,
    )
    what = "the rows of old tokens" if identity or config.objective != LM else "texts that random tokenizers cut"
    return train_once(
        KIND,
        key,
        settings,
        seed,
        training,
        lambda model, folder: save_weights(model, folder / WEIGHTS),
        name=f"a hypernetwork ({settings.max_steps:,} steps)",
        what=what,
        events=lambda folder, steps: _Snapshots(folder, steps),
        resumable=True,
    )
