"""What is refused, and in which words; arms that apply; budgets as they are typed."""

import json
from pathlib import Path

import pytest

from recipes.core.config import compose, registry
from recipes.core.config.unread import of_no_use
from recipes.core.errors import UserError
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.claims import card_for, card_of
from recipes.core.trial.cells import trial_cells
from recipes.pruning.pruners import PRUNERS
from recipes.pruning.token_pruning.config import BEHIND_ENCODER, IN_ENCODER, IN_LANGUAGE_MODEL

NAME = "token-pruning"


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose.compose(NAME, list(overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["keep=0"], "keep = 0.0: must be > 0 and <= 1"),
        (["keep=1.5"], "keep = 1.5: must be > 0 and <= 1"),
        (["keep=[0.5,2]"], "keep = 2.0: must be > 0 and <= 1"),
        (["keep=half"], "keep = 'half': must be a list"),
        (["keep=[0.5,0.5]"], "keep: names a budget twice"),
        (["keep=[0.5,0.50000001]"], "keep: names 0.5 twice: metrics name a share by six digits; type fewer digits"),
        (["keep=0.9999999"], "keep: names 1 that is not 1, which stands for unpruned"),
        (["keep_tokens=0"], "keep_tokens = 0: must be >= 1"),
        (["pruner=divprun"], "pruner.name = divprun: did you mean divprune?"),
        (["pruner=grid", "pruner.metric=l2"], "pruner.metric = l2: unknown key"),
        (["arm=divprune", "pruner=grid"], "pruner.name = grid: arm divprune sets it to divprune; type arm=grid, or"),
        (["arm=trim"], "arm = trim: needs data=question-canvases or model=llava"),
        (["arm=zero_tprune_votes"], "arm = zero_tprune_votes: needs model=toy-vit"),
        (["pruner=trim"], "digit-canvases asks for a side only; type data=question-canvases"),
        (["pruner=fastv", "model=toy-vit"], "fastv prunes in a language model, which toy-vit lacks"),
        (["pruner=divprune", "model=toy-vit"], "divprune prunes behind the encoder, where its classifier has read"),
        (["model=toy-vit", "data=question-canvases"], "question-canvases is not for model=toy-vit; type data=digit-"),
        (["model=llava"], "model.path: is missing"),
        (["model=/some/llava"], "data.path: is missing; type data.path=FILE"),
        (["model=/some/llava", "data.path=q.json", "pruner=recoverable"], "guide.path: is missing: recoverable"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(overrides: list[str], text: str) -> None:
    assert text in message(*overrides)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "qwen2_vl",
            "pruner: trim compares patches with the question in the space of a CLIP, from which the encoder of ",
        ),
        ("llava", "guide.path: is missing: trim compares patches with the question"),
    ],
)
def test_a_question_has_no_place_in_an_encoder_of_no_clip(tmp_path: Path, kind: str, text: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    user = [f"model={tmp_path}", "data.path=q.json"]
    assert text in message(*user, "pruner=trim")
    with pytest.raises(UserError) as caught:
        trial_cells(NAME, user, ["divprune", "trim", "random", "recoverable"], [0, 1])
    assert str(caught.value).endswith("or leave out the arms that have them: --arms divprune,random")


def test_a_folder_in_place_of_a_model_is_a_llava_with_the_users_questions() -> None:
    config = compose.compose(NAME, ["model=/some/llava", "data.path=vqa.json"])
    assert (config.model.name, config.model.path, config.data.name, config.data.path, config.arm) == (
        "llava", "/some/llava", "vqa", "vqa.json", "divprune",
    )  # fmt: skip


def test_budgets_are_labelled_largest_first() -> None:
    assert compose.compose(NAME, ["keep=0.1"]).budgets == (("0.1", 0.1),)
    assert compose.compose(NAME, ["keep=[0.1,1,0.5]"]).budgets == (("0.5", 0.5), ("0.1", 0.1))
    assert compose.compose(NAME, ["keep_tokens=[4,8]"]).budgets == (("8t", 8), ("4t", 4))


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (["keep=0.5", "keep_tokens=[4]"], [("keep", "keep_tokens gives numbers in its place")]),
        (["keep=0.5"], []),
        (["guide.text=other"], [("guide.text", "divprune reads no question")]),
        (["guide.text=other", "arm=trim", "data=question-canvases"], []),
        (["evaluation.max_new_tokens=4"], [("evaluation.max_new_tokens", "toy-vlm writes no answers")]),
        (["evaluation.max_new_tokens=4", "model=/some/llava", "data.path=q.json"], []),
        (
            ["evaluation.pictures=0", "evaluation.picture_keep=0.5"],
            [("evaluation.picture_keep", "no picture is drawn")],
        ),
    ],
)
def test_what_is_typed_for_nothing_is_said(typed: list[str], why: list[tuple[str, str]]) -> None:
    assert of_no_use([compose.compose(NAME, typed)], typed) == why


@pytest.mark.parametrize("typed", ["keep=1", "keep=[]"])
def test_no_budget_is_announced_as_none(typed: str) -> None:
    rows = dict(compose.compose(NAME, [typed]).describe())
    assert rows["budgets"] == "none: only the unpruned model is measured"


def test_every_pruner_has_an_arm_of_its_name_and_a_place() -> None:
    every = compose.every_arm(NAME)
    assert set(PRUNERS) <= set(every)
    assert set(PRUNERS) == {*BEHIND_ENCODER, *IN_ENCODER, *IN_LANGUAGE_MODEL, "full", "random"}
    for name in PRUNERS:
        data = "question-canvases"
        assert compose.compose(NAME, [f"pruner={name}", f"data={data}"]).arm == name


@pytest.mark.parametrize(
    ("overrides", "has", "lacks"),
    [
        ([], {"divprune", "fastv", "recoverable_visual"}, {"trim", "recoverable", "zero_tprune_votes"}),
        (["data=question-canvases"], {"trim", "recoverable", "recoverable_other"}, {"zero_tprune_votes"}),
        (["model=toy-vit"], {"random", "zero_tprune_cls", "tome", "ats", "evit"}, {"divprune", "fastv", "grid"}),
    ],
)
def test_arms_are_those_that_make_sense(overrides: list[str], has: set[str], lacks: set[str]) -> None:
    arms = compose.arms(NAME, overrides)
    assert has <= set(arms) and not lacks & set(arms)
    for arm in arms:
        assert compose.compose(NAME, [*overrides, f"arm={arm}"]).arm == arm


def test_the_classifier_is_pruned_early() -> None:
    assert compose.compose(NAME, ["model=toy-vit", "arm=random"]).pruner.place == "vit"
    assert compose.compose(NAME, ["model=toy-vit"]).arm == "zero_tprune"


def test_the_claims_are_measured_by_default() -> None:
    card = registry.card(NAME)
    for claim in (card.claim, *card.claims):
        assert claim.metric.partition("@")[2] in dict(compose.compose(NAME, []).budgets)
        assert {claim.arm, claim.baseline} <= set(compose.every_arm(NAME))


@pytest.mark.parametrize(
    ("model", "data", "led"),
    [
        ("toy-vlm", "digit-canvases", "divprune"),
        ("toy-vit", "digit-canvases", "zero_tprune"),
        ("prior-vlm", "prior-captions", "divprune"),
    ],
)
def test_a_run_is_reported_by_a_claim_about_its_model(tmp_path: Path, model: str, data: str, led: str) -> None:
    config = {"model": {"name": model}, "data": {"name": data}}
    claim = card_of(RunRecord(tmp_path, NAME, "random", 0, "done", "", config)).claim
    assert (claim.arm, claim.baseline) == (led, "random")


def test_a_claim_about_words_leads_where_words_are_pruned() -> None:
    card = card_for(NAME, ["model=minilm"])
    assert (card.claim.metric, card.claim.baseline, card.claims) == ("agreement@0.125", "zero_tprune_random", ())
    asked = card_for(NAME, ["data=question-canvases"])
    assert [claim.arm for claim in (asked.claim, *asked.claims)] == [
        "divprune",
        "zero_tprune",
        "flowcut",
        "recoverable",
    ]
    assert [claim.arm for claim in card_for(NAME).claims] == ["zero_tprune", "flowcut"]
    few = card_for(NAME, (), ["flowcut", "cls_topk"])
    assert (few.claim.arm, few.claims) == ("flowcut", ())


def test_what_follows_from_model_and_arm() -> None:
    asked = "data=question-canvases"
    assert compose.compose(NAME, [asked, "arm=recoverable_other"]).pruner.patch_proj == "post_ln"
    assert compose.compose(NAME, [asked, "pruner=trim"]).pruner.sign == 1
    for arm in ("zero_tprune", "zero_tprune_cls", "zero_tprune_once"):
        assert compose.compose(NAME, ["model=toy-vit", f"arm={arm}"]).pruner.layers == (1,)
    assert compose.compose(NAME, ["arm=zero_tprune"]).pruner.layers == ()
    user = ["model=/some/llava", "data.path=q.json"]
    assert compose.compose(NAME, user).evaluation.batch_size == 1
    assert compose.compose(NAME, [*user, "guide.path=clip", "pruner=trim"]).pruner.sign == -1
