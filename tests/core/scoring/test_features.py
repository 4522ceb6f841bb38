"""Features are pooled hidden states of each text alone, of decoders through the scoring pass and of encoders alike."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from recipes.core.errors import UserError
from recipes.core.models.sentences import LAST
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring import features
from recipes.core.scoring.features import text_features
from tests.core.models.heads import tiny
from tests.core.scoring.models import VOCABULARY

TEXTS = ["abcdefg", "c", "hhhb", "abcdefg", "dc"]
BEGIN = [1]


class Letters:
    """`TextIds` of letters; texts begin with the tokenizer's own ids."""

    def __init__(self, begin: list[int]) -> None:
        self.begin = begin

    def with_special_tokens(self, texts: list[str], longest: int | None = None) -> list[list[int]]:
        return [[*self.begin, *(ord(letter) - 90 for letter in text)][:longest] for text in texts]


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "TextIds", Letters)


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        return BertModel(BertConfig(vocab_size=VOCABULARY, **sizes))
    return TextModel(tiny(kind))


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("kind", ["llama", "gptj", "bert"])
@torch.no_grad()
def test_features_are_the_pooled_states_of_each_text_alone(kind: str, pooling: str):
    model = model_of(kind)
    inner = model.language_model.eval() if kind != "bert" else model.eval()
    for layer in (0, 1, LAST):
        vectors = text_features(model, BEGIN, TEXTS, device="cpu", layer=layer, pooling=pooling, batch_tokens=16)
        for text, vector in zip(TEXTS, vectors, strict=True):
            ids = torch.tensor([BEGIN + Letters([]).with_special_tokens([text])[0]])
            states = inner(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
            expected = {"mean": states.mean(0), "first": states[0], "last": states[-1]}[pooling]
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-4)
        order = [4, 2, 0, 1, 3]
        again = text_features(
            model, BEGIN, [TEXTS[i] for i in order], device="cpu", layer=layer, pooling=pooling, batch_tokens=999
        )
        torch.testing.assert_close(again, vectors[order], atol=1e-5, rtol=1e-4)


def test_what_has_no_features_is_refused():
    model = model_of("llama")
    with pytest.raises(UserError, match="text 1: has no tokens"):
        text_features(model, [], ["a", ""], device="cpu")
    with torch.no_grad():
        model.language_model.get_input_embeddings().weight[ord("c") - 90] = torch.nan
    with pytest.raises(UserError, match="hold NaN or infinities"):
        text_features(model, BEGIN, TEXTS, device="cpu")


def test_texts_longer_than_the_model_are_refused():
    with pytest.raises(UserError, match="66 tokens does not fit the 64 positions of LlamaForCausalLM"):
        text_features(model_of("llama"), BEGIN, ["c" * 65], device="cpu")
    assert text_features(model_of("llama"), BEGIN, ["c" * 65], device="cpu", max_tokens=64).shape == (1, 16)


def test_a_model_that_was_loaded_for_evaluation_stays_so():
    model = TextModel(tiny("llama", 0).eval())
    text_features(model, BEGIN, TEXTS, device="cpu")
    assert model.training and not any(module.training for module in model.language_model.modules())


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="pooling 'max' is none of mean, first, last"):
        text_features(model_of("bert"), BEGIN, TEXTS, device="cpu", pooling="max")
    with pytest.raises(ValueError, match="max_tokens=0: at least one token is read"):
        text_features(model_of("bert"), BEGIN, TEXTS, device="cpu", max_tokens=0)
    with pytest.raises(UserError, match="BertModel has no layer 3"):
        text_features(model_of("bert"), BEGIN, TEXTS, device="cpu", layer=3)
