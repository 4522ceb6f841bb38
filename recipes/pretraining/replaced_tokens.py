"""Replaced-token detection: a generator fills masks with likely tokens, an encoder says which tokens it wrote.

    L = w_G sum_{t in m} -log G(x_t | masked x) / |m|  +  w_D sum_t BCE(D_t(corrupted x), y_t) / T
    corrupted x_t ~ softmax(G_t / temperature) in m, x_t elsewhere;     y_t = 1 where corrupted x_t is not x_t

No gradient goes from the second sum into the generator, but both read one table of embeddings.

    tokens = ReplacedTokens(encoder, MaskedLM(narrow, encoder.embeddings))    # any two encoders, however they attend
    Training(tokens, ReplacedTokenLoss(), rows, rows.collate)                 # rows of `masked_rows.MaskedRows`

Source:
    ELECTRA (arXiv 2003.10555), Section 2; a token that the generator guesses right counts as the text's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu

from recipes.pretraining.masked_lm import MaskedLM, draw, pair, sample_tokens

GENERATOR_WEIGHT, DISCRIMINATOR_WEIGHT = 1.0, 50.0


@dataclass(frozen=True)
class Corrupted:
    """What the discriminator reads of rows [B, T].

    Attributes:
        ids: int64 [B, T] with the generator's tokens in place of the chosen ones.
        replaced: bool [B, T] where they are not the text's.
        loss: Sum of the generator's losses of the chosen tokens; 0 of one that is not trained.
        nll: [N] each of them, without gradient; empty where there is no generator.
        drawn: int64 [N] the tokens in the chosen places.
        states: [N, E] what the generator's head made of these; empty where there is none.
    """

    ids: Tensor
    replaced: Tensor
    loss: Tensor
    nll: Tensor
    drawn: Tensor
    states: Tensor


@dataclass(frozen=True)
class Sampling:
    """What tokens stand in the place of the chosen ones.

    Attributes:
        temperature: Of the generator's distribution.
        disallow_correct: Whether the text's token is never drawn, so that all chosen tokens are replaced.
        frequencies: float [V] tokens are drawn from in place of a generator; None: there is one.
        special: bool [V] tokens that stand for no text: a generator draws none, and the encoder reads no [MASK].
    """

    temperature: float = 1.0
    disallow_correct: bool = False
    frequencies: Tensor | None = None
    special: Tensor | None = None


class DetectionHead(nn.Module):
    """Linear layer, GELU, linear layer: states to one logit each, above 0 for a token that was replaced."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(width, width), nn.Linear(width, 1)
        for layer in (self.dense, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """[..., width] to [...], in the dtype of the head: `trainer.dtype` is that of encoders alone."""
        logits: Tensor = self.out(gelu(self.dense(states.to(self.out.weight.dtype))))[..., 0]
        return logits


class ReplacedTokens(nn.Module):
    """An encoder that reads what a generator wrote.

    Args:
        encoder: The discriminator, of `transformers`: what is kept after pretraining.
        generator: Made with `encoder.embeddings` where both are to read one table; None: `sampling` has frequencies.
        head: Of the encoder's states; None: one that detects replaced tokens.
        sampling: How tokens are drawn.
    """

    frequencies: Tensor | None
    special: Tensor | None

    def __init__(
        self, encoder: Any, generator: MaskedLM | None, head: nn.Module | None = None, sampling: Sampling | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.generator, self.sampling = encoder, generator, sampling or Sampling()
        self.head = head or DetectionHead(encoder.config.hidden_size)
        self.register_buffer("frequencies", self.sampling.frequencies, persistent=False)
        self.register_buffer("special", self.sampling.special, persistent=False)

    def corrupt(self, batch: dict[str, Tensor]) -> Corrupted:
        """Tokens of a batch (`masked_rows.Masker.batch`) in place of the chosen ones; its loss has a gradient."""
        ids, chosen = batch["input_ids"], batch["chosen"]
        targets, draws = ids[chosen], batch["draws"][chosen]
        if self.generator is None:
            drawn = self._from_frequencies(targets, draws)
            loss = draws.new_zeros(())
            nll = states = draws.new_zeros(0)
        else:
            states = self.generator.states(batch["masked_ids"], batch["attention_mask"], chosen)
            loss, nll = self.generator.loss(states, targets)
            forbidden = targets if self.sampling.disallow_correct else None
            temperature = self.sampling.temperature
            drawn = sample_tokens(states, self.generator.output, draws, temperature, forbidden, self.special)
        corrupted = ids.masked_scatter(chosen, drawn)
        return Corrupted(corrupted, corrupted != ids, loss, nll, drawn, states)

    def forward(
        self, batch: dict[str, Tensor], read: Callable[["ReplacedTokens", Tensor, Corrupted], Any] | None = None
    ) -> tuple[Corrupted, Any]:
        """Corrupted rows, and what is read of the encoder's states of them.

        Args:
            batch: See `corrupt`.
            read: Given this model, states [B, T, width] and the rows; None: the head's logits [B, T].
        """
        corrupted = self.corrupt(batch)
        states = self.encoder(input_ids=corrupted.ids, attention_mask=batch["attention_mask"]).last_hidden_state
        return corrupted, self.head(states) if read is None else read(self, states, corrupted)

    def _from_frequencies(self, targets: Tensor, draws: Tensor) -> Tensor:
        assert self.frequencies is not None
        probabilities = self.frequencies.expand(len(targets), -1)
        if self.sampling.disallow_correct:
            probabilities = probabilities.scatter(1, targets[:, None], 0.0)
        return draw(probabilities, draws) if len(targets) else targets


class ReplacedTokenLoss:
    """The loss of generator and discriminator, each a mean over its own tokens of the whole batch.

    Args:
        generator_weight: w_G
        discriminator_weight: w_D
        chosen_only: Whether only the chosen tokens carry the discriminator's loss (the paper's ELECTRA 15%).
    """

    def __init__(
        self,
        generator_weight: float = GENERATOR_WEIGHT,
        discriminator_weight: float = DISCRIMINATOR_WEIGHT,
        chosen_only: bool = False,
    ) -> None:
        self.weights, self.chosen_only = (generator_weight, discriminator_weight), chosen_only

    def carriers(self, batch: dict[str, Tensor]) -> Tensor:
        """bool [B, T] tokens with a loss of the discriminator: all but padding, [CLS] and [SEP] too."""
        return batch["chosen"] if self.chosen_only else batch["attention_mask"].bool()

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """[2] chosen tokens, and those with a loss of the discriminator."""
        return torch.stack([batch["chosen"].sum(), self.carriers(batch).sum()]).float()

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `recipes.core.training.task.Objective`."""
        corrupted, logits = model(batch)
        carriers = self.carriers(batch)
        losses = detection_losses(logits, corrupted.replaced)[carriers]
        counts = normalizer.clamp_min(1)
        loss = self.weights[0] * corrupted.loss / counts[0] + self.weights[1] * losses.sum() / counts[1]
        return loss, generator_metrics(batch, corrupted) | {"disc_loss": pair(losses)}


def detection_losses(logits: Tensor, replaced: Tensor) -> Tensor:
    """[...] nats of each logit, in float32 (float64 of float64), where a token was replaced or not."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return binary_cross_entropy_with_logits(exact, replaced.to(exact), reduction="none")


@torch.no_grad()
def generator_metrics(batch: dict[str, Tensor], corrupted: Corrupted) -> dict[str, Tensor]:
    """Metrics of an objective: the generator's loss, and the share of chosen tokens that were replaced."""
    metrics = {"replaced": pair(corrupted.replaced[batch["chosen"]])}
    return metrics | ({"mlm_nll": pair(corrupted.nll)} if len(corrupted.nll) else {})
