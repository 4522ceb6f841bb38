"""TILDEv2 from the shell to a run that `ir_measures` reads: a user's collection and encoder, arms, what is refused."""

import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification, BertTokenizer

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.config import MiniLMConfig
from recipes.core.models.padded import pad_rows
from recipes.core.models.run_models import run_model
from recipes.core.runs.records import final_metrics
from recipes.core.training.task import TrainEvents
from recipes.core.training.trainer import train
from recipes.retrieval.encoders import load_encoder
from recipes.retrieval.tildev2.expansion import Texts
from recipes.retrieval.tildev2.index import TermIndex
from recipes.retrieval.tildev2.rankers import ByLikelihood, LookUp
from recipes.retrieval.tildev2.recipe import RECIPE
from recipes.retrieval.tildev2.stopwords import WORDS, bad_ids, stop_ids
from recipes.retrieval.tildev2.tilde import Tilde, marked, prior
from tests.retrieval.conftest import PASSAGES, QUERIES, encoder_folder, write_collection

SMALL = (
    *("budget=smoke", "tracker=none", "trainer.threads=1", "trainer.device=cpu", "trainer.max_steps=2"),
    *("trainer.batch_size=2", "expansion.steps=2", "expansion.batch_size=2", "expansion.top=9"),
)


@pytest.fixture
def words(tmp_path: Path, steelyard_home: Path) -> list[str]:
    """A collection with queries to train on, and an encoder of its words."""
    asked = [{"_id": id, "text": text} for id, text in (QUERIES | {"q2": "tree with green acorns"}).items()]
    folder = write_collection(tmp_path / "collection", qrels=[("q1", "dog", 1), ("q2", "pine", 2)], queries=asked)
    rows = "query-id\tcorpus-id\tscore\nq3\tcar\t1\nq4\tcat\t1\n"
    (folder / "qrels" / "train.tsv").write_text(rows, encoding="utf-8")
    return [*SMALL, f"data.path={folder}", f"model={encoder_folder(tmp_path / 'encoder')}"]


def finish(outputs: Path, *typed: str) -> tuple[Path, dict[str, float]]:
    config = compose.compose("tildev2", [*typed, f"outputs={outputs}"])
    folder = runner.run(config, False, "steelyard run tildev2", page=False).folder
    return folder, final_metrics(folder)


def test_a_users_collection_is_ranked(tmp_path: Path, words: list[str]) -> None:
    folder, metrics = finish(tmp_path, *words)
    run = list(ir_measures.read_trec_run(str(folder / "run.trec")))
    qrels = [ir_measures.Qrel("q1", "dog", 1), ir_measures.Qrel("q2", "pine", 2)]
    measured = ir_measures.calc_aggregate([ir_measures.RR @ 10], qrels, run)
    assert measured[ir_measures.RR @ 10] == pytest.approx(metrics["RR@10"])
    index = TermIndex.load(folder / "index.npz")
    assert metrics["terms"] == pytest.approx(len(index.terms) / 5) and metrics["bytes"] == index.nbytes / 5
    lines = [json.loads(line) for line in (folder / "reranked.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for row in line["passages"]:
            assert row["score"] == pytest.approx(sum(row["terms"].values()), abs=2e-3)
    assert (folder / "whole.trec").exists() and "whole/R@100" in metrics
    assert json.loads((folder / "heatmap.json").read_text())["examples"]


def test_the_trained_weights_are_a_token_classifier_of_transformers(tmp_path: Path, words: list[str]) -> None:
    folder, _ = finish(tmp_path, *words, "expansion.name=none", "label=plain")
    model = BertForTokenClassification.from_pretrained(run_model(folder, "model", "model=run")).eval()
    index, tokenizer = TermIndex.load(folder / "index.npz"), BertTokenizer.from_pretrained(folder / "hf")
    ids = tokenizer("Dog An animal that barks and likes to run with people.")["input_ids"]
    with torch.no_grad():
        weights = torch.relu(model(torch.tensor([ids])).logits[0, :, 0])
    expected = {
        term: max(float(w) for t, w in zip(ids, weights, strict=True) if t == term)
        for term in set(ids) - stop_ids(tokenizer)
    }
    assert index.of(1) == pytest.approx({term: w for term, w in expected.items() if w > 0}, rel=2e-3, abs=1e-6)
    # Another run takes them as they are, of a collection without queries to train on.
    typed = [*words, "expansion.name=none", "label=taken", f"terms.model={folder}", "terms.passages=candidates"]
    (tmp_path / "collection" / "qrels" / "train.tsv").unlink()
    taken = TermIndex.load(finish(tmp_path, *typed)[0] / "index.npz")
    assert taken.of(1) == index.of(1)
    with pytest.raises(UserError, match="terms.model=RUN expansion.name=none"):
        finish(tmp_path, *words, "label=none")
    with pytest.raises(UserError, match="2 labels, and weighs no terms"):
        finish(tmp_path, *words, "expansion.name=none", "label=bad", f"terms.model={tmp_path / 'encoder'}")


@pytest.mark.parametrize("scorer", ["tildev2", "unicoil"])
def test_micro_batches_give_the_step_of_the_whole_batch(tmp_path: Path, words: list[str], scorer: str) -> None:
    weights = []
    for cut in ("null", "1"):
        config = compose.compose(
            "tildev2", [*words, f"trainer.micro_batch_size={cut}", f"terms.scorer={scorer}", "label=x",
                        "expansion.name=none", "trainer.optimizer=sgd", "trainer.learning_rate=0.1",
                        f"outputs={tmp_path}"]
        )  # fmt: skip
        recipe = RECIPE()
        training = recipe.build(config, recipe.prepare(config, "cpu"))
        assert training is not None
        train(training, config.trainer, 0, tmp_path / f"{scorer}-{cut}", TrainEvents())
        weights.append({name: value.detach().clone() for name, value in training.model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=1e-4)


def test_other_arms(tmp_path: Path, words: list[str]) -> None:
    results = {}
    arms = ("tf_uniform", "plain_uniform", "random_expansion", "frequent_expansion", "tilde_ql", "tilde_mix", "bm25")
    for arm in (*arms, "int8", "unicoil_like", "keep_stop"):
        folder, results[arm] = finish(tmp_path, *words, f"arm={arm}")
        assert 0 <= results[arm]["RR@10"] <= 1 and (folder / "run.trec").exists()
    uniform = TermIndex.load(next(tmp_path.glob("tildev2/tf_uniform/*")) / "index.npz")
    assert set(uniform.weights.tolist()) == {1.0}
    assert results["plain_uniform"]["unseen"] == results["plain_uniform"]["added"] == 0
    same = [results[arm]["added"] for arm in ("tf_uniform", "random_expansion", "frequent_expansion", "int8")]
    assert same[0] > 0 and same == [same[0]] * 4
    assert results["int8"]["bytes"] < results["unicoil_like"]["bytes"]
    assert results["keep_stop"]["terms"] > results["unicoil_like"]["terms"]


def test_no_terms_to_expand_by_is_no_expansion_and_more_than_there_are_is_all(tmp_path: Path, words: list[str]) -> None:
    typed = [*words, "arm=tf_uniform", "expansion.tokens=5"]
    indexes = {}
    for name, changes in (("none", ("expansion.name=none",)), ("zero", ("expansion.top=0",)), ("all", ())):
        folder, _ = finish(tmp_path, *typed, "expansion.top=200", *changes, f"label={name}")
        indexes[name] = TermIndex.load(folder / "index.npz")
    whole = [indexes["none"].of(passage) for passage in range(5)]
    assert [indexes["zero"].of(passage) for passage in range(5)] == whole
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "encoder")
    terms = set(tokenizer.get_vocab().values()) - stop_ids(tokenizer)
    assert all(indexes["all"].of(passage).keys() == terms for passage in range(5))


def test_tilde_ranks_by_what_it_would_expand(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"  # an empty one: a home that is kept between sessions has the model already
    monkeypatch.setenv("STEELYARD_HOME", str(home))
    for arm in ("tf_uniform", "tilde_ql", "tilde_mix"):
        finish(tmp_path, *words, "expansion.tokens=7", f"arm={arm}")
        assert len(list(home.rglob("tilde.safetensors"))) == 1  # one for all arms: it reads the same tokens in each


def test_expansions_of_the_user(tmp_path: Path, words: list[str]) -> None:
    rows = [{"_id": "dog", "text": "a tree that barks"}, {"_id": "dog", "text": "engine"}]
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    typed = [*words, "arm=tf_uniform", "label=mine", "expansion.name=file", f"expansion.path={path}"]
    folder, metrics = finish(tmp_path, *typed)
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "encoder")
    tree, engine, runs = tokenizer.convert_tokens_to_ids(["tree", "engine", "run"])
    terms = TermIndex.load(folder / "index.npz").of(1)
    assert {tree, engine, runs} <= terms.keys() and metrics["added"] == 2 / 5
    rows[0]["_id"] = "wolf"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="expands the passage 'wolf', which is not there"):
        finish(tmp_path, *typed)
    assert finish(tmp_path, *typed, "expansion.on_error=skip")[1]["added"] == 1 / 5


def test_a_tilde_of_the_user(tmp_path: Path, words: list[str]) -> None:
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "encoder")
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape)
    BertForMaskedLM(config).save_pretrained(tmp_path / "tilde")
    tokenizer.save_pretrained(tmp_path / "tilde")
    for steps in (0, 1):
        typed = [*words, "arm=tf_uniform", f"label=mine{steps}", f"expansion.model={tmp_path / 'tilde'}"]
        _, metrics = finish(tmp_path, *typed, f"expansion.steps={steps}")
        assert metrics["added"] > 0
    other = encoder_folder(tmp_path / "other")
    (other / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nx\n", encoding="utf-8")
    BertTokenizer(str(other / "vocab.txt")).save_pretrained(other)
    with pytest.raises(UserError, match="another vocabulary"):
        finish(tmp_path, *words, "arm=tf_uniform", "label=other", f"expansion.model={other}")


def test_stop_ids_and_marks(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "encoder")
    pieces = [
        *(folder / "vocab.txt").read_text(encoding="utf-8").split(),
        "##s",
        "##ing",
        "été",
        "x-1",
        "definition",
        "where",
    ]
    (folder / "vocab.txt").write_text("\n".join([*pieces, "[unused0]", "[unused1]"]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    of = tokenizer.get_vocab()
    stop = stop_ids(tokenizer)
    assert {of[each] for each in ("##s", "été", "that", "a", "[CLS]", "[unused0]", ".")} <= stop
    assert not {of[each] for each in ("##ing", "x-1", "where", "dog", "definition")} & stop
    assert of["été"] not in stop_ids(tokenizer, "letters") and of["."] in stop_ids(tokenizer, "letters")
    assert bad_ids(tokenizer, stop) == stop | {of["definition"]}
    assert not WORDS & {"where", "how", "what", "when", "which", "why", "who"}
    rows = [[of["[CLS]"], of["dog"], of["[SEP]"]]]
    assert marked(tokenizer, rows, "passage") == [[of["[unused0]"], of["dog"], of["[SEP]"]]]
    assert marked(tokenizer, rows, "query")[0][0] == of["[unused1]"]


def test_tilde_reads_one_place(tmp_path: Path) -> None:
    body, _ = load_encoder(MiniLMConfig(path=str(encoder_folder(tmp_path / "encoder"))), None)
    model = Tilde(body)
    ids, mask = pad_rows([[2, 7, 9, 3], [2, 8, 3]])
    with torch.no_grad():
        logits, alone = model(ids, mask), model(*pad_rows([[2, 8, 3]]))
        state = body(input_ids=ids, attention_mask=mask).last_hidden_state[0, 0]
    torch.testing.assert_close(logits[1:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[0], body.get_input_embeddings().weight @ state, atol=1e-5, rtol=1e-5)
    begin = prior([[5, 5, 6]], [[5, 7]], 9, frozenset({7}))
    assert begin[5] > begin[6] > begin[8] == begin[7] and np.isfinite(begin.numpy()).all()


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_scores_by_likelihood_are_sums_of_logarithms(tmp_path: Path, alpha: float) -> None:
    torch.manual_seed(0)
    body, tokenizer = load_encoder(MiniLMConfig(path=str(encoder_folder(tmp_path / "encoder"))), None)
    model, stop = Tilde(body).eval().requires_grad_(False), stop_ids(tokenizer)
    plain = tokenizer([" ".join(passage) for passage in PASSAGES.values()])["input_ids"]
    query, passages = "tree with a tree animal", np.array([3, 0])
    texts = Texts(tokenizer, plain, plain, stop, stop)
    ranker = ByLikelihood(model, texts, [0, 3], [query, "engine"], alpha, 16, "cpu", 64)
    ids = tokenizer(query)["input_ids"]
    of_query = torch.sigmoid(model(*pad_rows([ids]))[0]).log10()
    expected = []
    for passage in passages:
        of_passage = torch.sigmoid(model(*pad_rows([plain[passage]]))[0]).log10()
        likely = sum(float(of_passage[term]) for term in ids if term not in stop)
        terms = sorted(set(plain[passage]) - stop)
        expected.append(alpha * likely + (1 - alpha) * float(of_query[terms].mean()))
    assert ranker.score(query, passages) == pytest.approx(expected, rel=1e-4)
    bare = Texts(tokenizer, [plain[0], [2, 3]], [], stop, stop)
    ranker = ByLikelihood(model, bare, [0, 1], [query], alpha, 16, "cpu", 64)
    scores = ranker.score(query, np.array([1]))  # a passage without terms is as unlikely as the least likely term
    of_bare = torch.sigmoid(model(*pad_rows([[2, 3]]))[0]).log10()
    likely = sum(float(of_bare[term]) for term in ids if term not in stop)
    assert scores == pytest.approx([alpha * likely + (1 - alpha) * float(of_query.min())], rel=1e-4)


def test_weights_of_a_querys_terms_add_up(tmp_path: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(encoder_folder(tmp_path / "encoder"))
    stop = stop_ids(tokenizer)
    tree, animal = tokenizer.convert_tokens_to_ids(["tree", "animal"])
    index = TermIndex.build([([tree, animal], np.array([2.0, 0.5])), ([animal], np.array([1.0]))], stop)
    texts = Texts(tokenizer, [], [], stop, stop)
    ranker = LookUp(
        index, texts, 16, 2, weigh=lambda ids: np.arange(len(ids))
    )  # CLS 0, tree 1, with 2, tree 3, animal 4
    assert ranker.score("tree with tree animal", np.array([1, 0])).tolist() == [4.0, 4 * 2.0 + 4 * 0.5]
    assert LookUp(index, texts, 16, 2).scores("tree with tree animal").tolist() == [2 * 2.0 + 0.5, 1.0]
    assert ranker.bytes == index.nbytes / 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["terms.quantise=int8", "arm=bm25", "label=x"], "the scorer bm25 has no weights of terms"),
        (["terms.alpha=0.5", "label=x"], "is for terms.scorer=tilde, not tildev2"),
        (["expansion.steps=0"], "type expansion.model=FOLDER of one"),
        (["expansion.name=file", "label=x"], "is missing; type expansion.path=FILE"),
        (["expansion.path=x.jsonl"], "is for expansion.name=file, not tilde"),
        (["expansion.top=201"], "must be >= 0 and <= 200"),
        (["terms.model=x/y", "arm=bm25"], "is for terms.scorer=tildev2 or unicoil, not bm25"),
        (["trainer.nproc=2"], "negatives are those of one process"),
        (["data.measures=[RR@10,R@2000]"], "one is cut below the first 1,000 passages"),
    ],
)
def test_settings_that_cannot_be(typed: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose.compose("tildev2", typed)
    assert message in str(refused.value)


def test_what_is_typed_and_of_no_use_is_announced() -> None:
    def of_no_use(*words: str) -> list[str]:
        rows = compose.compose("tildev2", list(words)).describe()
        return [text.partition(":")[0] for name, text in rows if name == "of no use"]

    assert of_no_use("terms.learning_rate=1e-2", "first_stage.k1=2", "expansion.seed=3") == []
    assert of_no_use("arm=tf_uniform", "terms.learning_rate=1e-2") == ["terms.learning_rate"]
    assert of_no_use("arm=no_expansion", "expansion.seed=3", "expansion.learning_rate=1e-3") == [
        "expansion.learning_rate", "expansion.seed"
    ]  # fmt: skip
    assert of_no_use("arm=bm25", "model.path=x", "terms.pieces=letters", "pairs.queries=9") == [
        "model.path", "pairs.queries", "terms.pieces"
    ]  # fmt: skip
    dense = ["first_stage.name=dense", "first_stage.k1=2"]
    assert of_no_use(*dense) == ["first_stage.k1"] and of_no_use(*dense, "arm=bm25") == []
    taken = ["terms.model=x/y", "model.path=x", "label=x"]
    assert of_no_use(*taken) == [] and of_no_use(*taken, "expansion.model=y") == ["model.path"]


def test_collections_that_cannot_be(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(UserError, match="2 training examples are fewer than one batch"):
        finish(tmp_path, *words, "trainer.batch_size=4")
    for arm in ("plain_uniform", "tildev2"):
        with pytest.raises(UserError, match="the encoder has 64 positions"):
            finish(tmp_path, *words, "encoder.passage_tokens=100", f"arm={arm}")
