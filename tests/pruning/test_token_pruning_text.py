"""`model=minilm`: words pruned in a sentence encoder, here a tiny random BERT; no test needs an asset."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.report.heatmap import read_heatmap
from recipes.pruning.adapters import prune
from recipes.pruning.options import FullOptions
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning import texts
from recipes.pruning.token_pruning.agreement import agreement
from recipes.pruning.token_pruning.recipe import Prepared, TokenPruningRecipe
from recipes.pruning.token_pruning.texts import Texts

WORDS = [f"w{number}" for number in range(30)]
RUN = ("model=minilm", "budget=smoke", "tracker=none", "trainer.threads=1", "keep=[0.5,0.25]", "data.min_tokens=10")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of six random blocks with a vocabulary of words, in its folder."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##ly", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 6,
    }
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.5, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty texts of 2 to 31 words: 24 have ten tokens or more, CLS and SEP counted."""
    draw = torch.Generator().manual_seed(1)
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    with path.open("w") as file:
        for length in range(2, 32):
            words = torch.randint(len(WORDS), (length,), generator=draw).tolist()
            file.write(json.dumps({"text": " ".join(WORDS[each] for each in words)}) + "\n")
    return path


def composed(encoder: Path, corpus: Path, *overrides: str) -> Any:
    paths = (f"model.path={encoder}", f"data.path={corpus}", "data.max_tokens=24")
    return compose.compose("token-pruning", [*RUN, *paths, *overrides])


def at(*degrees: float) -> list[torch.Tensor]:
    """Embeddings at these angles, of any length."""
    return [torch.tensor([math.cos(math.radians(d)), math.sin(math.radians(d))]) * (1 + d) for d in degrees]


def test_agreement_on_worked_angles() -> None:
    # Unpruned pairs, the most similar first: 01 (10 degrees apart), 12, 02, 23, 13, 03. The second and the third text
    # change places: 02, 12, 01, 13, 23, 03. Each text sees two of its three others swapped: 1 - 6 x 2 / (3 x 8).
    closeness = agreement(at(0, 30, 10, 90), at(0, 10, 30, 90))
    assert closeness.each == pytest.approx([0.5] * 4)
    assert closeness.pairs == pytest.approx(1 - 6 * 10 / (6 * 35))


def test_agreement_is_one_for_the_same_order_and_zero_without_any() -> None:
    same = agreement(at(0, 5, 16, 40), at(0, 10, 30, 90))
    assert same.each == pytest.approx([1] * 4) and same.pairs == pytest.approx(1)
    flat = agreement(at(7, 7, 7, 7), at(0, 10, 30, 90))
    assert flat.each == [0] * 4 and flat.pairs == 0


@torch.no_grad()
def test_unpruned_embeddings_are_the_models_own(encoder: Path, corpus: Path) -> None:
    subject = Texts(composed(encoder, corpus), "cpu")
    [batch] = subject.batches()
    assert batch.inputs["attention_mask"].sum(1).unique().numel() > 1
    with prune(subject.model, make(FullOptions()), 1.0, seeds=range(len(batch.ids))) as trace:
        embeddings = subject.embeddings(subject.answer(batch), trace)
    model = BertModel.from_pretrained(encoder).eval()
    for passage, embedding, words in zip(subject.passages, embeddings, batch.words, strict=True):
        own = model(input_ids=torch.tensor([passage.ids])).last_hidden_state[0].mean(0)
        assert torch.allclose(embedding, own / own.norm(), atol=1e-5)
        assert words == passage.text.split()[: len(words)]


def arms() -> list[str]:
    return list(compose.arms("token-pruning", ["model=minilm"]))


def test_arms_are_those_that_prune_inside_an_encoder() -> None:
    names = set(arms())
    assert {"full", "random", "flowcut", "tome", "ats", "evit", "zero_tprune_random", "zero_tprune_once"} <= names
    assert not names & {"divprune", "grid", "fastv", "trim", "recoverable"}


@pytest.fixture(scope="module")
def subject(encoder: Path, corpus: Path) -> Texts:
    """The encoder with six texts, which all arms share."""
    return Texts(composed(encoder, corpus, "data.texts=6"), "cpu")


@pytest.mark.parametrize("arm", arms())
def test_every_arm_prunes_words(encoder: Path, corpus: Path, subject: Texts, arm: str) -> None:
    config = composed(encoder, corpus, f"arm={arm}", "data.texts=6")
    final = TokenPruningRecipe().evaluate(config, Prepared(subject, make(config.pruner)), None, {}).metrics
    assert final["agreement@1"] == pytest.approx(1) and final["spearman@1"] == pytest.approx(1)
    assert not any(name.startswith(("accuracy", "evidence_recall", "llm_macs_ratio")) for name in final)
    if arm == "full":
        assert final["agreement@0.25"] == pytest.approx(1) and final["macs_ratio@0.25"] == 1
    else:
        assert -1 <= final["agreement@0.25"] <= 1 and final["macs_ratio@0.25"] < final["macs_ratio@0.5"] < 1
        if arm != "ats":  # which samples, and may take fewer
            assert final["tokens@0.25"] < final["tokens@0.5"] < final["tokens@1"]


def test_a_run_shows_which_words_are_left(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    config = composed(encoder, corpus, "arm=random", "evaluation.picture_keep=0.25", f"outputs={tmp_path}")
    outcome = runner.run(config, False, "steelyard run token-pruning model=minilm")
    page = (outcome.folder / "report.html").read_text()
    assert "left at the end of the encoder weigh 1" in page and "at 25% of the word tokens" in page
    assert "Agreement against MACs" in page and "selection (ms per text)" in page and "visual tokens, " not in page
    shown = read_heatmap(outcome.folder)
    assert len(shown) == 2  # evaluation.pictures
    for example in shown:
        weights = [token.weight for token in example.tokens]
        assert weights.count("1.000") == round(0.25 * len(weights)) and set(weights) == {"0.000", "1.000"}


def test_the_seed_draws_the_texts(encoder: Path, corpus: Path) -> None:
    first, again, other = (
        [each.id for each in Texts(composed(encoder, corpus, f"seed={seed}"), "cpu").passages] for seed in (0, 0, 1)
    )
    assert first == again != other and len(first) == 20


def test_without_a_path_the_asset_is_taken(encoder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def asset_path(name: str) -> Path:
        asked.append(name)
        return encoder

    monkeypatch.setattr(texts, "asset_path", asset_path)
    Texts(composed(encoder, corpus, "model.path=null"), "cpu")
    assert asked == ["all-minilm-l6-v2"]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["data.min_tokens=33", "data.max_tokens=40"], "1 of 30 texts are used(.|\n)*data.min_tokens=33 leaves out"),
        (["data.text_column=body"], r"data.text_column: the data has no column 'body'"),
        (["data.path=/no/such/file.jsonl"], "data.path=/no/such/file.jsonl: no such file"),
        (["evaluation.examples=2"], "evaluation.examples: 2 of 30 texts are used"),
        (["data.max_tokens=100"], "has 64 positions, fewer than data.max_tokens=100(.|\n)*type data.max_tokens=64"),
    ],
)
def test_texts_that_cannot_be_compared(encoder: Path, corpus: Path, overrides: list[str], text: str) -> None:
    config = composed(encoder, corpus, *overrides)
    with pytest.raises(UserError, match=text) as caught:
        Texts(config, "cpu")
    assert caught.value.exit_code == 2


def test_a_text_file_is_one_text(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(" ".join(WORDS))
    with pytest.raises(UserError, match="1 of 1 texts are used(.|\n)*a text file is one text"):
        Texts(composed(encoder, tmp_path / "one.txt"), "cpu")


def test_an_encoder_of_another_kind(corpus: Path, tmp_path: Path) -> None:
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(
        tmp_path / "vit"
    )
    with pytest.raises(UserError, match="is a vit model; a sentence encoder of type bert is needed"):
        Texts(composed(tmp_path / "vit", corpus), "cpu")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["pruner=fastv"], "fastv prunes in a language model, which minilm lacks; type model=toy-vlm"),
        (["pruner=divprune"], "prunes behind the encoder, where nothing is left to save; type pruner=flowcut or"),
        (["pruner.place=encoder", "arm=random"], "random prunes behind the encoder, where nothing is left to save"),
        (["data=easy-vqa"], "data: easy-vqa is not for model=minilm; type data=passages"),
        (["data.max_tokens=10"], "data.max_tokens: 10 is less than min_tokens=64"),
        (["data.texts=2"], "data.texts = 2: must be >= 3"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        compose.compose("token-pruning", ["model=minilm", *overrides])
    assert text in str(caught.value) and caught.value.exit_code == 2


def test_the_model_brings_its_texts_and_an_arm() -> None:
    config = compose.compose("token-pruning", ["model=minilm"])
    assert (config.data.name, config.arm, config.pruner.layers) == ("passages", "zero_tprune", (1, 3))
    for arm in ("zero_tprune_random", "ats", "evit"):
        assert compose.compose("token-pruning", ["model=minilm", f"arm={arm}"]).pruner.layers == (1, 3)
    assert compose.compose("token-pruning", ["model=toy-vit", "arm=ats"]).pruner.layers == ()
    assert compose.compose("token-pruning", ["data=passages"]).model.name == "minilm"
    with pytest.raises(UserError, match="data: passages is not for model=toy-vit"):
        compose.compose("token-pruning", ["data=passages", "model=toy-vit", "budget=full"])
