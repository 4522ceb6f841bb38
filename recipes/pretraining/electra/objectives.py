"""What the encoder learns beside plain detection, and the two ways to train a generator beside the joint one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.losses.kernels import token_nll, weighted_cross_entropy
from recipes.pretraining.electra.method import copy_gate_nll
from recipes.pretraining.masked_lm import VocabularyHead, pair
from recipes.pretraining.replaced_tokens import (
    Corrupted,
    ReplacedTokenLoss,
    ReplacedTokens,
    detection_losses,
    generator_metrics,
)

Batch = dict[str, Tensor]
NO_IDEA = 0.6931471805599453  # loss of a detector that knows nothing, ln 2


class AllTokensHead(VocabularyHead):
    """A head over the vocabulary with a gate that copies what stands there."""

    def __init__(self, width: int, table: nn.Embedding) -> None:
        super().__init__(width, table)
        self.gate = nn.Linear(width, 1)

    def copies(self, states: Tensor) -> Tensor:
        """[N] logits of a copy, of states [N, width]."""
        logits: Tensor = self.gate(states.to(self.bias.dtype))[:, 0]
        return logits


class ReplacedMLMLoss:
    """The text's tokens from rows in which the generator's stand: the chosen ones, or all with a copy gate.

    Args:
        generator_weight: Of the generator's loss.
        all_tokens: Whether all tokens but padding carry loss.
    """

    def __init__(self, generator_weight: float, all_tokens: bool) -> None:
        self.weight, self.all_tokens = generator_weight, all_tokens

    def carriers(self, batch: Batch) -> Tensor:
        """bool [B, T] tokens with a loss of the encoder."""
        return batch["attention_mask"].bool() if self.all_tokens else batch["chosen"]

    def normalizer(self, batch: Batch) -> Tensor:
        """[2] chosen tokens, and those with a loss of the encoder."""
        return torch.stack([batch["chosen"].sum(), self.carriers(batch).sum()]).float()

    def __call__(self, model: nn.Module, batch: Batch, normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `recipes.core.training.task.Objective`."""
        carriers, targets = self.carriers(batch), batch["input_ids"]

        def read(tokens: ReplacedTokens, states: Tensor, corrupted: Corrupted) -> tuple[Tensor, Tensor]:
            head: Any = tokens.head
            output, kept = head.output(tokens.encoder.embeddings.word_embeddings), states[carriers]
            if not self.all_tokens:
                ones = torch.ones(len(kept), device=kept.device)
                return weighted_cross_entropy(head(kept), output, targets[carriers], ones)
            nll = token_nll(head(kept), output, targets[carriers])
            losses = copy_gate_nll(head.copies(kept).to(nll.dtype), nll, corrupted.replaced[carriers])
            return losses.sum(), losses.detach()

        corrupted, (total, losses) = model(batch, read)
        counts = normalizer.clamp_min(1)
        loss = self.weight * corrupted.loss / counts[0] + total / counts[1]
        return loss, generator_metrics(batch, corrupted) | {"encoder_nll": pair(losses)}


class AdversarialLoss(ReplacedTokenLoss):
    """The generator is rewarded for tokens that the encoder judges wrongly, in place of learning the text's.

    REINFORCE: a drawn token's log-probability is weighted by how much more its loss of detection is than that of a
    detector without any idea, ln 2, a constant, so that a micro-batch weights its tokens as the whole batch does.

    Source:
        ELECTRA (arXiv 2003.10555), Section 3.2 and appendix F; the baseline is ours.
    """

    def __call__(self, model: nn.Module, batch: Batch, normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `recipes.core.training.task.Objective`."""

        def read(tokens: ReplacedTokens, states: Tensor, corrupted: Corrupted) -> tuple[Tensor, Tensor]:
            logits = tokens.head(states)
            losses = detection_losses(logits, corrupted.replaced)
            advantages = losses.detach()[batch["chosen"]] - NO_IDEA
            assert tokens.generator is not None
            return losses, tokens.generator.loss(corrupted.states, corrupted.drawn, advantages)[0]

        corrupted, (losses, policy) = model(batch, read)
        counts, kept = normalizer.clamp_min(1), losses[self.carriers(batch)]
        loss = self.weights[0] * policy / counts[0] + self.weights[1] * kept.sum() / counts[1]
        return loss, generator_metrics(batch, corrupted) | {"disc_loss": pair(kept)}


class TwoStageLoss(ReplacedTokenLoss):
    """First the generator alone; then the encoder, which begins with the generator's weights, while that stays.

    Args:
        switch: Steps of the first stage.
        options: Arguments of `ReplacedTokenLoss`.
    """

    def __init__(self, switch: int, *options: Any) -> None:
        super().__init__(*options)
        self.switch, self.second = switch, False

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """Freeze and copy as the number of steps done says; so a run that goes on from a checkpoint does it again."""
        tokens: Any = model
        self.second = step >= self.switch
        tokens.generator.requires_grad_(not self.second)
        if step == self.switch:
            tokens.encoder.load_state_dict(tokens.generator.encoder.state_dict())

    def __call__(self, model: nn.Module, batch: Batch, normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `recipes.core.training.task.Objective`."""
        if self.second:
            return super().__call__(model, batch, normalizer)
        tokens: Any = model
        corrupted = tokens.corrupt(batch)
        return corrupted.loss / normalizer[0].clamp_min(1), generator_metrics(batch, corrupted)


def loss_positions(loss: Any, batch: Mapping[str, Tensor]) -> int:
    """Tokens of a batch with a loss of the encoder that is kept."""
    carriers = loss.carriers(batch) if hasattr(loss, "carriers") else batch["chosen"]
    return int(carriers.sum())
