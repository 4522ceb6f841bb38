"""The pass: equal to a plain forward of each row, whatever the batch and the padding; cached once, by content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from recipes.core.errors import RunFailed
from recipes.core.models.adapters import Unadapted
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring import fingerprints
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.forward import HEAD, every_layer
from recipes.core.scoring.score import TokenScores, score, score_once
from recipes.core.scoring.statistics import Ask
from recipes.core.storage import fingerprints as stamps
from tests.core.models.heads import KINDS, tiny
from tests.core.scoring.models import CountingModel, some_rows

ROWS = some_rows()
ALL = Ask(entropy=True, max_logprob=True, rank=True, mass=True, top_k=3, hidden=(0, 1, HEAD))
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


def alone(model: Any, row: tuple[Any, Any]) -> Any:
    """The library's forward of one row without padding, at the positions that predict the completion."""
    ids = torch.tensor([[*row[0], *row[1]]])
    with torch.no_grad():
        out = model.language_model.eval()(ids, output_hidden_states=True)
    at = slice(len(row[0]) - 1, ids.shape[1] - 1)
    return out.logits[0, at], [states[0, at] for states in out.hidden_states], ids[0, len(row[0]) :]


def equal(a: TokenScores, b: TokenScores, **tolerance: float) -> None:
    assert sorted(a.columns) == sorted(b.columns)
    for name, column in a.columns.items():
        np.testing.assert_allclose(column, b[name], **tolerance or CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_every_kind_of_model_equal_a_plain_forward_of_each_row(kind: str) -> None:
    model, other = TextModel(tiny(kind)), TextModel(tiny(kind, 1))
    layers = (0, 1) if kind == "opt" else (0, 1, HEAD)
    scores = score(model, ROWS, Ask(entropy=True, rank=True, hidden=layers), other, device="cpu", batch_tokens=24)
    for number, row in enumerate(ROWS):
        logits, states, targets = alone(model, row)
        logp, logq = logits.log_softmax(1), alone(other, row)[0].log_softmax(1)
        np.testing.assert_allclose(scores.nll(number), -logp.gather(1, targets[:, None])[:, 0], **CLOSE)
        np.testing.assert_allclose(scores.row("entropy", number), -(logp.exp() * logp).sum(1), **CLOSE)
        np.testing.assert_allclose(scores.row("kl", number), (logp.exp() * (logp - logq)).sum(1), atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(scores.row("hidden", number), torch.stack([states[i] for i in layers], 1), **CLOSE)
        assert scores.nll(number).dtype == np.float32 and len(scores.nll(number)) == len(row[1])


@pytest.mark.parametrize("batch_tokens", [1, 12, 30, 10_000])
def test_neither_the_batch_nor_the_order_changes_a_score(model: CountingModel, batch_tokens: int) -> None:
    whole = score(model, ROWS, ALL, device="cpu", batch_tokens=24)
    other = score(model, ROWS[::-1], ALL, device="cpu", batch_tokens=batch_tokens)
    for name in whole.columns:
        for number in range(len(ROWS)):
            np.testing.assert_allclose(whole.row(name, number), other.row(name, len(ROWS) - 1 - number), **CLOSE)


def test_a_row_beside_a_longer_one_scores_as_it_does_alone(model: CountingModel) -> None:
    padded = score(model, ROWS, ALL, device="cpu", groups=[range(len(ROWS))])
    equal(padded, score(model, ROWS, ALL, device="cpu", groups=[[i] for i in range(len(ROWS))]))
    assert padded.forwards == 1


def test_a_model_has_no_divergence_from_itself(model: CountingModel) -> None:
    assert np.abs(score(model, ROWS, other=CountingModel(), device="cpu")["kl"]).max() < 1e-6


def test_the_second_arm_makes_no_forward_and_maps_the_same_bits(model: CountingModel) -> None:
    first = score_once(model, ROWS, ALL, CountingModel(1), device="cpu")
    again = score_once(CountingModel(), ROWS, ALL, CountingModel(1), device="cpu")  # as another process would
    assert first.forwards > 0 and again.forwards == 0
    np.testing.assert_equal(dict(again.columns), dict(first.columns))
    np.testing.assert_equal(dict(first.columns), dict(score(model, ROWS, ALL, CountingModel(1), device="cpu").columns))
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert "top_logits.npy" in maps.read_text()


class Stopping(CountingModel):
    """Is stopped in its forward number `at`."""

    at = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.calls + 1 == self.at:
            self.at = 0
            raise KeyboardInterrupt
        return super().forward(*args, **kwargs)


def test_a_pass_that_was_stopped_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.core.scoring.columns.SAVE_EVERY_SECONDS", 0.0)
    model, ask = Stopping(), Ask(top_k=3, hidden=(HEAD,))
    model.at = 3
    options: Any = {"device": "cpu", "batch_tokens": 12}
    whole = score(Stopping(), ROWS, ask, **options)
    with pytest.raises(KeyboardInterrupt):
        score_once(model, ROWS, ask, **options)
    [partial] = (home / "cache" / "token-scores").iterdir()
    assert partial.name.endswith(".partial")
    again = score_once(Stopping(), ROWS, ask, **options)
    assert again.forwards == whole.forwards - 2 and not partial.exists()
    np.testing.assert_equal(dict(again.columns), dict(whole.columns))


@pytest.mark.parametrize("batch_tokens", [12, 30])
def test_a_pass_in_other_batches_or_beside_cut_files_begins_anew(
    batch_tokens: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.core.scoring.columns.SAVE_EVERY_SECONDS", 0.0)
    model = Stopping()
    model.at = 3
    with pytest.raises(KeyboardInterrupt):
        score_once(model, ROWS, device="cpu", batch_tokens=12)
    if batch_tokens == 12:
        [column] = home.rglob("logprob.npy")
        column.write_bytes(column.read_bytes()[:-4])
    whole = score(Stopping(), ROWS, device="cpu", batch_tokens=batch_tokens)
    again = score_once(Stopping(), ROWS, device="cpu", batch_tokens=batch_tokens)
    assert again.forwards == whole.forwards
    np.testing.assert_equal(dict(again.columns), dict(whole.columns))


def test_columns_can_be_given_to_torch_and_are_those_of_the_file(model: CountingModel) -> None:
    first = score_once(model, ROWS, device="cpu")
    torch.from_numpy(first["logprob"]).zero_()
    assert score_once(model, ROWS, device="cpu")["logprob"].all()


def test_what_changes_the_scores_changes_the_key(model: CountingModel) -> None:
    changed = [(context, completion.copy()) for context, completion in ROWS]
    changed[0][1][0] ^= 1
    cases: list[tuple[Any, ...]] = [
        (model, ROWS),
        (CountingModel(1), ROWS),
        (model, changed),
        (model, ROWS, Ask(rank=True)),
        (model, ROWS, Ask(), CountingModel(1)),
        (model, ROWS, Ask(), CountingModel(2)),
    ]
    assert all(score_once(*case, device="cpu").forwards > 0 for case in cases)
    assert not any(score_once(*case, device="cpu").forwards for case in cases)


def test_a_damaged_entry_is_scored_again(model: CountingModel, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = score_once(model, ROWS, device="cpu")["logprob"].copy()
    (file,) = home.rglob("logprob.npy")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    again = score_once(model, ROWS, device="cpu")
    assert again.forwards > 0 and "damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(again["logprob"], expected)


def test_a_broken_reference_is_named_and_not_kept(model: CountingModel, home: Path) -> None:
    with torch.no_grad():
        model.language_model.lm_head.weight[int(ROWS[5][1][2])] = torch.nan
    rows = [
        (context, completion[:0]) if number != 5 else (context, completion)
        for number, (context, completion) in enumerate(ROWS)
    ]
    with pytest.raises(RunFailed, match=r"text 5, token 0: the reference gives a token no finite log-probability"):
        score_once(model, rows, device="cpu")
    assert not list(home.rglob("logprob.npy"))
    assert np.isnan(score(model, rows, device="cpu")["logprob"]).any()  # a diverged policy is measured as it is


def test_no_row_gives_empty_columns(model: CountingModel) -> None:
    for compute in (score, score_once):
        scores = compute(model, [], ALL, device="cpu")
        assert scores["logprob"].shape == (0,) and scores["hidden"].shape == (0, 3, 16) and scores.forwards == 0


def test_scoring_keeps_the_models_mode_and_makes_no_gradient(model: CountingModel) -> None:
    model.train()
    score(model, ROWS, ALL, device="cpu")
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_that_is_not_there_is_refused(model: CountingModel) -> None:
    assert every_layer(model) == (1, HEAD)
    with pytest.raises(ValueError, match="there is no layer 3: the model has 2"):
        score(model, ROWS, Ask(hidden=(3,)), device="cpu")


def test_weights_hash_sees_all_that_changes_the_scores(model: CountingModel) -> None:
    nudged = CountingModel()
    with torch.no_grad():
        nudged.language_model.lm_head.weight[0, 0] += 1e-6
    hashes = [
        weights_hash(model),
        weights_hash(nudged),
        weights_hash(CountingModel(seed=1)),
        weights_hash(CountingModel(num_attention_heads=4)),  # same shapes, another model
        weights_hash(CountingModel(hidden_act="gelu")),
        weights_hash(CountingModel(rope_parameters={"rope_type": "default", "rope_theta": 5e3})),
        weights_hash(CountingModel().to(torch.bfloat16)),
    ]
    assert len(set(hashes)) == len(hashes)
    assert weights_hash(CountingModel()) == hashes[0]


def test_weights_hash_does_not_see_where_the_model_was_saved(model: CountingModel, tmp_path: Path) -> None:
    before = weights_hash(model)
    model.language_model.save_pretrained(tmp_path / "saved")
    model.language_model = LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    assert weights_hash(model) == before


def test_a_model_whose_weights_are_those_of_another_has_no_hash() -> None:
    with pytest.raises(ValueError, match="has no weights of its own"):
        weights_hash(Unadapted(TextModel(tiny("llama"))))


def test_the_hash_of_large_weights_is_kept_beside_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Any] = []
    digest = fingerprints._digest
    monkeypatch.setattr(fingerprints, "_digest", lambda *given: hashed.append(given) or digest(*given))
    monkeypatch.setattr(stamps, "SETTLED_SECONDS", 0.0)
    CountingModel(hidden_size=128, intermediate_size=512).language_model.save_pretrained(tmp_path / "model")

    def load() -> TextModel:
        return TextModel(load_causal_lm(str(tmp_path / "model"), "model.path"))

    first = weights_hash(load())
    assert [weights_hash(load()) for _ in range(2)] == [first] * 2 and len(hashed) == 1
    changed, replaced = load(), load()
    with torch.no_grad():
        changed.language_model.lm_head.weight[0, 0] += 1  # no number that is looked at
        replaced.language_model.lm_head.weight.data = replaced.language_model.lm_head.weight + 1
    others = {weights_hash(changed), weights_hash(replaced), weights_hash(load().to(torch.bfloat16))}
    assert len(others | {first}) == 4 and len(hashed) == 4
    assert weights_hash(load()) == first and len(hashed) == 4
    CountingModel(1, hidden_size=128, intermediate_size=512).language_model.save_pretrained(tmp_path / "model")
    assert weights_hash(load()) not in others | {first}
