"""`kl3m` on a user's texts: what it leaves, what corrects, and what is refused."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.config.unread import of_no_use
from recipes.core.errors import UserError
from recipes.core.evaluation.cuts import read_cuts
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import final_metrics
from recipes.tokenization.kl3m.corpora import Corpora
from tests.core import tokenizer_kinds

WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "evaluation.shortest=20", "evaluation.characters=100",
         "data.test_fraction=0.3")  # fmt: skip


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, texts = tmp_path_factory.mktemp("texts"), tokenizer_kinds.texts()
    for name, some in (("legal", [f"Section {text} (a) 1995" for text in texts[:60]]), ("news", texts[60:120])):
        lines = [json.dumps({"text": text}) for text in some]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return f"data.paths=[legal:{folder}/legal.jsonl,news:{folder}/news.jsonl]"


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("kl3m", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run kl3m").folder
    return folder, final_metrics(folder)


def test_a_tokenizer_of_a_users_domain(tmp_path: Path, mine: str) -> None:
    folder, metrics = run(tmp_path, mine)
    assert metrics["exact"] == 1 and 0 < metrics["domain/tokens_per_character"] < 1
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]
    assert {row["domain"] for row in rows} == {"legal", "news"}
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert backend.get_vocab_size() == metrics["vocabulary/size"] and backend.token_to_id("<|start|>") == 0
    cuts = read_cuts(folder)
    assert cuts and [cut.label for cut in cuts.texts[0].cuts[::2]] == ["domain", "BPE of general text"]
    assert "BPE of general text, misread" in (folder / "report.html").read_text("utf-8")
    # Yours stands in for it.
    given, again = run(tmp_path, mine, f"tokenizer.path={folder / 'tokenizer.json'}")
    assert again["domain/tokens_per_character"] == metrics["domain/tokens_per_character"] and given != folder
    config = [compose.compose("kl3m", [*WORDS, mine, "arm=general", "tokenizer.path=x"])]
    assert dict(of_no_use(config, ["tokenizer.path=x"])) == {
        "tokenizer.path": "it stands in for one of the domain alone"
    }


def test_a_model_learns_to_correct_and_can_be_loaded(tmp_path: Path, mine: str) -> None:
    steps = ("trainer.max_steps=30", "correction.watch_every=10", "trainer.learning_rate=1e-2")
    folder, metrics = run(tmp_path, mine, "arm=correct_char", *steps)
    curve = [values["correction/bits_per_byte"] for _, values in RunFolder(folder).read_metrics("eval")]
    assert len(curve) == 3 and curve[-1] < curve[0] and metrics["correction/bits_per_byte"] == pytest.approx(curve[-1])
    rows = [json.loads(line) for line in (folder / "corrections.jsonl").read_text("utf-8").splitlines()]
    errors = sum(row["errors"] for row in rows) / sum(len(row["clean"]) for row in rows)
    assert metrics["correction/errors"] == pytest.approx(errors) and 0 < metrics["correction/noisy"] < 0.5
    model, tokenizer = (kind.from_pretrained(folder / "hf") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer) == metrics["vocabulary/size"]


@pytest.mark.parametrize("arm", ["minilm", "uncased"])
def test_tokenizers_that_lose_something_say_what(arm: str, tmp_path: Path, mine: str) -> None:
    _, metrics = run(tmp_path, mine, f"arm={arm}")
    assert metrics["exact"] == 0.5 and metrics["lost/Latin"] > 0.3  # the news have small letters only


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("texts.domain=nowhere",), "no domain nowhere"),
        (("texts.domain=legal", "texts.general=legal"), "two domains"),
        (("tokenizer.size=1024",), "no room for all 256 bytes"),
        (("evaluation.shortest=5000",), "has 5,000 characters"),
        (("tokenizer.path=/nowhere",), "/nowhere"),
        (("tokenizer.share=0.0001",), "no training document"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    words: tuple[str, ...], problem: str, tmp_path: Path, mine: str
) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", mine, *words)
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_the_smaller_text_bounds_what_all_tokenizers_are_trained_on(
    tmp_path: Path, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    corpora = Corpora(compose.compose("kl3m", [*WORDS, mine, f"outputs={tmp_path}", "tokenizer.characters=100000"]))
    sizes = [sum(map(len, corpora.training(corpus))) for corpus in ("domain", "general", "mixed")]
    assert sizes[0] == sizes[1] and 0 <= sizes[2] - sizes[0] <= 1
    assert capsys.readouterr().err.count(f"tokenizers are trained on {sizes[0]:,} characters, not 100,000") == 1


def test_one_text_or_one_word_is_too_little(tmp_path: Path, mine: str) -> None:
    (tmp_path / "word.txt").write_text("word\n", encoding="utf-8")
    with pytest.raises(UserError, match="two domains|held-out|documents"):
        run(tmp_path / "out", f"data.path={tmp_path / 'word.txt'}")
