"""Toy models: what is saved loads as plain transformers models and answers as it did in training."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, CLIPVisionModel, LlavaForConditionalGeneration

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.images.canvas_config import CanvasConfig, CanvasDataConfig, QuestionCanvasDataConfig
from recipes.core.data.images.canvases import make_canvases, words
from recipes.core.training.toys.config import DecoderConfig, EncoderConfig, ToyVLMConfig
from recipes.core.training.toys.encoder import Digits, encode, toy_vit
from recipes.core.training.toys.guide import Guide, NamingLoss, load_guide
from recipes.core.training.toys.llava import (
    WORDS,
    Answering,
    CanvasItems,
    answer_logits,
    make_tokenizer,
    prompt,
    toy_llava,
)

TWO = CanvasDataConfig(train=64, test=40)
ASKED = QuestionCanvasDataConfig(train=64, test=20)
TINY = ToyVLMConfig(encoder=EncoderConfig(steps=3), decoder=DecoderConfig(steps=3))


@dataclass(frozen=True)
class Run:
    """The part of a run's config that toy models read."""

    data: CanvasConfig
    model: ToyVLMConfig = TINY
    seed: int = 0
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(device="cpu", threads=1))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toys")


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(home))


@pytest.fixture(params=[TWO, ASKED], ids=["digits", "questions"])
def config(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


def test_the_encoder_is_a_clip_vision_model_with_heads(config: Run) -> None:
    folder = toy_vit(config, "cpu")
    model, canvases = Digits.load(folder), make_canvases(config.data, "test", 0)
    logits = model(canvases.images)
    assert logits.shape == (config.data.test, config.data.slots, 10)
    plain = CLIPVisionModel.from_pretrained(folder)(canvases.images).pooler_output
    assert torch.equal(model.heads(plain).view_as(logits), logits)
    assert plain.shape[1] == 48 and model.tower.config.num_hidden_layers == 6


def test_it_is_trained_once_and_again_for_another_seed(config: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = toy_vit(config, "cpu")
    capsys.readouterr()
    assert toy_vit(config, "cpu") == folder
    assert "training" not in capsys.readouterr().err
    assert toy_vit(Run(config.data, seed=1), "cpu") != folder
    fixed = ToyVLMConfig(encoder=EncoderConfig(steps=3), seed=0)
    assert toy_vit(Run(config.data, fixed, seed=1), "cpu") == folder


def test_the_llava_answers_from_pictures_as_from_cached_features(config: Run) -> None:
    """The features of training are those of the model: layer -2 of the encoder, CLS left out."""
    folder, data = toy_llava(config, "cpu"), config.data
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    canvases = make_canvases(data, "test", 0)
    tower = CLIPVisionModel.from_pretrained(toy_vit(config, "cpu"))
    items = CanvasItems(encode(tower, canvases.images, "cpu", -2), canvases, data)
    each = canvases.questions.shape[1]
    batch = items.collate(list(range(8 // each)))
    cached = Answering(model)(batch["features"], batch["asked"])

    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = [words(data)[0][int(index)] for index in canvases.questions.flatten()[:8]]
    texts = [prompt(name).replace("<image>", "<image>" * data.patches) for name in names]
    ids = tokenizer(texts, return_tensors="pt")
    pixels = canvases.images[: 8 // each].repeat_interleave(each, 0)
    logits = model(**ids, pixel_values=pixels).logits[:, -1]
    torch.testing.assert_close(logits, cached, rtol=1e-4, atol=1e-5)
    answers = [WORDS.index(words(data)[1][int(index)]) for index in canvases.answers.flatten()[:8]]
    assert batch["answers"].tolist() == answers


def test_a_users_picture_has_the_scale_of_canvases(config: Run) -> None:
    """A flat canvas stored as an 8-bit picture comes back but for rounding, and the prompt has its places."""
    folder, data = toy_llava(config, "cpu"), config.data
    processor = AutoProcessor.from_pretrained(folder)
    canvas = make_canvases(type(data)(**{**vars(data), "background": "flat"}), "test", 0).images[0]
    picture = Image.fromarray(np.round(canvas[0].numpy() * 255 / data.intensity).astype(np.uint8)).convert("RGB")
    inputs = processor(images=picture, text=prompt("left"), return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"][0], canvas, atol=data.intensity / 255, rtol=0)
    ids = inputs["input_ids"][0].tolist()
    image, begin, separator, left = (WORDS.index(word) for word in ("<image>", "<s>", "<sep>", "left"))
    assert ids == [begin, *[image] * data.patches, separator, left]
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    said = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert said.shape[1] > len(ids)


def test_the_encoder_inside_the_llava_is_the_trained_one(config: Run) -> None:
    inside = LlavaForConditionalGeneration.from_pretrained(toy_llava(config, "cpu")).model.vision_tower.state_dict()
    alone = CLIPVisionModel.from_pretrained(toy_vit(config, "cpu")).state_dict()
    assert inside.keys() == alone.keys() and all(torch.equal(inside[name], alone[name]) for name in alone)


def test_every_word_is_one_token() -> None:
    tokenizer = make_tokenizer()
    for index, word in enumerate(WORDS):
        assert tokenizer(word, add_special_tokens=False)["input_ids"] == [index]
    assert tokenizer("maybe", add_special_tokens=False)["input_ids"] == [WORDS.index("<unk>")]


def test_questions_about_one_canvas_share_what_stands_before_them(config: Run) -> None:
    """Several questions of a row are answered as each on its own."""
    model = LlavaForConditionalGeneration.from_pretrained(toy_llava(config, "cpu")).eval()
    features, asked = torch.randn(3, 20, 48), torch.tensor([[6, 9, 11], [12, 6, 7], [8, 8, 15]])
    visual, llm = model.model.multi_modal_projector(features), model.model.language_model
    alone = [answer_logits(model, llm, visual, one) for one in asked.T]
    together = Answering(model)(features, asked)
    torch.testing.assert_close(together, torch.stack(alone, 1).flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_the_encoder_of_question_canvases_learns_presence_patches_and_places() -> None:
    """One row by hand: presence summed over digits, ten times the mean of patches, the mean of quadrants."""
    presence, named, placed = torch.randn(1, 10), torch.randn(1, 16, 11), torch.randn(1, 16, 4)
    batch = {"inputs": torch.zeros(1), "presence": torch.eye(10)[:1], "named": torch.full((1, 16), 10)}
    batch["named"][0, 3] = 7
    loss, _ = NamingLoss()(lambda _: (presence, named, placed), batch, torch.tensor(1.0))
    signs = torch.tensor([1.0] + [-1.0] * 9)
    there = -(signs * presence[0]).sigmoid().log().sum()
    name = -sum(named[0, n].log_softmax(0)[7 if n == 3 else 10] for n in range(16)) / 16
    quadrants = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    place = -sum(placed[0, n].log_softmax(0)[quadrants[n]] for n in range(16)) / 16
    torch.testing.assert_close(loss, there + 10 * name + place)


def test_the_guide_is_a_cosine_over_tau_and_none_is_zero() -> None:
    config = Run(ASKED)
    text, weight = load_guide(toy_llava(config, "cpu"))
    assert text.shape == (10, 48) and weight.shape == (48, 48)
    tower = CLIPVisionModel.from_pretrained(toy_vit(config, "cpu"))
    features = encode(tower, make_canvases(ASKED, "test", 0).images[:4], "cpu")
    guide = Guide(48)
    with torch.no_grad():
        guide.text.copy_(text)
        guide.patch.weight.copy_(weight)
        patches = tower.post_layernorm(features)
        logits = guide(patches)
        for row, place, digit in ((0, 0, 0), (1, 17, 9), (3, 143, 4)):
            own, word = weight @ patches[row, place], text[digit]
            cosine = float(own @ word / (own.norm() * word.norm()))
            assert logits[row, place, digit] == pytest.approx(cosine / 0.1, abs=1e-4)
            assert logits[row, place, 10] == 0
    assert not (toy_vit(Run(TWO), "cpu") / "guide.safetensors").exists()
