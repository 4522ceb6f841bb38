"""PAWN from the shell: a user's texts and model in every arm, texts that are made, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.attribution.pawn.results import measure
from recipes.attribution.pawn.texts import SEEN, Texts, load_texts
from recipes.attribution.samples import Sample, text_statistics
from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.vision_language import TextModel
from recipes.core.runs.records import final_metrics
from recipes.core.training.toys.frozen import load_frozen
from tests.core import tokenizer_kinds

ARMS = tuple(arm for arm in compose.arms("pawn", ["data=detection-texts"]) if arm not in ("pawn", "embedding"))
QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.max_steps=2", "trainer.batch_size=4",
         "evaluation.watch_every=2", "evaluation.heatmap=2")  # fmt: skip


def model_folder(folder: Path, kind: str) -> Path:
    """A small model with random weights, as a user has it on disk."""
    tokenizer = tokenizer_kinds.byte_level(False, False)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2}
    if kind == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                        max_position_embeddings=128, initializer_range=0.3, **shape)
        )  # fmt: skip
    else:
        config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3, **shape)
        model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(count: int = 24) -> list[dict[str, Any]]:
    """Pairs of texts of a document each: people write of cats, machines of nothing but dogs."""
    random, rows = np.random.default_rng(0), []
    for number in range(count):
        for label, words in (("human", "the cat sat why how are we"), ("machine", "dog dog big a fast dog")):
            text = " ".join(random.choice(words.split(), 8))
            rows.append({"text": text, "label": label, "doc": f"d{number}", "of": "b" if number % 4 == 0 else "a"})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def words(tmp_path: Path, model: Path) -> tuple[str, ...]:
    """What a user types for texts and model."""
    path = write_rows(tmp_path / "texts.jsonl", rows_of())
    return (*QUICK, f"data.path={path}", f"model={model}", "data.document_column=doc", "data.source_column=of")


def final(outputs: Path, *words: str) -> tuple[dict[str, float], Path]:
    config = compose.compose("pawn", [*words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run pawn", page=False).folder
    return final_metrics(folder), folder


def test_every_arm_of_a_users_texts(tmp_path: Path, words: tuple[str, ...]) -> None:
    metrics, folder = final(tmp_path, *words, "data.held_out=b")
    assert metrics.keys() == {f"{name}/{test}" for name in ("auroc", "recall") for test in ("seen", "unseen/b")} | {
        "auroc/unseen"
    }
    lines = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(line["label"], *line["tests"]) for line in lines} == {
        (label, test) for label in ("human", "machine") for test in ("b", "seen")
    }
    [one, _] = json.loads((folder / "heatmap.json").read_text())["examples"]
    assert np.mean([token["weight"] for token in one["tokens"]]) == pytest.approx(1, abs=1e-3)
    results = {arm: final(tmp_path, *words, "data.held_out=b", f"arm={arm}")[0] for arm in ARMS}
    assert results["linear"]["auroc/seen"] > 0.9  # the words differ, and with them what a random model says of them
    assert all(("recall/seen" in each) == (arm in ARMS[: ARMS.index("log_prob")]) for arm, each in results.items())


def test_a_gpt2_and_equal_runs_are_equal(tmp_path: Path, words: tuple[str, ...]) -> None:
    typed = (*words, f"model={model_folder(tmp_path / 'gpt2', 'gpt2')}")
    first, second = (final(tmp_path / name, *typed)[0] for name in ("one", "two"))
    assert first == second and "auroc/unseen" not in first


def test_texts_of_one_token_are_left_out_and_counted(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    more = [{"text": "a", "label": "human", "doc": f"x{i}", "of": "a"} for i in range(4)]
    write_rows(tmp_path / "texts.jsonl", [*rows_of(), *more])
    final(tmp_path, *words, "arm=log_prob")
    assert "4 texts of one token are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "typed", "message"),
    [
        (
            [{"text": f"dog {i}", "label": "human"} for i in range(9)],
            (),
            "of the class 'human', and two classes",
        ),
        ([{"text": f"dog {i}", "label": "xyz"[i % 3]} for i in range(30)], (), "3 labels, and two are needed"),
        (
            [{"text": f"dog {i}", "label": "xy"[i % 2]} for i in range(30)],
            (),
            "which label means a machine is not known",
        ),
        (None, ("data.machine_label=robot",), "no text has the label robot"),
        (None, ("data.held_out=c",), "no text is of c"),
        (None, ("data.held_out=[a,b]",), "are not of both labels"),
        (None, ("detector.max_tokens=200",), "positions"),
        (None, ("detector.channels=5", "detector.features=32"), "does not divide by 5"),
        (None, ("data.source_column=null", "data.held_out=b"), "needs data.source_column"),
    ],
)
def test_what_cannot_be(
    tmp_path: Path, words: tuple[str, ...], rows: Any, typed: tuple[str, ...], message: str
) -> None:
    if rows is not None:
        write_rows(tmp_path / "texts.jsonl", [each | {"doc": i, "of": "a"} for i, each in enumerate(rows)])
    elif message == "positions":
        write_rows(tmp_path / "texts.jsonl", [each | {"text": each["text"] * 20} for each in rows_of()])
    with pytest.raises(UserError) as caught:
        final(tmp_path, *words, "label=wrong", *typed)
    assert message in str(caught.value)


def test_texts_that_cannot_be_made(tmp_path: Path, model: Path) -> None:
    typed = (*QUICK, f"model={model}", "data.documents=4", "data.shifts=[]")
    for more, message in (("data.tokens=110", "128 positions"), ("detector.max_tokens=20", "detector.max_tokens=20")):
        with pytest.raises(UserError, match=message):
            final(tmp_path, *typed, more)


def test_texts_that_are_made(tmp_path: Path, model: Path) -> None:
    """Equally long, in pairs of one document, and no document is on both sides."""
    few = ("data.shifts=[domain,decoding]", "data.documents=10", "data.unseen_documents=4", "data.tokens=16")
    typed = (*QUICK, f"model={model}", *few)
    config = compose.compose("pawn", typed)
    loaded, tokenizer = load_frozen(config, "cpu")
    texts = load_texts(config, loaded, tokenizer, "cpu")
    assert {len(row) for row in texts.rows} == {16}
    assert list(texts.tests) == [SEEN, "domain", "decoding"]
    trained = {texts.samples[i].document for i in texts.train}
    for numbers in texts.tests.values():
        pairs = [[texts.samples[i] for i in pair] for pair in numbers.reshape(-1, 2)]
        assert all(one.machine and not other.machine and one.document == other.document for one, other in pairs)
        assert trained.isdisjoint(one.document for one, _ in pairs)
    human = [set(numbers[1::2]) for numbers in (texts.tests[SEEN], texts.tests["decoding"])]
    assert human[0] == human[1] and not {*texts.tests[SEEN][::2]} & {*texts.tests["decoding"][::2]}
    config = compose.compose("pawn", [*typed, "seed=1"])
    other = load_texts(config, loaded, tokenizer, "cpu")
    assert [each.text for each in other.samples] == [each.text for each in texts.samples]  # what is written stays
    assert {*other.train} != {*texts.train}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_states_are_those_of_a_plain_forward(tmp_path: Path, steelyard_home: Path, kind: str) -> None:
    config = compose.compose("pawn", [*QUICK, f"data.path={tmp_path}", f"model={model_folder(tmp_path / kind, kind)}"])
    loaded, _ = load_frozen(config, "cpu")
    rows = [[5, 9, 30, 41, 7], [8, 12], [90, 3, 17]]
    statistics = text_statistics(loaded, rows, device="cpu")
    assert isinstance(loaded, TextModel) and statistics.vocabulary == loaded.language_model.config.vocab_size
    for number, row in enumerate(rows):
        output = loaded.language_model(torch.tensor([row]), output_hidden_states=True)
        torch.testing.assert_close(statistics.states(number), output.hidden_states[-1][0], atol=1e-5, rtol=1e-4)
        logprobs = output.logits[0, :-1].log_softmax(1)[range(len(row) - 1), row[1:]]
        torch.testing.assert_close(torch.from_numpy(np.array(statistics.columns(number)["logprob"])), logprobs)


def test_worked_measures() -> None:
    samples = [Sample(str(i), "", i < 2, str(i)) for i in range(4)]
    numbers = np.arange(4)
    texts = Texts(samples, [], numbers, {SEEN: numbers, "b": numbers[1:], "c": numbers[[0, 2, 3]]})
    metrics = measure(texts, {0: 2.0, 1: -1.0, 2: 1.0, 3: -2.0}, decides=True).overall()
    expected = {"auroc/seen": 0.75, "auroc/unseen/b": 0.5, "auroc/unseen/c": 1.0, "auroc/unseen": 0.75}
    expected |= {"recall/seen": 0.5, "recall/unseen/b": 0.25, "recall/unseen/c": 0.75}
    assert metrics == pytest.approx(expected)
