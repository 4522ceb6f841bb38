"""What is pretrained on, and what is probed: documents without near-duplicates, families whole on one side."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.data.tasks.labelled import LabelledSet, LabelledText, load_labelled, split_labelled
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.mixture import Mixture
from recipes.core.data.text.near_duplicates import near_duplicate_ids, near_duplicates
from recipes.core.data.text.packed import pack
from recipes.core.data.text.shards import Document
from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.errors import UserError
from recipes.core.storage.assets import asset_path
from recipes.core.storage.files import sha256_json
from recipes.pretraining.budgetlongformer.config import GENERAL, IN_DOMAIN, MIXED
from recipes.pretraining.budgetlongformer.data_config import LabelledDocumentsConfig, LicenceCategoriesConfig

VERSION = 1
CLASSES = {"Permissive": "permissive", "Copyleft": "copyleft", "Copyleft Limited": "copyleft"}
HEADER, EXCEPTION = re.compile(r"(?m)^(category|language|is_exception): (.+)$"), "is_exception"


@dataclass(frozen=True)
class Texts:
    """Documents.

    Attributes:
        labelled: Those with a label, split.
        unlabelled: Others of the domain, of no family that is tested on.
        general: Of other domains.
    """

    labelled: LabelledSet
    unlabelled: Sequence[str] = ()
    general: Sequence[str] = ()

    def parts(self) -> Iterator[tuple[str, str]]:
        """(part, text) of all, as packed texts are: the domain to train on, what is held out of it, the general one."""
        yield from ((f"{IN_DOMAIN}/{TRAIN}", each.text) for each in self.labelled.train)
        yield from ((f"{IN_DOMAIN}/{TRAIN}", text) for text in self.unlabelled)
        yield from ((f"{IN_DOMAIN}/{TEST}", each.text) for each in self.labelled.test)
        yield from ((f"{GENERAL}/{TRAIN}", text) for text in self.general)

    def training_texts(self) -> Iterator[str]:
        """For a tokenizer."""
        return (text for part, text in self.parts() if part.endswith(f"/{TRAIN}"))

    @property
    def fingerprint(self) -> str:
        """Hash of all of them, and of what each is for."""
        return sha256_json([VERSION, self.labelled.fingerprint, [*self.unlabelled], [*self.general]])


def read_texts(config: LicenceCategoriesConfig | LabelledDocumentsConfig, general: Sequence[str]) -> Texts:
    """The documents of a config; of near-duplicates the first alone, before anything is split.

    Args:
        config: Which.
        general: Names of the domains of other texts.

    Raises:
        UserError: they cannot be read, or leave a class without a text on one side.
    """
    others = [document.text for name in general for document in domain_documents(name)]
    if isinstance(config, LabelledDocumentsConfig):
        return Texts(_without_copies(config), (), others)
    texts = [each for each in _licences() if each.text]
    kept = _distinct(texts, config.near_duplicates, f"data={config.name}")
    data = split_labelled(config.name, [each for each in kept if each.label], config, f"data={config.name}")
    tested = {each.document for each in data.test}
    return Texts(data, [each.text for each in kept if not each.label and each.document not in tested], others)


def packed_rows(texts: Texts, corpus: str, tokenizer: Any, length: int) -> Mixture:
    """Tokenised documents of a corpus: in_domain, general, or mixed, which draws both equally."""
    packed = pack(texts.parts(), texts.fingerprint, tokenizer)
    domains = {IN_DOMAIN: (IN_DOMAIN,), GENERAL: (GENERAL,), MIXED: (IN_DOMAIN, GENERAL)}[corpus]
    return Mixture(packed, domains, tuple(1 / len(domains) for _ in domains), length)


def family(key: str) -> str:
    """The family of a licence: the first word of its key ("gpl-2.0-plus": "gpl")."""
    return re.split(r"[-._]", key)[0]


def _licences() -> Iterator[LabelledText]:
    """English licences; the label is empty of those of another category, and of exceptions, which are no licences."""
    for file in sorted((asset_path("licences") / "licenses").glob("*.LICENSE")):
        header, _, text = file.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
        entries = dict(HEADER.findall(header))
        if "language" not in entries:
            label = "" if EXCEPTION in entries else CLASSES.get(entries["category"], "")
            yield LabelledText(f"licences/{file.stem}", text.strip(), label, family(file.stem))


def _distinct(texts: Sequence[LabelledText], threshold: float | None, where: str) -> list[LabelledText]:
    """Texts without near-duplicates of earlier ones."""
    if threshold is None:
        return list(texts)

    def documents() -> Iterable[Document]:
        return (Document(each.id, each.text, "") for each in texts)

    key = sha256_json([VERSION, threshold, [[each.id, each.text] for each in texts]])[:32]
    left_out = near_duplicate_ids(lambda: near_duplicates(documents(), threshold), key, where)
    return [each for each in texts if each.id not in left_out]


def _without_copies(config: LabelledDocumentsConfig) -> LabelledSet:
    """The user's set, without near-duplicates: of those on both sides the text that is tested on stays."""
    where = f"data.path={config.path}"
    data = load_labelled(config)
    kept = {each.id for each in _distinct([*data.test, *data.train], config.near_duplicates, where)}
    train, test = ([each for each in part if each.id in kept] for part in (data.train, data.test))
    for part, what in ((train, "train"), (test, "test")):
        if missing := {each.label for each in data.train} - {each.label for each in part}:
            raise UserError(
                f"class {min(missing)!r} has no text to {what} on but near-duplicates of others",
                where,
                "give other texts, or type data.near_duplicates=null",
            )
    return LabelledSet(data.name, train, test)
