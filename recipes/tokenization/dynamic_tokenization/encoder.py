"""An encoder reads merged tokens: a classifier trained on plain texts is asked about other texts, cut anew."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from recipes.core.data.tasks.labelled import LabelledSet, load_labelled
from recipes.core.data.tasks.labelled_config import LabelledConfig
from recipes.core.evaluation.probe import Probe, probe
from recipes.core.evaluation.probe_config import ProbeConfig
from recipes.core.messages import note
from recipes.core.models.padded import batches, pool
from recipes.core.models.sentences import SentenceEncoder, load_sentence_encoder
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import module_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.core.training.classifier import class_rows
from recipes.tokenization.dynamic_tokenization.config import (
    ACCURACY,
    LOSS,
    DynamicTokenizationConfig,
    RowsConfig,
)
from recipes.tokenization.dynamic_tokenization.cuts import Rows
from recipes.tokenization.dynamic_tokenization.token_rows import TokenRows, lookup_of
from recipes.tokenization.dynamic_tokenization.vocabulary import BaseVocabulary, Tokens, read_base

VERSION = 1
PLAIN = RowsConfig()  # of texts that nothing is merged in


@dataclass(frozen=True)
class EncoderTask:
    """Texts to classify.

    Attributes:
        encoder: A frozen sentence encoder.
        base: Its tokens.
        data: The texts.
        config: Of the run.
    """

    encoder: SentenceEncoder
    base: BaseVocabulary
    data: LabelledSet
    config: DynamicTokenizationConfig

    @staticmethod
    def load(config: DynamicTokenizationConfig, device: str) -> "EncoderTask":
        """Encoder and texts. Raises UserError: they cannot be had."""
        path = getattr(config.model, "path", None)
        encoder = load_sentence_encoder(path, "model.path", device)
        if encoder.max_tokens < config.head.max_tokens:
            note(f"texts are cut to the {encoder.max_tokens} tokens that the encoder reads")
        encoder = replace(encoder, max_tokens=min(encoder.max_tokens, config.head.max_tokens))
        where = f"model.path={path}" if path else "model=minilm"
        base = read_base(encoder.tokenizer, encoder.model.config.vocab_size, where)
        assert isinstance(config.data, LabelledConfig)  # `check` refuses others
        return EncoderTask(encoder, base, load_labelled(config.data), config)

    @property
    def lookup(self) -> Any:
        """Rows of the encoder's own tokens."""
        return lookup_of(self.encoder.model)

    @cached_property
    def texts(self) -> Rows:
        """Tokens of the texts that are asked about, special tokens included."""
        return class_rows(self.base.tokenizer, self.data.test, self.encoder.max_tokens)

    @property
    def training(self) -> Rows:
        """Tokens of the training texts."""
        return class_rows(self.base.tokenizer, self.data.train, self.encoder.max_tokens)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Id and document of each text."""
        return [(each.id, each.document) for each in self.data.test]

    @property
    def counts(self) -> list[float]:
        """What each text counts."""
        return [1.0] * len(self.data.test)

    def values(self, texts: Rows, rows: TokenRows, tokens: Tokens) -> dict[str, list[float]]:
        """Accuracy and loss of each text, cut in some way."""
        right = self.data.numbers(self.data.test)
        logprobs = self._head.logprobs(self._features(texts, rows, tokens, self.config.rows))
        at_class = logprobs[np.arange(len(right)), right]
        return {ACCURACY: (logprobs.argmax(1) == right).astype(float).tolist(), LOSS: (-at_class).tolist()}

    @cached_property
    def _head(self) -> Probe:
        """The classifier of this seed, fitted to plain texts."""
        tokens, head = Tokens(self.base), self.config.head
        rows = TokenRows(PLAIN, tokens, self.lookup, lambda pieces: torch.zeros(0))
        features = torch.from_numpy(self._features(self.training, rows, tokens, PLAIN))
        draw = np.random.default_rng([self.config.seed, 2])
        chosen = np.sort(draw.permutation(len(features))[: max(2, round(head.share * len(features)))])
        data = replace(self.data, train=[self.data.train[at] for at in chosen])
        config = ProbeConfig(strengths=head.strengths, folds=head.folds)
        return probe(data, features[chosen], features[:1], config, self.config.seed)[0]

    def _features(self, texts: Rows, rows: TokenRows, tokens: Tokens, config: RowsConfig) -> np.ndarray:
        """float32 [texts, d], computed once for texts cut in the same way and rows predicted in the same way."""
        words = [[token if tokens.is_base(token) else tokens.data(token).hex() for token in text] for text in texts]
        made_by = {key: value for key, value in asdict(config).items() if key not in ("cache", "checked")}
        is_plain = config.known == PLAIN.known and all(tokens.is_base(token) for text in texts for token in text)
        encoder = [module_hash(self.encoder.model, self.encoder.model.config), self.encoder.pooling]
        key = sha256_json([VERSION, encoder, None if is_plain else made_by, words])[:32]
        size = self.config.evaluation.batch_tokens
        folder = build_once(
            "merged-features",
            key,
            lambda staging: np.save(staging / "features.npy", embed(self.encoder, texts, rows, size).numpy()),
        )
        return np.asarray(np.load(folder / "features.npy"))


@torch.no_grad()
def embed(encoder: SentenceEncoder, texts: Sequence[Sequence[int]], rows: TokenRows, batch_tokens: int) -> Tensor:
    """Vectors of texts of merged tokens, float32 [texts, d] of length 1 on the CPU.

    Args:
        encoder: It reads rows in place of ids.
        texts: Tokens of each.
        rows: Rows of tokens.
        batch_tokens: Padded tokens of a forward.
    """
    vectors, finished = [torch.empty(0)] * len(texts), 0
    with progress("encoding texts", len(texts)) as show:
        for group in batches([len(text) for text in texts], batch_tokens):
            embeds = rows.of_texts([texts[number] for number in group])
            mask = pad_sequence([torch.ones(len(each), dtype=torch.long) for each in embeds], batch_first=True)
            inputs = pad_sequence(embeds, batch_first=True)
            states = encoder.model(inputs_embeds=inputs, attention_mask=mask.to(inputs.device)).last_hidden_state
            pooled = normalize(pool(states, mask.bool().to(inputs.device), encoder.pooling).float(), dim=-1).cpu()
            for number, vector in zip(group, pooled, strict=True):
                vectors[number] = vector
            show(finished := finished + len(group))
    return torch.stack(vectors)
