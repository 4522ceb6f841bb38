"""Dynamic merges: the sheet's worked example, recounts by brute force, boundaries, rows of merged tokens."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel

from benchmarks.dynamic_merging import by_index, recount
from recipes.core.models.sentences import SentenceEncoder, embed_rows
from recipes.tokenization.dynamic_tokenization import method
from recipes.tokenization.dynamic_tokenization.config import BOUNDARIES, MergesConfig, RowsConfig
from recipes.tokenization.dynamic_tokenization.cuts import StaticVocabulary, cut_texts
from recipes.tokenization.dynamic_tokenization.encoder import embed
from recipes.tokenization.dynamic_tokenization.large import Vocabulary, write_text
from recipes.tokenization.dynamic_tokenization.merging import Merger, merged_lengths
from recipes.tokenization.dynamic_tokenization.token_rows import TokenRows, lookup_of, make_predictor
from recipes.tokenization.dynamic_tokenization.vocabulary import BaseVocabulary, Tokens, read_base
from tests.core import tokenizer_kinds
from tests.tokenization.test_ground import tiny

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def count_words(text: str) -> int:
    return len(BYTE_LEVEL.pre_tokenize_str(text))


def tokens_of(pieces: Sequence[bytes], **options: Any) -> Tokens:
    """A vocabulary of a few pieces, whose bytes spell nothing."""
    return Tokens(BaseVocabulary(None, list(pieces), lambda data: [], count_words), **options)


def test_the_worked_example() -> None:
    tokens = tokens_of([b" un", b"believ", b"able", b" real", b"ing", b" a", b"ble", b"real"])
    texts = [[0, 1, 2, 0, 7], [0, 1, 4, 5, 6]]
    merger = Merger(texts, tokens.join)
    steps = []
    while (pair := merger.step()) is not None:
        steps.append((tuple(map(tokens.data, pair)), merger.length))
    assert steps == [
        ((b" un", b"believ"), 8), ((b" unbeliev", b"able"), 7), ((b" un", b"real"), 6), ((b" unbeliev", b"ing"), 5),
        ((b" a", b"ble"), 4),
    ]  # fmt: skip
    lengths = merged_lengths(texts, tokens.join)
    assert lengths == [10, 8, 7, 6, 5, 4] and merger.step() is None
    assert method.relative(8, 10, 4) == pytest.approx(100 / 3) and method.relative(7, 10, 4) == 50
    assert method.absolute(4, 10) == 60 and method.relative(5, 5, 5) == 0
    assert [method.merges_for(lengths, each) for each in (0, 25, 100 / 3, 50, 51, 100)] == [0, 1, 1, 2, 3, 5]


def test_runs_are_merged_from_the_left_without_overlap() -> None:
    tokens = tokens_of([b"a"])
    merger = Merger([[0] * 5, [0], []], tokens.join)
    assert merger.step() == (0, 0)
    assert [[tokens.data(each) for each in row] for row in merger.texts()] == [[b"aa", b"aa", b"a"], [b"a"], []]


def any_pair(limit: int) -> Callable[[int, int], int | None]:
    """Joins numbers of few digits, so that pairs make tokens that others make, too."""
    return lambda left, right: left + right + 1 if left + right + 1 < limit and (left + right) % 5 != 3 else None


@pytest.mark.parametrize("seed", range(30))
def test_the_index_equals_a_recount(seed: int) -> None:
    draw = np.random.default_rng(seed)
    texts = [draw.integers(0, 2 + seed % 4, draw.integers(0, 40)).tolist() for _ in range(draw.integers(1, 10))]
    join = any_pair(12)
    lengths = merged_lengths(texts, join)
    for merges in range(len(lengths) + 1):
        rows = recount(texts, join, merges)
        assert by_index(texts, join, merges) == rows
        assert sum(map(len, rows)) == lengths[min(merges, len(lengths) - 1)]
    assert all(join(*pair) is None for row in rows for pair in zip(row, row[1:], strict=False))


def test_drawn_pairs_are_all_equally_likely_and_end_as_others_do() -> None:
    texts = [[0, 0, 0, 0, 1, 2, 3, 4]]
    firsts = [
        Merger(texts, lambda left, right: left + right + 10, np.random.default_rng(seed)).step() for seed in range(500)
    ]
    counts = {pair: firsts.count(pair) for pair in set(firsts)}
    assert set(counts) == {(0, 0), (0, 1), (1, 2), (2, 3), (3, 4)} and min(counts.values()) > 60
    merger = Merger([[0, 1, 0, 1, 1], [1, 0]], any_pair(12), np.random.default_rng(0))
    while merger.step() is not None:
        pass
    assert all(any_pair(12)(*pair) is None for row in merger.texts() for pair in zip(row, row[1:], strict=False))


@pytest.mark.parametrize(
    ("left", "right", "boundaries"),
    [
        (b" un", b"believ", "pretokens word word_hyphen sentence"),
        (b" the", b" cat", ""),
        (b"a", b"\n", ""),
        (b" ", b"\n", "pretokens sentence"),
        (b"\n", b"\n", ""),
        (b"don", b"'", "word sentence"),
        (b"well", b"-", "word word_hyphen sentence"),
        (b"!", b"?", "pretokens word word_hyphen sentence"),
        ("é".encode()[:1], "é".encode()[1:], "pretokens word word_hyphen sentence"),
        (b"a", "é".encode()[:1], "pretokens word word_hyphen sentence"),
    ],
)
def test_what_may_be_merged_within_each_boundary(left: bytes, right: bytes, boundaries: str) -> None:
    for boundary in BOUNDARIES:
        assert method.may_merge(left, right, boundary, count_words) == (boundary in boundaries.split()), boundary
    assert method.may_merge(left, right, "sentence", count_words, True)


@pytest.fixture(scope="module")
def base() -> BaseVocabulary:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    return read_base(tokenizer, len(tokenizer), "")


TEXTS = [
    "the treehouse is redder, isn't it? 12-13",
    " well-made houses\n\nfaster  and faster ünïcode 猫が",
    "<s> a",
    "",
]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_merges_keep_every_byte_and_end_at_words(boundary: str, base: BaseVocabulary) -> None:
    tokens = Tokens(base, boundary)
    texts = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    cuts = cut_texts(texts, tokens, MergesConfig(batch=3, counts=(1, 400)), (0.0, 50.0, 100.0), 0)
    assert cuts.levels[0] == texts and cuts.counted[400] == list(map(len, cuts.levels[100])) == cuts.words
    assert sum(map(len, texts)) > sum(cuts.counted[1]) > sum(cuts.words)
    for rows in cuts.levels.values():
        for row, text in zip(rows, texts, strict=True):
            assert b"".join(map(tokens.data, row)) == b"".join(map(tokens.data, text))
            assert all(not set(tokens.data(each)[1:]) & set(b" \n") or tokens.data(each).isspace() for each in row)
            assert [each for each in row if not tokens.data(each)] == [each for each in text if not tokens.data(each)]
    if boundary == "pretokens":
        words = [[word for word, _ in base.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
                 for text in TEXTS[:2]]  # fmt: skip
        assert [len(row) for row in cuts.levels[100]][:2] == [len(row) for row in words]


def test_drawn_merges_go_as_far_and_nothing_merges_nothing(base: BaseVocabulary) -> None:
    texts = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    tokens, total = Tokens(base), {}
    for name in ("dynamic", "random", "none", "dropped"):
        cuts = cut_texts(texts, tokens, MergesConfig(name=name, batch=2), (50.0, 100.0), 0)
        total[name] = [sum(map(len, rows)) for rows in cuts.levels.values()]
    assert total["random"][1] == total["dynamic"][1] and total["none"] == [sum(map(len, texts))] * 2
    assert total["dropped"] == total["dynamic"] and cuts.levels[100.0][0][0] == texts[0][0]
    assert cuts.levels[100.0][0][1:] == texts[0][1 - len(cuts.levels[100.0][0]) :]
    assert total["dynamic"][1] < total["random"][0] <= total["dynamic"][0]


def test_a_static_vocabulary_cuts_by_longest_prefixes(base: BaseVocabulary) -> None:
    texts = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    tokens = Tokens(base)
    learnt = StaticVocabulary(texts, tokens, 1000)
    cuts = cut_texts(texts, tokens, MergesConfig(name="static"), (0.0, 50.0, 100.0), 0, learnt)
    assert cuts.levels[0] == texts and list(map(len, cuts.levels[100])) == cuts.words
    known = learnt.ids(method.merges_for(merged_lengths(texts, tokens.join), 50))
    for row, text in zip(cuts.levels[50], texts, strict=True):
        assert b"".join(map(tokens.data, row)) == b"".join(map(tokens.data, text))
        assert all(tokens.data(each) in known or not tokens.data(each) for each in row)
    assert method.longest_prefixes(b"abcab", {b"a": 0, b"ab": 1, b"abc": 2, b"b": 3, b"c": 4}, 3) == [2, 1]
    assert method.longest_prefixes(b"abc", {b"a": 0, b"ab": 1, b"abc": 2, b"c": 4}, 3, b"abc") == [1, 4]
    assert method.longest_prefixes(b"abx", {b"ab": 1}, 2) == []


@pytest.mark.parametrize("kind", ["plain", "word-mark", "unigram", "word-pieces"])
def test_tokens_of_every_kind_are_respelled_and_merged_tokens_spelled(kind: str) -> None:
    tokenizer = tokenizer_kinds.KINDS[kind]()
    base = read_base(tokenizer, len(tokenizer), "")
    assert len(base.respelled) > 10
    for token, pieces in base.respelled.items():
        assert b"".join(base.table[piece] for piece in pieces) == base.table[token] and token not in pieces
    tokens = Tokens(base)
    row = tokenizer("the redhouse goodcat blueslow")["input_ids"]
    merger = Merger([row], tokens.join)
    while merger.step() is not None:
        pass
    merged = merger.texts()[0]
    assert b"".join(map(tokens.data, merged)) == b"".join(map(tokens.data, row)) and len(merged) < len(row)
    assert tokens.data(merged[-1 if kind == "plain" else -2 if not tokens.data(merged[-1]) else -1]) == b" blueslow"
    for token in merged:
        assert b"".join(tokens.data(piece) for piece in tokens.pieces(token)) == tokens.data(token)


def test_ridge_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=draw), torch.randn(50, 3, generator=draw)
    weights, intercept = method.fit_ridge(x, y, 0.3)
    centred = (x - x.mean(0)).double()
    peer = Ridge(alpha=0.3 * float((centred**2).sum() / 6)).fit(x.double(), y.double())
    np.testing.assert_allclose((x @ weights + intercept).numpy(), peer.predict(x.double().numpy()), atol=1e-5)


def test_features_and_mean_rows() -> None:
    rows = torch.arange(8.0).view(4, 2)
    lookup: Callable[[Tensor], Tensor] = rows.__getitem__
    torch.testing.assert_close(method.mean_rows([[0, 1, 3], [2]], lookup), torch.tensor([[8 / 3, 11 / 3], [4, 5]]))
    features = method.piece_features([[0, 1, 3], [2]], lookup)
    torch.testing.assert_close(features, torch.tensor([[0, 1, 6, 7, 8 / 3, 11 / 3], [4, 5, 4, 5, 4, 5.0]]))


def linear_base(base: BaseVocabulary, seed: int) -> Any:
    """An embedding in which the row of a token is a linear function of those that its last merge joined."""
    torch.manual_seed(seed)
    embedding = torch.nn.Embedding(len(base.table), 4)
    left, right = torch.randn(4, 4), torch.randn(4, 4)
    for token, (one, other) in sorted(base.respelled.items()):
        embedding.weight.data[token] = embedding.weight.data[one] @ left + embedding.weight.data[other] @ right
    return type("Model", (), {"get_input_embeddings": lambda self: embedding})()


def test_ridge_finds_a_linear_rule_where_means_do_not(base: BaseVocabulary) -> None:
    lookup = lookup_of(linear_base(base, 0))
    ridge, mean = (make_predictor(RowsConfig(name=name, penalty=1e-9), base, lookup) for name in ("ridge", "fvt"))
    assert min(ridge.cosine) > 0.999 > 0.9 > np.mean(mean.cosine) and len(ridge.cosine) == len(mean.cosine)


def test_rows_whatever_is_kept_and_whose_they_are(base: BaseVocabulary) -> None:
    tokens, lookup = Tokens(base), lookup_of(linear_base(base, 0))
    texts = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS[:3]]
    row = cut_texts(texts, tokens, MergesConfig(), (100.0,), 0).levels[100.0]
    results = []
    for capacity in (5000, 3, 0):
        config = RowsConfig(cache=capacity)
        rows = TokenRows(config, tokens, lookup, make_predictor(config, base, lookup).rows)
        results.append([torch.cat(rows.of_texts([each])) for each in [*row, *row]])
        assert rows.missed == (len({each for text in row for each in text}) if capacity == 5000 else rows.missed)
    for one in results[1:]:
        torch.testing.assert_close(one, results[0])
    known = TokenRows(RowsConfig(), tokens, lookup, lambda pieces: torch.zeros(len(pieces), 4))
    assert torch.equal(known([5, 300]), lookup(torch.tensor([5, 300])))
    predicted = TokenRows(RowsConfig(known="predicted"), tokens, lookup, lambda pieces: torch.zeros(len(pieces), 4))
    some = next(iter(base.respelled))
    assert torch.equal(predicted([1, some]), torch.stack([lookup(torch.tensor(1)), torch.zeros(4)]))  # 1 is <s>


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_search_by_inner_product_writes_what_the_whole_softmax_writes(kind: str, base: BaseVocabulary) -> None:
    model = tiny(kind, len(base.table))
    if kind == "llama":
        model.lm_head = torch.nn.Linear(16, len(base.table))  # with a bias
    lookup, weights = lookup_of(model), torch.cat([model.lm_head.weight, torch.zeros(len(base.table), 1)], 1).detach()
    if model.lm_head.bias is not None:
        weights[:, -1] = model.lm_head.bias.detach()
    vocabulary = Vocabulary(range(len(base.table)), lookup(torch.arange(len(base.table))), weights)
    prompt = torch.tensor([base.tokenizer("the cat sat")["input_ids"]])
    expected = model.generate(prompt, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=3)[
        0, prompt.shape[1] :
    ]
    written = write_text(model, lookup(prompt[0]), vocabulary, Tokens(base), 12, len(base.table))
    text = list(takewhile(lambda token: base.table[token], expected.tolist()))
    assert written.numbers == text and written.data == b"".join(base.table[token] for token in text)
    assert set(written.exact) == set(written.cosine) == set(written.recall) == {1.0}


def test_an_encoder_reads_plain_tokens_as_it_always_did() -> None:
    tokenizer = tokenizer_kinds.word_pieces()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **shape)).eval()
    encoder = SentenceEncoder(model, tokenizer, 64)
    base = read_base(tokenizer, len(tokenizer), "")
    texts = tokenizer(["the cat sat", "a big redhouse and a goodtree", "how"])["input_ids"]
    rows = TokenRows(RowsConfig(), Tokens(base), lookup_of(model), lambda pieces: torch.zeros(0))
    expected = torch.nn.functional.normalize(embed_rows(model, texts, device="cpu"), dim=-1)
    for batch_tokens in (8, 1000):
        torch.testing.assert_close(embed(encoder, texts, rows, batch_tokens), expected, atol=1e-5, rtol=1e-5)
