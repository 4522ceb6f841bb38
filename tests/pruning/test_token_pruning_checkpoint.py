"""A user's LLaVA: a toy one in its folder, asked about images in files."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.images.canvases import make_canvases
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.training.toys.llava import toy_llava
from recipes.pruning.token_pruning.checkpoint import prompt_inputs
from recipes.pruning.token_pruning.pictures import picture
from recipes.pruning.token_pruning.recipe import TokenPruningRecipe
from tests.core.tokenizer_kinds import byte_level

RUN = ("budget=smoke", "tracker=none", "trainer.threads=1", "keep=0.25", "evaluation.max_new_tokens=2")


@pytest.fixture(scope="module")
def toy() -> tuple[Path, Any]:
    config = compose.compose("token-pruning", ["budget=smoke", "trainer.threads=1"])
    return toy_llava(config, "cpu"), config


@pytest.fixture
def questions(toy: tuple[Path, Any], tmp_path: Path) -> Path:
    """Four questions about two images, in a file beside them."""
    canvases, records = make_canvases(toy[1].data, "test", 0), []
    for number in range(2):
        Image.fromarray(picture(canvases.images[number])).save(tmp_path / f"{number}.png")
        for side in ("left", "right"):
            records.append({"image": f"{number}.png", "question": f"{side} ?", "answer": ["one", "2"]})
    (tmp_path / "vqa.json").write_text(json.dumps(records))
    return tmp_path / "vqa.json"


def evaluated(*overrides: str) -> dict[str, float]:
    config, recipe = compose.compose("token-pruning", [*RUN, *overrides]), TokenPruningRecipe()
    return recipe.evaluate(config, recipe.prepare(config, "cpu"), None, {}).metrics


def test_a_folder_and_a_file_are_enough(toy: tuple[Path, Any], questions: Path, tmp_path: Path) -> None:
    words = [f"model={toy[0]}", f"data.path={questions}"]
    config = compose.compose("token-pruning", [*RUN, *words, f"outputs={tmp_path / 'runs'}"])
    outcome = runner.run(config, False, "steelyard run token-pruning")
    assert outcome.metrics["tokens@0.25"] == 16 and 0 < outcome.metrics["llm_macs_ratio@0.25"] < 1
    assert outcome.metrics["min_distance@0.25"] > outcome.metrics["min_distance@1"]
    page = (outcome.folder / "report.html").read_text()
    assert "left ?" in page and "16 of 64 tokens" in page


def test_equal_questions_may_be_asked_at_once(toy: tuple[Path, Any], questions: Path) -> None:
    words = [f"model={toy[0]}", f"data.path={questions}", "pruner=fastv", "pruner.layer=1"]
    alone, together = evaluated(*words), evaluated(*words, "evaluation.batch_size=4")
    timed = ("selection_ms", "prefill_ms")
    assert {k: v for k, v in alone.items() if not k.startswith(timed)} == pytest.approx(
        {k: v for k, v in together.items() if not k.startswith(timed)}
    )


def test_a_prompt_beyond_the_context_is_refused(toy: tuple[Path, Any], questions: Path, tmp_path: Path) -> None:
    records = json.loads(questions.read_text())
    longest = json.loads((toy[0] / "config.json").read_text())["text_config"]["max_position_embeddings"]
    records[1]["question"] = "right " * longest
    questions.write_text(json.dumps(records))
    config = compose.compose(
        "token-pruning", [*RUN, f"model={toy[0]}", f"data.path={questions}", f"outputs={tmp_path}"]
    )
    with pytest.raises(UserError, match=f"'right right .* and its image are .* model's context has {longest:,}"):
        runner.run(config, False, "steelyard run token-pruning")
    assert not list(tmp_path.rglob("status.json"))


def test_how_far_it_is_is_said(
    toy: tuple[Path, Any], questions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recipes.core.runs.progress.LINE_EVERY_SECONDS", 0.0)
    evaluated(f"model={toy[0]}", f"data.path={questions}")
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("asking questions")] != []


def test_text_guided_pruners_read_the_question_through_clip(
    toy: tuple[Path, Any], questions: Path, tmp_path: Path
) -> None:
    vision = LlavaForConditionalGeneration.from_pretrained(toy[0]).config.vision_config
    tokenizer = AutoTokenizer.from_pretrained(toy[0])
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    words = [f"model={toy[0]}", f"data.path={questions}", f"guide.path={tmp_path / 'clip'}"]
    for pruner in ("trim", "recoverable"):
        metrics = evaluated(*words, f"arm={pruner}")
        assert 1 <= metrics["tokens@0.25"] <= 16


def test_a_model_of_another_kind_is_refused(toy: tuple[Path, Any], questions: Path, tmp_path: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(toy[0])
    model.model.vision_tower.save_pretrained(tmp_path / "clip")
    with pytest.raises(
        UserError, match="is of type clip_vision_model, whose visual tokens cannot be pruned(.|\n)*llava, llava_next"
    ):
        evaluated(f"model={tmp_path / 'clip'}", f"data.path={questions}")
    with pytest.raises(UserError, match="there is no such folder"):
        evaluated(f"model={tmp_path / 'absent'}", f"data.path={questions}")


def test_more_tokens_than_there_are(toy: tuple[Path, Any], questions: Path) -> None:
    with pytest.raises(UserError, match="65 tokens are more than the 64 there are"):
        evaluated(f"model={toy[0]}", f"data.path={questions}", "keep_tokens=65")


@pytest.mark.parametrize("begins", [True, False])
def test_control_tokens_in_questions_are_text_and_texts_begin_once(begins: bool) -> None:
    tokenizer = byte_level(bos=True, adds_bos=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(images, tokenizer, patch_size=4, num_additional_image_tokens=0)
    reader, blank = TextIds(tokenizer, ["<image>"]), Image.new("RGB", (8, 8))
    before = "<s>" if begins else ""

    def ids(question: str) -> list[int]:
        inputs = prompt_inputs(processor, reader, lambda text: f"{before}ask <image>\n{text}?", blank, question)
        assert inputs["input_ids"].shape == inputs["attention_mask"].shape
        return inputs["input_ids"][0].tolist()

    image, control = tokenizer.convert_tokens_to_ids("<image>"), reader.control
    for question in ("the cat", "the <image> and </s>"):
        row = ids(question)
        assert [i for i in row if i in control] == [tokenizer.bos_token_id, *[image] * 4]
        assert tokenizer.decode(row).endswith(f"{question}?")
