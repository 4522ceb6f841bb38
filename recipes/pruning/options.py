"""Options of every pruner. Imports no torch.

Empty tuples of layers mean the published ones scaled to the depth of the model. What pruners share (the budget) is
not among them: it comes with the tokens.
"""

from dataclasses import dataclass

from recipes.core.config.settings import setting


def _name(name: str) -> str:
    field: str = setting(name, help="pruner", choices=(name,))
    return field


@dataclass(frozen=True)
class FullOptions:
    """Keep every token."""

    name: str = _name("full")


@dataclass(frozen=True)
class RandomOptions:
    """Keep random tokens."""

    name: str = _name("random")
    place: str = setting("encoder", help="where; vit: behind a block", choices=("encoder", "projector", "vit"))
    layer: int = setting(1, help="which block (place=vit)", ge=0)


@dataclass(frozen=True)
class GridOptions:
    """Keep evenly strided positions."""

    name: str = _name("grid")
    place: str = setting("encoder", help="where", choices=("encoder", "projector"))


@dataclass(frozen=True)
class PoolOptions:
    """Average the square of tokens into a smaller square."""

    name: str = _name("pool")
    place: str = setting("encoder", help="where", choices=("encoder", "projector"))


@dataclass(frozen=True)
class ClsTopkOptions:
    """Keep the tokens that CLS attends to most."""

    name: str = _name("cls_topk")


@dataclass(frozen=True)
class DivPruneOptions:
    """Keep the subset whose smallest pairwise distance is greedily the largest."""

    name: str = _name("divprune")
    seed_rule: str = setting(
        "max_nn",
        help="first token: farthest from its nearest neighbour, one of the farthest pair, of largest norm, any",
        choices=("max_nn", "farthest_pair", "max_norm", "random"),
        origin="code",
    )
    metric: str = setting("cosine", help="distance", choices=("cosine", "l2", "l1"), origin="paper")
    sort: bool = setting(True, help="keep the order of the image; false: in the order picked", origin="code")
    feature: str = setting(
        "projected", help="tokens before the projector or behind it", choices=("projected", "encoder"), origin="code"
    )
    layer: int = setting(
        0, help="k > 0: prune the states that enter layer k of the language model", ge=0, origin="code"
    )
    importance_alpha: float = setting(0.0, help="weight of the token's norm beside the distance", ge=0, lt=1)
    protect_newline: bool = setting(False, help="newline tokens are always kept, and counted")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        if self.layer and self.feature == "encoder":
            return [("feature", "encoder means layer=0; type feature=projected")]
        return []


CRITERIA = ("attn", "density", "semantic")


@dataclass(frozen=True)
class FlowCutOptions:
    """Prune step by step inside the encoder by a running score."""

    name: str = _name("flowcut")
    criteria: tuple[str, ...] = setting(
        ("attn", "density", "semantic"), help="parts of the score", choices=CRITERIA, origin="code"
    )
    combine: str = setting(
        "(a+g)n",
        help="attention a, semantic relevance g, density n: (a+g) x n, their product, or the sum of their shares",
        choices=("(a+g)n", "product", "sum"),
        origin="code",
    )
    cumulative: float = setting(0.5, help="weight of the score so far; 0: this layer only", ge=0, lt=1, origin="code")
    ratio: str = setting(
        "entropy",
        help="how many a pruning layer takes: by entropy, equally many, or all in the last one",
        choices=("entropy", "fixed", "one_shot"),
        origin="code",
    )
    ratio_reduce: str = setting(
        "sample", help="how many of each sample, or the batch's largest number (official)", choices=("sample", "max")
    )
    interval: int = setting(2, help="layers between pruning layers", choices=(1, 2, 4), unit="layers", origin="code")
    query: str = setting("cls", help="whose attention: CLS, or the mean query (no CLS)", choices=("cls", "mean"))
    vit_share: float = setting(1.0, help="target in the encoder over the budget (LLaVA-NeXT as published: 2.5)", gt=0)
    llm_layer: int = setting(0, help="k > 0: second stage entering this layer of the language model", ge=0)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if not {"attn", "semantic"} & set(self.criteria) or len(set(self.criteria)) < len(self.criteria):
            problems.append(("criteria", "needs attn or semantic, each once"))
        if self.query == "mean" and "semantic" in self.criteria:
            problems.append(("criteria", "semantic compares with CLS; type query=cls or leave it out"))
        return problems


@dataclass(frozen=True)
class ZeroTPruneOptions:
    """Rank tokens by votes along the attention graph, and drop doubles of better ones."""

    name: str = _name("zero_tprune")
    layers: tuple[int, ...] = setting((), help="blocks to prune behind; empty: 2, 5 and 8 of 12", ge=0, origin="code")
    rates: tuple[float, ...] = setting(
        (), help="share of the tokens kept at each; empty: equal shares down to the budget", gt=0, le=1
    )
    importance: str = setting(
        "wpr", help="what ranks tokens", choices=("wpr", "cls_row", "column_mean", "random"), origin="paper"
    )
    cls_init: str = setting("sqrt_n", help="first vote of CLS", choices=("sqrt_n", "uniform"), origin="paper")
    aggregate: str = setting("rms", help="over heads", choices=("rms", "mean", "max"), origin="paper")
    vhf: bool = setting(True, help="leave out heads whose scores are nearly even or nearly one token", origin="paper")
    vhf_low: float = setting(0.01, help="smallest variance of mean-1 scores", ge=0, origin="paper")
    vhf_high: float = setting(0.7, help="largest variance of mean-1 scores", gt=0, origin="paper")
    iterations: tuple[int, ...] = setting(
        (40, 8, 1), help="votes in the first three layers, between, in the last three", ge=1
    )
    eps: float = setting(0.0, help="stop voting when scores move less than this (L1); 0: never", ge=0)
    tau: float = setting(1.0, help="temperature of the attention graph; below 1 sharpens it", gt=0)
    sstage: bool = setting(True, help="drop doubles", origin="paper")
    s_share: float = setting(0.5, help="share of the dropped tokens that goes to doubles", ge=0, le=1)
    partition: str = setting(
        "seq_u",
        help="who may be a double: the less important half, the more important half, every other, any half, all",
        choices=("seq_u", "seq_i", "alternate", "random", "none"),
        origin="paper",
    )
    sim_feature: str = setting("key", help="what is compared", choices=("key", "query", "value", "x"), origin="paper")
    metric: str = setting("cosine", help="similarity of tokens", choices=("cosine", "dot", "l2", "l1"), origin="paper")
    order: str = setting(
        "I'SI", help="order of the stages; I' only ranks", choices=("I'SI", "IS", "I", "S"), origin="paper"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.rates and len(self.rates) != len(self.layers or (2, 5, 8)):
            problems.append(("rates", f"has {len(self.rates)} entries for {len(self.layers or (2, 5, 8))} layers"))
        if len(self.iterations) != 3:
            problems.append(("iterations", "needs three numbers"))
        return problems


@dataclass(frozen=True)
class RecoverableOptions:
    """Keep what CLS or the question picks out, merge the rest into a few."""

    name: str = _name("recoverable")
    text: bool = setting(True, help="recover tokens similar to the question", origin="code")
    text_mode: str = setting(
        "exclusive", help="text chooses among the rest, or among all", choices=("exclusive", "union"), origin="code"
    )
    threshold: str = setting(
        "lof",
        help="how many: share of local outliers, of IQR outliers, or the budget",
        choices=("lof", "iqr", "topk"),
        origin="code",
    )
    neighbors: int = setting(20, help="neighbours of the outlier test of scores (union: 10)", ge=1, origin="code")
    merge_neighbors: int = setting(10, help="neighbours of the outlier test of the rest", ge=1, origin="code")
    lof_exclude_selected: bool = setting(False, help="leave chosen tokens out of the text's outlier test")
    merge: bool = setting(True, help="merge the rest into a few tokens", origin="code")
    merge_members: int = setting(32, help="tokens merged into each", ge=1, origin="code")
    merge_text_weight: float = setting(50.0, help="weight of the text score in who is merged", ge=0, origin="code")
    order: str = setting("raster", help="of the kept tokens", choices=("raster", "score"), origin="code")
    patch_proj: str = setting(
        "raw", help="patches compared with the text: without or with the closing norm", choices=("raw", "post_ln")
    )
    text_sign: int = setting(1, help="-1 keeps the least similar tokens", choices=(1, -1), origin="code")
    counts: tuple[int, ...] = setting(
        (), help="fixed numbers of visual, text and merged tokens instead of a threshold", ge=0
    )
    text_share: float = setting(0.5, help="topk: share of the kept tokens that the text chooses", ge=0, le=1)
    merge_share: float = setting(0.1, help="topk: share of the budget that is merged tokens", ge=0, lt=1)
    min_keep: int = setting(1, help="tokens kept if nothing stands out", ge=1)

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        return [("counts", "needs three numbers or none")] if len(self.counts) not in (0, 3) else []


@dataclass(frozen=True)
class ToMeOptions:
    """Merge similar tokens in every block."""

    name: str = _name("tome")
    r: int | None = setting(None, help="tokens merged in a block; null: equally many down to the budget", ge=0)
    inflect: float = setting(0.0, help="-1 merges more in early blocks, +1 in late ones", ge=-1, le=1, origin="code")
    schedule: tuple[int, ...] = setting((), help="tokens merged in each block, instead of r", ge=0)
    proportional: bool = setting(True, help="attention counts merged tokens by their size", origin="code")

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        problems = []
        if self.inflect and self.r is None:
            problems.append(("inflect", "needs r"))
        if self.schedule and self.r is not None:
            problems.append(("schedule", "replaces r; give one of them"))
        return problems


@dataclass(frozen=True)
class ATSOptions:
    """Sample tokens along the distribution of their scores."""

    name: str = _name("ats")
    layers: tuple[int, ...] = setting((), help="blocks; empty: the last three quarters", ge=0, origin="code")
    minimum: int = setting(8, help="fewest tokens left", ge=1, unit="tokens", origin="code")


@dataclass(frozen=True)
class EViTOptions:
    """Keep what CLS attends to, fuse the rest into one token."""

    name: str = _name("evit")
    layers: tuple[int, ...] = setting((), help="blocks; empty: 3, 6 and 9 of 12", ge=0, origin="code")
    rate: float | None = setting(
        None, help="share kept at each (published: 0.7); null: equal shares down to the budget", gt=0, le=1
    )
    fuse: bool = setting(True, help="append the sum of the dropped tokens", origin="code")


@dataclass(frozen=True)
class VisionZipOptions:
    """Keep what CLS attends to, merge the rest into contextual tokens."""

    name: str = _name("visionzip")
    contextual_share: float = setting(10 / 64, help="contextual tokens over the budget", ge=0, lt=1, origin="code")
    contextual: int | None = setting(None, help="contextual tokens; null: by the share", ge=0)
    keep_cls: bool = setting(True, help="CLS goes on, and is counted", origin="code")


@dataclass(frozen=True)
class PruMergeOptions:
    """Keep the outliers of CLS attention, merge their neighbours into them."""

    name: str = _name("prumerge")
    count: str = setting(
        "adaptive", help="how many: by the IQR rule, or the budget", choices=("adaptive", "budget"), origin="code"
    )
    neighbors: int = setting(32, help="tokens merged into each kept one", ge=0, origin="code")


@dataclass(frozen=True)
class PruMergePlusOptions(PruMergeOptions):
    """PruMerge with evenly strided tokens added."""

    name: str = _name("prumerge_plus")


@dataclass(frozen=True)
class TrimOptions:
    """Keep the tokens that a text embedding picks out."""

    name: str = _name("trim")
    count: str = setting(
        "adaptive", help="how many: by the IQR rule, or the budget", choices=("adaptive", "budget"), origin="code"
    )
    sign: int = setting(
        -1, help="-1 keeps the lowest products (official), 1 the highest", choices=(-1, 1), origin="code"
    )
    normalize: bool = setting(False, help="cosine similarity, as the paper says, instead of dot product", origin="code")
    states: str = setting(
        "features",
        help="patches compared with the text: the features that go to the projector, or the encoder's last states",
        choices=("features", "last"),
        origin="code",
    )
    append_mean: bool = setting(True, help="append the mean of the dropped tokens", origin="code")


@dataclass(frozen=True)
class FastVOptions:
    """Keep what the last prompt token attends to, entering one layer."""

    name: str = _name("fastv")
    layer: int = setting(2, help="layer of the language model; 0 keeps random tokens", ge=0, origin="code")


@dataclass(frozen=True)
class SparseVLMOptions:
    """Keep what selected text tokens attend to, at three layers, and recycle some of the rest.

    The budget is the mean number of tokens over the layers of the language model, clusters included.
    """

    name: str = _name("sparsevlm")
    layers: tuple[int, ...] = setting((), help="layers to prune behind; empty: 2, 6 and 15 of 32", ge=0, origin="code")
    keep: tuple[int, ...] = setting((), help="tokens kept at each; empty: the published lists, to scale", ge=0)
    recycle: float = setting(
        0.3, help="share of the dropped tokens that is clustered; 0: none", ge=0, le=1, origin="code"
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        wanted = len(self.layers) or 3
        if self.keep and len(self.keep) != wanted:
            return [("keep", f"has {len(self.keep)} entries for {wanted} layers")]
        return [] if self.keep or wanted == 3 else [("keep", "the published lists are for three layers; give your own")]


@dataclass(frozen=True)
class PyramidDropOptions:
    """Drop more and more image tokens on the way up."""

    name: str = _name("pyramiddrop")
    layers: tuple[int, ...] = setting((), help="layers entered; empty: 8, 16 and 24 of 32", ge=1, origin="code")
    rates: tuple[float, ...] = setting(
        (0.5, 0.25, 0.125), help="tokens left over the original count; empty: equal steps to the budget", gt=0, le=1
    )

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        wanted = len(self.layers) or 3
        if self.rates and len(self.rates) != wanted:
            return [("rates", f"has {len(self.rates)} entries for {wanted} layers")]
        return []


@dataclass(frozen=True)
class VTWOptions:
    """Drop all image tokens entering one layer."""

    name: str = _name("vtw")
    layer: int | None = setting(None, help="layer of the language model; null: 15 of 32", ge=1, origin="code")


PrunerOptions = (
    FullOptions
    | RandomOptions
    | GridOptions
    | PoolOptions
    | ClsTopkOptions
    | DivPruneOptions
    | FlowCutOptions
    | ZeroTPruneOptions
    | RecoverableOptions
    | ToMeOptions
    | ATSOptions
    | EViTOptions
    | VisionZipOptions
    | PruMergeOptions
    | PruMergePlusOptions
    | TrimOptions
    | FastVOptions
    | SparseVLMOptions
    | PyramidDropOptions
    | VTWOptions
)
