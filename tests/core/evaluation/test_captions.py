"""The caption tasks against brute force on a small random model with full logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipes.core.data.images.captions import Caption, Question, Span
from recipes.core.errors import UserError
from recipes.core.evaluation import captions as tasks
from recipes.core.evaluation.captions import CaptionScorer, Choice
from recipes.core.evaluation.scores import Scores
from recipes.core.models.head import OutputHead

WORDS = ["<pad>", "<bos>", "<eos>", "it", "is", "red", "blue", "dark", "ish", "big", "small"]


class Words:
    """A tokenizer of whole words, but for "darkish": two pieces."""

    is_fast = True
    unk_token, unk_token_id, all_special_ids, all_special_tokens = None, None, (0, 1, 2), ("<pad>", "<bos>", "<eos>")
    added_tokens_decoder: dict[int, Any] = {}

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[Any]]]:
        ids, offsets = [], []
        for text in texts:
            row, places, start = [], [], 0
            for word in text.split(" "):
                pieces = ["dark", "ish"] if word == "darkish" else [word]
                for piece in pieces:
                    row.append(WORDS.index(piece))
                    places.append((start, start + len(piece)))
                    start += len(piece)
                start += 1
            ids.append(row)
            offsets.append(places)
        return {"input_ids": ids, "offset_mapping": offsets}


class Split:
    rows = (
        Caption(
            "a", "ga", "it is red big", (Span(6, 9, "color", ("red", "blue")), Span(10, 13, "size", ("big", "small")))
        ),
        Caption("b", "gb", "it is blue", (Span(6, 10, "color", ("red", "blue")),)),
        Caption(
            "c", "gc", "big it is red", (Span(0, 3, "size", ("big", "small")), Span(10, 13, "color", ("red", "blue")))
        ),
    )

    def __len__(self) -> int:
        return len(self.rows)

    def caption(self, index: int) -> Caption:
        return self.rows[index]

    def image(self, index: int, size: int | None = None) -> np.ndarray:
        return np.full((2, 2, 1), 40 * index, np.uint8)


class Model(nn.Module):
    """Hidden state: mean of the embeddings so far plus the image's brightness."""

    prefix_ids = [1, 0]

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Parameter(torch.randn(11, 6)), nn.Parameter(torch.randn(11, 6))

    def pixels(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).float() / 255

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixels: Tensor, readout: Callable[..., Any]) -> Any:
        count = torch.arange(1, input_ids.shape[1] + 1)[:, None]
        hidden = self.embed[input_ids].cumsum(1) / count + pixels.mean((1, 2, 3))[:, None, None]
        return readout(hidden, OutputHead(self.head))

    def nll(self, image: int, ids: list[int]) -> np.ndarray:
        """NLL of a caption by full logits."""
        row = torch.tensor([self.prefix_ids + ids])
        pixels = self.pixels(Split().image(image))[None]
        logits: Tensor = self(row, torch.ones_like(row), pixels, lambda hidden, head: head.logits(hidden))
        start = len(self.prefix_ids) - 1
        return -logits[0].log_softmax(-1)[range(start, start + len(ids)), ids].detach().numpy()


@pytest.fixture
def scorer() -> CaptionScorer:
    return CaptionScorer(Model(), Split(), "cpu")


def test_token_nlls_equal_full_logits_whatever_the_batch(
    scorer: CaptionScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [[3, 4, 5, 2], [9, 2], [3, 4, 6, 2, 2]]
    for budget in (1, 20, 8192):
        monkeypatch.setattr(tasks, "BATCH_TOKENS", budget)
        for image, ids, nll in zip([0, 1, 2], captions, scorer.token_nlls([0, 1, 2], captions), strict=True):
            np.testing.assert_allclose(nll, scorer.model.nll(image, ids), rtol=1e-5)


def test_choices_are_cut_where_their_words_stand() -> None:
    choices = tasks.span_choices(Split(), [0, 1, 2], Words())
    assert [(c.example, c.kind, c.context, c.options, c.truth) for c in choices] == [
        ("a/0", "color", (3, 4), ((5,), (6,)), 0),
        ("a/1", "size", (3, 4, 5), ((9,), (10,)), 0),
        ("b/0", "color", (3, 4), ((5,), (6,)), 1),
        ("c/0", "size", (), ((9,), (10,)), 0),
        ("c/1", "color", (9, 3, 4), ((5,), (6,)), 0),
    ]


def test_single_token_choices_rank_like_their_nll(scorer: CaptionScorer) -> None:
    choices = tasks.span_choices(Split(), [0, 1, 2], Words())
    for choice, values in zip(choices, scorer.choice_nlls(choices), strict=True):
        expected = [scorer.model.nll(choice.image, [*choice.context, *option])[-1] for option in choice.options]
        np.testing.assert_allclose(values - values[0], np.array(expected) - expected[0], atol=1e-5)


def test_choices_of_several_tokens_sum_their_nll(scorer: CaptionScorer) -> None:
    question = Question("q", "g", 1, "color", "it is", "darkish", ("red", "darkish"))
    (choice,) = tasks.question_choices([question], Words())
    assert choice.options == ((5,), (7, 8)) and choice.truth == 1
    (values,) = scorer.choice_nlls([choice])
    expected = [scorer.model.nll(1, [3, 4, *option])[2:].sum() for option in choice.options]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_choices_read_off_their_captions_equal_choices_read_alone(scorer: CaptionScorer) -> None:
    choices = [
        *tasks.span_choices(Split(), [0, 1, 2], Words()),
        Choice("off its caption", "g", "color", 0, (9, 9), ((5,), (6,)), 0),
        Choice("several tokens", "g", "color", 1, (3, 4), ((5,), (7, 8)), 0),
        Choice("of another image", "g", "color", 2, (3,), ((5,), (6,)), 0),
        Choice("where its caption was cut", "g", "color", 1, (3, 4, 6, 2), ((5,), (6,)), 0),
    ]
    images, captions = [0, 1], [np.array([3, 4, 5, 9, 2]), np.array([3, 4, 6, 2])]
    forwards: list[int] = []
    plain = scorer._single_token
    scorer._single_token = lambda alone: forwards.append(len(alone)) or plain(alone)  # type: ignore[method-assign]
    nlls, option_nlls = scorer.caption_and_choice_nlls(images, captions, choices)
    assert forwards == [5]  # three of image 2, and two that their captions do not go through
    for nll, expected in zip(nlls, scorer.token_nlls(images, captions), strict=True):
        np.testing.assert_allclose(nll, expected, rtol=1e-6)
    for values, expected in zip(option_nlls, scorer.choice_nlls(choices), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_accuracy_and_probes_follow_the_nlls() -> None:
    scores = Scores()
    choices = [Choice(f"x{i}", "g", "color", 0, (), ((1,), (2,), (3,)), 1) for i in range(2)]
    nlls = [np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 0.5])]
    tasks.add_choice_scores(scores, "grounded", "accuracy", choices, nlls)
    tasks.add_probe_scores(scores, choices, nlls)
    assert scores.overall() == {"grounded/color": 0.5, "probe/color": 0.5}


def test_candidates_say_something_else_and_the_own_caption_is_first() -> None:
    rows = tasks.matching_candidates(Split(), [0, 1, 2], 3)
    assert [row[0] for row in rows] == [0, 1, 2]
    assert sorted(rows[0]) == [0, 1, 2] and sorted(rows[1]) == [0, 1, 2]
    assert rows == tasks.matching_candidates(Split(), [0, 1, 2], 3)
    assert all(len(row) == 2 for row in tasks.matching_candidates(Split(), [0, 1, 2], 2))


def test_matching_by_nll_and_by_image_gain() -> None:
    scores = Scores()
    tasks.add_matching_scores(
        scores,
        Split(),
        [[0, 1], [1, 0]],
        [np.array([5.0, 4.0]), np.array([1.0, 2.0])],
        [np.array([6.0, 4.5]), np.array([1.0, 2.5])],
    )
    # By NLL the second image alone is right; the gains are (-1, -.5) and (0, -.5): the first image alone.
    assert scores.overall() == {"matching/nll": 0.5, "matching/gain": 0.5}
    assert [value for metric, _, _, value, _ in scores.rows if metric == "matching/gain"] == [1.0, 0.0]


def test_greedy_captions_against_the_truth() -> None:
    scores = Scores()
    texts = ["it is blue red big", "nothing", "small red reddish"]
    tasks.add_hallucination_scores(scores, Split(), [0, 1, 2], texts)
    # Mentions: a: blue (false), red, big; c: small (false), red; "reddish" is no mention.
    assert scores.overall()["greedy/hallucinated"] == pytest.approx(2 / 5)
    assert scores.overall()["greedy/recall"] == pytest.approx(3 / 5)


def test_options_that_merge_with_their_context_are_refused() -> None:
    class Merging(Words):
        def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[Any]]]:
            encoded = super().__call__(texts)
            encoded["input_ids"][1][0] = 9
            return encoded

    with pytest.raises(UserError, match="merges the options"):
        tasks.span_choices(Split(), [0], Merging())
