"""`hierarchical-transformer` from the shell on a user's text: every kind of arm, what is measured, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics, load_run
from recipes.tokenization.words.experiment import WordRecipe
from tests.core import tokenizer_kinds

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1", "words.size=64", "trainer.max_steps=5",
         "trainer.batch_size=2", "evaluation.windows=3", "evaluation.shortest=20", "evaluation.characters=60",
         "evaluation.watch_every=2", "data.test_fraction=0.3", "adaptation.share=0.4", "tokenizer.vocabulary=300",
         "model.width=16", "model.unit_width=8", "model.unit_heads=2")  # fmt: skip


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("hierarchical-transformer", [*QUICK, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run hierarchical-transformer", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What a user types for two languages."""
    folder = tmp_path_factory.mktemp("texts")
    for name, extra in (("en", "Houses and trees"), ("xx", "çok güzel 猫が座った")):
        rows = [{"text": f"{text} {extra} {number}."} for number, text in enumerate(tokenizer_kinds.texts()[:40])]
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return f"data.paths=[en:{folder}/en.jsonl,xx:{folder}/xx.jsonl]", "adaptation.domain=xx"


def test_a_users_text_from_training_to_words_and_their_bits(tmp_path: Path, texts: tuple[str, ...]) -> None:
    folder, metrics = run(tmp_path / "out", *texts)
    lines = [json.loads(line) for line in (folder / "words.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["domain"] for line in lines] == ["en"] * 3 + ["xx"] * 3
    assert all(line["bits_per_byte"] > 0 and len(line["words"]) == len(line["right"]) for line in lines)
    assert lines[0]["continued"] is not None and lines[0]["before"].endswith(" ")
    # The text that it was adapted to is measured at the end, the first one before.
    sizes = [len("".join(line["words"]).encode()) for line in lines[3:]]
    bits = sum(line["bits_per_byte"] * size for line, size in zip(lines[3:], sizes, strict=True)) / sum(sizes)
    assert metrics["adapted/bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert (
        metrics["adapted/before/bits_per_byte"] > metrics["adapted/bits_per_byte"] and "kept/word_accuracy" in metrics
    )
    # Tolerance is wide: the step nearest to the target is one of those before adaptation.
    assert {"matched/rise", "matched/context_gain", "rise/upper", "perturbed_accuracy/delete"} <= set(metrics)
    kinds = [metrics[f"rise/{kind}"] for kind in ("permute", "replace", "delete", "upper")]
    assert metrics["rise"] == pytest.approx(np.mean(kinds))
    assert metrics["word_accuracy"] <= metrics["unit_accuracy"] + 1e-9
    assert len(list((folder / "curve").iterdir())) == 4  # steps 2, 3 (the last of the first language), 4, 5


@pytest.mark.parametrize("arm", ["bpe", "bytes", "megabyte", "unicode", "last"])
def test_arms_on_a_users_text(arm: str, tmp_path: Path, texts: tuple[str, ...]) -> None:
    folder, metrics = run(tmp_path / "out", *texts, f"arm={arm}")
    assert 0 < metrics["bits_per_byte"] < 12 and 0 <= metrics["unit_accuracy"] <= 1
    assert (folder / "hf").exists() == (arm == "bpe")
    if arm == "bpe":
        model, tokenizer = (kind.from_pretrained(folder / "hf") for kind in (AutoModelForCausalLM, AutoTokenizer))
        assert model.config.vocab_size == len(tokenizer) == 300


def test_groups_of_bytes_cost_as_much_with_an_encoder_as_without(tmp_path: Path, texts: tuple[str, ...]) -> None:
    costs = []
    for arm in ("fixed", "megabyte"):
        words = ("budget=small", texts[0], f"arm={arm}", f"outputs={tmp_path}", "evaluation.shortest=20")
        config = compose.compose("hierarchical-transformer", list(words))
        costs.append(WordRecipe().prepare(config, "cpu").costs[0])
    assert costs[1] == pytest.approx(costs[0], rel=0.1)


def test_a_tolerance_that_no_step_is_within_gives_no_matched_metric(tmp_path: Path, texts: tuple[str, ...]) -> None:
    _, metrics = run(tmp_path / "out", texts[0], "evaluation.tolerance=1e-6")
    assert "rise" in metrics and not any(name.startswith(("matched", "adapted", "kept")) for name in metrics)


def test_micro_batches_train_the_same_model(tmp_path: Path, texts: tuple[str, ...]) -> None:
    one, other = (run(tmp_path / f"{size}", *texts, f"trainer.micro_batch_size={size}")[1] for size in (1, 2))
    assert one["adapted/bits_per_byte"] == pytest.approx(other["adapted/bits_per_byte"], rel=1e-4)


def test_a_tokenizer_of_the_users(tmp_path: Path, texts: tuple[str, ...]) -> None:
    tokenizer_kinds.byte_level(bos=True).save_pretrained(tmp_path / "tokenizer")
    typed = f"tokenizer.path={tmp_path / 'tokenizer'}"
    folder, metrics = run(tmp_path / "out", *texts, "arm=bpe", typed)
    assert load_run(folder).state == "done" and metrics["bits_per_byte"] > 0
    # A file tokenizer.json says no roles; it is cut alike, with and without a space before all texts.
    file = f"tokenizer.path={tmp_path / 'tokenizer' / 'tokenizer.json'}"
    assert run(tmp_path / "out", *texts, "arm=bpe", file)[1]["bits_per_byte"] == metrics["bits_per_byte"]


def lower_case() -> Any:
    made = tokenizer_kinds.byte_level()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (tokenizer_kinds.KINDS["word-pieces"], "does not say which bytes its tokens are"),
        (lambda: tokenizer_kinds.byte_level(eos=""), "no token that ends a text"),
        (lower_case, "3 of 6 held-out texts do not come back from the tokenizer: .*Houses.* is .*houses"),
        (tokenizer_kinds.word_mark, "held-out texts do not come back"),  # it cannot spell ç
    ],
)
def test_a_tokenizer_that_says_another_text_is_refused(
    make: Callable[[], Any], problem: str, tmp_path: Path, texts: tuple[str, ...]
) -> None:
    made = make()
    if made.eos_token == "":
        made.eos_token = None
    made.save_pretrained(tmp_path / "tokenizer")
    for arm in ("arm=bpe", "model.units=pieces"):
        with pytest.raises(UserError, match=problem):
            run(tmp_path / "out", *texts, arm, f"tokenizer.path={tmp_path / 'tokenizer'}")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_a_tokenizer_with_word_marks_spells_what_it_knows(tmp_path: Path, texts: tuple[str, ...]) -> None:
    tokenizer_kinds.word_mark().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "plain.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in tokenizer_kinds.texts()[:40]), encoding="utf-8"
    )
    for arm in ("arm=bpe", "model.units=pieces"):
        typed = f"tokenizer.path={tmp_path / 'tokenizer'}"
        assert run(tmp_path / "out", f"data.path={tmp_path / 'plain.jsonl'}", arm, typed)[1]["bits_per_byte"] > 0


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("adaptation.domain=de", "no training document of de"),
        ("evaluation.shortest=100000", "no held-out document has 100,000 characters"),
        ("tokenizer.path=/nowhere", "/nowhere"),
    ],
)
def test_what_cannot_be_is_refused(typed: str, problem: str, tmp_path: Path, texts: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", texts[0], typed, "arm=bpe")
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("model.units=pieces words.rule=fixed", "cut characters"),
        ("model.pooling=concatenated", "fixed groups"),
        ("model.pooling=mean model.slots=2", "gives one vector"),
        ("model.units=words", "nothing to pool"),
        ("model.width=20", "does not divide"),
        ("words.normalise=true words.rule=unicode", "one space behind"),
        ("adaptation.domain=xx adaptation.share=0.01", "leaves no step"),
        ("evaluation.perturbations=[permute,permute]", "permute: is named twice"),
    ],
)
def test_settings_that_do_not_fit(typed: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        compose.compose("hierarchical-transformer", [*QUICK, "label=mine", *typed.split()])
