"""What pruning refuses, and what it tells to type instead."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, GPTNeoXConfig, MistralConfig

from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.adapters import Guide, check, layout, prune
from recipes.pruning.pruners import make
from recipes.pruning.tokens import Point
from tests.pruning.adapters.models import IMAGE, LLM, SIZES, Chosen, batch, bert, clip, guide, images, llava, one, vit


@pytest.mark.parametrize(
    "make_model, options, keep, message, hint",
    [
        (llava, o.RandomOptions(), 0.0, "keep: 0.0 is no share of the tokens", r"a fraction in \(0, 1\]"),
        (llava, o.RandomOptions(), 1.5, "keep: 1.5 is no share", "or a number of tokens"),
        (llava, o.RandomOptions(), True, "keep: True is no share", "type a fraction"),
        (llava, o.RandomOptions(), 0, "keep: 0 tokens cannot be kept", "type 1 or more"),
        (llava, o.RandomOptions(), 17, "keep: 17 tokens are more than the 16", "type at most 16"),
        (llava, o.RandomOptions(), 0.01, "keep: keep=0.01 of 16 tokens is none", "type at least 0.062"),
        (clip, o.FastVOptions(), 4, "fastv prunes at the language model, which this", "choose cls_topk"),
        (vit, o.DivPruneOptions(), 4, "divprune prunes at the projector, which", "feature=encoder"),
        (bert, o.FlowCutOptions(llm_layer=2), 4, "flowcut prunes at the language model", "choose cls_topk"),
        (bert, o.TrimOptions(), 4, "trim compares patches with a question, but here are words", "choose another"),
        (clip, o.ZeroTPruneOptions(layers=(9,)), 4, "zero_tprune acts at vit 9, but there are 6", "0 to 5 exist"),
        (llava, o.FastVOptions(layer=6), 4, "fastv acts at layer 6, but the model has 6", "layers are 0 to 5"),
        (llava, o.ToMeOptions(schedule=(1,) * 6), 4, "tome has a schedule of 6 blocks, but the model has 5", ""),
        (llava, o.TrimOptions(), 4, "guide: trim compares patches with the question", "give a Guide"),
        (llava, o.RecoverableOptions(), 4, "guide: recoverable compares", "give a Guide"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_before_anything_runs(make_model: Any, options: Any, keep: Any, message: str, hint: str):
    with pytest.raises(UserError, match=f"{message}(.|\n)*{hint}"):
        check(make_model(), make(options), keep)
    with (
        pytest.raises(UserError, match=message),
        prune(make_model(), make(options), keep, seeds=(0,)),
    ):
        pass


@pytest.mark.parametrize(
    "options",
    [
        o.ClsTopkOptions(),
        o.FlowCutOptions(),
        o.VisionZipOptions(),
        o.PruMergeOptions(),
        o.EViTOptions(),
        o.ATSOptions(),
        o.ZeroTPruneOptions(importance="cls_row"),
    ],
    ids=lambda each: each.name,
)
def test_an_encoder_without_cls(options: Any):
    with pytest.raises(UserError, match=f"{options.name} reads the attention of CLS(.|\n)*without: random, grid"):
        check(llava(siglip=True), make(options), 4)


@torch.no_grad()
def test_siglip_works_with_pruners_that_need_no_cls():
    model, inputs = llava(siglip=True), batch()
    before = model(**inputs).logits
    mean = o.FlowCutOptions(query="mean", criteria=("attn", "density"))
    for options in (mean, o.ToMeOptions(), o.ZeroTPruneOptions(), o.FastVOptions(), o.DivPruneOptions()):
        with prune(model, make(options), 1.0, seeds=range(3)):
            assert torch.equal(model(**inputs).logits, before)
        with prune(model, make(options), 4, seeds=range(3)) as trace:
            logits = model(**inputs).logits
        with prune(model, make(options), 4, seeds=(1,)):
            alone = model(**one(inputs, 1)).logits
        torch.testing.assert_close(logits[1, -2:], alone[0, -2:], atol=1e-4, rtol=1e-4)
        assert trace.llm_visual[:, -1].eq(4).all() and trace.encoder_tokens[0, 0] == 16


def test_places_and_fields_that_do_not_fit():
    early = Chosen({Point("llm", 0): []}, reads=("last_row",))
    with pytest.raises(UserError, match="pruner: Chosen reads last_row at llm 0, where there is none"):
        check(llava(), early, 4)
    misplaced = Chosen({Point("projector"): []}, reads=("keys",))
    with pytest.raises(UserError, match="Chosen reads keys at projector 0, where there is none"):
        check(llava(), misplaced, 4)
    with pytest.raises(UserError, match="Chosen acts at llm 8, but there are 6(.|\n)*0 to 5 exist"):
        check(llava(), Chosen({Point("llm", 8): []}), 4)
    with pytest.raises(UserError, match="positions: there are no moved positions(.|\n)*type compact or original"):
        check(llava(), make(o.RandomOptions()), 4, positions="moved")
    check(llava(), make(o.TrimOptions()), 4, guided=True, positions="original")


def test_models_that_are_not_known():
    with pytest.raises(UserError, match="does not know GPT2Model(.|\n)*it knows LlavaForConditionalGeneration, Llava"):
        layout(GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9)))
    with pytest.raises(UserError, match="needs BertModel as an encoder(.|\n)*is_decoder=False"):
        layout(BertModel(BertConfig(**SIZES, num_hidden_layers=1, vocab_size=9, is_decoder=True)))
    model = llava()
    for name, value, message in (
        ("vision_feature_layer", [-2, -4], r"vision_feature_layer: .* of one encoder layer, not of \[-2, -4\]"),
        ("vision_feature_layer", 0, "vision_feature_layer: feature layer 0 is behind none of 6 blocks"),
        ("vision_feature_select_strategy", "full", "full would leave CLS among the features(.|\n)*type default"),
    ):
        before = getattr(model.config, name)
        setattr(model.config, name, value)
        with pytest.raises(UserError, match=message):
            layout(model)
        setattr(model.config, name, before)
    model.config.text_config = MistralConfig(**LLM, sliding_window=8, attn_implementation="sdpa")
    with pytest.raises(UserError, match="text_config.sliding_window: (.|\n)*set it to null"):
        layout(model)
    model.config.text_config = GPTNeoXConfig(attn_implementation="sdpa")
    with pytest.raises(UserError, match="language model gpt_neox(.|\n)*it knows llama, mistral, qwen2"):
        layout(model)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_mask(attention: str):
    for model, config in ((clip(), None), (llava(), "text_config")):
        used = getattr(model.config, config) if config else model.config
        used._attn_implementation = attention
        with pytest.raises(UserError, match=f"attn_implementation: .* runs with {attention}(.|\n)*=sdpa"):
            check(model, make(o.RandomOptions()), 4)


def _one_image_too_many(inputs: dict[str, Any]) -> dict[str, Any]:
    ids = torch.cat([inputs["input_ids"], inputs["input_ids"]], 1)[:1]
    return {"input_ids": ids, "pixel_values": inputs["pixel_values"][:2]}


@pytest.mark.parametrize(
    "change, message, hint",
    [
        (lambda b: b | {"input_ids": b["input_ids"].clamp(min=4)}, "match, tokens: 0", ""),
        (lambda b: {"input_ids": b["input_ids"].clamp(min=4)}, "pixel_values: a prompt came without its image", "same"),
        (_one_image_too_many, "2 images in 1 rows", "give one image a prompt, and neither num_beams"),
        (lambda b: b | {"labels": b["input_ids"]}, "labels: logits of a pruned prompt", "leave them out"),
        (lambda b: b | {"attention_mask": torch.ones(3, 1, 24, 24)}, "attention_mask: pruning makes its own", "B, L"),
        (lambda b: b | {"vision_feature_layer": -3}, "vision_feature_layer: pruning reads it from the", "set it there"),
        (lambda b: {k: v[:2] for k, v in b.items()}, "seeds: 2 samples but 3 seeds", "one seed for each sample"),
    ],
    ids=["none", "text", "two", "labels", "mask", "layer", "seeds"],
)
@torch.no_grad()
def test_inputs_that_cannot_be_pruned(change: Any, message: str, hint: str):
    model = llava()
    # The first is told by the model itself, which counts placeholders before pruning sees them.
    error = ValueError if "match" in message else UserError
    with (
        pytest.raises(error, match=f"{message}(.|\n)*{hint}"),
        prune(model, make(o.FastVOptions()), 4, seeds=range(3) if "images" not in message else (0, 1)),
    ):
        model(**change(batch()))


@torch.no_grad()
def test_calls_that_cannot_be_pruned():
    model, inputs = llava(), batch()
    arguments: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    with prune(model, make(o.FastVOptions()), 4, seeds=range(3)):
        with pytest.raises(UserError, match="3 images in 6 rows(.|\n)*neither num_beams nor num_return_sequences"):
            model.generate(**inputs, **arguments, num_beams=2)
        with pytest.raises(UserError, match="cache_implementation: layers of a static cache(.|\n)*leave it out"):
            model.generate(**inputs, **arguments, cache_implementation="static")
        with pytest.raises(UserError, match="input_ids: the image is found by its placeholders"):
            embeds = model.get_input_embeddings()(inputs["input_ids"])
            model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
    cache = model(**one(inputs, 0)).cache
    with (
        pytest.raises(UserError, match="cache: a prompt with an image needs an empty cache"),
        prune(model, make(o.FastVOptions()), 4, seeds=(0,)),
    ):
        model(**one(inputs, 0), cache=cache)
    with (
        pytest.raises(UserError, match="guide: 3 samples but 2 questions(.|\n)*one row of text"),
        prune(model, make(o.TrimOptions()), 4, seeds=range(3), guide=guide(2)),
    ):
        model(**inputs)
    with (
        pytest.raises(UserError, match="seeds: 2 samples but 1 seeds"),
        prune(clip(), make(o.RandomOptions()), 4, seeds=(0,)) as trace,
    ):
        assert isinstance(guide(1), Guide) and not trace.entering
        clip_inputs = images(2)
        raise_in = clip()
        with prune(raise_in, make(o.RandomOptions()), 4, seeds=(0,)):
            raise_in(clip_inputs)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1]])}, "token_type_ids: a pair of sentences"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}, "attention_mask: text is padded on the right only"),
        ({"attention_mask": torch.tensor([[1, 0, 0, 0, 0, 0]])}, "input_ids: a text lacks CLS or SEP"),
        ({"input_ids": None, "inputs_embeds": torch.ones(1, 6, 16)}, "input_ids: words are counted by their ids"),
    ],
)
def test_texts_that_cannot_be_pruned(change: dict[str, Any], message: str):
    model = bert()
    with pytest.raises(UserError, match=message), prune(model, make(o.ClsTopkOptions()), 0.5, seeds=(0,)):
        model(**({"input_ids": torch.full((1, 6), IMAGE + 5)} | change))
