"""RedWhale as an experiment: an English model gets tokens of another language, and is trained in stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from recipes.core.data.config import DomainsConfig
from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.packed import pack
from recipes.core.data.text.shards import Document
from recipes.core.data.text.splits import TRAIN
from recipes.core.data.text.text_ids import tokenizer_fingerprint
from recipes.core.data.text.windows import Texts, Window
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.adapters import with_adapters
from recipes.core.models.head import untie
from recipes.core.models.hf_folder import DESCRIPTION, GENERATION, writer
from recipes.core.models.run_models import describer
from recipes.core.models.text import check_context
from recipes.core.recipe import Evaluation
from recipes.core.scoring.bits import TextBits, bits_once, text_bits, warn_of_lost
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json
from recipes.core.training.sequences import MixtureItems, next_token_collate
from recipes.core.training.stage_plan import Stage, stage_starts
from recipes.core.training.stages import Stages
from recipes.core.training.task import Training
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.pretraining.redwhale.config import EXTEND, RAW, RedWhaleConfig
from recipes.pretraining.redwhale.corpus import Piece, filtered, plant, removed
from recipes.pretraining.redwhale.method import add_rows, groups
from recipes.pretraining.redwhale.plans import LORA
from recipes.pretraining.redwhale.results import Measured, evaluation, score
from recipes.pretraining.redwhale.vocabulary import Extension, extend

TARGET, KNOWN = "target", "known"
KEY = "evaluation.characters"


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        model: The model with its new rows, a `TextModel`.
        extension: Its tokenizer and the new tokens.
        texts: Training documents of both languages, and a hash of them.
        windows: Held-out stretches, by language.
        before: Bits of these under the old model, and right after the extension.
        gone: Share of the characters that filters took, by kind of document.
        device: Where to compute.
        stages: The schedule, once the training is built.
    """

    model: Any
    extension: Extension
    texts: tuple[dict[str, list[str]], str]
    windows: dict[str, list[Window]]
    before: dict[str, dict[str, list[TextBits]]]
    gone: dict[str, float]
    device: str
    stages: dict[str, Stages]


class RedWhaleRecipe:
    """A model that is adapted to another language."""

    def prepare(self, config: RedWhaleConfig, device: str) -> Prepared:
        """Texts, filtered; model and tokenizer, extended; what the held-out texts cost before. Raises UserError."""
        model, tokenizer = load_frozen(config, device)
        target, known = Texts(config.data), Texts(known_texts(config))
        windows = {TARGET: target.windows(config.evaluation, config.seed)}
        windows[KNOWN] = Texts(known_texts(config, held_out=True)).windows(config.evaluation, config.seed)
        documents, gone = _filtered(config, [Document(*each) for each in _documents(target)])
        texts = {TARGET: documents, KNOWN: [text for _, text, _ in _documents(known)]}
        fingerprint = sha256_json([texts[TARGET], texts[KNOWN] if config.replay.share else None])
        extension = Extension(tokenizer, 0, [], [])
        if config.extend.vocabulary == EXTEND:
            where = model_where(config.model)
            extension = extend(tokenizer, documents, sha256_json(documents), config.extend, where)
        read = partial(_read, config, model)
        before = {"base": {name: read(tokenizer, part) for name, part in windows.items()}}
        for name, bits in before["base"].items():
            warn_of_lost(bits, f"the old tokenizer ({name} language)")
        _change(config, model.language_model, extension)
        before["extension"] = {name: read(extension.tokenizer, part) for name, part in windows.items()}
        return Prepared(model, extension, (texts, fingerprint), windows, before, gone, device, {})

    def build(self, config: RedWhaleConfig, prepared: Prepared) -> Training | None:
        """The stages; all arms of a seed share data order. None if nothing is trained."""
        if not config.schedule.train:
            return None
        model = prepared.model
        check_context(model, config.data.length, "data.length")
        if config.needs_adapters:
            with_adapters(model, config.lora, config.seed)
        parts, steps = groups(model.language_model), config.trainer.max_steps
        stages = Stages(model, config.stages, parts, config.trainer, config.seed, prepared.extension.first)
        prepared.stages["run"] = stages
        items: Any = MixtureItems(_mixture(config, prepared), steps * config.trainer.batch_size, config.seed)
        model.train()
        return Training(
            model,
            WeightedCrossEntropy(),
            items,
            next_token_collate,
            watch_steps=regular_steps(steps, config.evaluation.watch_every),
            before_step=Adapters(config.stages, steps).before_step if config.needs_adapters else None,
            describe=partial(_describe, prepared, stages),
            stages=stages,
        )

    def watch(self, config: RedWhaleConfig, prepared: Prepared, model: Any) -> Scores:
        """Bits per byte of the held-out texts of both languages."""
        scores = Scores()
        for name, windows in prepared.windows.items():
            score(scores, _bits(config, model, prepared.extension.tokenizer, windows), windows, name == KNOWN)
        return scores

    def evaluate(self, config: RedWhaleConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The same, beside what it was before; stages, filters and tokens."""
        after = prepared.before["extension"]
        if model is not None:
            tokenizer = prepared.extension.tokenizer
            after = {name: _bits(config, model, tokenizer, part) for name, part in prepared.windows.items()}
        stages = prepared.stages.get("run")
        measured = Measured(prepared.windows, prepared.before | {"after": after}, prepared.gone, prepared.extension)
        whole = evaluation(config, measured, stages, curve)
        if model is None:
            extended = prepared.model.language_model
            if unused := _unused_rows(prepared):
                extended.generation_config.suppress_tokens = unused
            return replace(whole, model=writer(extended, prepared.extension.tokenizer))
        return whole


class Adapters:
    """Adapters do nothing, and cost nothing, before the first stage that trains them.

    Args:
        stages: Of the run.
        steps: Of the run.
    """

    def __init__(self, stages: Sequence[Stage], steps: int) -> None:
        starts = stage_starts([stage.share for stage in stages], steps)
        self.first = next(start for stage, start in zip(stages, starts, strict=True) if LORA in stage.train)
        self.on = True

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """Switch them on or off, if that is due."""
        if self.on != (step >= self.first):
            self.on = not self.on
            part: Any
            for part in model.modules():
                if hasattr(part, "enable_adapters") and hasattr(part, "lora_A"):
                    part.enable_adapters(self.on)


def known_texts(config: RedWhaleConfig, held_out: bool = False) -> DomainsConfig:
    """Texts in the language that the model knows, to train on or to measure.

    A toy that is trained in the run has read the domains that ship, but for the share that is held out by default: of
    a larger `data.test_fraction` only those documents are measured, or it would be asked what it was trained on.
    """
    replay, data = config.replay, config.data
    share = min(data.test_fraction, DomainsConfig().test_fraction) if held_out else data.test_fraction
    return DomainsConfig(
        path=replay.path, domains=None if replay.path else replay.domains, characters=replay.characters,
        length=data.length, test_fraction=data.test_fraction if replay.path else share, on_error=data.on_error,
        near_duplicates=data.near_duplicates,
    )  # fmt: skip


def _documents(texts: Texts) -> list[tuple[str, str, str]]:
    """(id, text, domain) of the training documents that are not blank. Raises UserError: there is none."""
    documents = [(id, text, domain) for id, domain, text in texts.documents(TRAIN) if text.strip()]
    if not documents:
        raise UserError("there is no document to train on", texts.where, "give more, or longer, text")
    return documents


def _filtered(config: RedWhaleConfig, documents: Sequence[Document]) -> tuple[list[str], dict[str, float]]:
    """Training texts behind the filters, once for a corpus, and the share that these took of each kind."""
    before, options = plant(documents, config.filters), config.filters
    if options.use == RAW:
        return [piece.document.text for piece in before], {}
    key = sha256_json([1, [piece.document.text for piece in before], options.__dict__])[:32]

    def build(folder: Path) -> None:
        after: list[Piece] = filtered(before, options)
        texts = [piece.document.text for piece in after]
        write_json(folder / "texts.json", {"texts": texts, "removed": removed(before, after)})

    kept = read_json(build_once("filtered-corpora", key, build) / "texts.json")
    return kept["texts"], kept["removed"]


def _change(config: RedWhaleConfig, model: Any, extension: Extension) -> None:
    options = config.extend
    if options.untie:
        untie(model)
    if extension.pieces:
        add_rows(
            model, extension.first, extension.pieces, options.init,
            rescale=options.match_norm, pad_to=options.pad_to, seed=config.seed,
        )  # fmt: skip


def _bits(config: RedWhaleConfig, model: Any, tokenizer: Any, windows: Sequence[Window]) -> list[TextBits]:
    was_training = model.training
    model.eval()
    read = text_bits(model, tokenizer, [each.text for each in windows], KEY, config.evaluation.batch_tokens)
    model.train(was_training)
    return read


def _read(config: RedWhaleConfig, model: Any, tokenizer: Any, windows: Sequence[Window]) -> list[TextBits]:
    """`_bits`, computed once for a model."""
    key = [weights_hash(model), tokenizer_fingerprint(tokenizer), [window.text for window in windows]]
    return bits_once(key, lambda: _bits(config, model, tokenizer, windows))


def _mixture(config: RedWhaleConfig, prepared: Prepared) -> Mixture:
    """Training sequences of both languages, packed by the new tokenizer."""
    texts, fingerprint = prepared.texts
    shares = {TARGET: 1 - config.replay.share, KNOWN: config.replay.share}
    names = tuple(name for name, share in shares.items() if share)
    documents = ((f"{name}/{TRAIN}", text) for name in names for text in texts[name])
    packed = pack(documents, fingerprint, prepared.extension.tokenizer)
    mixture = Mixture(packed, names, tuple(shares[name] for name in names), config.data.length)
    for name in names:
        if not len(mixture.train(name)):
            what = f"the {name} texts have less than one sequence of {config.data.length:,} tokens"
            raise UserError(what, "data.length", "give more text, or type a smaller data.length")
    return mixture


def _describe(prepared: Prepared, stages: Stages, checkpoint: Path) -> None:
    """How the model is read out of a checkpoint; rows that no text has are never generated."""
    model, tokenizer = prepared.model, prepared.extension.tokenizer
    stages.thaw()  # where more was trained, what is left is no set of adapters
    if prepared.extension.pieces:  # nor where the model that they stand beside has other rows than the user's
        model.requires_grad_(True)
    describer(model, tokenizer)(checkpoint)
    settings = checkpoint / DESCRIPTION / GENERATION
    if (unused := _unused_rows(prepared)) and settings.is_file():
        write_json(settings, read_json(settings) | {"suppress_tokens": unused})


def _unused_rows(prepared: Prepared) -> list[int]:
    """Rows of an extended model behind its last token."""
    extension, table = prepared.extension, prepared.model.language_model.get_input_embeddings().weight
    return [*range(extension.first + len(extension.pieces), len(table))] if extension.pieces else []


RECIPE = RedWhaleRecipe
