"""The toy LLaVA: the frozen toy encoder, a projector and a small language model that answers about canvases."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from recipes.core.data.images.canvas_config import CanvasConfig
from recipes.core.data.images.canvases import SIDES, Canvases, make_canvases, words
from recipes.core.data.images.digits import DIGITS
from recipes.core.models.head import output_head
from recipes.core.models.sources import load_model
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.core.training.models import train_once
from recipes.core.training.task import Training
from recipes.core.training.toys.config import DecoderShape
from recipes.core.training.toys.encoder import canvas_key, encode, encoder_seed, toy_vit, tuning
from recipes.core.training.toys.guide import GUIDE

VERSION, FEATURES_VERSION = 3, 1
FEATURES = -2  # vision_feature_layer
PAD, BEGIN, END, UNKNOWN, IMAGE, SEPARATOR = "<pad>", "<s>", "</s>", "<unk>", "<image>", "<sep>"
SPECIAL = (PAD, BEGIN, END, UNKNOWN, IMAGE, SEPARATOR)
WORDS = (*SPECIAL, *DIGITS, *SIDES[2], *SIDES[4])


def prompt(question: str) -> str:
    """What a user types to a toy LLaVA ("left"); its processor makes one place for each patch of `<image>`."""
    return f"{IMAGE}{SEPARATOR}{question}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids, one token a word; `<s>` begins every text."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, WORDS.index(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE, SEPARATOR],
        padding_side="left",
    )


def text_config(shape: DecoderShape, longest: int) -> LlamaConfig:
    """The shape of a toy language model for sequences of `longest` tokens."""
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=longest,
        pad_token_id=WORDS.index(PAD),
        bos_token_id=WORDS.index(BEGIN),
        eos_token_id=WORDS.index(END),
        tie_word_embeddings=False,
    )


def question_embeddings(embed: nn.Module, visual: Tensor, asked: Tensor) -> Tensor:
    """The sequence `<s>`, visual tokens, `<sep>`, question, as embeddings.

    Args:
        embed: Embeddings of the language model.
        visual: [B, K, D] projected visual tokens.
        asked: [B] ids of the questions.

    Returns:
        [B, K + 3, D]
    """
    marks = torch.tensor([WORDS.index(BEGIN), WORDS.index(SEPARATOR)], device=asked.device)
    begin, separator = embed(marks).to(visual.dtype)
    rows = len(asked)
    return torch.cat([begin.expand(rows, 1, -1), visual, separator.expand(rows, 1, -1), embed(asked)[:, None]], 1)


def answer_logits(llm: Any, decoder: nn.Module, visual: Tensor, asked: Tensor) -> Tensor:
    """[B, V] logits of the token behind the question.

    Args:
        llm: What has the embeddings and the head.
        decoder: Its layers.
        visual: [B, K, D] projected visual tokens.
        asked: [B] ids of the questions.
    """
    embeddings = question_embeddings(llm.get_input_embeddings(), visual, asked)
    hidden = decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    return output_head(llm).logits(hidden[:, -1])


def shared_prefix_logits(llm: Any, decoder: nn.Module, visual: Tensor, asked: Tensor) -> Tensor:
    """Logits of the tokens behind several questions about the same image: what stands before them is read once.

    Args:
        llm: What has the embeddings and the head.
        decoder: Its layers.
        visual: [B, K, D] projected visual tokens.
        asked: [B, q] ids of the questions.

    Returns:
        [B q, V], those of `answer_logits` for each question on its own.
    """
    rows, each = asked.shape
    whole = question_embeddings(llm.get_input_embeddings(), visual, asked[:, 0])
    cache = decoder(inputs_embeds=whole[:, :-2], use_cache=True).cache
    cache.batch_repeat_interleave(each)
    separator = whole[:, -2:-1].repeat_interleave(each, 0)
    questions = torch.cat([separator, llm.get_input_embeddings()(asked.flatten())[:, None]], 1)
    hidden = decoder(inputs_embeds=questions, cache=cache, use_cache=True).last_hidden_state
    return output_head(llm).logits(hidden[:, -1])


def word_ids(names: Sequence[str]) -> Tensor:
    """Token id of each word."""
    return torch.tensor([WORDS.index(name) for name in names])


class QuestionItems:
    """Questions about canvases whose features are known, as batches.

    Args:
        features: [n, N, C] patches of the encoder.
        canvases: Their canvases.
        data: What they are.
    """

    def __init__(self, features: Tensor, canvases: Canvases, data: CanvasConfig) -> None:
        asked, answers = (word_ids(names) for names in words(data))
        self.features, self.each = features, canvases.questions.shape[1]
        self.asked = asked[canvases.questions].flatten()  # [n q]
        self.answers = answers[canvases.answers].flatten()

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: list[int]) -> dict[str, Any]:
        """Features [B, N, C], ids of questions and answers [B]."""
        return {
            "features": self.features[[row // self.each for row in rows]].float(),
            "asked": self.asked[rows],
            "answers": self.answers[rows],
            "ids": [f"question {row % self.each} to canvas {row // self.each}" for row in rows],
        }


class CanvasItems(QuestionItems):
    """Canvases whose features are known with all their questions, as batches."""

    def __len__(self) -> int:
        return len(self.features)

    def collate(self, rows: list[int]) -> dict[str, Any]:
        """Features [B, N, C], ids of questions [B, q] and of their answers [B q]."""
        return {
            "features": self.features[rows].float(),
            "asked": self.asked.view(-1, self.each)[rows],
            "answers": self.answers.view(-1, self.each)[rows].flatten(),
            "ids": [f"canvas {row}" for row in rows],
        }


class Answering(nn.Module):
    """A LLaVA that reads cached features in place of pictures; its encoder is never run.

    Args:
        llava: The model.
    """

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.llava = llava

    def forward(self, features: Tensor, asked: Tensor) -> Tensor:
        """Features [B, N, C] and ids of their questions [B, q] to logits [B q, V] of the answers."""
        model = self.llava.model
        return shared_prefix_logits(self.llava, model.language_model, model.multi_modal_projector(features), asked)


class AnswerLoss:
    """Cross-entropy of the answer.

    The end behind it is no target: where sequences have one length, a model tells question and answer apart by their
    places, and says the end in place of the answer as soon as it is given fewer visual tokens.
    """

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Questions of this micro-batch."""
        return torch.tensor(float(len(batch["answers"])))

    def logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """[B, V] of what follows each question."""
        logits: Tensor = model(batch["features"], batch["asked"])
        return logits

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over questions, and the share of right answers."""
        answers, logits = batch["answers"], self.logits(model, batch).float()
        right = (logits.argmax(1) == answers).float().detach()
        loss = cross_entropy(logits, answers, reduction="sum") / normalizer
        return loss, {"accuracy": torch.stack([right.sum(), torch.ones_like(right).sum()])}


def encoder_features(
    encoder: Path, data: CanvasConfig, canvases: Canvases, part: str, seed: int, device: str
) -> Tensor:
    """What the toy encoder sees in canvases: fp16 [n, N, C], computed only if no run has done so before.

    Args:
        encoder: From `toy_vit`; its name stands for its weights.
        data: What the canvases are.
        canvases: The canvases of this part and seed.
        part: "train" or "test".
        seed: Of the canvases.
        device: Where to compute.
    """

    def build(folder: Path) -> None:
        tower = load_model(CLIPVisionModel, str(encoder), "model")
        features = encode(tower, canvases.images, device, FEATURES).half()
        save_file({"features": features}, folder / "features.safetensors")

    key = sha256_json([encoder.name, asdict(data), part, seed, FEATURES_VERSION])[:32]
    return load_file(build_once("toy-features", key, build) / "features.safetensors")["features"]


def toy_llava(config: Any, device: str) -> Path:
    """A LLaVA that answers the questions of the run's canvases, trained unpruned if no run has done so before.

    Args:
        config: The run's config: seed, data (canvases), model (`ToyVLMConfig`), trainer.
        device: Where to train.

    Returns:
        Folder for `LlavaForConditionalGeneration.from_pretrained` and `AutoProcessor.from_pretrained`, for question
        canvases with `guide.safetensors`. Its prompts are those of `prompt`, its answers one token long.
    """
    shape, data, seed = config.model.decoder, config.data, encoder_seed(config)
    encoder = toy_vit(config, device)
    settings = tuning(config.trainer, shape.steps, shape.batch_size, shape.learning_rate)

    def training() -> Training:
        canvases = make_canvases(data, "train", seed)
        tower = load_model(CLIPVisionModel, str(encoder), "model")
        items: Any = CanvasItems(encode(tower, canvases.images, device, FEATURES), canvases, data)
        return Training(Answering(_build_llava(tower, shape, data, seed)), AnswerLoss(), items, items.collate)

    def save(model: Any, folder: Path) -> None:
        model.llava.save_pretrained(folder)
        _processor(data).save_pretrained(folder)
        if (encoder / GUIDE).exists():
            shutil.copyfile(encoder / GUIDE, folder / GUIDE)

    key = [encoder.name, asdict(shape), canvas_key(data), VERSION]
    name, what = f"a toy LLaVA for seed {seed}", f"the questions of {data.train:,} canvases"
    return train_once("toy-llavas", key, settings, seed, training, save, name=name, what=what)


def _build_llava(
    tower: CLIPVisionModel, shape: DecoderShape, data: CanvasConfig, seed: int
) -> LlavaForConditionalGeneration:
    text = text_config(shape, data.patches + 64)
    # Attention of so narrow a model starts even with the usual 0.02, and which patch is asked for is not learned.
    text.initializer_range = shape.width**-0.5
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=WORDS.index(IMAGE),
        image_seq_length=data.patches,
        vision_feature_layer=FEATURES,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    model.generation_config.pad_token_id = WORDS.index(PAD)
    return model


def _processor(data: CanvasConfig) -> LlavaProcessor:
    """Pictures of 8 bits, ink white on black, to the values of canvases; placeholders for their patches."""
    side = {"height": data.size, "width": data.size}
    images = CLIPImageProcessorPil(
        size=side, crop_size=side, image_mean=[0.0] * 3, image_std=[1 / data.intensity] * 3, do_rescale=True
    )
    return LlavaProcessor(
        images,
        make_tokenizer(),
        patch_size=data.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
