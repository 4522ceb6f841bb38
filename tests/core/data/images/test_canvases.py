"""Canvases show what their labels say, where their evidence says, and never a test scan in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recipes.core.config.schema import build
from recipes.core.data.images.canvas_config import CanvasConfig, CanvasDataConfig, QuestionCanvasDataConfig
from recipes.core.data.images.canvases import Canvases, make_canvases, words
from recipes.core.data.images.digits import read_scans

TWO = CanvasDataConfig(train=300, test=200)
FOUR = CanvasDataConfig(size=96, digits=4, train=60, test=40)
ASKED = QuestionCanvasDataConfig(train=300, test=200)
ALL = pytest.mark.parametrize("config", [TWO, FOUR, ASKED], ids=["two", "four", "asked"])


def flat(config: CanvasConfig, part: str = "test", seed: int = 3) -> Canvases:
    return make_canvases(replace(config, background="flat"), part, seed)


def blocks(config: CanvasConfig, made: Canvases) -> torch.Tensor:
    """[n, patches, pixels] of the first channel."""
    grid, patch = config.grid, config.patch
    cut = made.images[:, 0].reshape(-1, grid, patch, grid, patch).transpose(2, 3)
    return cut.reshape(-1, grid**2, patch**2)


@ALL
def test_shapes_and_ranges(config: CanvasConfig) -> None:
    made, asked = make_canvases(config, "test", 0), words(config)
    n = config.test
    assert made.images.shape == (n, 3, config.size, config.size) and made.images.dtype == torch.float32
    assert (made.images[:, 0] == made.images[:, 2]).all()
    assert made.questions.shape == made.answers.shape == made.evidence.shape[:2]
    assert made.evidence.shape[2] == config.patches
    for index, names in ((made.questions, asked[0]), (made.answers, asked[1])):
        assert index.min() >= 0 and index.max() == len(names) - 1


@ALL
def test_equal_by_config_part_and_seed_only(config: CanvasConfig) -> None:
    first, again = make_canvases(config, "test", 5), make_canvases(config, "test", 5)
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, make_canvases(config, "test", 6).labels)
    size = min(config.train, config.test)
    assert not torch.equal(first.labels[:size], make_canvases(config, "train", 5).labels[:size])


@ALL
def test_the_background_moves_no_digit(config: CanvasConfig) -> None:
    bare = flat(config)
    for background in ("noise", "textured"):
        other = make_canvases(replace(config, background=background), "test", 3)
        assert torch.equal(other.labels, bare.labels) and torch.equal(other.evidence, bare.evidence)
        behind = other.images - bare.images
        assert behind.std() > 0.1 and (behind != 0).float().mean() > 0.99
    assert not torch.equal(bare.images, other.images)


def test_gratings_differ_where_noise_is_alike() -> None:
    """Patches of the clutter lie far from each other, patches of noise do not."""

    def spread(background: str) -> float:
        config = replace(TWO, background=background)
        behind = make_canvases(config, "test", 3).images - flat(TWO).images
        means = behind[:, 0].reshape(-1, 8, 4, 8, 4).mean((2, 4))
        return float(means.std())

    assert spread("textured") > 2 * spread("noise")


def test_no_scan_is_in_both_parts() -> None:
    """Every flat digit of a part is found among the part's scans, of which none is in the other part."""
    ink, _ = read_scans()
    known = {(scan * 2 / 16).astype(np.float32).tobytes() for scan in ink}

    def shown(part: str) -> set[bytes]:
        made = flat(replace(TWO, train=1500, test=1500), part)
        scans = set()
        for image, evidence in zip(made.images[:, 0], made.evidence, strict=True):
            for patches in evidence:
                rows, columns = np.nonzero(patches.numpy().reshape(8, 8))
                y, x = 4 * rows[0], 4 * columns[0]
                scans.add(image[y : y + 8, x : x + 8].numpy().tobytes())
        return scans

    train, test = shown("train"), shown("test")
    assert train <= known and test <= known and not train & test
    assert len(train) > 1000 and 490 < len(test) <= 500


@ALL
def test_evidence_holds_the_ink_of_the_asked_digit(config: CanvasConfig) -> None:
    made = flat(config)
    assert (made.evidence.sum(2) == (8 // config.patch) ** 2).all()
    inked = blocks(config, made).abs().sum(2) > 0
    if isinstance(config, CanvasDataConfig):  # all digits are asked for: nothing is inked elsewhere
        assert not (inked & ~made.evidence.any(1)).any()
    # A patch under a digit may be blank, not all of them.
    assert (inked[:, None] & made.evidence).any(2).all()


def test_the_left_digit_is_on_the_left() -> None:
    made = flat(TWO)
    columns = torch.arange(64) % 8
    assert (columns[made.evidence[:, 0].nonzero()[:, 1]] < 4).all()
    assert (columns[made.evidence[:, 1].nonzero()[:, 1]] >= 4).all()
    assert torch.equal(made.answers, made.labels)


def test_a_question_names_a_digit_shown_once_and_its_quadrant() -> None:
    made = flat(ASKED)
    counts = (made.labels >= 0).sum(1)
    assert counts.min() == 4 and counts.max() == 6
    for row in range(len(made)):
        for digit, answer, patches in zip(made.questions[row], made.answers[row], made.evidence[row], strict=True):
            [[place]] = (made.labels[row] == digit).nonzero()
            assert answer == place // 4 // 2 * 2 + place % 4 // 2
            at = patches.nonzero()[:, 0]
            assert ((at // 12 // 6 * 2 + at % 12 // 6) == answer).all()
    assert torch.equal(made.presence, (made.labels[..., None] == torch.arange(10)).any(1))
    assert len(set(made.answers.flatten().tolist())) == 4


def problems(kind: type, **keys: object) -> list[str]:
    return [str(each) for each in build(kind, {"name": keys.pop("name"), **keys}, "data")[1]]


def test_what_configs_refuse() -> None:
    assert problems(CanvasDataConfig, name="digit-canvases", size=36) == [
        "data.size: must be a multiple of 8 and at least 16; type 40"
    ]
    assert problems(QuestionCanvasDataConfig, name="question-canvases", size=24) == [
        "data.size: must be a multiple of 16 and at least 32; type 32"
    ]
    assert problems(QuestionCanvasDataConfig, name="question-canvases", fewest=5, most=3) == [
        "data.most: 3 is less than fewest=5"
    ]
    assert problems(QuestionCanvasDataConfig, name="question-canvases", fewest=2, questions=3) == [
        "data.questions: 3 cannot be asked of fewest=2 digits"
    ]
    assert problems(CanvasDataConfig, name="digit-canvases", digits=3) == ["data.digits = 3: choose from 2, 4"]


@ALL
def test_every_patch_knows_its_digit(config: CanvasConfig) -> None:
    """Patches of a digit asked for are its evidence; on an empty ground all ink lies on patches that have a digit."""
    made = flat(config)
    inked = blocks(config, made).amax(2) > 0
    assert not inked[made.patch_digits < 0].any()
    for row in range(len(made)):
        shown = sorted(int(digit) for digit in made.labels[row] if digit >= 0)
        assert sorted(set(made.patch_digits[row].tolist()) - {-1}) == sorted(set(shown))
        asked = made.labels[row] if config.name == "digit-canvases" else made.questions[row]
        for digit, patches in zip(asked, made.evidence[row], strict=True):
            assert (made.patch_digits[row][patches] == digit).all()
