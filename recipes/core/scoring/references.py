"""References: frozen text models whose per-token NLLs are computed once and cached.

One stored array, the NLL in fp32, serves every weighting: 1 - p = -expm1(-nll), surprisal, p. Its key is made of
the model (weights, config, dtype) and the token ids, so that arms, seeds and sweep cells share it and a changed
model, tokenizer or text never reads an old one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from recipes.core.errors import RunFailed
from recipes.core.losses.kernels import token_nll
from recipes.core.models.head import OutputHead, output_head
from recipes.core.runs.progress import progress
from recipes.core.storage.cache import cached
from recipes.core.storage.files import sha256_json

BATCH_TOKENS = 8192
FORMAT = 1
SCORES = "nll.safetensors"
# What a config says about the file it came from, not about what it computes; the dtype is hashed with the weights.
PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "dtype")


class Tokens(Protocol):
    """What scoring reads of a split's tokens (`recipes.core.data.text.tokenized.TokenizedCaptions`)."""

    lengths: np.ndarray  # int32 [captions]
    offsets: np.ndarray  # int64 [captions + 1]

    def ids(self, i: int) -> np.ndarray:
        """int32 [k] token ids of caption i, end of text included."""

    def fingerprint(self) -> str:
        """Hash of all ids."""


@dataclass(frozen=True)
class ReferenceScores:
    """NLLs of every token of a split under a reference, memory-mapped.

    Attributes:
        flat: float32 [tokens] NLL in nats, caption after caption.
        offsets: int64 [captions + 1] where each caption starts.
        forwards: Forward passes it took to get them; 0 when they came from the cache.
    """

    flat: np.ndarray
    offsets: np.ndarray
    forwards: int

    def nll(self, i: int) -> np.ndarray:
        """float32 [k] NLL in nats of caption i's tokens, end of text included."""
        return self.flat[self.offsets[i] : self.offsets[i + 1]]


def reference_scores(
    model: nn.Module, tokenized: Tokens, bos_id: int, batch_tokens: int, device: str
) -> ReferenceScores:
    """The scores of a split under a reference, computed only if no run has done so before.

    Args:
        model: A `TextModel`, as in `caption_nlls`.
        tokenized: The captions' tokens, from the tokenizer that the trained model uses.
        bos_id: Token id put before every caption.
        batch_tokens: Padded tokens per forward; no result depends on it beyond rounding.
        device: "cpu" or "cuda"; the model is moved there if it has to score.

    Raises:
        RunFailed: the reference gives a token no finite log-probability.
    """
    forwards = 0

    def build(folder: Path) -> None:
        nonlocal forwards
        forwards = len(batches(tokenized.lengths, batch_tokens))
        captions = [tokenized.ids(i) for i in range(len(tokenized.lengths))]
        nlls = caption_nlls(model, captions, bos_id, device, batch_tokens)
        save_file({"nll": np.concatenate([np.zeros(0, np.float32), *nlls])}, folder / SCORES)

    parts = {"model": weights_hash(model), "tokens": tokenized.fingerprint(), "bos": bos_id, "format": FORMAT}
    folder = cached("references", sha256_json(parts), build)
    # The torch loader maps the file, the numpy loader would read all of it.
    flat = load_file(folder / SCORES)["nll"].numpy()
    return ReferenceScores(flat, np.asarray(tokenized.offsets), forwards)


def caption_nlls(
    model: nn.Module,
    captions: Sequence[Sequence[int] | np.ndarray],
    bos_id: int,
    device: str,
    batch_tokens: int = BATCH_TOKENS,
) -> list[np.ndarray]:
    """NLL of every token given the tokens before it, in batches of captions of similar length.

    Args:
        model: A `TextModel`: `forward(input_ids, attention_mask, pixels, readout)`. It is moved to the device and
            computes in the dtype of its weights, the softmax in fp32.
        captions: Token ids of each, end of text included.
        bos_id: Token id put before every caption.
        device: Where to compute.
        batch_tokens: Padded tokens per forward.

    Returns:
        One float32 array [k] in nats a caption.

    Raises:
        RunFailed: the reference gives a token no finite log-probability.
    """
    found = [np.zeros(0, np.float32)] * len(captions)
    training = model.training
    model.to(device).eval()
    try:
        done = 0
        with progress("scoring captions with the reference", len(captions)) as show:
            for batch in batches([len(caption) for caption in captions], batch_tokens):
                rows = [torch.tensor(np.asarray(captions[i], np.int64)) for i in batch]
                for i, nll in zip(batch, _forward(model, rows, bos_id, device), strict=True):
                    found[i] = _finite(nll, i)
                done += len(batch)
                show(done)
    finally:
        model.train(training)
    return found


def batches(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Caption indices in batches of at most `batch_tokens` padded tokens, longest first.

    Longest first, so that a batch too large for the device fails at once. A caption longer than the budget is a
    batch of its own.
    """
    found: list[list[int]] = []
    width = 0
    for i in np.argsort(-np.asarray(lengths), kind="stable"):
        if not found or (len(found[-1]) + 1) * width > batch_tokens:
            found.append([])
            width = int(lengths[i])
        found[-1].append(int(i))
    return found


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over a text model's config and the name, dtype, shape and bytes of all its parameters and buffers.

    The config counts because models of equal weights can differ in heads or activation; where it was read from
    does not. What its output head is besides a weight counts once more.
    """
    config = model.language_model.config.to_dict()  # type: ignore[union-attr, operator]
    digest = hashlib.sha256(sha256_json({k: v for k, v in config.items() if k not in PROVENANCE}).encode())
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    head = output_head(model.language_model)
    if not head.plain:  # so that scores from before heads were more than weights are found no more
        digest.update(f"head {head.bias is not None} {head.curve}".encode())
    return digest.hexdigest()


@torch.no_grad()
def _forward(model: nn.Module, captions: list[Tensor], bos_id: int, device: str) -> list[np.ndarray]:
    """NLLs of one batch. The last token is only predicted, so inputs are as long as the captions."""
    start = torch.tensor([bos_id])
    inputs = pad_sequence([torch.cat([start, caption[:-1]]) for caption in captions], batch_first=True)
    lengths = [len(caption) for caption in captions]
    mask = (torch.arange(inputs.shape[1]) < torch.tensor(lengths)[:, None]).to(device)
    targets = torch.cat(captions).to(device)

    def read(hidden: Tensor, head: OutputHead) -> Tensor:
        return token_nll(hidden[mask], head, targets)

    nll = model(input_ids=inputs.to(device), attention_mask=mask.long(), pixels=None, readout=read)
    return np.split(nll.float().cpu().numpy(), np.cumsum(lengths)[:-1])


def _finite(nll: np.ndarray, caption: int) -> np.ndarray:
    broken = np.flatnonzero(~np.isfinite(nll))
    if len(broken):
        raise RunFailed(
            "the reference gives a token no finite log-probability",
            where=f"caption {caption}, token {broken[0]}",
            hint="its weights are broken: train it again with a lower reference.learning_rate, or give another one",
        )
    return nll
