"""Config of data sets, told apart by `name`: image-caption data, then texts. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from recipes.core.config.settings import DATA_CONTENT, SEEDS, setting
from recipes.core.spelling import did_you_mean


@dataclass(frozen=True)
class DataConfig:
    """What every data set has."""

    path: str | None = setting(
        None, help="file, folder or hub name to read from; null: the data that ships", content=DATA_CONTENT
    )
    on_error: str = setting(
        "fail",
        help="an example that cannot be used stops the run, or is left out and counted",
        choices=("fail", "skip"),
    )
    on_long: str = setting(
        "fail", help="a caption over max_tokens stops the run, or is cut", choices=("fail", "truncate")
    )
    max_tokens: int = setting(64, help="longest caption, end-of-text token included", unit="tokens", ge=2)
    seed: int | None = setting(
        0,
        help="what is random in the data (filler, choice of questions, test images); null: the seed of the run",
        ge=0,
        lt=SEEDS,
    )


@dataclass(frozen=True)
class DigitCaptionsConfig(DataConfig):
    """Handwritten digits of scikit-learn (8x8) with captions that bury two image words in filler."""

    name: str = setting("digit-captions", help="data set", choices=("digit-captions",))
    filler: str = setting(
        "predictable",
        help="text around the image words: boilerplate sentences, or random words",
        choices=("predictable", "unpredictable"),
    )

    @property
    def image_side(self) -> int | None:
        """Pixels of a side of its images; None if only they know."""
        return 8

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        if self.path is None:
            return []
        instead = "for your own data type data=image-text or data=labelled-images, whichever the recipe takes"
        return [("path", f"digit-captions reads the digits of scikit-learn; {instead}")]


@dataclass(frozen=True)
class EasyVqaConfig(DataConfig):
    """easy-VQA: one coloured shape on 64x64 pixels; a caption joins question-answer pairs of its image."""

    name: str = setting("easy-vqa", help="data set", choices=("easy-vqa",))
    pairs: int = setting(3, help="question-answer pairs in a caption (fewer where the image has fewer)", ge=1)

    @property
    def image_side(self) -> int | None:
        """As of `DigitCaptionsConfig`."""
        return 64


@dataclass(frozen=True)
class ImageTextConfig(DataConfig):
    """Your own image-caption pairs: JSONL, Parquet, CSV, an image folder, LLaVA JSON, or a `datasets` name."""

    name: str = setting("image-text", help="data set", choices=("image-text",))
    format: str = setting(
        "auto",
        help="auto: from the path; stream: a hub data set, fetched row by row (with limit only the first); its "
        "captions and whole images are kept below STEELYARD_HOME",
        choices=("auto", "jsonl", "parquet", "csv", "folder", "llava", "datasets", "stream"),
    )
    image_column: str | None = setting(None, help="column of image paths or bytes; null: image or file_name")
    caption_column: str | None = setting(None, help="column of captions; null: caption, text, captions, conversations")
    captions: str | None = setting(
        None,
        help="where an image has a list of captions: one example for each, or the first; null: that is an error",
        choices=("all", "first"),
    )
    split: str = setting("train", help="published split to train on, or all; data without splits is train")
    test_split: str | None = setting(
        None, help="published split to test on; null: test, else validation, else test_fraction of split"
    )
    test_fraction: float | None = setting(
        None, help="share of the images kept for testing; null: the published split, or 0.1 where there is none",
        gt=0, lt=1,
    )  # fmt: skip
    limit: int | None = setting(None, help="read only the first examples; null: all", unit="examples", ge=2)
    max_tokens: int = setting(128, help="longest caption, end-of-text token included", unit="tokens", ge=2)

    @property
    def image_side(self) -> int | None:
        """As of `DigitCaptionsConfig`."""
        return None

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        problems = []
        if self.path is None:
            problems.append(("path", "is missing; type data.path=FILE, FOLDER or a name on the hub"))
        return [*problems, *test_split_problems(self.split, self.test_split, self.test_fraction)]


def test_split_problems(split: str, test_split: str | None, test_fraction: float | None) -> list[tuple[str, str]]:
    """What is wrong with how texts or images to test on are chosen, as (key, message)."""
    problems = []
    if test_split is not None and test_fraction is not None:
        problems.append(("test_fraction", "and test_split are two ways to choose what is tested on; type one of them"))
    if test_split == split:
        problems.append(("test_split", f"{split} is what is trained on; name another, or type test_fraction"))
    return problems


def near_duplicates_setting() -> Any:
    """The setting of data sets of documents that leaves near-duplicates out before anything is split."""
    return setting(
        None,
        help="leave out documents of at least this similarity (Jaccard, runs of five words, whatever their case and "
        "punctuation) with an earlier one that is read, before any split; null: keep all",
        ge=LEAST_SIMILARITY,
        le=1,
    )


DATA: dict[str, type[DataConfig]] = {
    "digit-captions": DigitCaptionsConfig,
    "easy-vqa": EasyVqaConfig,
    "image-text": ImageTextConfig,
}

# What a mixture holds that names no domains: it stays as it is, or earlier runs would be other runs.
EMBEDDED_DOMAINS = (
    "sotu-early",
    "sotu-middle",
    "sotu-modern",
    "wiki-en",
    "wiki-fr",
    "wiki-es",
    "python-source",
    "python-reference",
    "wordnet-glosses",
)
DOMAINS = (*EMBEDDED_DOMAINS, "licences", "docstrings", "news", "korean-law", "wordnet-turkish")
# Sampling weights of published runs on SlimPajama, by the names its domains have there (arXiv 2502.06733, configs).
PUBLISHED_MIXTURES = {
    "doge": (0.088, 0.045, 0.269, 0.214, 0.070, 0.166, 0.148),
    "doremi": (0.04235, 0.08201, 0.381, 0.1141, 0.0654, 0.0847, 0.2305),
    "cc-c4": (0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0),
}
SLIMPAJAMA = ("arxiv", "book", "cc", "c4", "github", "stackexchange", "wikipedia")
LEAST_SIMILARITY = 0.2  # of near-duplicates: below it MinHash would propose nearly every pair
SUM_TOLERANCE = 0.01  # published lists are rounded


def domain_problems(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """What is wrong with a list of domains that ship, for the `check` of settings that hold it as `domains`."""
    unknown = [name for name in names if name not in DOMAINS]
    problems = [("domains", f"there is no {name}; {did_you_mean(name, list(DOMAINS))}") for name in unknown]
    if not names or len(set(names)) < len(names):
        problems.append(("domains", "names no domain, or one twice"))
    return problems


@dataclass(frozen=True)
class DomainsConfig:
    """Texts of several domains, packed into sequences and mixed with fixed weights."""

    name: str = setting("domains", help="data set", choices=("domains",))
    path: str | None = setting(
        None,
        help="JSONL, Parquet or text file, a folder of them, or a datasets name; null: what ships",
        content=DATA_CONTENT,
    )
    paths: tuple[str, ...] | None = setting(
        None,
        help="several of these in place of path, NAME:PATH each: every one is a domain, in the order of weights",
        content=DATA_CONTENT,
    )
    format: str = setting(
        "auto", help="auto: from the path", choices=("auto", "jsonl", "parquet", "csv", "text", "folder", "datasets")
    )
    text_column: str | None = setting(None, help="column of texts; null: text, content or document")
    domain_column: str | None = setting(None, help="column that names the domain; null: domain, if there is one")
    split: str = setting("train", help="published split to read, or all; data without splits is train")
    on_error: str = setting(
        "fail",
        help="a bad document stops the run, or is left out and counted",
        choices=("fail", "skip"),
    )
    domains: tuple[str, ...] | None = setting(
        None, help="domains to use, in the order of weights; null: all of the data, or the usual ones of what ships"
    )
    mixture: str = setting(
        "uniform",
        help="how often each domain is drawn: equally, by its tokens, or by a list (published ones: SlimPajama)",
        choices=("uniform", "natural", "custom", *PUBLISHED_MIXTURES),
    )
    weights: tuple[float, ...] | None = setting(None, help="share of each domain, for mixture=custom", ge=0)
    length: int = setting(64, help="tokens of a sequence", unit="tokens", ge=2)
    characters: int | None = setting(
        1_000_000,
        help="read documents of a domain until they hold this much, in both splits; null: all",
        unit="characters",
        ge=1,
    )
    test_fraction: float = setting(0.1, help="share of the documents of each domain kept for testing", gt=0, lt=1)
    near_duplicates: float | None = near_duplicates_setting()
    duplicates: float = setting(0.0, help="share of the stream drawn from a small set, again and again", ge=0, lt=1)
    duplicate_set: int = setting(200, help="sequences in that set", unit="sequences", ge=1)
    seed: int = setting(0, help="which sequences are in that set", ge=0, lt=SEEDS)

    @property
    def description(self) -> str:
        """What is read, for `--dry-run`."""
        named = None if self.domains is None else ", ".join(self.domains)
        what = named or "the domains that ship with the install or as assets"
        if read := self.path or ", ".join(self.paths or ()):
            what = f"{read} ({named})" if named else read
        alike = self.near_duplicates
        return what if alike is None else f"{what}, without near-duplicates ({alike:g} or more alike)"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings, as (key, message)."""
        problems = self._check_paths()
        if self.path is None:
            known = [name for name, _ in self.sources] or [*DOMAINS]
            unknown = [name for name in self.domains or () if name not in known]
            problems += [("domains", f"there is no {name}; {did_you_mean(name, known)}") for name in unknown]
            if self.mixture in PUBLISHED_MIXTURES and not self.paths:
                problems.append(
                    ("mixture", f"{self.mixture} is for SlimPajama; type data.path= and data.domain_column=")
                )
        if self.domains == ():
            problems.append(("domains", "is empty; name one, or leave it out"))
        if self.domains is not None and len(set(self.domains)) < len(self.domains):
            problems.append(("domains", "names a domain twice"))
        if (self.mixture == "custom") != (self.weights is not None):
            problems.append(("weights", "belongs to data.mixture=custom; type both or neither"))
        elif self.weights is not None:
            problems += self._check_weights(self.weights)
        return problems

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """Name and path of each of `paths`."""
        return tuple((name, path) for name, _, path in (each.partition(":") for each in self.paths or ()))

    def _check_paths(self) -> list[tuple[str, str]]:
        names = [name for name, _ in self.sources]
        wrong = [each for each, (name, path) in zip(self.paths or (), self.sources, strict=True) if not (name and path)]
        problems = [("paths", f"{each!r} is not NAME:PATH") for each in wrong]
        if self.paths == ():
            problems.append(("paths", "is empty; type [NAME:PATH,...], or leave it out"))
        if len(set(names)) < len(names):
            problems.append(("paths", "gives a name twice"))
        if self.paths is not None and self.path is not None:
            problems.append(("paths", "names the data as data.path does; type one of them"))
        if self.paths is not None and self.domain_column is not None:
            problems.append(("domain_column", "is of no use where each of data.paths is a domain; leave it out"))
        return problems

    def _check_weights(self, weights: tuple[float, ...]) -> list[tuple[str, str]]:
        if abs(sum(weights) - 1) > SUM_TOLERANCE:
            return [("weights", f"sum to {sum(weights):g}, not to 1")]
        named = self.domains or self.paths or (EMBEDDED_DOMAINS if self.path is None else None)
        if named is not None and len(named) != len(weights):
            return [("weights", f"are {len(weights)}, the domains {len(named)}")]
        return []


@dataclass(frozen=True)
class WindowsConfig:
    """Held-out stretches of text that are measured; all tokenizers get the same bytes."""

    windows: int = setting(6, help="stretches of each domain, drawn by the seed", unit="windows", ge=1)
    characters: int = setting(1000, help="of a stretch at most; it ends behind a word", unit="characters", ge=20)
    shortest: int = setting(200, help="documents with fewer are passed over", unit="characters", ge=1)
    batch_tokens: int = setting(2048, help="tokens of a forward, padding included", unit="tokens", ge=1)
    shown: int = setting(6, help="stretches that the report shows", unit="windows", ge=0)
