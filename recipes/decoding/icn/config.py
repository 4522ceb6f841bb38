"""Config and card of the recipe `icn`. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import DATA_CONTENT, EXAMPLE_UNIT, SEEDS, Card, Claim, UntrainedConfig, setting
from recipes.core.data.files.records import FORMATS
from recipes.core.models.config import CausalLMConfig, SmolLM2TextConfig
from recipes.core.spelling import did_you_mean
from recipes.core.training.toys.config import ToyLMConfig
from recipes.decoding.icn.lists import LISTS

RANKS, SAMPLE, NO_REPEAT = "ranks", "sample", "no_repeat"
PLAIN, QUOTED = "plain", "quoted"
DISTINCT, SHARE, GAP, MASS, NEAR = "distinct", "cluster_share", "precision/gap", "mass", "mass_near"


@dataclass(frozen=True)
class ListsConfig:
    """What is asked for, with all its right answers: the lists that ship, or your own."""

    name: str = setting("lists", help="data set", choices=("lists",))
    path: str | None = setting(
        None,
        help="JSONL or Parquet file with columns instruction and items (the right answers, each a text or a list of "
        "its names), a folder of them, or a datasets name; null: the lists that ship",
        content=DATA_CONTENT,
    )
    format: str = setting("auto", help="auto: from the path", choices=FORMATS)
    split: str | None = setting(None, help="published split; null: test, else validation, else train")
    topics: tuple[str, ...] = setting((), help="lists that ship, by name; empty: all")
    limit: int | None = setting(None, help="use only the first lists; null: all", unit="lists", ge=1)
    on_error: str = setting(
        "fail", help="a row that cannot be used stops the run, or is left out and counted", choices=("fail", "skip")
    )

    @property
    def description(self) -> str:
        """What a dry run announces."""
        if self.path:
            return f"lists of {self.path}"
        names = list(self.topics or (each.id for each in LISTS))[: self.limit]
        return f"{len(names)} lists that ship: {', '.join(names)}"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        known = [each.id for each in LISTS]
        unknown = [name for name in self.topics if name not in known]
        problems = [("topics", f"there is no {name}; {did_you_mean(name, known)}") for name in unknown]
        if len(set(self.topics)) < len(self.topics):
            problems.append(("topics", "names a list twice"))
        if self.topics and self.path:
            problems.append(("topics", "is for the lists that ship; leave it out beside data.path"))
        return problems


@dataclass(frozen=True)
class NavigationConfig:
    """How items are found, one behind the other or many at once."""

    name: str = setting(
        RANKS,
        help="ranks: the likeliest first tokens that are not explored, each continued greedily; sample: items are "
        "drawn; no_repeat: the model writes the list on by itself, and n-grams of earlier items do not come again",
        choices=(RANKS, SAMPLE, NO_REPEAT),
    )
    listed: bool = setting(True, help="explored items stand in the prompt by which first tokens are ranked")
    reg: bool = setting(
        True, help="an item is continued behind the initial prompt, without the explored ones", origin="code"
    )
    exclude: str = setting(
        "tokens",
        help="what may not come first again: the tokens that did; also what explored items begin with, in any "
        "writing; or all tokens of the clusters of those that did",
        choices=("tokens", "beginnings", "clusters"),
    )
    items: int = setting(100, help="items of a list", unit="items", ge=1, origin="code")
    n_tol: int = setting(
        10, help="items from one ranking, after which they join the explored ones", unit="items", ge=1, origin="code"
    )
    repeats: bool = setting(True, help="an item that was explored before stands in the prompt once more", origin="code")
    temperature: float = setting(1.0, help="sample: of the softmax", gt=0)
    ngram: int = setting(3, help="no_repeat: tokens of an n-gram, the start and the end of an item count", ge=2)

    @property
    def rounds(self) -> int:
        """Rankings of a list (the n_run of the paper's code)."""
        return self.items // self.n_tol

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.name == RANKS and self.items % self.n_tol:
            problems.append(("n_tol", f"items={self.items} does not divide by it"))
        if self.name == SAMPLE and self.listed:
            problems.append(("listed", "what is drawn is drawn from one distribution; type navigation.listed=false"))
        if self.name == NO_REPEAT and (not self.listed or self.reg):
            what = "the model writes on behind its own list; type navigation.listed=true navigation.reg=false"
            problems.append(("listed" if not self.listed else "reg", what))
        return problems


@dataclass(frozen=True)
class PromptConfig:
    """How lists are asked for."""

    format: str = setting(
        PLAIN, help="an item a line; or items in quotes behind 'Answer:', as in the paper", choices=(PLAIN, QUOTED)
    )
    item_tokens: int = setting(12, help="longest item", unit="tokens", ge=1)


@dataclass(frozen=True)
class ClustersConfig:
    """k-means on the rows of the output embedding."""

    number: int = setting(1000, help="clusters", ge=1, origin="code")
    steps: int = setting(12, help="steps of Lloyd's algorithm", unit="steps", ge=1)
    seed: int = setting(0, help="draws the rows that centres start from; the same for all seeds", ge=0, lt=SEEDS)
    normalise: bool = setting(False, help="divide rows by their length first")


@dataclass(frozen=True)
class ProbeConfig:
    """What is asked of the ranks of first tokens behind the initial prompt, and of the query."""

    top: int = setting(10, help="first ranks, whose clusters are the main ones", unit="ranks", ge=1, origin="code")
    ranks: int = setting(100, help="ranks that are looked at", unit="ranks", ge=2, origin="code")
    by_chance: bool = setting(
        False, help="control: tokens behind the first ranks are drawn, and so is which of their items count as in the "
        "main clusters",
    )  # fmt: skip
    listed: int = setting(3, help="right answers whose first tokens' probability is measured", unit="answers", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [] if self.top < self.ranks else [("top", f"leaves none of ranks={self.ranks}")]


@dataclass(frozen=True, kw_only=True)
class ICNConfig(UntrainedConfig):
    """Config of one `icn` run."""

    data: ListsConfig = setting(help="lists")
    model: ToyLMConfig | SmolLM2TextConfig | CausalLMConfig = setting(help="model")
    navigation: NavigationConfig = setting(NavigationConfig(), help="navigation")
    prompt: PromptConfig = setting(PromptConfig(), help="prompt")
    clusters: ClustersConfig = setting(ClustersConfig(), help="clusters of keys")
    probe: ProbeConfig = setting(ProbeConfig(), help="probe")
    heatmap: int = setting(6, help="lists that the report shows", unit="lists", ge=0)

    def describe(self) -> list[tuple[str, str]]:
        """Rows for `--dry-run`."""
        options = self.navigation
        how = {
            RANKS: f"{options.rounds} rankings, explored items {'' if options.listed else 'not '}in the prompt",
            SAMPLE: f"drawn at temperature {options.temperature:g}",
            NO_REPEAT: f"written on, no n-gram of {options.ngram} tokens twice",
        }[options.name]
        return [
            ("data", self.data.description),
            ("model", self.model.description),
            ("items", f"{options.items:,} of each list, {how}"),
        ]


CONFIG = ICNConfig

CARD = Card(
    title="ICN: away from the keys of explored answers",
    paper="arXiv 2410.02284 (University of California San Diego, October 2024)",
    weights="first tokens of an answer, by a query that the answers explored before have moved",
    summary="Logits are products of a query with fixed keys, so that what lies near the best answer ranks high whether "
    "it is right or wrong. Listing the explored answers in the prompt moves the query to other keys. Nothing is "
    "trained; lists whose right answers are all known are asked for.",
    claim=Claim(
        statement="Explored answers in the prompt bring more distinct right answers than their exclusion alone",
        metric=DISTINCT,
        arm="icn",
        baseline="ban",
        direction=1,
        published="better lists than without navigation, by a GPT-4o judge; its tables are not known to us",
        minimal_effect=1.0,
        unit=EXAMPLE_UNIT,
    ),
    claims=(
        Claim(
            statement="Ranks 11 to 100 lie in the clusters of the first ten more often than tokens that are drawn",
            metric=SHARE,
            arm="rank",
            baseline="chance",
            direction=1,
            published="mid ranks are dominated by the clusters of the top ones; shares are not known to us",
            minimal_effect=0.1,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Explored answers in the prompt bring more distinct right answers than ranks of one distribution",
            metric=DISTINCT,
            arm="icn",
            baseline="rank",
            direction=1,
            published="better lists than without navigation, by a GPT-4o judge; its tables are not known to us",
            minimal_effect=1.0,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Among ranks 11 to 100, answers outside of the clusters of the first ten are right more often",
            metric=GAP,
            arm="rank",
            baseline="chance",
            direction=1,
            published="precision in the main clusters is below that of the others; numbers are not known to us",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="Answers lose probability as first tokens when they stand in the prompt",
            metric=MASS,
            arm="icn",
            baseline="rank",
            direction=-1,
            published="the paper's explanation; no number known to us",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
        Claim(
            statement="So do the other tokens of their clusters, which do not stand there",
            metric=NEAR,
            arm="icn",
            baseline="rank",
            direction=-1,
            published="the paper's explanation; no number known to us",
            minimal_effect=0.02,
            unit=EXAMPLE_UNIT,
        ),
    ),
    cost="k-means on the output embedding once, then forwards of a frozen model, all items of a round at once",
    pair_keys=("arm", "navigation", "probe"),
    version=1,
    control="rank",
    headlines=(DISTINCT, "precision", SHARE, MASS),
    price=("precision", "read_per_item"),
    trains=False,
    metrics=(
        *(DISTINCT, "coverage", "precision", "mean_precision", "duplicates", "read_per_item"),
        *(SHARE, "cluster_chance", "precision/*", "rank/*", MASS, NEAR),
    ),
)
