"""`turkish-tokenization` on a user's text, lists and tokenizers: what it leaves, and what is refused."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.text.windows import Texts
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import read_rows
from recipes.core.runs.records import final_metrics
from recipes.core.scoring.bits import says
from recipes.core.storage.cache import home
from recipes.tokenization.turkish_tokenization.config import LexiconConfig
from recipes.tokenization.turkish_tokenization.lexicon import load_lexicon
from recipes.tokenization.turkish_tokenization.method import cuts
from recipes.tokenization.turkish_tokenization.panel import MARK, Panel, WordMarks
from tests.core import tokenizer_kinds

ROOTS = ["ev", "göz", "gözlük", "kitap", "ağaç", "Işık", "şehir", "iş", "su"]
AFFIXES = ["ler", "lar", "imiz", "ımız", "den", "dan", "de", "da", "lik", "lık"]
MEMBERS = "[bpe-600,unigram-320,wordpiece-320,morphemes-600,greedy-320,random-320,bytes]"
WORDS = ("budget=smoke", "tracker=none", "trainer.threads=1", "data.test_fraction=0.4", "lm.steps=3", "lm.width=16",
         "lm.length=192", "evaluation.windows=3", "evaluation.shortest=40", "evaluation.characters=60",
         f"panel.members={MEMBERS}")  # fmt: skip


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What a user types for text and lists."""
    folder, draw = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)

    def word() -> str:
        return str(draw.choice(ROOTS)) + "".join(draw.choice(AFFIXES, draw.integers(0, 3)))

    rows = [{"text": " ".join(word() for _ in range(60)) + ". Öyle mi? IŞIK 12"} for _ in range(40)]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    for name, words in (("roots", ROOTS), ("affixes", AFFIXES)):
        (folder / f"{name}.txt").write_text("\n".join(words) + "\n\n", encoding="utf-8")
    lists = [f"lexicon.{name}={folder / name}.txt" for name in ("roots", "affixes")]
    return f"data.path={folder / 'texts.jsonl'}", *lists


def run(outputs: Path, *words: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("turkish-tokenization", [*WORDS, *words, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run turkish-tokenization", page=False).folder
    return folder, final_metrics(folder)


@pytest.fixture(scope="module")
def panel(mine: tuple[str, ...]) -> Any:
    config = compose.compose("turkish-tokenization", [*WORDS, *mine])
    return {member.name: member for member in Panel(config, Texts(config.data), load_lexicon(config.lexicon)).members()}


def test_every_tokenizer_gives_every_text_back(panel: Any) -> None:
    text = "Gözlüklerimizden  IŞIK; naïve 猫\tevlerde\n12 'ler"
    for name, member in panel.items():
        ids = member.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert says(member.tokenizer, ids, text), name
    assert len(panel["bytes"].tokenizer) == 257 == len(set(panel["bytes"].tokenizer.get_vocab().values()))
    assert len(panel["bytes"].tokenizer("ğ")["input_ids"]) == 2


def test_no_token_reaches_over_a_morpheme(panel: Any) -> None:
    def pieces(name: str, word: str) -> list[str]:
        tokenizer = panel[name].tokenizer
        return [tokenizer.decode([token]) for token in tokenizer(word)["input_ids"]]

    over = {"bpe-600": 0, "morphemes-600": 0}
    for name, *morphemes in product(over, ((" kitap", " Işık")), ("ler", "lar", "dan"), ("imiz", "lik", "de")):
        parts = pieces(name, "".join(morphemes))
        assert "".join(parts) == "".join(morphemes)
        over[name] += not cuts(morphemes) <= cuts(parts)
    assert over["morphemes-600"] == 0 < over["bpe-600"]


def test_a_run_correlates_the_tokenizers(tmp_path: Path, mine: tuple[str, ...]) -> None:
    tokenizer_kinds.KINDS["word-pieces"]().save_pretrained(tmp_path / "lossy")
    tokenizer_kinds.byte_level(bos=True).save_pretrained(tmp_path / "bpe")
    paths = f"panel.paths=[lossy:{tmp_path / 'lossy'},mine:{tmp_path / 'bpe'}]"
    folder, metrics = run(tmp_path / "out", *mine, paths)
    lines = [json.loads(line) for line in (folder / "tokenizers.jsonl").read_text(encoding="utf-8").splitlines()]
    table = {line["tokenizer"]: line for line in lines}
    assert len(table) == 9 and metrics["tokenizers"] == 8 and metrics["exact"] == pytest.approx(8 / 9)
    assert lines[-1]["tokenizer"] == "lossy" and lines[-1]["bits_per_byte"] is None
    judged = [line for line in lines if line["exact"]]
    assert all(0 < line["bits_per_byte"] < 10 and line["pure"] <= line["valid"] for line in judged)
    left, right = ([line[name] for line in judged] for name in ("valid", "bits_per_byte"))
    from scipy.stats import pearsonr, spearmanr

    assert metrics["prediction"] == pytest.approx(-spearmanr(left, right).statistic)
    assert metrics["prediction/pearson"] == pytest.approx(-pearsonr(left, right).statistic)
    assert 0 < metrics["prediction/p"] <= 1 and 0 < metrics["prediction/pearson_p"] <= 1
    examples = read_rows(folder / "examples.parquet").values("prediction")
    assert np.mean([*examples.values()]) == pytest.approx(metrics["prediction"]) and len(examples) == 8
    assert table["bytes"]["fertility"] > table["mine"]["fertility"] > table["bpe-600"]["fertility"] >= 1
    assert table["morphemes-600"]["boundaries"] > table["random-320"]["boundaries"]
    assert metrics["valid/bytes"] == table["bytes"]["valid"] and "bits_per_byte/lossy" not in metrics
    cuts = [json.loads(line) for line in (folder / "cuts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(cuts) == 3 and all(one["cut"].keys() == {line["tokenizer"] for line in judged} for one in cuts)
    models = len(list((home() / "cache" / "reference-models").iterdir()))
    _, other = run(tmp_path / "out", *mine, paths, "arm=fertility")
    assert len(list((home() / "cache" / "reference-models").iterdir())) == models  # arms share them
    assert other["bits_per_byte"] == metrics["bits_per_byte"] and other["prediction"] != metrics["prediction"]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("panel.members=[bpe-8k,bytes]", "there is no tokenizer 'bpe-8k'"),
        ("panel.members=[bytes,bpe-400]", "at least 5 tokenizers, not 2"),
        ("panel.members=[bytes,bytes,bpe-400,bpe-500,bpe-600]", "twice"),
        ("panel.members=[bytes,bpe-4,bpe-400,bpe-500,bpe-600]", "bpe-4: a vocabulary has at least 300"),
        ("panel.paths=[mine:/nowhere]", "/nowhere"),
        ("lexicon.affixes=null", "type both"),
        ("lexicon.roots=/nowhere.txt", "no such file"),
        ("lm.length=32", "bytes makes .* tokens of a text"),
    ],
)
def test_what_cannot_be_is_refused(word: str, problem: str, tmp_path: Path, mine: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", *mine, word)
    assert not list((tmp_path / "out").glob("*/*/*/metrics.jsonl"))


def test_words_of_other_scripts_have_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vowels of Hindi are marks, no letters; what is no word is counted."""
    (tmp_path / "roots.txt").write_text("किताब\nघर\nघर-घर\n\n12\n", encoding="utf-8")
    (tmp_path / "affixes.txt").write_text("ें\n", encoding="utf-8")
    lists = {name: str(tmp_path / f"{name}.txt") for name in ("roots", "affixes")}
    chains = load_lexicon(LexiconConfig(turkish_case=False, **lists))
    assert chains.roots == {"किताब", "घर"} and chains.parses("किताबें") == (("किताब", "ें"),)
    assert "2 of 4 lines are not letters alone" in capsys.readouterr().err
    assert WordMarks(chains.parse_cut, False)("किताबें, घर") == f"किताब{MARK}ें, घर"


@pytest.mark.parametrize(("content", "problem"), [(b"ev\n\xfe\n", "is not UTF-8"), (b" \n", "holds no word")])
def test_lists_that_cannot_be_read(content: bytes, problem: str, tmp_path: Path, mine: tuple[str, ...]) -> None:
    (tmp_path / "roots.txt").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        run(tmp_path / "out", *mine, f"lexicon.roots={tmp_path / 'roots.txt'}")


@pytest.mark.parametrize(("content", "problem"), [("gaps", "tokens up to .* with gaps"), ("{}", "no tokenizer.json")])
def test_tokenizers_that_cannot_be_used(content: str, problem: str, tmp_path: Path, mine: tuple[str, ...]) -> None:
    file = tmp_path / "mine.json"
    if content == "gaps":
        pipeline = json.loads(tokenizer_kinds.byte_level().backend_tokenizer.to_str())
        vocabulary = pipeline["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.get)] += 10
        content = json.dumps(pipeline)
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"panel.paths=.*{problem}"):
        run(tmp_path / "out", *mine, f"panel.paths=[mine:{file}]")
