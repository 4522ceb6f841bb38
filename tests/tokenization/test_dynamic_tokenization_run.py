"""`dynamic-tokenization` on a user's models and texts: every kind of arm, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from tests.core import tokenizer_kinds
from tests.tokenization.test_ground import tiny

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "evaluation.windows=3", "evaluation.shortest=20",
         "evaluation.characters=200", "evaluation.prompt=24", "evaluation.target=8", "rows.fitted=100",
         "evaluation.reductions=[0,100]", "data.test_fraction=0.4")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("dynamic-tokenization", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run dynamic-tokenization", page=False).folder
    return folder, final_metrics(folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "cuts.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with a label each, by their first word; documents as well."""
    path, rows = tmp_path_factory.mktemp("texts") / "texts.jsonl", []
    for number, text in enumerate(tokenizer_kinds.texts()[:40]):
        label = "one" if number % 2 else "two"
        rows.append({"text": f"{'treehouse' if number % 2 else 'goodcat'} {text} redhouse {number}", "label": label})
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("encoder"), tokenizer_kinds.word_pieces()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.5, **shape)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("decoder"), tokenizer_kinds.byte_level(bos=True)
    tiny("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("arm", ["dynamic", "plain", "predicted", "static", "sentence_spaces", "batch_1"])
def test_a_users_encoder_and_labelled_texts(
    arm: str, tmp_path: Path, texts: Path, encoder: Path, steelyard_home: Path
) -> None:
    folder, metrics = run(tmp_path / "out", f"data.path={texts}", f"model={encoder}", f"arm={arm}")
    assert 0 <= metrics["accuracy@100"] <= 1 and metrics["abs@0"] == metrics["rel@0"] == 0
    if arm == "plain":
        assert metrics["abs@100"] == 0 and metrics["accuracy@100"] == metrics["accuracy@0"]
    else:
        assert metrics["abs@100"] > 5 and metrics["tokens@100"] < metrics["tokens@0"]
    if arm in ("dynamic", "batch_1"):
        assert metrics["rel@100"] == pytest.approx(100) and metrics["rel@100m"] == pytest.approx(100)
        assert 0 < metrics["rel@2m"] <= 100
    for line in lines(folder):
        assert line["0"]["cut"] == line["base"] and "".join(line["100"]["cut"]) == "".join(line["base"])
        assert line["100"]["tokens"] <= line["0"]["tokens"]


def test_plain_prompts_are_read_as_the_model_reads_them(
    tmp_path: Path, texts: Path, decoder: Path, steelyard_home: Path
) -> None:
    folder, metrics = run(tmp_path / "out", f"data.path={texts}", f"model={decoder}", "arm=dynamic")
    model, tokenizer = (kind.from_pretrained(decoder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    documents = [json.loads(line)["text"] for line in texts.read_text(encoding="utf-8").splitlines()]
    for line in lines(folder):
        said = "".join(line["base"]).removeprefix("<s>")
        ids = tokenizer(next(text for text in documents if text.startswith(said)), add_special_tokens=False)[
            "input_ids"
        ]
        read = torch.tensor([[tokenizer.bos_token_id, *ids[: 24 + 8 - 1]]])
        with torch.no_grad():
            logprobs = model(read).logits[0].log_softmax(-1)
        bits = -sum(float(logprobs[at - 1, read[0, at]]) for at in range(read.shape[1] - 8, read.shape[1])) / math.log(
            2
        )
        size = len(tokenizer.decode(read[0, -8:]).encode())
        assert line["0"]["bits_per_byte"] == pytest.approx(bits / size, rel=1e-4)
    assert metrics["abs@100"] > 0 and metrics["bits_per_byte@100"] != metrics["bits_per_byte@0"]


def test_text_is_generated_with_a_larger_vocabulary(
    tmp_path: Path, texts: Path, decoder: Path, steelyard_home: Path
) -> None:
    words = (f"data.path={texts}", f"model={decoder}", "arm=large", "large.steps=4", "large.prompts=2")
    _, metrics = run(tmp_path / "out", *words)
    assert metrics["large/exact"] == 1 and 0 <= metrics["large/recall"] <= 1 and metrics["abs@100"] > 0
    with pytest.raises(UserError, match="is about a decoder and arm=large"):
        compose.compose("dynamic-tokenization", [*WORDS[:3], "large.tokens=9"])


def test_rows_by_a_hypernetwork(tmp_path: Path, texts: Path, decoder: Path, steelyard_home: Path) -> None:
    words = (f"data.path={texts}", f"model={decoder}", "hypernetwork.steps=2", "hypernetwork.identity_steps=2",
             "hypernetwork.identity_batch=16", "hypernetwork.sampled.vocabulary=300", "hypernetwork.sampled.texts=4",
             "hypernetwork.batch_size=2", "hypernetwork.length=8")  # fmt: skip
    arms = ("hypernetwork", "fvt", "hypernetwork_predicted")
    metrics = {arm: run(tmp_path / "out", *words, f"arm={arm}")[1] for arm in arms}
    known, mean, predicted = (metrics[arm]["bits_per_byte@0"] for arm in arms)
    assert known == pytest.approx(mean) and predicted != pytest.approx(known)  # known tokens have their own rows
    assert metrics["hypernetwork"]["bits_per_byte@100"] != metrics["fvt"]["bits_per_byte@100"]


def test_seeds_draw_other_prompts_and_pairs(tmp_path: Path, texts: Path, decoder: Path, steelyard_home: Path) -> None:
    words = (f"data.path={texts}", f"model={decoder}", "evaluation.reductions=[50]", "arm=random")
    one, other = (lines(run(tmp_path / "out", *words, f"seed={seed}")[0]) for seed in (0, 1))
    assert [line["id"] for line in one] != [line["id"] for line in other]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("data=domains", "model=minilm"), "is not for model=minilm"),
        (("data=wiki-topics", "model=toy-lm"), "is not for model=toy-lm"),
        (("merges.allow_spaces=true", "label=x"), "merges.boundary=sentence"),
        (("rows.name=hypernetwork", "label=x"), "trained by a decoder's loss"),
        (("head.strengths=[]",), "names none, or one twice"),
        (("evaluation.reductions=[0,0]",), "names none, or one twice"),
        (("evaluation.reductions=[120]",), "100"),
        (("model=toy-lm", "arm=large", "rows.name=hypernetwork", "label=x"), "predicted by ridge or fvt"),
    ],
)
def test_what_does_not_go_together_is_refused(words: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        compose.compose("dynamic-tokenization", [*WORDS[:3], *words])


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("evaluation.target=200", "no stretch of text has more than evaluation.target=200"),
        ("evaluation.prompt=5000", "evaluation.prompt"),
        ("evaluation.shortest=100000", "no held-out document has 100,000 characters"),
    ],
)
def test_prompts_that_cannot_be_had_are_refused(
    word: str, problem: str, tmp_path: Path, texts: Path, decoder: Path, steelyard_home: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", f"data.path={texts}", f"model={decoder}", word)


def test_text_that_the_tokenizer_loses_is_announced(
    tmp_path: Path, steelyard_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_kinds.word_mark()
    tiny("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [json.dumps({"text": f"the cat sat on שלום {number}"}) for number in range(20)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    run(tmp_path / "out", f"data.path={tmp_path / 'texts.jsonl'}", f"model={tmp_path / 'model'}", "arm=plain")
    assert "3 of 3 stretches do not come back from the tokenizer" in capsys.readouterr().err


def test_a_tokenizer_without_bytes_is_refused(tmp_path: Path, texts: Path, steelyard_home: Path) -> None:
    tokenizer = tokenizer_kinds.KINDS["words"]()
    tiny("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="does not say which bytes its tokens are"):
        run(tmp_path / "out", f"data.path={texts}", f"model={tmp_path / 'model'}")
