"""Calibration sequences, held-out sequences, and the folder that is left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.compression.calibration import Corpora, warn_of_few_tokens
from recipes.compression.compressed import COMPRESSION, compressed_writer
from recipes.compression.config import CalibrationConfig, HeldOutConfig
from recipes.compression.linears import linears_of
from recipes.compression.perplexity import perplexities, score_domains, sequence_nlls
from recipes.core.data.config import DomainsConfig
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.models.tokenizer import train_bpe
from recipes.core.models.vision_language import TextModel
from tests.compression.models import small_model


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpora, Any]:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [
        {"text": " ".join(f"{domain}{number}" for _ in range(60)), "domain": domain}
        for domain in ("law", "news")
        for number in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    tokenizer = train_bpe((line["text"] for line in lines), "compression-test", 300)
    return Corpora(DomainsConfig(path=str(path), test_fraction=0.3, near_duplicates=None), tokenizer), tokenizer


def test_sequences_are_drawn_by_seed_and_apart_from_the_held_out_ones(corpora: tuple[Corpora, Any]) -> None:
    texts, tokenizer = corpora
    config, held_out = CalibrationConfig(sequences=6, length=16), HeldOutConfig(sequences=10_000, length=16)
    first, again, other = (texts.calibration("law", config, seed) for seed in (0, 0, 1))
    assert first.shape == (6, 16) and torch.equal(first, again) and not torch.equal(first, other)
    kept = texts.held_out("law", held_out)
    names = [{name for row in tokenizer.batch_decode(rows) for name in row.split()[1:-1]} for rows in (first, kept)]
    assert names[0] and names[1] and not names[0] & names[1]
    assert texts.domains == ["law", "news"]


def test_too_little_text_is_refused(corpora: tuple[Corpora, Any], capsys: pytest.CaptureFixture[str]) -> None:
    texts, _ = corpora
    with pytest.raises(UserError, match="'medicine' has no documents"):
        texts.held_out("medicine", HeldOutConfig())
    with pytest.raises(UserError, match="less than one sequence of 1,000,000") as error:
        texts.calibration("law", CalibrationConfig(length=1_000_000), 0)
    assert "calibration.length" in str(error.value)
    texts.calibration("law", CalibrationConfig(sequences=100_000, length=16), 0)
    assert "not 100,000 (calibration.sequences)" in capsys.readouterr().err
    assert warn_of_few_tokens(40, 64, "layers.0.q_proj") and not warn_of_few_tokens(64, 64, "layers.0.q_proj")
    assert "40 effective calibration tokens for the 64 inputs of layers.0.q_proj" in capsys.readouterr().err


def test_folder_loads_alone_and_says_what_was_done(corpora: tuple[Corpora, Any], tmp_path: Path) -> None:
    _, tokenizer = corpora
    model = small_model("gpt2")
    linears_of(model, "model")[0].weight[:, :4] = 0
    compressed_writer(model, tokenizer, "model", {"method": "mine", "sparsity": 0.25})(tmp_path)
    loaded, rows = AutoModelForCausalLM.from_pretrained(tmp_path), torch.arange(3, 15)[None]
    torch.testing.assert_close(loaded(input_ids=rows).logits, model(input_ids=rows).logits)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(tokenizer)
    stated = json.loads((tmp_path / COMPRESSION).read_text(encoding="utf-8"))
    assert stated["zeros"] == 4 * 48 and stated["weights"] == 3 * 12 * 256 and stated["method"] == "mine"
    assert stated["layers"]["transformer.h.0.attn.c_attn"] == {"weights": 768, "zeros": 192}


def test_nlls_are_those_of_the_models_own_loss() -> None:
    model, rows = small_model("llama").requires_grad_(False), torch.randint(3, 60, (5, 9))
    nlls = {"law": sequence_nlls(TextModel(model), rows, "cpu", 20)}
    for number, row in enumerate(rows):
        assert nlls["law"][number] == pytest.approx(float(model(input_ids=row[None], labels=row[None]).loss), rel=1e-5)
    one_block_at_a_time = sequence_nlls(TextModel(model), rows, "cpu", 20, offload=True)
    np.testing.assert_allclose(one_block_at_a_time, nlls["law"], rtol=1e-5)
    scores = Scores()
    score_domains(scores, nlls)
    whole = float(model(input_ids=rows, labels=rows).loss)
    assert scores.overall()["nll/law"] == pytest.approx(whole, rel=1e-5)
    assert perplexities(nlls)["perplexity/law"] == pytest.approx(torch.tensor(whole).exp().item(), rel=1e-5)
