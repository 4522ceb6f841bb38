"""Texts by people and by machines, equally long, and which of them are trained and tested on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from recipes.attribution.pawn.config import DECODINGS, ContinuationsConfig, DetectionTextsConfig, PawnConfig
from recipes.attribution.samples import FEWEST, Sample
from recipes.core.data.tasks.labelled import LabelledText, load_labelled
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.build import local_seed
from recipes.core.models.text import context
from recipes.core.runs.progress import progress
from recipes.core.scoring.fingerprints import weights_hash
from recipes.core.scoring.sampling import generate, settings_key
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json
from recipes.core.training.toys.frozen import load_frozen

VERSION = 3
ROWS = 64  # texts that are written side by side
SLACK = 12  # tokens that are written beyond those asked for: a text loses some when it is read anew
SEEN = "seen"
KINDS = {False: "human", True: "machine"}
MACHINE_LABELS = ("machine", "ai", "generated", "1")


@dataclass(frozen=True)
class Texts:
    """All texts, and which are for what.

    Attributes:
        samples: Every text once.
        rows: Its ids.
        train: Numbers of those that are trained on.
        tests: Name of what has changed, `SEEN` if nothing has -> numbers of those that are tested on; both kinds among
            them.
    """

    samples: Sequence[Sample]
    rows: Sequence[Sequence[int]]
    train: np.ndarray
    tests: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Writer:
    """A generator.

    Attributes:
        model: A `TextModel`.
        tokenizer: Its tokenizer.
        device: Where it computes.
    """

    model: Any
    tokenizer: Any
    device: str


def load_texts(config: PawnConfig, model: Any, tokenizer: Any, device: str) -> Texts:
    """The texts of a config. Raises UserError: they cannot be had, or are too few of a kind.

    Args:
        config: Of the run.
        model: The language model that reads them, a `TextModel`.
        tokenizer: Its tokenizer.
        device: Where it computes.
    """
    if isinstance(config.data, DetectionTextsConfig):
        return _users_texts(config.data, TextIds(tokenizer), config.detector.max_tokens)
    return _continuations(config, Writer(model, tokenizer, device))


def _users_texts(config: DetectionTextsConfig, ids: TextIds, longest: int) -> Texts:
    data, where = load_labelled(config), f"data.path={config.path}"
    label = _machine_label(data.classes, config.machine_label, where)
    parts, rows, samples, skipped = ([], []), [], [], 0  # type: ignore[var-annotated]
    for part, texts in zip(parts, (data.train, data.test), strict=True):
        for text, row in zip(texts, ids.with_special_tokens([each.text for each in texts], longest), strict=True):
            if len(row) < FEWEST:
                skipped += 1
                continue
            part.append(len(samples))
            samples.append(_sample(text, label))
            rows.append(row)
    if skipped:
        note(f"warning: {where}: {skipped:,} texts of one token are left out: nothing predicts it")
    held_out, sources = set(config.held_out), {each.source for each in samples}
    if missing := sorted(held_out - sources):
        hint = f"there are {', '.join(sorted(sources)[:8])}"
        raise UserError(f"no text is of {missing[0]}", f"data.held_out={missing[0]}", hint)
    train = [i for i in parts[0] if samples[i].source not in held_out]
    seen = [i for i in parts[1] if samples[i].source not in held_out]
    tests = {SEEN: seen}
    for source in config.held_out:
        numbers = [i for i in parts[1] if samples[i].source == source]
        tests[source] = _with_other_label(numbers, seen, samples)
    for name, numbers in {
        "to train on": train,
        **{f"to test on ({key})": value for key, value in tests.items()},
    }.items():
        if len({samples[i].machine for i in numbers}) < 2:
            hint = "give more texts of either label, or hold out less"
            raise UserError(f"texts {name} are not of both labels", where, hint)
    return Texts(samples, rows, np.array(train), {name: np.array(numbers) for name, numbers in tests.items()})


def _with_other_label(numbers: list[int], seen: Sequence[int], samples: Sequence[Sample]) -> list[int]:
    """Numbers of the texts of a source; where all have one label, `seen` texts of the other are added for an AUROC."""
    kinds = {samples[i].machine for i in numbers}
    return [*numbers, *(i for i in seen if samples[i].machine not in kinds)] if len(kinds) == 1 else numbers


def _machine_label(classes: Sequence[str], typed: str | None, where: str) -> str:
    if len(classes) > 2:
        raise UserError(f"there are {len(classes)} labels, and two are needed", where, "label texts human or machine")
    known = [name for name in classes if (name == typed if typed else name.casefold() in MACHINE_LABELS)]
    if len(known) == 1:
        return known[0]
    what = f"no text has the label {typed}" if typed else "which label means a machine is not known"
    raise UserError(what, where, f"type data.machine_label={' or data.machine_label='.join(classes)}")


def _sample(text: LabelledText, label: str) -> Sample:
    return Sample(text.id, text.text, text.label == label, text.document, text.source)


def _continuations(config: PawnConfig, writer: Writer) -> Texts:
    data: Any = config.data
    documents = _documents(data, data.domain, data.documents)
    samples = _written(data, documents, writer, data.decoding, SEEN)
    kinds = {SEEN: documents}
    if "decoding" in data.shifts:
        samples |= _written(data, documents, writer, data.unseen_decoding, "decoding")
    if "generator" in data.shifts:
        stand_in = SimpleNamespace(model=config.other, trainer=config.trainer, seed=config.seed)
        other = Writer(*load_frozen(stand_in, writer.device), writer.device)
        samples |= _written(data, documents, other, data.decoding, "generator")
    if "domain" in data.shifts:
        kinds["domain"] = _documents(data, data.unseen_domain, data.unseen_documents)
        samples |= _written(data, kinds["domain"], writer, data.decoding, "domain")
    for name, those in kinds.items():
        samples |= {(name, document, False): rest for document, (_, rest) in those.items()}
    return _divide(config, samples, TextIds(writer.tokenizer))


def _documents(data: ContinuationsConfig, domain: str, most: int) -> dict[str, tuple[str, str]]:
    """Id -> first words and the rest of documents that are long enough, drawn by the data's seed."""
    documents = {}
    for document in domain_documents(domain):
        words = document.text.split()
        if len(words) >= data.prompt + data.tokens:  # a word has at least one token
            parts = words[: data.prompt], words[data.prompt : data.prompt + data.tokens + SLACK]
            documents[document.id] = (" ".join(parts[0]), " ".join(parts[1]))
    if len(documents) < 2:
        hint = "type fewer data.tokens, or another domain"
        raise UserError(f"{len(documents)} documents of {domain} are long enough", f"data.tokens={data.tokens}", hint)
    order = np.random.default_rng(data.seed).permutation(sorted(documents))[:most]
    return {str(name): documents[name] for name in order}


def _written(
    data: ContinuationsConfig, documents: Mapping[str, tuple[str, str]], writer: Writer, decoding: str, shift: str
) -> dict[tuple[str, str, bool], str]:
    """What a generator writes behind the first words of documents, cached."""
    ids = TextIds(writer.tokenizer)
    prompts = [np.array([*ids.start, *ids.ids(prompt)]) for prompt, _ in documents.values()]
    _check_room(writer.model, max(map(len, prompts)) + SLACK, data.tokens)
    end = int(writer.tokenizer.eos_token_id)
    settings = [DECODINGS[decoding], data.tokens + SLACK, data.seed, writer.device, VERSION]
    key = [weights_hash(writer.model), [each.tolist() for each in prompts], settings, settings_key(writer.model, end)]

    def build(folder: Path) -> None:
        rows = _write(data, writer, prompts, decoding)
        texts = [_behind(writer.tokenizer, prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        write_json(folder / "texts.json", {"texts": texts}, durable=False)

    texts = read_json(build_once("machine-texts", sha256_json(key)[:32], build) / "texts.json")["texts"]
    return {(shift, name, True): _without_first(text) for name, text in zip(documents, texts, strict=True)}


def _check_room(model: Any, others: int, tokens: int) -> None:
    longest = context(model)
    if longest is not None and others + tokens > longest:
        what = f"a generator has {longest} positions, {others} of which the prompt and what may be left out take"
        raise UserError(what, f"data.tokens={tokens}", f"type data.tokens={max(longest - others, 4)} or less")


def _write(data: ContinuationsConfig, writer: Writer, prompts: Sequence[np.ndarray], decoding: str) -> list[np.ndarray]:
    """int32 ids of continuations, none of which ends before it is long enough."""
    temperature, top_p, penalty = DECODINGS[decoding]
    rows, length = list[np.ndarray](), dict.fromkeys(("max_new_tokens", "min_new_tokens"), data.tokens + SLACK)
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0, "repetition_penalty": penalty}
    options = drawn | length | {"eos_token_id": int(writer.tokenizer.eos_token_id)}
    model = writer.model.to(writer.device).eval().language_model
    with torch.no_grad(), local_seed(data.seed), progress("writing texts", len(prompts)) as show:
        for start in range(0, len(prompts), ROWS):
            rows += generate(model, prompts[start : start + ROWS], writer.device, options)
            show(len(rows))
    return rows


def _behind(tokenizer: Any, prompt: np.ndarray, row: np.ndarray) -> str:
    """What stands behind a prompt, with the blank between them, which some tokenizers leave out of a first token."""
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, np.concatenate([prompt, row])))
    return str(whole)[len(before) :]


def _without_first(text: str) -> str:
    """Whole words with single blanks; what would end a word of the prompt is no word of the generator's."""
    words = text.split()
    return " ".join(words if text[:1].isspace() else words[1:])


def _divide(config: PawnConfig, texts: Mapping[tuple[str, str, bool], str], ids: TextIds) -> Texts:
    """Documents on either side, and the tests; a document with a text that is too short is in neither."""
    data: Any = config.data
    names = list(texts)
    rows = ids.with_special_tokens([texts[name] for name in names], data.tokens)
    short = {document for (_, document, _), row in zip(names, rows, strict=True) if len(row) < data.tokens}
    if short:
        note(f"{len(short)} documents are left out: a text of theirs has fewer than {data.tokens} tokens")
    kept = [(name, row) for name, row in zip(names, rows, strict=True) if name[1] not in short]
    number_of = {name: number for number, (name, _) in enumerate(kept)}
    samples = [
        # What is read of the text, so that no detector sees how long it was.
        Sample(f"{KINDS[name[2]]}/{name[0]}/{name[1]}", ids.tokenizer.decode(row, skip_special_tokens=True).strip(),
               name[2], name[1], name[0])
        for name, row in kept
    ]  # fmt: skip
    documents = sorted({document for shift, document, _ in number_of if shift == SEEN})
    tested = round(data.test_fraction * len(documents))
    if tested < 2 or len(documents) - tested < 2:
        what = f"{len(documents)} documents are too few to train and to test on"
        raise UserError(what, f"data.documents={data.documents}", "type more of them, or fewer data.tokens")
    order = np.random.default_rng(config.seed).permutation(documents)
    test, train = order[:tested], order[tested:][: data.train_documents]
    tests = {SEEN: _pairs(number_of, SEEN, SEEN, test)}
    for shift in data.shifts:
        unseen = sorted({document for name, document, _ in number_of if name == shift})
        tests[shift] = _pairs(number_of, shift, *((shift, unseen) if shift == "domain" else (SEEN, test)))
    return Texts(samples, [row for _, row in kept], _pairs(number_of, SEEN, SEEN, train), tests)


def _pairs(number_of: Mapping[Any, int], machine: str, human: str, documents: Iterable[str]) -> np.ndarray:
    """Numbers of the texts of documents, by a machine and by people."""
    numbers = [(number_of[machine, str(each), True], number_of[human, str(each), False]) for each in documents]
    return np.array(numbers).reshape(-1)
