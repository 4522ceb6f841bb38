"""Config and card of the recipe `tildev2`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import (
    DATA_CONTENT,
    EQUIVALENCE,
    MODEL_CONTENT,
    SEEDS,
    Card,
    Claim,
    setting,
)
from recipes.core.search.config import RANKING_METRICS, in_batch_problems
from recipes.retrieval.config import EncoderRunConfig, FirstStageConfig, keys_of_no_use

METRIC, COVERAGE = "RR@10", "unseen"
LEARNT = ("tildev2", "unicoil")  # scorers that a run trains
INDEXED = (*LEARNT, "uniform")  # scorers that look weights up
TILDE = "tilde"
LIKELY = ("tilde", "random", "frequent")  # expansions that count the terms of TILDE
MOST = 200
DEPTH = 1000  # passages of a ranking of the whole collection
MINILM_PARAMETERS = 22_565_376


@dataclass(frozen=True, kw_only=True)
class TermsConfig:
    """What scores a passage, and which terms count."""

    scorer: str = setting(
        "tildev2", help="tildev2: weights of passages' tokens by an encoder; uniform: 1 each; unicoil: weights of the "
        "query's tokens too; tilde: likelihood of the query's terms (TILDE); bm25; encoder: cosines of MiniLM",
        choices=(*INDEXED, TILDE, "bm25", "encoder"),
    )  # fmt: skip
    alpha: float = setting(
        1.0, help="tilde: share of the likelihood of the query; the rest is that of the passage given the query, for "
        "which queries are encoded", ge=0, le=1,
    )  # fmt: skip
    drop_stop: bool = setting(True, help="leave stop words out, of queries in training too")
    pieces: str = setting(
        "ascii", help="tokens that are terms: of letters and digits of ASCII, as in the code, or of any script",
        choices=("ascii", "letters"), origin="code",
    )  # fmt: skip
    quantise: str = setting(
        "none", help="int8: a byte a weight instead of two, w / max * 255", choices=("none", "int8")
    )
    model: str | None = setting(
        None, help="a run of ours, or a folder or hub name of a BertForTokenClassification with one label, that weighs "
        "terms as it is; null: trained in the run", content=MODEL_CONTENT,
    )  # fmt: skip
    learning_rate: float = setting(1e-3, help="peak learning rate of what weighs tokens, behind the encoder", gt=0)
    passages: str = setting(
        "all", help="that are weighed and go into the index: all, or only candidates of the queries",
        choices=("all", "candidates"),
    )  # fmt: skip
    shown: int = setting(6, help="passages that the report shades", unit="passages", ge=0)


@dataclass(frozen=True, kw_only=True)
class ExpansionConfig:
    """Terms that passages get which they do not say."""

    name: str = setting(
        "tilde", help="tilde: likely terms by TILDE; random, frequent: as many drawn ones, or the most frequent of "
        "training queries (controls); file: yours, such as queries of doc2query; none",
        choices=("tilde", "random", "frequent", "file", "none"),
    )  # fmt: skip
    top: int = setting(
        MOST, help="likely terms of a passage, before those that it has and stop words go", unit="terms", ge=0, le=MOST,
        origin="code",
    )  # fmt: skip
    path: str | None = setting(
        None, help='file: JSONL of {"_id": passage, "text": what it is expanded by}', content=DATA_CONTENT
    )
    on_error: str = setting(
        "fail", help="file: a row that cannot be used stops the run, or is left out and counted",
        choices=("fail", "skip"),
    )  # fmt: skip
    model: str | None = setting(
        None, help="folder or hub name of a trained TILDE (ielab/TILDE) or masked language model of type BERT; null: "
        "trained in the run, once for all arms and seeds", content=MODEL_CONTENT,
    )  # fmt: skip
    steps: int = setting(
        1000, help="that TILDE is trained for, once; 0: as it is (with expansion.model)", unit="steps", ge=0
    )
    batch_size: int = setting(32, help="pairs of a step", unit="pairs", ge=1)
    learning_rate: float = setting(1e-4, help="peak learning rate", gt=0)
    tokens: int = setting(128, help="longest text that TILDE reads", unit="tokens", ge=3, origin="code")
    seed: int = setting(0, help="of its order of pairs", ge=0, lt=SEEDS)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.name == "file" and self.path is None:
            return [("path", "is missing; type expansion.path=FILE")]
        if self.name != "file" and self.path is not None:
            return [("path", f"is for expansion.name=file, not {self.name}")]
        return []


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is measured while weights are trained: queries that are neither trained nor tested on."""

    every: int = setting(20, help="from one measurement to the next", unit="steps", ge=1)
    queries: int = setting(32, help="held out, at most a quarter of those to train on", unit="queries", ge=1)


@dataclass(frozen=True, kw_only=True)
class TildeV2Config(EncoderRunConfig):
    """Config of one `tildev2` run."""

    first_stage: FirstStageConfig = setting(FirstStageConfig(), help="candidates")
    terms: TermsConfig = setting(TermsConfig(), help="terms and their weights")
    expansion: ExpansionConfig = setting(ExpansionConfig(), help="expansion of passages")
    watch: WatchConfig = setting(WatchConfig(), help="learning curve")

    @property
    def learns(self) -> bool:
        """Whether the run trains weights of terms."""
        return self.terms.scorer in LEARNT and self.terms.model is None

    @property
    def expands(self) -> bool:
        """Whether passages get terms that they do not say."""
        return self.terms.scorer in INDEXED and self.expansion.name != "none" and self.expansion.top > 0

    @property
    def needs_tilde(self) -> bool:
        """Whether it needs a TILDE, to expand or to rank."""
        return self.terms.scorer == TILDE or (self.expands and self.expansion.name in LIKELY)

    @property
    def passage_tokens(self) -> int:
        """Where passages are cut before they are expanded: TILDE reads no more, and an expansion needs room."""
        longest = self.encoder.passage_tokens
        return min(longest, self.expansion.tokens) if self.expands or self.needs_tilde else longest

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = in_batch_problems(self.trainer) if self.learns else []
        if self.terms.quantise != "none" and self.terms.scorer not in INDEXED:
            problems.append(("terms.quantise", f"the scorer {self.terms.scorer} has no weights of terms"))
        if self.terms.model is not None and self.terms.scorer not in LEARNT:
            problems.append(("terms.model", f"is for terms.scorer={' or '.join(LEARNT)}, not {self.terms.scorer}"))
        if self.terms.alpha < 1 and self.terms.scorer != TILDE:
            problems.append(("terms.alpha", f"is for terms.scorer=tilde, not {self.terms.scorer}"))
        if self.needs_tilde and not self.expansion.steps and self.expansion.model is None:
            problems.append(("expansion.steps", "0 leaves no TILDE; type expansion.model=FOLDER of one"))
        if self.terms.passages == "all" and self.data.depth_problems("", DEPTH):
            what = f"one is cut below the first {DEPTH:,} passages, which the whole collection is ranked to"
            problems.append(("data.measures", f"{what}; type terms.passages=candidates, or leave it out"))
        return problems

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        expansion = self.expansion
        terms = f"{expansion.name}, {expansion.top} terms" if expansion.name in LIKELY else expansion.name
        return [
            ("data", self.data.description),
            ("candidates", self.first_stage.description),
            ("model", f"encoder {self.model.path or 'all-MiniLM-L6-v2 (asset)'}"),
            ("score by", f"{self.terms.scorer}{f' of {self.terms.model}' if self.terms.model else ''}"),
            ("expansion", terms if self.terms.scorer in INDEXED else "of no use to this scorer"),
            *([("TILDE", self._tilde)] if self.needs_tilde else []),
            *(("of no use", f"{key}: {why}") for key, why in self.unread()),
        ]

    def unread(self) -> list[tuple[str, str]]:
        """Keys that are typed and change nothing in this run, and why."""
        stage, scorer, expansion = self.first_stage, self.terms.scorer, self.expansion
        reads_terms, trains_tilde = scorer in (*INDEXED, TILDE), self.needs_tilde and expansion.steps > 0
        no_terms = f"the scorer {scorer} reads no terms"
        of_model = self.terms.model is None or (self.needs_tilde and expansion.model is None)
        rules = [
            ("model.path", reads_terms and of_model, "nothing is made of it"),
            ("first_stage.encoder", stage.name == "dense", "no encoder searches"),
            ("first_stage.seed", stage.order == "shuffled", "nothing is shuffled"),
            *((f"first_stage.{key}", "bm25" in (stage.name, scorer), "BM25 ranks nothing") for key in ("k1", "b")),
            ("pairs.queries", self.learns or trains_tilde, "nothing is trained"),
            *((f"terms.{key}", reads_terms, no_terms) for key in ("drop_stop", "pieces")),
            ("terms.learning_rate", self.learns, "no weights are trained"),
            ("terms.shown", scorer in INDEXED, "no tokens are weighed"),
            ("expansion.on_error", self.expands and expansion.name == "file", "no file is read"),
            ("expansion.model", self.needs_tilde, "no TILDE is needed"),
            ("expansion.learning_rate", trains_tilde, "no TILDE is trained"),
            ("expansion.seed", self.needs_tilde, "nothing is drawn by it"),
        ]
        return keys_of_no_use(self, rules)

    @property
    def _tilde(self) -> str:
        steps = f"trained for {self.expansion.steps:,} steps (once, then cached)"
        return self.expansion.model or steps

    def parameters(self) -> int | None:
        """Parameters of what is trained."""
        if not self.learns:
            return 0
        return None if self.model.path else MINILM_PARAMETERS


CONFIG = TildeV2Config

CARD = Card(
    title="TILDEv2: contextual exact term matching with expanded passages",
    paper="arXiv 2108.08513 (Zhuang, Zuccon; 2021), with TILDE (SIGIR 2021)",
    weights="terms of passages, by an encoder that has read the passage; a query's terms look them up",
    summary="An encoder gives each token of a passage one weight; of a term the largest counts. The score of a passage "
    "is the sum of the weights of the query's terms, so that a query needs no model. Before, passages are expanded by "
    "terms that TILDE, of one forward, holds for likely in queries.",
    claim=Claim(
        statement="Weights of an encoder rank better than the same terms with the weight 1",
        metric=METRIC,
        arm="tildev2",
        baseline="tf_uniform",
        direction=1,
        published="no such baseline known to us; nDCG@10 .6747 against .4973 of BM25 (TREC DL 2019)",
        minimal_effect=0.05,
    ),
    claims=(
        Claim(
            statement="They rank better than the weight 1 for the terms that passages say themselves",
            metric=METRIC,
            arm="tildev2",
            baseline="plain_uniform",
            direction=1,
            published="as above",
            minimal_effect=0.05,
        ),
        Claim(
            statement="They rank the whole collection better than the weight 1, without BM25 to break ties",
            metric=f"whole/{METRIC}",
            arm="tildev2",
            baseline="tf_uniform",
            direction=1,
            published="as above",
            minimal_effect=0.05,
        ),
        Claim(
            statement="Terms of TILDE rank better than no expansion",
            metric=METRIC,
            arm="tildev2",
            baseline="no_expansion",
            direction=1,
            published="an ablation of the paper; no number known to us",
            minimal_effect=0.01,
        ),
        Claim(
            statement="Terms of TILDE are more often those that a query asks for and its passage lacks than drawn ones",
            metric=COVERAGE,
            arm="tildev2",
            baseline="random_expansion",
            direction=1,
            published="no such number known to us",
            minimal_effect=0.05,
        ),
        Claim(
            statement="They are so more often than the most frequent terms of training queries",
            metric=COVERAGE,
            arm="tildev2",
            baseline="frequent_expansion",
            direction=1,
            published="a control of ours",
            minimal_effect=0.02,
        ),
        Claim(
            statement="It ranks better than the likelihood of TILDE, whose index holds the whole vocabulary",
            metric=METRIC,
            arm="tildev2",
            baseline="tilde_ql",
            direction=1,
            published="24% better; nDCG@10 .6747 against .5791 (TREC DL 2019)",
            minimal_effect=0.05,
        ),
        Claim(
            statement="A byte a weight ranks as well as two",
            metric=METRIC,
            arm="int8",
            baseline="tildev2",
            direction=1,
            published="8-bit impacts, as a first stage: nDCG@10 .6527 (TREC DL 2019)",
            minimal_effect=0.01,
            kind=EQUIVALENCE,
        ),
    ),
    cost="an index: one forward a passage, two with expansion; a query: no model, a lookup a term and candidate",
    pair_keys=("arm", "terms", "expansion"),
    version=1,
    control="random_expansion",
    headlines=(METRIC, f"whole/{METRIC}", COVERAGE, "bytes", "query_ms"),
    price=("bytes", "query_ms"),
    metrics=(
        *RANKING_METRICS,
        *("whole/*", COVERAGE, "bytes", "terms", "added", "query_ms*", "watch/*"),
    ),
    watched=("watch/*",),
)
