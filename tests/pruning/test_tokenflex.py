"""TokenFLEX: arms, costs, what training draws and keeps, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models.costs import LayerShape
from recipes.core.training.task import TrainEvents
from recipes.core.training.toys.llava import QuestionItems
from recipes.core.training.trainer import train
from recipes.pruning.flex import TokenSampler
from recipes.pruning.tokenflex.config import PROJECTORS, FlexConfig
from recipes.pruning.tokenflex.objective import FlexLoss, build_model, cost, projector_macs
from recipes.pruning.tokenflex.recipe import Prepared, TokenFlexRecipe, answer_scores, possible

TINY = ("model.encoder.steps=2", "data.train=40", "data.test=20", "trainer.max_steps=12", "trainer.batch_size=8")
RECIPE = TokenFlexRecipe()


def config(*keys: str) -> Any:
    return compose.compose("tokenflex", ["tracker=none", "trainer.device=cpu", *TINY, *keys])


@pytest.fixture
def prepared() -> Callable[[Any], Prepared]:
    return lambda given: RECIPE.prepare(given, "cpu")


class Losses(TrainEvents):
    """Loss and number of tokens of each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.seen.append((metrics["loss"], metrics["tokens"]))


def trained(given: Any, ready: Prepared, folder: Path) -> tuple[list[tuple[float, float]], Any]:
    losses, made = Losses(), RECIPE.build(given, ready)
    train(made, given.trainer, given.seed, folder, losses)
    return losses.seen, made.model


def test_one_number_of_tokens_with_probability_one_is_fixed_training(
    prepared: Callable[[Any], Prepared], tmp_path: Path
) -> None:
    keys = ("trainer.log_steps=1", "evaluation.watch_every=12")
    fixed = config("arm=fixed_large", *keys)
    ready = prepared(fixed)
    first, model = trained(fixed, ready, tmp_path / "a")
    second, other = trained(config("flex.probs=[0,0,1]", "label=large", *keys), ready, tmp_path / "b")
    assert first == second and len(first) == 12 and {tokens for _, tokens in first} == {64.0}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    flexed, _ = trained(config(*keys), ready, tmp_path / "c")
    assert {tokens for _, tokens in flexed} == {4.0, 16.0, 64.0}


def test_a_run_cut_off_and_resumed_draws_and_ends_the_same(prepared: Callable[[Any], Prepared], tmp_path: Path) -> None:
    given = config("trainer.log_steps=1", "trainer.save_steps=5")
    ready = prepared(given)
    whole, model = trained(given, ready, tmp_path / "whole")
    trained(given, ready, tmp_path / "cut")
    last = max((tmp_path / "cut" / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    assert last.name.endswith("-12")
    for path in sorted(last.rglob("*")):
        path.unlink()
    last.rmdir()
    rest, resumed = trained(given, ready, tmp_path / "cut")
    assert rest == whole[10:]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    assert model.visual_tokens == resumed.visual_tokens == 8 * sum(int(tokens) for _, tokens in whole)


def test_equal_budgets_of_tokens_cut_the_batch(prepared: Callable[[Any], Prepared]) -> None:
    given = config("arm=fixed_large_equal", "trainer.batch_size=48")
    assert given.flex.batch_share == pytest.approx(37.6 / 64)
    ready = prepared(given)
    batch = RECIPE.build(given, ready).collate(list(range(48)))
    assert len(batch["answers"]) == len(batch["features"]) == len(batch["ids"]) == 28  # 48 * 0.5875 = 28.2
    assert batch["answers"].tolist() == ready.train.answers[:28].tolist()
    assert config("arm=flex").flex.batch_share == 1


def test_expected_tokens() -> None:
    assert config().flex.mean_tokens == pytest.approx(37.6)
    assert FlexConfig(tokens=(64, 144, 256)).mean_tokens == pytest.approx(184)
    assert FlexConfig(tokens=(64, 144, 256), schedule="cycle").mean_tokens == pytest.approx(464 / 3)
    assert config("arm=even").flex.mean_tokens == pytest.approx(28, abs=1e-4)
    assert config("arm=cycle").flex.mean_tokens == pytest.approx(28)
    assert config("arm=more_small").flex.mean_tokens == pytest.approx(19.6)


def test_the_language_model_starts_the_same_whatever_the_projector() -> None:
    models = [build_model(config(f"arm={arm}")) for arm in ("flex", "mlp_pool", "resampler", "pixel_shuffle")]
    states = [model.language_model.state_dict() for model in models]
    for name, values in states[0].items():
        if name != "model.rotary_emb.inv_freq":
            assert all(torch.equal(values, state[name]) for state in states[1:]), name
    assert not torch.equal(states[0]["lm_head.weight"], build_model(config("seed=1")).language_model.lm_head.weight)


@pytest.mark.parametrize("tokens", [1, 4, 36, 64])
def test_answers_are_scored_one_by_one_as_a_plain_forward_says(
    tokens: int, prepared: Callable[[Any], Prepared]
) -> None:
    given = config()
    ready, model = prepared(given), build_model(given)
    scores = answer_scores(given, ready, model, 40)
    assert set(scores.metrics) == {
        "accuracy@1",
        "accuracy@4",
        "accuracy@16",
        "accuracy@36",
        "accuracy@64",
        "accuracy/mean",
    }
    own = scores.values(f"accuracy@{tokens}")
    assert list(own)[:3] == ["0/0", "0/1", "1/0"] and len(own) == 40
    for row in (0, 7, 39):
        batch = ready.test.collate([row])
        projected = model.projector(batch["features"], tokens)
        embed = model.language_model.get_input_embeddings()
        marks = embed(torch.tensor([[1], [5]]))  # <s> and <sep>
        sequence = torch.cat([marks[:1], projected, marks[1:], embed(batch["asked"][:, None])], 1)
        said = model.language_model(inputs_embeds=sequence).logits[0, -1].argmax()
        assert own[f"{row // 2}/{row % 2}"] == float(said == batch["answers"][0])
    mean = [scores.values(f"accuracy@{count}")["7/1"] for count in (4, 16, 64)]
    assert scores.values("accuracy/mean")["7/1"] == pytest.approx(sum(mean) / 3)


def test_a_pixel_shuffle_is_tested_at_its_own_number_only(prepared: Callable[[Any], Prepared]) -> None:
    given = config("arm=pixel_shuffle")
    assert possible(given) == [16] and given.factor == 2
    assert set(answer_scores(given, prepared(given), build_model(given), 4).metrics) == {"accuracy@16"}


def test_costs_of_projectors() -> None:
    """The published 5.2 G, and the weights of each projector counted once a token."""
    assert projector_macs("swiglu_pool", 256, 729, 1152, 3584) == pytest.approx(5.2e9, rel=0.01)
    for name in ("swiglu_pool", "mlp_pool", "pixel_shuffle_mlp"):
        arm = {"swiglu_pool": "flex", "mlp_pool": "mlp_pool", "pixel_shuffle_mlp": "pixel_shuffle"}[name]
        model = build_model(config(f"arm={arm}"))
        weights = sum(p.numel() for p in model.projector.parameters() if p.dim() == 2)
        assert projector_macs(name, 16, 64, 48, 64) == 16 * weights
    # lift 64 patches; keys and values; queries and output; scores and mixing; MLP
    expected = 64 * 48 * 64 + 2 * 64 * 64 * 64 + 2 * 16 * 64 * 64 + 2 * 16 * 64 * 64 + 16 * 4 * 64 * 64
    assert projector_macs("resampler", 16, 64, 48, 64) == expected


def test_cost_of_a_question() -> None:
    counts = cost(config(), 16)
    block, layer = LayerShape(48, 192), LayerShape(64, 172, matrices=3)
    assert counts.encoder_macs == 5 * block.macs(65) + 64 * 48 * 48
    assert counts.llm_macs == layer.macs(19)
    assert counts.projector_macs == 16 * (6 * 48 * 48 + 3 * 48 * 64)
    assert cost(config(), 4).encoder_macs == counts.encoder_macs  # pooling comes behind it


def test_more_tokens_than_patches_are_told(
    prepared: Callable[[Any], Prepared], capsys: pytest.CaptureFixture[str]
) -> None:
    given = config("evaluation.unseen=[81]")
    prepared(given)
    said = "warning: 81 tokens of 64 patches: the map is enlarged, nothing is gained"
    assert said in capsys.readouterr().err
    assert ("warning", "81 tokens enlarge the map: nothing is gained") in given.describe()


@pytest.mark.parametrize(
    "keys, said",
    [
        (["flex.tokens=[4,15,64]"], "flex.tokens: 15 is no square of a whole number; type 9 or 16"),
        (["flex.tokens=[0,16,64]"], "flex.tokens: 0 is no square of a whole number; type 1"),
        (["evaluation.tokens=[60]"], "evaluation.tokens: 60 is no square of a whole number; type 49 or 64"),
        (["flex.probs=[0.5,0.3,0.3]"], "flex.probs: sums to 1.1, not to 1"),
        (["flex.probs=[0.5,0.5]"], "flex.probs: has 2 entries for 3 numbers of tokens"),
        (["flex.probs=[1.5,-0.5,0]"], "flex.probs = -0.5: must be >= 0"),
        (["flex.tokens=[16,16,64]"], "flex.tokens: needs numbers of tokens, each once"),
        (["evaluation.unseen=[4]"], "evaluation.tokens: names a number twice, or one of unseen"),
        (
            ["flex.projector=pixel_shuffle_mlp"],
            "flex.tokens: pixel_shuffle_mlp makes one number of tokens of 8x8 patches; type [1] or [4] or [16]",
        ),
        (["flex.schedule=rondom"], "flex.schedule = rondom: did you mean random?"),
        (["model=toy-vlm"], "model = toy-vlm: did you mean toy-vit?"),
    ],
)  # fmt: skip
def test_what_is_refused(keys: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        config(*keys)
    assert said in str(error.value.hint)


def test_steps_know_what_they_drew() -> None:
    """The number of a step is a function of seed and step, and all processes' questions are counted."""
    sampler, model = TokenSampler((4, 16, 64), (0.2, 0.3, 0.5), 0), build_model(config())
    alone, one_of_two = FlexLoss(sampler), FlexLoss(sampler, processes=2)
    batch = {"answers": torch.zeros(8)}
    for step in range(9):
        one_of_two.before_step(step, model, [batch, batch])
    assert model.visual_tokens == 2 * 16 * sum(sampler.at(step) for step in range(9))
    alone.before_step(8, model, [batch])
    assert alone.tokens == one_of_two.tokens == sampler.at(8)


def test_the_answer_is_all_that_is_predicted(prepared: Callable[[Any], Prepared]) -> None:
    """An end behind the answer would be told from the question by its place, which moves with the number of tokens."""
    given = config()
    ready, model = prepared(given), build_model(given)
    loss, batch = FlexLoss(TokenSampler((16,), (1,), 0)), ready.train.collate([0, 1, 2])
    total, metrics = loss(model, batch, torch.tensor(3.0))
    logits = model(batch["features"], batch["asked"], 16)
    expected = -logits.log_softmax(1)[range(3), batch["answers"]].mean()
    torch.testing.assert_close(total, expected)
    assert metrics["tokens"].tolist() == [48, 3]


def test_items_pair_questions_with_their_canvas(prepared: Callable[[Any], Prepared]) -> None:
    items: QuestionItems = prepared(config()).train
    batch = items.collate([0, 1, 2])
    assert torch.equal(batch["features"][0], batch["features"][1])
    assert not torch.equal(batch["features"][1], batch["features"][2])
    assert batch["asked"][0] == batch["asked"][2] != batch["asked"][1]
    assert batch["features"].shape == (3, 64, 48) and batch["features"].dtype == torch.float32


@pytest.mark.parametrize("projector", PROJECTORS)
def test_parameters_are_those_of_the_model(projector: str) -> None:
    fixed = ["flex.tokens=[16]", "flex.probs=[1]", "label=fixed"] if projector == "pixel_shuffle_mlp" else []
    given = config(f"flex.projector={projector}", *fixed)
    assert given.parameters() == sum(parameter.numel() for parameter in build_model(given).parameters())
