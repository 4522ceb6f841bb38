"""Models that token-pruning cannot prune are refused by their `config.json`, before weights are looked for."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.pruning.adapters import families
from recipes.pruning.token_pruning.kinds import check_kind
from tests.pruning.adapters.folders import picture

OTHERS = (
    "aya_vision",
    "blip-2",
    "deepseek_vl",
    "florence2",
    "gemma3",
    "gemma3n",
    "idefics2",
    "llava_next_video",
    "mistral3",
    "mllama",
    "molmo2",
    "phi4_multimodal",
    "pixtral",
    "qwen2_5_omni",
    "qwen3_vl",
    "video_llava",
    "vipllava",
)
FOREIGN = ("molmo", "deepseek_vl_v2", "phi3_v", "minicpmv")  # whose code lies beside the weights
GEMMA2 = {
    "model_type": "gemma2",
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
KNOWN = ", ".join(sorted(["llava", "llava_next", *families()]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    picture(0).save(tmp_path / "0.png")
    (tmp_path / "vqa.json").write_text(json.dumps([{"image": "0.png", "question": "why", "answer": "one"}]))
    return tmp_path / "model"


@cache
def settings() -> Any:
    return compose.compose("token-pruning", [])


def refused(folder: Path, content: dict[str, Any], *words: str) -> str:
    """What a run says that has a config.json and nothing else; nothing is written."""
    (folder / "config.json").write_text(json.dumps(content))
    home = folder.parent
    fixed = [f"model={folder}", f"data.path={home / 'vqa.json'}", f"outputs={home / 'runs'}", "tracker=none"]
    with pytest.raises(UserError) as error:
        runner.run(compose.compose("token-pruning", [*fixed, "budget=smoke", *words]), False, "steelyard run")
    assert error.value.exit_code == 2 and not list((home / "runs").rglob("config.yaml"))
    return str(error.value)


@pytest.mark.parametrize("kind", [*OTHERS, *FOREIGN])
def test_other_families_are_named_with_those_that_can_be_pruned(kind: str, folder: Path) -> None:
    assert kind in CONFIG_MAPPING or kind in FOREIGN
    content = (
        CONFIG_MAPPING[kind]().to_dict() if kind in OTHERS else {"model_type": kind, "auto_map": {"AutoModel": "a.B"}}
    )
    (folder / "config.json").write_text(json.dumps(content, default=str))
    with pytest.raises(UserError) as error:
        check_kind(str(folder), "model.path", settings())
    what, hint = str(error.value).split("\n")
    assert what == f"model.path={folder}: is of type {kind}, whose visual tokens cannot be pruned"
    assert hint.strip() == f"type model.path=FOLDER of a model of type {KNOWN}"


def test_a_run_says_so_too(folder: Path) -> None:
    assert "is of type qwen3_vl, whose visual tokens" in refused(folder, CONFIG_MAPPING["qwen3_vl"]().to_dict())


@pytest.mark.parametrize("kind, text", [("paligemma", GEMMA2), ("internvl", {"model_type": "gpt_oss"})])
def test_language_models_that_cannot_be_pruned_inside_are_named(kind: str, text: dict[str, Any], folder: Path) -> None:
    message = refused(folder, CONFIG_MAPPING[kind]().to_dict() | {"text_config": text})
    name = text["model_type"]
    assert f"model.path={folder}: pruning does not know the language model {name}\n  it knows" in message


@pytest.mark.parametrize(
    "content, kind",
    [
        ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "clip"}, "llava"),
        ({"model_type": "llava_mistral"}, "llava_next"),
        ({"model_type": "llava_qwen"}, "llava_onevision"),
        ({"model_type": "internvl_chat", "auto_map": {"AutoModel": "modeling.A"}}, "internvl"),
    ],
)
def test_the_form_of_the_authors_own_code_is_told_from_that_of_transformers(
    content: dict[str, Any], kind: str, folder: Path
) -> None:
    message = refused(folder, content)
    assert f"is a {kind} checkpoint in the form of its authors' own code ({content['model_type']})" in message
    assert message.endswith("on the hub their names end in -hf")


def test_windows_several_layers_and_pruners_without_a_meaning(folder: Path) -> None:
    qwen = CONFIG_MAPPING["qwen2_vl"]().to_dict()
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    sliding = qwen | {"text_config": qwen["text_config"] | windows}
    assert "text_config.sliding_window: pruned layers hold" in refused(folder, sliding)
    vision = CONFIG_MAPPING["llava_onevision"]().to_dict() | {"vision_feature_layer": [-1, -3]}
    assert "features of one encoder layer, not of [-1, -3]" in refused(folder, vision)
    assert "flowcut prunes inside the encoder of smolvlm" in refused(
        folder,
        CONFIG_MAPPING["smolvlm"]().to_dict(),
        "pruner=flowcut",
        "pruner.query=mean",
        "pruner.criteria=[attn,density]",
    )
