"""DupMAE's numbers: what rows see, bags of words, similarities, losses, and search against brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.core.config import compose
from recipes.core.config.settings import TrainerConfig
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.head import OutputHead
from recipes.core.models.padded import pad_rows
from recipes.core.models.small_encoder import build_encoder_tokenizer, special_tokens
from recipes.core.search.pairs import TrainingPairs
from recipes.core.training.model_options import cast_parameters
from recipes.pretraining.dupmae.config import BOTH, MEAN, OT, FineTuningConfig, PretrainingConfig
from recipes.pretraining.dupmae.decoder import Decoder, context_stream, query_stream
from recipes.pretraining.dupmae.items import MaskedPieces, cut_pieces
from recipes.pretraining.dupmae.max_logits import max_logits
from recipes.pretraining.dupmae.method import activate, bag_loss, similarity, top_terms, visible_tokens, whole_vectors
from recipes.pretraining.dupmae.model import DuplexAutoEncoder, DuplexLoss, build_masked_lm
from recipes.pretraining.dupmae.retriever import ContrastiveLoss, Retriever, Vectors, encode, fine_tune, search
from recipes.pretraining.masked_lm import MaskedLMLoss

TEXTS = [
    "The cat sees the dog and the dog sees the cat on the mat.",
    "Trees with needles stay green in winter, and trees with leaves do not stay so.",
    "A machine has an engine, four wheels and a driver who sees the road.",
    "Short.",
]
MODEL = SmallEncoderConfig(layers=1, width=16, heads=2, vocabulary=200, positions=32)
G = torch.tensor([[0.0, 1, 3, 0, 1], [1, 0, 0, 0, 4], [2, 0, 2, 1, 0]])
MU = torch.tensor([[2.0, 1, 3, 1, 4]])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(tmp_path_factory.mktemp("home")))
        return build_encoder_tokenizer(MODEL, lambda: TEXTS, "texts")


def batch_of(tokenizer: Any, numbers: list[int] | None = None, **options: Any) -> dict[str, Any]:
    config = PretrainingConfig(length=16, **options)
    items = MaskedPieces(
        cut_pieces(tokenizer, tokenizer(TEXTS, add_special_tokens=False)["input_ids"], 16), 12, config, tokenizer, 3
    )
    return items.collate(list(range(6)) if numbers is None else numbers)


def test_the_visible_sets_of_the_sheet() -> None:
    hidden = torch.tensor([[False, False, True, False], [False, True, False, False]])  # {b}, {a}
    seen = visible_tokens(hidden, torch.tensor([0, 1, 0, 1]))
    names = ["CLS", "a", "b", "SEP"]
    sets = [{name for name, one in zip(names, row, strict=True) if one} for row in seen]
    assert sets == [{"a", "SEP"}, {"CLS", "b", "SEP"}, {"CLS", "a", "SEP"}, {"CLS", "b"}]


def test_the_bag_of_words_of_the_sheet() -> None:
    mu = max_logits(G[None], OutputHead(torch.eye(5)), torch.ones(1, 3, dtype=torch.bool))
    assert mu.equal(MU)
    expected = torch.tensor([[-2.471745, -3.471745, -1.471745, -3.471745, -0.471745]])
    torch.testing.assert_close(torch.log_softmax(mu, 1), expected, atol=1e-6, rtol=0)
    types = torch.tensor([2, 4, 2]).unique()[None]
    assert bag_loss(mu, types, torch.ones(1, 2)).item() == pytest.approx(1.943490, abs=2e-6)
    assert bag_loss(mu, types, torch.full((1, 2), 1 / 3)).item() == pytest.approx(0.647830, abs=1e-6)


def test_the_similarities_of_the_sheet() -> None:
    asked, cls = (torch.tensor([row]) for row in ([0.5, 2, 0, 1, 3], [0.6, 0.8]))
    cls_of, none = torch.tensor([[1.0, -0.5]]), torch.zeros(1, 0)
    assert similarity(cls, asked, cls_of, *top_terms(MU, 0)).item() == pytest.approx(0.2)
    assert [similarity(none, asked, none, *top_terms(MU, k)).item() for k in (1, 2, 5, 9)] == [12, 12, 16, 16]
    assert similarity(cls, asked, cls_of, *top_terms(MU, 2)).item() == pytest.approx(12.2)
    whole = whole_vectors(cls_of, *top_terms(MU, 2), 5)
    assert (torch.cat([cls, asked], 1) @ whole.T).item() == pytest.approx(12.2)
    assert activate(torch.tensor([-1.0, 0, 2]), "relu_log1p").tolist() == pytest.approx([0, 0, np.log(3)])
    assert activate(torch.tensor([-1.0]), "none").item() == -1


def test_more_terms_are_never_less_similar_and_all_are_the_dense_product() -> None:
    torch.manual_seed(0)
    queries, passages = torch.rand(4, 30), torch.rand(7, 30)
    none = torch.zeros(4, 0), torch.zeros(7, 0)
    sims = [similarity(none[0], queries, none[1], *top_terms(passages, k)) for k in range(31)]
    assert all(bool((more >= less).all()) for less, more in zip(sims, sims[1:], strict=False))
    torch.testing.assert_close(sims[-1], queries @ passages.T)


def test_the_largest_logits_are_those_of_all_logits_with_gradients() -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 6, 4), (9, 4)))
    bias = torch.randn(9, dtype=torch.float64, requires_grad=True)
    counted = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()

    def ours(*parts: Tensor) -> Tensor:
        return max_logits(parts[0], OutputHead(parts[1], parts[2]), counted, chunk=7)

    plain = (hidden @ weight.T + bias).masked_fill(~counted[..., None], -torch.inf).amax(1)
    torch.testing.assert_close(ours(hidden, weight, bias), plain)
    assert torch.autograd.gradcheck(ours, (hidden, weight, bias))
    order = torch.tensor([0, 3, 1, 5, 2, 4])
    moved = max_logits(hidden[:1, order], OutputHead(weight, bias), counted[:1, order])
    assert moved.equal(ours(hidden, weight, bias)[:1])


def test_a_row_never_sees_itself_and_only_h_where_all_is_hidden(tokenizer: Any) -> None:
    lm = build_masked_lm(MODEL, tokenizer, 0)
    embeddings, decoder = lm.encoder.embeddings, Decoder(16, 2, 32)
    ids, cls = torch.randint(5, len(tokenizer), (1, 6)), torch.randn(1, 16)
    context, changed = context_stream(embeddings, cls, ids), context_stream(embeddings, cls, ids)
    changed[:, 3] += 1
    for how in ("layernorm", "add"):
        queries = query_stream(embeddings, cls, 6, how)
        visible = visible_tokens(torch.zeros(1, 6, dtype=torch.bool), torch.zeros(6, dtype=torch.long))[None]
        differs = (decoder(queries, context, visible) != decoder(queries, changed, visible)).any(2)[0]
        assert differs.tolist() == [True, True, True, False, True, True]
        first = torch.zeros(1, 6, 6, dtype=torch.bool)
        first[:, :, 0] = True
        assert decoder(queries, context, first).equal(decoder(queries, changed, first))
    assert context[:, 0].equal(cls)


def test_masks_of_a_text_are_its_own_and_take_whole_words(tokenizer: Any) -> None:
    batch = batch_of(tokenizer)
    visible, ids, mask = batch["visible"], batch["input_ids"], batch["attention_mask"].bool()
    assert not visible.diagonal(dim1=1, dim2=2)[:, 1:][mask[:, 1:]].any() and visible.any(2).all()
    special = special_tokens(tokenizer)[ids] & mask
    for row in range(len(ids)):
        length = int(mask[row].sum())
        for place in range(length):
            seen = visible[row, place, :length].clone()
            seen[place] = True
            assert seen[special[row, :length]].all() and not visible[row, place, length:].any()
    hidden = (~visible & mask[:, None])[:, 1:, 1:].float().sum() / (mask.sum(1)[:, None] * mask).sum()
    assert 0.35 < hidden < 0.65
    alone = batch_of(tokenizer, [4])
    length = alone["input_ids"].shape[1]
    assert visible[4, :length, :length].equal(alone["visible"][0])
    assert batch["decoded"].equal(mask & ~special) and batch["ordinary"].equal(mask & (torch.arange(ids.shape[1]) > 0))


@pytest.mark.parametrize(("norm", "largest"), [("length", 1.0), ("none", 100.0)])
def test_weights_of_a_bag_sum_to_its_distinct_share(tokenizer: Any, norm: str, largest: float) -> None:
    batch = batch_of(tokenizer, bow_norm=norm)
    for row, weights in zip(batch["input_ids"], batch["type_weights"], strict=True):
        text = [token for token in row.tolist() if token not in tokenizer.all_special_ids]
        expected = len(set(text)) / (len(text) if norm == "length" else 1)
        assert weights.sum().item() == pytest.approx(expected) and expected <= largest


def test_without_decoders_it_is_plain_masked_words(tokenizer: Any) -> None:
    batch, totals, gradients = batch_of(tokenizer, objective="ot_only"), [], []
    for weighed in (True, False):
        lm = build_masked_lm(MODEL, tokenizer, 0)
        model: Any = DuplexAutoEncoder(lm, PretrainingConfig(objective="ot_only", length=16), 0) if weighed else lm
        loss: Any = DuplexLoss(0.0) if weighed else MaskedLMLoss()
        total, _ = loss(model, batch, loss.normalizer(batch))
        total.backward()
        totals.append(total.item())
        gradients.append(lm.encoder.embeddings.word_embeddings.weight.grad)
    assert totals[0] == pytest.approx(totals[1])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("options", [{}, {"query_embed": "add"}, {"decoder_mask": "plain"}, {"objective": "retromae"}])
def test_micro_batches_add_up_to_the_batch(tokenizer: Any, options: dict[str, Any]) -> None:
    model = DuplexAutoEncoder(build_masked_lm(MODEL, tokenizer, 0), PretrainingConfig(length=16, **options), 0)
    loss, batch = DuplexLoss(0.1), batch_of(tokenizer, **options)
    whole, metrics = loss(model, batch, loss.normalizer(batch))
    parts = [batch_of(tokenizer, numbers, **options) for numbers in ([0, 1], [2, 3, 4, 5])]
    divisor = torch.stack([loss.normalizer(part) for part in parts]).sum(0)
    assert sum(loss(model, part, divisor)[0].item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)
    assert ("bag_nll" in metrics) == (options.get("objective") is None) and torch.isfinite(whole)


@pytest.mark.parametrize("objective", ["dupmae", "mlm"])
def test_divisors_are_counted_where_the_batch_lies(tokenizer: Any, objective: str) -> None:
    batch = {name: part for name, part in batch_of(tokenizer, objective=objective).items() if name != "ids"}
    decoded = batch["decoded"].sum().item() if "decoded" in batch else 0
    assert DuplexLoss(0.1).normalizer(batch).tolist() == [batch["chosen"].sum().item(), decoded, 6]
    elsewhere = {name: part.to("meta") for name, part in batch.items()}  # as on a GPU, numbers of the CPU do not mix in
    assert DuplexLoss(0.1).normalizer(elsewhere).is_meta


def test_an_encoder_may_have_weights_of_bf16(tokenizer: Any) -> None:
    batch, loss, totals = batch_of(tokenizer), DuplexLoss(0.1), []
    for narrow in (False, True):
        model = DuplexAutoEncoder(build_masked_lm(MODEL, tokenizer, 0), PretrainingConfig(length=16), 0)
        if narrow:  # trainer.dtype=bfloat16, where nothing is autocast
            cast_parameters(model.lm.encoder, torch.bfloat16)
        total, _ = loss(model, batch, loss.normalizer(batch))
        total.backward()
        totals.append(total.item())
    assert totals[1] == pytest.approx(totals[0], rel=0.01)


def test_passages_are_compared_in_fp32_under_autocast() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = {name: torch.randn(2, 300, generator=draw) for name in ("cls", "mu", "cls_of", "values")}
    encoded = vectors | {"terms": torch.arange(300).expand(2, -1)}
    options: Any = (encoded, torch.arange(2), torch.zeros(2, 2, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = ContrastiveLoss(1.0).losses(*options)
    assert torch.equal(losses, ContrastiveLoss(1.0).losses(*options)[0])


def test_a_retriever_is_trained_anew_where_other_passages_are_right(
    tokenizer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    rows, shown = tokenizer(TEXTS)["input_ids"], np.array([[0], [1]])
    fresh = Retriever(build_masked_lm(MODEL, tokenizer, 0), MEAN, "none", special_tokens(tokenizer), 0)
    config, weights = FineTuningConfig(steps=1, batch_size=2), []
    for relevant in ([[0], [1]], [[0, 1], [1]]):  # the second time no passage is wrong for the first query
        pairs = TrainingPairs(["a", "b"], rows[2:], rows[:2], shown, relevant)
        tuned = fine_tune(fresh, pairs, config, TrainerConfig(threads=1, device="cpu"), 0)
        weights.append(tuned.lm.encoder.embeddings.word_embeddings.weight)
    assert not torch.equal(*weights)


def test_fine_tuning_in_micro_batches_is_that_of_the_whole_batch(
    tokenizer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tokenizer(TEXTS)["input_ids"]
    fresh = Retriever(build_masked_lm(MODEL, tokenizer, 0), BOTH, "relu_log1p", special_tokens(tokenizer), 0)
    pairs, weights = TrainingPairs(list("abcd"), rows, rows, np.arange(4)[:, None], [[0], [1], [2], [3]]), []
    for most in (None, 1):
        monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / f"{most}"))  # what is cached does not say how it was cut
        trainer = TrainerConfig(threads=1, device="cpu", micro_batch_size=most)
        tuned = fine_tune(fresh, pairs, FineTuningConfig(steps=2, batch_size=4), trainer, 0)
        weights.append(torch.cat([value.detach().flatten() for value in tuned.parameters()]))
    before = torch.cat([value.detach().flatten() for value in fresh.parameters()])
    assert (weights[0] - weights[1]).norm() < 0.01 * (weights[0] - before).norm()


def test_vectors_of_texts_depend_on_no_padding_and_search_is_brute_force(tokenizer: Any) -> None:
    lm, special = build_masked_lm(MODEL, tokenizer, 0), special_tokens(tokenizer)
    rows = tokenizer(TEXTS)["input_ids"]
    retriever = Retriever(lm, BOTH, "none", special, 0)
    passages = encode(retriever, retriever, rows, "cpu", 64, 20)
    queries = encode(retriever, retriever, rows[:2], "cpu", 64, None)
    for number, row in enumerate(rows):
        dense, mu = retriever(*pad_rows([row]))
        torch.testing.assert_close(passages.dense[number], dense[0])
        states = lm.encoder(torch.tensor([row])).last_hidden_state[:, 1:-1]
        torch.testing.assert_close(mu[0], lm.output.logits(lm.head(states)).amax(1)[0])
        torch.testing.assert_close(passages.values[number], mu[0].topk(20).values)
    expected = similarity(queries.dense, queries.mu, passages.dense, passages.terms, passages.values)
    for ranking, row in zip(search(queries, passages, 10, "cpu"), expected, strict=True):
        assert ranking.passages.tolist() == row.argsort(descending=True).tolist()
        np.testing.assert_allclose(ranking.scores, row.sort(descending=True).values.detach(), rtol=1e-4)
    only = encode(r := Retriever(lm, "cls768", "none", special, 0), r, rows, "cpu", 64, r.terms)
    assert only.dense.shape == (4, 16) and only.terms.shape == (4, 0)
    assert len(search(Vectors(*(part[:2] for part in vars(only).values())), only, 10, "cpu")[0]) == 4


@pytest.mark.parametrize("name", [BOTH, OT, "mean"])
def test_the_contrastive_loss_is_the_softmax_of_similarities(tokenizer: Any, name: str) -> None:
    retriever = Retriever(build_masked_lm(MODEL, tokenizer, 0), name, "relu_log1p", special_tokens(tokenizer), 0)
    ids, mask = pad_rows(tokenizer(TEXTS)["input_ids"])
    batch = {"query_ids": ids, "query_mask": mask, "passage_ids": ids, "passage_mask": mask}
    batch |= {"passages": torch.arange(4), "relevant": torch.arange(1, 5)[:, None]}
    loss = ContrastiveLoss(2.0)
    total, _ = loss(retriever, batch, torch.tensor(4.0))
    dense, mu = retriever(ids, mask)
    terms, values = top_terms(mu, retriever.terms)
    expected = torch.nn.functional.cross_entropy(similarity(dense, mu, dense, terms, values) / 2, torch.arange(4))
    torch.testing.assert_close(total, expected)
    total.backward()
    assert (retriever.lm.head.bias.grad is not None) == (name != "mean")


def test_keys_that_an_arm_does_not_read() -> None:
    def unread(*words: str) -> set[str]:
        return {key for key, _ in compose.compose("dupmae", list(words)).unread()}

    assert "pretraining.bow_weight" in unread("arm=retromae") and "pretraining.masks" in unread("arm=plain")
    assert "pretraining.decoder_mask" in unread("arm=mlm") and "pretraining.encoder_mask" in unread("arm=none")
    assert unread("arm=dupmae") == {"pairs.depth"}
