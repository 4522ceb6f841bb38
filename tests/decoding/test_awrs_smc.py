"""Particles: weights, drawing anew, ends that are forced, and posteriors that are enumerated."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.decoding.awrs.config import SMCConfig, WorldsConfig
from recipes.decoding.awrs.constraints import Constraint, Regex
from recipes.decoding.awrs.language import ModelLanguage
from recipes.decoding.awrs.movers import ConstrainedMover, Row, walk
from recipes.decoding.awrs.smc import DEAD, ENDED, Cloud, Particle, ancestors, effective_size, run
from recipes.decoding.awrs.worlds import World, total_variation
from tests.decoding.conftest import VOCABULARY

LETTERS = VocabularyBytes([b"a", b"b", b"c", b"z", b""], [4])
AFTER = {(): (0.9, 0.1, 0, 0, 0), (0,): (0, 0, 0.01, 0.99, 0), (1,): (0, 0, 0.9, 0.1, 0)}  # then the text ends


class Biased:
    """The language of the sheet: constraining token by token gives "ac" 0.9, and its posterior is 0.0909."""

    def __init__(self) -> None:
        self._texts: list[tuple[int, ...]] = []
        self.read = 0

    def start(self, prompts: Sequence[Sequence[int]]) -> list[Row]:
        self._texts = [()] * len(prompts)
        return self._rows()

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> list[Row]:
        self._texts = [(*self._texts[parent], token) for parent, token in zip(parents, tokens, strict=True)]
        return self._rows()

    def _rows(self) -> list[Row]:
        self.read += len(self._texts)
        with np.errstate(divide="ignore"):
            rows = [np.log(np.array(AFTER.get(text, (0, 0, 0, 0, 1)), float)) for text in self._texts]
        return [Row(row) for row in rows]


def clouds_of(options: SMCConfig, count: int, longest: int = 5, pattern: str = "[ab]c") -> list[Cloud]:
    mover = ConstrainedMover(options, Constraint(Regex(pattern), ""), LETTERS, 4, longest)
    randoms = np.random.default_rng(0).spawn(count)
    clouds = [Cloud([Particle()] * options.particles, mover, options.tau, options.resampling, each) for each in randoms]
    run(Biased(), [[]] * count, clouds)
    return clouds


def test_the_bias_of_local_constraining_and_the_weights_that_undo_it() -> None:
    local = clouds_of(SMCConfig(method="awrs", estimator="none", particles=1), 1000)
    assert np.mean([cloud.particles[0].text == b"ac" for cloud in local]) == pytest.approx(0.9, abs=0.03)
    exact = clouds_of(SMCConfig(method="mask", particles=1), 200)
    weights = {cloud.particles[0].text: math.exp(cloud.particles[0].log_weight) for cloud in exact}
    assert weights == pytest.approx({b"ac": 0.01, b"bc": 0.9})
    assert 0.9 * weights[b"ac"] / (0.9 * weights[b"ac"] + 0.1 * weights[b"bc"]) == pytest.approx(0.0909, abs=1e-4)
    for estimator in ("two_loop", "recursive", "geometric", "auto", "with_replacement"):
        clouds = clouds_of(SMCConfig(estimator=estimator, particles=1), 1500)
        sums = dict.fromkeys(weights, 0.0)
        for cloud in clouds:
            sums[cloud.particles[0].text] += math.exp(cloud.particles[0].log_weight) / len(clouds)
        assert sum(sums.values()) == pytest.approx(0.099, abs=0.025), estimator  # log_ml: log .099
        assert sums[b"ac"] / sum(sums.values()) == pytest.approx(0.0909, abs=0.03), estimator
    # A proposal that is not the model is set right by the weights.
    clouds = clouds_of(SMCConfig(particles=1, proposal_temperature=2.0), 1500)
    assert np.mean([math.exp(cloud.log_mean_weight) for cloud in clouds]) == pytest.approx(0.099, abs=0.02)
    assert np.mean([cloud.particles[0].text == b"ac" for cloud in clouds]) == pytest.approx(0.75, abs=0.03)


def test_particles_are_copied_by_weight() -> None:
    assert effective_size(np.log([1.0, 1, 1, 1])) == pytest.approx(4) and effective_size(np.full(3, -math.inf)) == 0
    assert effective_size(np.array([0.0, -math.inf])) == 1
    assert effective_size(np.array([-1000.0, -1000 - math.log(3)])) == pytest.approx(16 / 10)
    weights, random = np.array([0.5, 0.0, 0.3, 0.2]), np.random.default_rng(0)
    with np.errstate(divide="ignore"):
        logs = np.log(weights) - 700
    for how in ("stratified", "systematic", "multinomial"):
        counts = np.array([np.bincount(ancestors(logs, random, how), minlength=4) for _ in range(2000)])
        assert counts.mean(0) == pytest.approx(4 * weights, abs=0.07) and (counts[:, 1] == 0).all()
        if how == "systematic":
            assert (np.abs(counts - 4 * weights) < 1).all()
    assert ancestors(np.zeros(5), random).tolist() == [0, 1, 2, 3, 4]


class Fixed:
    """Moves the particles to weights that are given."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = iter(weights)

    def move(self, particle: Particle, row: Any, random: np.random.Generator) -> Particle:
        from recipes.decoding.awrs.smc import OPEN, Choice

        return particle.extend(Choice(0, 1.0, math.log(next(self._weights))), b"a", OPEN)

    def reads(self, particle: Particle) -> bool:
        return True


@pytest.mark.parametrize(("tau", "times"), [(0.5, 1), (0.0, 0), (0.29, 0)])
def test_drawing_anew_keeps_the_mean_weight_and_makes_weights_equal(tau: float, times: int) -> None:
    weights = [0.9, 0.05, 0.01, 0.02]
    cloud = Cloud([Particle()] * 4, Fixed(weights), tau, "stratified", np.random.default_rng(0))
    cloud.step(lambda particle: None)
    assert cloud.resampled == times and cloud.sizes == [pytest.approx(0.98**2 / 0.813)]
    assert cloud.sizes[0] / 4 == pytest.approx(0.295, abs=1e-3)
    assert cloud.log_mean_weight == pytest.approx(math.log(0.98 / 4))
    if times:
        assert len(set(cloud.log_weights.tolist())) == 1


def test_texts_that_are_cut_off_get_the_weight_of_their_end() -> None:
    [cloud] = clouds_of(SMCConfig(method="mask", particles=8, tau=0.0), 1, longest=2)
    assert all(one.state == ENDED and one.tokens[-1] == 4 for one in cloud.particles)  # its end is certain: weight 1
    assert {round(math.exp(one.log_weight), 6) for one in cloud.particles} <= {0.01, 0.9}
    [cloud] = clouds_of(SMCConfig(method="mask", particles=8), 1, longest=1)
    assert all(one.state == DEAD and one.text in (b"a", b"b") for one in cloud.particles)  # "a" is not complete
    assert cloud.posterior() == {} and cloud.log_mean_weight == -math.inf
    [cloud] = clouds_of(SMCConfig(estimator="none", particles=2), 1, longest=1)
    assert all(one.state == ENDED and len(one.tokens) == 1 for one in cloud.particles)  # without weights it is cut


def test_dead_ends_kill_a_particle_and_no_other() -> None:
    pattern = "(b|a(?!.)x)c?"  # nothing goes on behind "a"
    for method in ("awrs", "mask"):
        clouds = clouds_of(SMCConfig(method=method, particles=2, tau=0.0), 60, pattern=pattern)
        ends = [one.state for cloud in clouds for one in cloud.particles]
        assert 0 < ends.count(ENDED) < ends.count(DEAD)
        dead = [one for cloud in clouds for one in cloud.particles if one.state == DEAD]
        assert all(one.text == b"a" and one.log_weight == -math.inf and one.tokens[-1] != 4 for one in dead)
        assert any(cloud.posterior() == {b"bc": 1.0} for cloud in clouds)


@pytest.mark.parametrize("name", ["awrs", "mask", "twisted", "rerank", "base"])
def test_a_model_reads_the_particles_that_there_are(name: str, model: Any) -> None:
    letters = [b"", b"", *(bytes([97 + at % 5]) * (1 + at // 5) for at in range(VOCABULARY - 3)), b""]
    vocabulary = VocabularyBytes(letters, [0, 1])
    options = SMCConfig(method=name, particles=4, tau=0.9)
    mover = ConstrainedMover(options, Constraint(Regex("([ab]{2}c?)*"), ""), vocabulary, 0, 6)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    clouds = [Cloud([Particle()] * 4, mover, 0.9, "stratified", each) for each in np.random.default_rng(0).spawn(3)]
    language = ModelLanguage(model, vocabulary, [0, 1], 0.7, rows=12 if name == "mask" else 5)
    read = run(language, prompts, clouds)
    assert all(rows <= 6 * 4 for rows in read) and language.seconds > 0
    for prompt, cloud in zip(prompts, clouds, strict=True):
        for particle in (one for one in cloud.particles if one.state == ENDED):
            tokens = list(particle.tokens)
            logits = model.language_model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            logp = (logits.double() / 0.7).log_softmax(-1)
            logp[:, 0] = logp[:, :2].logsumexp(-1)  # both ends are one
            expected = float(sum(row[token] for row, token in zip(logp, tokens, strict=True)))
            assert particle.log_probability == pytest.approx(expected, abs=1e-4)
            assert particle.text == vocabulary.join(tokens) and 1 not in tokens and VOCABULARY - 1 not in tokens


def test_a_walk_finds_the_mask_with_fewer_tests() -> None:
    random = np.random.default_rng(0)
    texts = list({bytes(random.choice([97, 98, 99, 100], random.integers(1, 6)).tolist()) for _ in range(400)})
    vocabulary = VocabularyBytes([*texts, b""], [len(texts)])
    for pattern in ("(ab)*c{2}", "[a-d]+", "b.*", "d"):
        test = Constraint(Regex(pattern), "")
        accepted, tests = walk(vocabulary, test.viable)
        assert accepted.tolist() == [*(test.viable(text) for text in texts), False]
        assert tests <= len(texts) if pattern == "[a-d]+" else tests < len(texts) / 2


@pytest.mark.filterwarnings("error")
def test_the_steepest_languages_stay_numbers() -> None:
    for number in range(4):
        world = World(WorldsConfig(vocabulary=3, length=4, spread=20), number)
        for options in (SMCConfig(), SMCConfig(method="mask"), SMCConfig(method="twisted", particles=2)):
            outputs, ratio = world.answers(options, 20, np.random.default_rng(0))
            assert 0 <= total_variation(outputs, world.posterior) <= 1 + 1e-9 and math.isfinite(ratio)


SMALL = WorldsConfig(vocabulary=3, length=3, valid=0.25, spread=1.5)


def test_a_worlds_posterior_is_that_of_all_its_texts() -> None:
    world = World(SMALL, 0)
    assert sum(world.posterior.values()) == pytest.approx(1) and len(world.texts) == 1 + 3 + 9 + 27
    [row] = world.start([[]])
    text = next(text for text in world.posterior if len(text) == 2)
    first, second = text[0] - 48, text[1] - 48
    logp = row.logp[first]
    [row] = world.extend([0], [first])
    logp += row.logp[second]
    [row] = world.extend([0], [second])
    assert world.posterior[text] == pytest.approx(math.exp(logp + row.logp[3] - world.log_probability))
    assert total_variation({b"a": 1.0}, {b"b": 1.0}) == total_variation({}, {b"b": 1.0}) == 1


def local_distribution(world: World) -> dict[bytes, float]:
    """What local constraining draws, enumerated."""
    texts, outputs = {b"": 1.0}, dict[bytes, float]()
    while texts:
        text, chance = texts.popitem()
        row = world.logp[world.texts.index(text)]
        options = {text + bytes([48 + letter]): math.exp(row[letter]) for letter in range(3)}
        options = {each: p for each, p in options.items() if world.constraint.viable(each)}
        end = math.exp(row[3]) if world.constraint.complete(text) and len(text) < 3 else 0.0
        if len(text) == 3:
            outputs[text], options = outputs.get(text, 0.0) + chance, {}
            continue
        total = sum(options.values()) + end
        if end:
            outputs[text] = outputs.get(text, 0.0) + chance * end / total
        texts |= {each: chance * p / total for each, p in options.items()}
    return outputs


def test_particles_come_nearer_to_the_posterior_and_local_constraining_does_not() -> None:
    distances = np.zeros((2, 2))
    for number in range(4):
        world = World(SMALL, number)
        bias = total_variation(local_distribution(world), world.posterior)
        for row, options in enumerate((SMCConfig(), SMCConfig(estimator="none", tau=0.0))):
            for column, particles in enumerate((1, 10)):
                random = np.random.default_rng(number)
                answers, ratio = world.answers(replace(options, particles=particles), 1500 // particles, random)
                distances[row, column] += total_variation(answers, world.posterior) / 4
                if row == 0:
                    assert ratio == pytest.approx(1, abs=0.15)
                else:
                    assert total_variation(answers, world.posterior) == pytest.approx(bias, abs=0.06)
    assert distances[0, 1] < distances[0, 0] / 2 and distances[1, 1] == pytest.approx(distances[1, 0], abs=0.02)
    assert distances[0, 0] == pytest.approx(distances[1, 0], abs=0.03)  # one particle has nothing to be weighed against
