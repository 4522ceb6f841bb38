"""ELECTRA as an experiment: encoders trained from nothing at equal floating-point operations, and what they know."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from recipes.core.data.tasks.labelled import load_labelled
from recipes.core.data.text.mixture import DomainCorpus, load_mixture
from recipes.core.data.text.text_ids import TextIds
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.run_models import describer
from recipes.core.models.small_encoder import build_encoder, build_encoder_tokenizer, check_known
from recipes.core.recipe import Evaluation
from recipes.core.storage.files import write_text
from recipes.core.training.task import Training
from recipes.pretraining.electra.config import START, TUNED, ElectraConfig
from recipes.pretraining.electra.measures import add_probe, add_training_measures, add_tuned, read_rows
from recipes.pretraining.electra.model import Prepared, build_loss, build_model
from recipes.pretraining.electra.optimizer import without_bias_correction
from recipes.pretraining.held_out_rows import ReadRow, add_judgements, detection_heatmap
from recipes.pretraining.masked_rows import MaskedRows, Masker, RowMixture

ROWS = "rows.jsonl"
DETECTION = "disc"
SHOWN = 24  # rows of the heatmap
POOLER = ("pooler.dense.weight", "pooler.dense.bias")  # that BertModel has by default, and no encoder of ours


class ElectraRecipe:
    """An encoder, perhaps with a generator beside it."""

    def prepare(self, config: ElectraConfig, device: str) -> Prepared:
        """Tokenizer, packed texts, labelled texts. Raises UserError: some of them cannot be used."""
        if config.warning:
            note(f"warning: {config.warning}")
        task = load_labelled(config.task, "task")
        corpus = DomainCorpus(config.data)
        tokenizer = build_encoder_tokenizer(config.model, corpus.texts, corpus.fingerprint)
        rows = RowMixture(load_mixture(config.data, corpus, tokenizer), tokenizer, config.data.length)
        rows.check(tested=rows.domains)
        for what, texts in (("train", task.train), ("test", task.test)):
            check_known(tokenizer, TextIds(tokenizer).batch([each.text for each in texts]), f"task to {what} on")
        masker = Masker(config.masking, tokenizer, config.data.length, config.seed)
        return Prepared(rows, masker, tokenizer, task, device)

    def build(self, config: ElectraConfig, prepared: Prepared) -> Training:
        """Networks and loss of the arm; rows and their order depend on the seed, as far as an arm reads them."""
        model, loss, steps = build_model(config, prepared), build_loss(config), config.steps
        items: Any = MaskedRows(prepared.rows, config.stream, config.seed, prepared.masker)
        watches = config.evaluation.watches
        return Training(
            model,
            loss,
            items,
            items.collate,
            watch_steps=frozenset(max(round(steps * each / watches), 1) for each in range(1, watches + 1)),
            before_step=getattr(loss, "before_step", None),
            describe=_describer(model, prepared),
            take_optimizer=None if config.adam_bias_correction else without_bias_correction,
        )

    def watch(self, config: ElectraConfig, prepared: Prepared, model: Any) -> Scores:
        """What is judged and guessed of held-out rows."""
        scores = Scores()
        add_judgements(scores, read_rows(config, prepared, model), DETECTION)
        return scores

    def evaluate(self, config: ElectraConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The probe of frozen features, fine-tuned copies, tokens of held-out rows, and the gradient's noise."""
        scores, rows = Scores(), read_rows(config, prepared, model)
        first = build_encoder(config.model, prepared.tokenizer, config.seed)
        add_probe(scores, config, prepared, model.encoder, "probe/")
        add_probe(scores, config, prepared, first, f"{START}/")
        add_tuned(scores, config, prepared, model.encoder, f"{TUNED}/")
        add_tuned(scores, config, prepared, first, f"{TUNED}_{START}/")
        add_judgements(scores, rows, DETECTION)
        add_training_measures(scores, config, prepared, model)
        files: dict[str, Callable[[Path], None]] = {
            ROWS: partial(_write, rows=rows, tokenizer=prepared.tokenizer),
        }
        heatmap = detection_heatmap(rows[:SHOWN], prepared.tokenizer)
        return Evaluation(scores.overall(), scores, heatmap=heatmap, files=files)


def _describer(model: Any, prepared: Prepared) -> Callable[[Path], None]:
    """The encoder alone, as `AutoModel` loads it: neither generator nor head is kept."""
    unread = POOLER if model.encoder.config.model_type == "bert" else ()
    return describer(model, prepared.tokenizer, view=model.encoder, prefixes=[("encoder.", "")], unread=unread)


def _write(path: Path, rows: list[ReadRow], tokenizer: Any) -> None:
    """One line a held-out row: text, what the encoder read, and of each masked token what was said of it."""
    lines = []
    for row in rows:
        names = {name: tokenizer.convert_ids_to_tokens(ids) for name, ids in (("text", row.ids), ("read", row.written))}
        line: dict[str, Any] = {"row": row.name, **names, "masked": row.chosen.nonzero()[0].tolist()}
        for name, ids in (("encoder", row.predicted), ("generator", row.guessed)):
            if ids is not None:
                line[name] = tokenizer.convert_ids_to_tokens(ids)
        if row.logits is not None:
            line["replaced_logits"] = [round(float(each), 3) for each in row.logits]
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


RECIPE = ElectraRecipe
