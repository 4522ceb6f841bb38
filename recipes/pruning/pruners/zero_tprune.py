"""Zero-TPrune: rank tokens by votes along the attention graph (I-stage), drop doubles of better ones (S-stage).

Source: arXiv 2305.17328 (CVPR 2024). What the paper leaves open is marked "ours".
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.core.models.padded import pack, ranks, top
from recipes.core.models.precision import exact
from recipes.pruning.draws import random_scores
from recipes.pruning.pruners.schedules import geometric, scale_layers
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, not_none

FEATURES = {"key": "keys", "query": "queries", "value": "values", "x": "x"}


class ZeroTPrune(Pruner):
    """Prunes behind a few encoder blocks: I' ranks, S drops doubles, I keeps the most important of the rest."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        layers = self.options.layers or scale_layers((3, 6, 9), 12, depth.vit, offset=-1)
        return tuple(Point("vit", layer) for layer in layers)

    def needs(self, point: Point) -> tuple[str, ...]:
        o, names = self.options, ["attention"]
        if "S" in self._stages and o.sim_feature != "x":
            names.append(FEATURES[o.sim_feature])
        return tuple(names)

    @property
    def _stages(self) -> str:
        order: str = self.options.order
        return order if self.options.sstage else "I"

    def select(self, tokens: Tokens, state: State) -> Selection:
        o, count = self.options, tokens.count
        points = self.points(Depth(vit=tokens.layers))
        step = points.index(tokens.point)
        if o.rates:
            # Not below the budget; of a float product such as 0.7 * 10 the digits behind 1e-9 are noise.
            keep = torch.maximum((count.double() * o.rates[step] + 1e-9).long(), torch.minimum(tokens.budget, count))
        else:
            keep = geometric(count, tokens.budget, len(points) - step)
        return Selection(*pack(self._survivors(tokens, keep)))

    def _survivors(self, tokens: Tokens, keep: Tensor) -> Tensor:
        """[B, N] bool, what the stages leave."""
        o, valid, dropped = self.options, tokens.valid, tokens.count - keep
        if self._stages == "I":
            return top(self._importance(tokens, valid, full=True), keep, valid)
        doubles = dropped if self._stages == "S" else (o.s_share * dropped).round().long()
        doubles = torch.minimum(doubles, dropped)
        if self._stages == "IS":
            score = self._importance(tokens, valid, full=True)
            alive = top(score, keep + doubles, valid)
            alive = self._without_doubles(tokens, alive, score, doubles)
            return top(score, keep, alive)
        score = self._importance(tokens, valid, full=False)
        alive = self._without_doubles(tokens, valid, score, doubles)
        if self._stages == "S":
            return top(score, keep, alive)
        return top(self._importance(tokens, alive, full=True), keep, alive)

    def _importance(self, tokens: Tokens, alive: Tensor, full: bool) -> Tensor:
        """[B, N] importance; not `full` is one vote (I'), which prunes nothing."""
        o = self.options
        if o.importance == "random":
            return random_scores(tokens)
        special = not_none(tokens.attention).shape[2] - tokens.x.shape[1]
        graph = attention_graph(not_none(tokens.attention), alive, o.tau)
        if o.importance == "cls_row":
            if not special:
                raise ValueError("importance=cls_row reads the row of CLS, which this model lacks")
            scores = graph[:, :, 0]
        elif o.importance == "column_mean":
            scores = vote(graph, first_votes(alive, special, "uniform"), 1)
        else:
            times = _iterations(o.iterations, tokens.point.layer, tokens.layers) if full else 1
            scores = vote(graph, first_votes(alive, special, o.cls_init), times, o.eps)
        return aggregate(scores[:, :, special:], alive, o.aggregate, (o.vhf_low, o.vhf_high) if o.vhf else None)

    def _without_doubles(self, tokens: Tokens, alive: Tensor, score: Tensor, doubles: Tensor) -> Tensor:
        o, value = self.options, not_none(getattr(tokens, FEATURES[self.options.sim_feature]))
        patches = tokens.x.shape[1]
        feature = exact(value if o.sim_feature == "x" else value[:, :, -patches:].transpose(1, 2).flatten(2))
        draws = random_scores(tokens) if o.partition == "random" else None
        return alive & ~similar_doubles(feature, score, alive, doubles, o.partition, o.metric, draws)


def attention_graph(attention: Tensor, alive: Tensor, tau: float = 1.0) -> Tensor:
    """[B, H, T, T] attention among the special and the living tokens, rows summing to 1, 0 elsewhere.

    Args:
        attention: [B, H, T, T] post-softmax.
        alive: [B, N] bool.
        tau: Temperature; dividing the logits by it is raising the attention to the power of 1 / tau.
    """
    special = attention.shape[2] - alive.shape[1]
    everyone = torch.cat([alive.new_ones(len(alive), special), alive], 1)
    graph = torch.where((everyone[:, :, None] & everyone[:, None])[:, None], exact(attention), 0)
    graph = graph if tau == 1 else graph ** (1 / tau)
    return graph / graph.sum(3, keepdim=True).clamp(min=torch.finfo(graph.dtype).tiny)


def first_votes(alive: Tensor, special: int, cls_init: str = "sqrt_n") -> Tensor:
    """[B, T] votes to start with, summing to 1; "sqrt_n": CLS has sqrt(N) times that of others, N counting CLS."""
    everyone = torch.cat([alive.new_ones(len(alive), special), alive], 1).float()
    if cls_init == "sqrt_n" and special:
        everyone[:, 0] = everyone.sum(1).sqrt()
    return everyone / everyone.sum(1, keepdim=True)


def vote(graph: Tensor, first: Tensor, times: int, eps: float = 0.0) -> Tensor:
    """[B, H, T] weighted PageRank of every head: s <- A^T s, `times` times.

    Args:
        graph: [B, H, T, T] rows summing to 1.
        first: [B, T] votes to start with.
        times: Number of votes.
        eps: A head stops voting once its scores move by at most this much (L1).
    """
    scores = first.to(graph.dtype)[:, None].expand(graph.shape[:3])
    active = torch.ones_like(scores[..., :1], dtype=torch.bool)
    for _ in range(times):
        new = torch.einsum("bhij,bhi->bhj", graph, scores)
        moved = (new - scores).abs().sum(2, keepdim=True)
        scores = torch.where(active, new, scores)
        active = active & (moved > eps)
        if eps and not active.any():
            break
    return scores


def aggregate(
    scores: Tensor, alive: Tensor, how: str = "rms", variance: tuple[float, float] | None = (0.01, 0.7)
) -> Tensor:
    """[B, N] one score a token of the heads' scores [B, H, N].

    Args:
        scores: Of the tokens that may be pruned.
        alive: [B, N] bool.
        how: "rms", "mean" or "max" over heads.
        variance: Heads whose scores, divided by their mean, vary less or more are left out (ours: population variance
            over the living tokens; if that leaves no head, all count). None: all heads.
    """
    mask = alive[:, None]
    scores = torch.where(mask, scores, 0)
    use = torch.ones_like(scores[..., :1], dtype=torch.bool)
    if variance is not None:
        count = alive.sum(1)[:, None, None].clamp(min=1)
        mean = (scores.sum(2, keepdim=True) / count).clamp(min=torch.finfo(scores.dtype).tiny)
        spread = torch.where(mask, (scores / mean - 1) ** 2, 0).sum(2, keepdim=True) / count
        use = (spread >= variance[0]) & (spread <= variance[1])
        use = use | ~use.any(1, keepdim=True)
    if how == "max":
        return scores.masked_fill(~use, -torch.inf).amax(1)
    powered = scores**2 if how == "rms" else scores
    mean = torch.where(use, powered, 0).sum(1) / use.sum(1)
    return mean.sqrt() if how == "rms" else mean


def similar_doubles(
    feature: Tensor,
    score: Tensor,
    alive: Tensor,
    doubles: Tensor,
    partition: str = "seq_u",
    metric: str = "cosine",
    draws: Tensor | None = None,
) -> Tensor:
    """[B, N] bool, the tokens that the S-stage removes.

    Every token of group A finds its most similar token of the rest; the A members of the most similar pairs go.

    Args:
        feature: [B, N, c] what is compared.
        score: [B, N] importance.
        alive: [B, N] bool.
        doubles: [B] how many to remove, at most the size of A.
        partition: A is the less important half ("seq_u", floor(n / 2) tokens), the more important ("seq_i"), every
            other token from the least important on ("alternate"), the half with the larger `draws` ("random"); "none"
            (ours): every token may be a double of any more important one.
        metric: "cosine", "dot", "l2" or "l1".
        draws: [B, N] for "random".
    """
    group, partner = _groups(score, alive, partition, draws)
    similarity = _similarity(feature, metric).masked_fill(~(group[:, :, None] & partner), -torch.inf)
    best = similarity.amax(2)
    group = group & best.isfinite()
    return top(best, torch.minimum(doubles, group.sum(1)), group)


def _groups(score: Tensor, alive: Tensor, partition: str, draws: Tensor | None) -> tuple[Tensor, Tensor]:
    """[B, N] who may be removed and [B, N, N] or [B, 1, N] whose partner may be who."""
    rank, count = ranks(score, alive), alive.sum(1, keepdim=True)
    half = count // 2
    if partition == "none":
        return alive & (rank > 0), (rank[:, None] < rank[:, :, None]) & alive[:, None]
    if partition == "seq_u":
        group = rank >= count - half
    elif partition == "seq_i":
        group = rank < half
    elif partition == "alternate":
        order = count - 1 - rank  # 0 for the least important
        group = (order % 2 == 0) & (order < 2 * half)
    else:
        group = ranks(not_none(draws), alive) < half
    group = group & alive
    return group, (alive & ~group)[:, None]


def _similarity(feature: Tensor, metric: str) -> Tensor:
    if metric in ("l1", "l2"):
        return -torch.cdist(feature, feature, p={"l1": 1.0, "l2": 2.0}[metric])
    if metric == "cosine":
        feature = normalize(feature, dim=2, eps=1e-12)
    return feature @ feature.mT


def _iterations(numbers: tuple[int, ...], layer: int, layers: int) -> int:
    if layer < 3:
        return numbers[0]
    return numbers[2] if layer >= layers - 3 else numbers[1]
