"""Which tokens may be merged, how far texts are reduced, and rows of merged tokens. Pure functions."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

PRETOKENS, WORD, WORD_HYPHEN, SENTENCE = "pretokens", "word", "word_hyphen", "sentence"
SPACES = frozenset(b" \n\t")
Lookup = Callable[[Tensor], Tensor]  # rows [n, d] of old tokens, by their ids [n]


def may_merge(
    left: bytes, right: bytes, boundary: str, count_words: Callable[[str], int], allow_spaces: bool = False
) -> bool:
    """Whether two adjacent tokens, none of them a control token, may become one.

    Args:
        left: Bytes of one.
        right: Bytes of the next.
        boundary: "pretokens": the new token is one pre-token; "word": it holds no white space behind its beginning;
            "word_hyphen": the same, and of punctuation only a hyphen may follow anything but punctuation; "sentence":
            no limit but that of white space.
        count_words: Pre-tokens of a text.
        allow_spaces: Leave the rule of white space out: none but at a token's beginning, runs of it apart.

    Source:
        arXiv 2411.18553, Section 3.1; the rule of white space comes first in the released code.
    """
    data = left + right
    if not allow_spaces and not SPACES.isdisjoint(data[1:]) and (not SPACES.issuperset(data) or data == b"\n\n"):
        return False
    try:
        text = data.decode()
    except UnicodeDecodeError:  # parts of a character may always come together
        return True
    if boundary == PRETOKENS:
        return count_words(text) == 1
    if boundary == SENTENCE:
        return True
    if boundary == WORD_HYPHEN and is_punctuation(right) and not is_punctuation(left) and right.strip() != b"-":
        return False
    return len(text.split()) == 1


def is_punctuation(token: bytes) -> bool:
    """Whether a token is punctuation or symbols only, white space apart."""
    text = token.decode(errors="replace").strip()
    return bool(text) and all(unicodedata.category(character)[0] in "PS" for character in text)


def relative(length: float, plain: float, words: float) -> float:
    """rel: percent of the way from base tokens, L(0), to words; 0 where there is no way."""
    return 100 * (plain - length) / (plain - words) if plain > words else 0.0


def absolute(length: float, plain: float) -> float:
    """abs: percent of the base tokens that are saved."""
    return 100 * (1 - length / plain)


def merges_for(lengths: Sequence[int], reduction: float) -> int:
    """The least number of merges m with rel(m) at least `reduction`; `lengths` are L(0) to L(words)."""
    most = lengths[0] - reduction / 100 * (lengths[0] - lengths[-1])
    return next(merges for merges, length in enumerate(lengths) if length <= most + 1e-9)


def longest_prefixes(data: bytes, ids: Mapping[bytes, int], longest: int, without: bytes = b"") -> list[int]:
    """Tokens that spell some bytes, each the longest that the rest begins with; empty where they get stuck.

    Args:
        data: The bytes.
        ids: Tokens by their bytes.
        longest: Bytes of the longest token.
        without: A token that is not used.
    """
    spelled, at = list[int](), 0
    while at < len(data):
        ends = range(min(len(data), at + longest), at, -1)
        end = next((end for end in ends if data[at:end] in ids and data[at:end] != without), None)
        if end is None:
            return []
        spelled.append(ids[data[at:end]])
        at = end
    return spelled


def mean_rows(pieces: Sequence[Sequence[int]], lookup: Lookup) -> Tensor:
    """[n, d] the mean of the rows of each token's pieces (FVT)."""
    sizes = torch.tensor([len(ids) for ids in pieces])
    rows = lookup(torch.tensor([piece for ids in pieces for piece in ids])).float()
    owners = torch.repeat_interleave(torch.arange(len(pieces)), sizes).to(rows.device)
    sums = torch.zeros(len(pieces), rows.shape[1], device=rows.device).index_add(0, owners, rows)
    return sums / sizes.to(rows.device)[:, None]


def piece_features(pieces: Sequence[Sequence[int]], lookup: Lookup) -> Tensor:
    """[n, 3 d] rows of the first and of the last piece, and the mean of all."""
    ends = [lookup(torch.tensor([ids[at] for ids in pieces])).float() for at in (0, -1)]
    return torch.cat([*ends, mean_rows(pieces, lookup)], 1)


def fit_ridge(features: Tensor, rows: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Ridge regression with an intercept, in float64.

    W = (X'X + lambda I)^-1 X'Y over centred X [n, p] and Y [n, d], lambda = penalty * trace(X'X) / p; b = y - x W of
    the means x and y.

    Args:
        features: [n, p]
        rows: [n, d]
        penalty: Over the mean of the diagonal of X'X.

    Returns:
        Weights [p, d] and intercept [d], float32.
    """
    x, y = features.double(), rows.double()
    middle, goal = x.mean(0), y.mean(0)
    x, y = x - middle, y - goal
    gram = x.T @ x
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, x.T @ y)
    return weights.float(), (goal - middle @ weights).float()
