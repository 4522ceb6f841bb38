"""The model that `prior` trains: its logits as a LLaVA, pruned in the run or from a folder; what is refused."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.images.tokenized import tokenize
from recipes.core.errors import UserError
from recipes.core.evaluation.captions import Choice
from recipes.core.models.as_llava import as_llava
from recipes.core.models.build import llama
from recipes.core.models.encoder import PatchFeatures
from recipes.core.models.vision_language import CaptionModel, EncoderProjector, PatchEmbedding, SquarePixels
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.storage.seals import SEAL
from recipes.core.training.caption_batches import CaptionItems, caption_collate
from recipes.pruning.token_pruning import prior_vlm
from recipes.pruning.token_pruning.prior_vlm import Trained, load_finished, read_choices
from tests.cli.conftest import Ended, steelyard
from tests.core.models.heads import tiny

__all__ = ["steelyard"]  # a fixture

QUICK = ("budget=smoke", "tracker=none", "trainer.threads=1")
# Fillers of several lengths make captions of several lengths.
TINY = ("setting=H", "data.filler=unpredictable", "model.vision.steps=5", "reference.steps=5", "trainer.max_steps=8")
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 8, "patch_size": 2, "num_channels": 1}  # fmt: skip
TOWERS: dict[str, Callable[[], Any]] = {
    "vit": lambda: ViTModel(ViTConfig(**TOWER), add_pooling_layer=False),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**TOWER)),
}


def prior_run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("prior", [*QUICK, *TINY, f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run prior")


@pytest.fixture
def run_folder(session_home: Path, steelyard_home: Path) -> Path:
    """A finished run of `prior` with setting=H, made once a session."""
    return prior_run(session_home / "runs").folder


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of that run that a test may spoil."""
    return Path(shutil.copytree(run_folder, tmp_path / "outputs" / "prior" / "prior" / run_folder.name))


def differences(model: CaptionModel, batch: dict[str, Any]) -> torch.Tensor:
    """Logits of the caption model less those of the LLaVA, where there is no padding."""
    mask = batch["attention_mask"]
    llava = as_llava(model)
    with torch.no_grad():
        own = model.eval()(batch["input_ids"], mask, batch["pixels"], lambda hidden, head: head.logits(hidden))
        theirs = llava(input_ids=batch["input_ids"], attention_mask=mask, pixel_values=batch["pixels"]).logits
    assert own.std() > 0.01
    return (own - theirs)[mask.bool()].abs()


@pytest.mark.parametrize("name", ["", "hf"])
def test_a_trained_model_and_its_llava_have_the_same_logits(name: str, run_folder: Path) -> None:
    trained = load_finished(str(run_folder / name), "cpu")
    test, model, tokenizer = trained.data.test, trained.model, trained.tokenizer
    tokens = tokenize(test, tokenizer, tokenizer.eos_token_id, 64)
    items = CaptionItems(test, tokens, range(16), model.pixels)
    weigh: Any = lambda indices, mask: (mask.float(), mask.sum())  # noqa: E731
    batch = caption_collate(model.prefix_ids, tokenizer.pad_token_id, weigh)([items[i] for i in range(16)])
    assert not batch["attention_mask"].all()  # captions of several lengths
    assert differences(model, batch).max() < 1e-5
    mask = batch["attention_mask"]
    llava = AutoModelForImageTextToText.from_pretrained(run_folder / "hf").eval()
    with torch.no_grad():
        left = llava(input_ids=batch["input_ids"], attention_mask=mask, pixel_values=batch["pixels"]).logits
        own = model.eval()(batch["input_ids"], mask, batch["pixels"], lambda hidden, head: head.logits(hidden))
    assert (own - left)[mask.bool()].abs().max() < 1e-5


@pytest.mark.parametrize("tower", TOWERS)
def test_every_kind_of_encoder_becomes_a_llava(tower: str) -> None:
    encoder = PatchFeatures(TOWERS[tower](), 16)
    language = LlamaForCausalLM(llama(40, 2, 16, 2, 32))
    model = CaptionModel(
        language, EncoderProjector(encoder, 16, 16), [1, *[5] * 16], 5, 2, SquarePixels(8, 1, [0.5], [0.5])
    )
    for norm in (module for module in encoder.modules() if isinstance(module, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    torch.nn.init.normal_(language.lm_head.weight)
    ids = torch.tensor([[*model.prefix_ids, 7, 8, 9]]).expand(3, -1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixels": torch.randn(3, 1, 8, 8)}
    assert differences(model, batch).max() < 1e-5


def test_a_model_without_an_encoder_is_no_llava() -> None:
    language = LlamaForCausalLM(llama(40, 2, 16, 2, 32))
    model = CaptionModel(language, PatchEmbedding(8, 2, 1, 16), [1], 5, 2, SquarePixels(8, 1, [0.5], [0.5]))
    with pytest.raises(UserError, match="no visual encoder, so it is no LLaVA"):
        as_llava(model)


def test_a_head_that_is_more_than_a_product_is_no_llavas() -> None:
    model = CaptionModel(tiny("phi"), EncoderProjector(PatchFeatures(TOWERS["clip"](), 16), 16, 16), [1], 5, 2, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="PhiForCausalLM does more to its logits than LLaVA"):
        as_llava(model)


def test_a_finished_run_is_asked_what_it_was_asked_itself(
    run_folder: Path, tmp_path: Path, steelyard: Callable[..., Ended]
) -> None:
    words = ("model=prior-vlm", f"model.path={run_folder}", "evaluation.examples=120", "keep=0.25")
    ended = steelyard("run", "token-pruning", *QUICK, f"outputs={tmp_path}", *words)
    assert ended.code == 0, ended.err
    [folder] = tmp_path.glob("token-pruning/divprune/*")
    # 60 captions of `prior` have two words each: unpruned, every answer is the same.
    own = pq.read_table(run_folder / "examples.parquet").to_pandas()
    own = own[own.metric.isin(["grounded/digit", "grounded/thickness"])].set_index("example")["value"]
    scores = pq.read_table(folder / "examples.parquet").to_pandas()
    scores = scores[scores.metric == "accuracy@1"].set_index("example")["value"]
    assert len(scores) == 120 and scores.to_dict() == own.to_dict()
    page = (folder / "report.html").read_text()
    assert "4 of 16 tokens" in page and "it shows a ..." in page


def test_a_model_is_trained_in_the_run_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Callable[..., Ended]
) -> None:
    words = ("model=prior-vlm", "data=digit-captions", "model.steps=4", "evaluation.examples=6", "keep=0.25")
    told = "training the model of prior for seed 0 on 1,400 captions"
    for arm, trains in (("pruner=fastv", True), ("pruner=flowcut", False)):
        ended = steelyard("run", "token-pruning", *QUICK, f"outputs={tmp_path}", *words, arm)
        assert ended.code == 0, ended.err
        assert (told in ended.err) == trains and "accuracy@0.25" in ended.out


def test_which_arms_a_trial_has() -> None:
    arms = compose.arms("token-pruning", ["model=prior-vlm"])
    assert {"divprune", "random", "fastv", "sparsevlm", "flowcut", "tome"} <= set(arms)
    assert not {"trim", "recoverable", "zero_tprune_votes"} & set(arms)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["model.path=runs/x", "data=easy-vqa"], "a run of prior brings its own: leave data out"),
        (["data=digit-canvases"], "type data=prior-captions or data=easy-vqa or data=digit-captions"),
        (["pruner=trim"], "this model has no text in their space"),
        (["model.arm=priors"], "model.arm: priors is no arm of prior; did you mean prior?"),
    ],
)  # fmt: skip
def test_what_cannot_be_typed(overrides: list[str], text: str) -> None:
    with pytest.raises(UserError) as caught:
        compose.compose("token-pruning", ["model=prior-vlm", *overrides])
    assert text in str(caught.value) and caught.value.exit_code == 2


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_finished(str(folder), "cpu")
    assert str(folder) in str(caught.value) and caught.value.hint
    return str(caught.value)


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def as_if(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], Any], **fields: Any) -> None:
    """Let folders be taken for those of runs with another config, or of another recipe."""

    def load(folder: Path) -> RunRecord:
        record = load_run(folder)
        config = copy.deepcopy(record.config)
        change(config)
        return dataclasses.replace(record, config=config, **fields)

    monkeypatch.setattr(prior_vlm, "load_run", load)


def test_folders_that_are_no_finished_run_of_prior(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not a run folder" in refused(tmp_path)
    assert "is not a run folder" in refused(tmp_path / "absent")
    with monkeypatch.context() as patch:
        as_if(patch, lambda config: config.update(setting="U"))
        assert "is a run with setting=U, whose model has no visual encoder" in refused(copied)
        as_if(patch, lambda config: None, recipe="tokenflex")
        assert "is a run of tokenflex; only prior trains such a model" in refused(copied)
    edited(copied / "config.yaml", "setting: H", "setting: U")
    assert "the run is damaged: config.yaml has changed" in refused(copied)
    edited(copied / "config.yaml", "setting: U", "setting: H")
    edited(copied / "status.json", '"done"', '"interrupted"')
    (copied / SEAL).unlink()
    assert "the run is interrupted, not done" in refused(copied)


def test_weights_that_are_damaged_of_another_model_or_gone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = copied / "checkpoints" / "checkpoint-8" / "model.safetensors"
    with monkeypatch.context() as patch:
        as_if(patch, lambda config: config["model"].update(vocabulary=900))
        assert "the weights are not those of the model that config and data make" in refused(copied)
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "final weights are missing or damaged (checkpoint-8 cannot be used (model.safetensors has" in refused(copied)
    shutil.rmtree(copied / "checkpoints")
    assert "the run is damaged: checkpoints/checkpoint-8/complete.json is missing" in refused(copied)


def test_captions_that_leave_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = SimpleNamespace(name="image-text", test=[])
    with pytest.raises(UserError, match="nothing can be asked about image-text"):
        read_choices(Trained(None, None, plain))
    alike = Choice("digit-0/1", "digit-0", "digit", 0, (4,), ((7, 8), (7, 9)), 0)
    monkeypatch.setattr(prior_vlm, "span_choices", lambda *_: [alike])
    with pytest.raises(UserError, match="two alternatives of digit begin with the same piece"):
        read_choices(Trained(None, None, plain))
