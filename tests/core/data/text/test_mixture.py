"""Domain mixtures: packing, splits, weights, the stream and its duplicates, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.core.data.config import EMBEDDED_DOMAINS, SLIMPAJAMA, DomainsConfig
from recipes.core.data.text.documents import open_documents
from recipes.core.data.text.mixture import LEAST, DomainCorpus, Mixture, domains_of, load_mixture
from recipes.core.data.text.near_duplicates import NearDuplicates
from recipes.core.data.text.packed import pack
from recipes.core.data.text.splits import split_of
from recipes.core.errors import UserError
from recipes.core.models.config import SmallLMConfig
from recipes.core.models.text import build_text_tokenizer
from recipes.core.storage.files import sha256_json
from recipes.core.training.sequences import MixtureItems, sequence_collate

WORDS = {"sea": "wave tide salt ship ", "land": "stone field grass hill "}


def write_corpus(folder: Path, documents: int = 60) -> str:
    random = np.random.default_rng(0)
    path = folder / "corpus.jsonl"
    with path.open("w") as file:
        for number in range(documents):
            for domain, words in WORDS.items():
                text = " ".join(random.permutation(words.split() * (8 if domain == "sea" else 16)))
                file.write(json.dumps({"text": f"{text} {number}", "domain": domain}) + "\n")
    return str(path)


def mixture_of(config: DomainsConfig) -> Mixture:
    corpus = DomainCorpus(config)
    tokenizer = build_text_tokenizer(SmallLMConfig(vocabulary=300), corpus.texts(), corpus.fingerprint)
    return load_mixture(config, corpus, tokenizer)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write_corpus(tmp_path)


def config_of(path: str, **changes: object) -> DomainsConfig:
    return DomainsConfig(path=path, length=8, test_fraction=0.2, **changes)  # type: ignore[arg-type]


def test_every_document_is_packed_once_in_the_split_of_its_id(path: str) -> None:
    corpus = DomainCorpus(config_of(path))
    parts = list(corpus.parts())
    assert len(parts) == 120
    assert {part for part, _ in parts} == {"sea/train", "sea/test", "land/train", "land/test"}
    tokenizer = build_text_tokenizer(SmallLMConfig(vocabulary=300), corpus.texts(), corpus.fingerprint)
    packed = pack(parts, corpus.fingerprint, tokenizer)
    assert sum(packed.documents.values()) == 120
    for part in packed.parts:
        texts = [text for name, text in parts if name == part]
        decoded = tokenizer.decode(packed.ids(part)).split(tokenizer.eos_token)
        assert [text.strip() for text in decoded[:-1]] == texts
    assert len(packed.ids("nothing/train")) == 0


def test_the_split_is_a_function_of_the_id() -> None:
    shares = [split_of(f"document {number}", 0.3) for number in range(4000)]
    assert 0.27 < shares.count("test") / 4000 < 0.33
    assert all(split_of(f"document {number}", 0.9) == "test" for number in range(4000) if shares[number] == "test")


def test_mixtures(path: str) -> None:
    uniform, natural = mixture_of(config_of(path)), mixture_of(config_of(path, mixture="natural"))
    assert uniform.domains == ("land", "sea") and uniform.weights == (0.5, 0.5)
    tokens = [len(natural.packed.ids(f"{name}/train")) for name in natural.domains]
    assert natural.weights == pytest.approx([tokens[0] / sum(tokens), tokens[1] / sum(tokens)])
    custom = mixture_of(config_of(path, mixture="custom", weights=(0.75, 0.25), domains=("sea", "land")))
    assert custom.domains == ("sea", "land") and custom.weights == (0.75, 0.25)


@pytest.mark.parametrize("characters", [1, 2000])
def test_a_limit_in_characters_holds_once_both_splits_have_enough(path: str, characters: int) -> None:
    few = list(DomainCorpus(config_of(path, characters=characters)).parts())

    def is_whole(parts: list[tuple[str, str]]) -> bool:
        sizes = [sum(len(text) for part, text in parts if part.endswith(split)) for split in ("train", "test")]
        return sum(sizes) >= characters and min(sizes) >= LEAST

    for domain in WORDS:
        parts = [(part, text) for part, text in few if part.startswith(domain)]
        assert is_whole(parts) and not is_whole(parts[:-1])


def test_the_stream_follows_its_weights_and_shows_all_before_any_twice(path: str) -> None:
    mixture = mixture_of(config_of(path, mixture="custom", weights=(0.8, 0.2), domains=("sea", "land")))
    items = MixtureItems(mixture, 4000, seed=3)
    assert (items.domain == 0).mean() == pytest.approx(0.8, abs=0.03)
    for domain, name in enumerate(mixture.domains):
        times = np.bincount(items.sequence[items.domain == domain], minlength=len(mixture.train(name)))
        assert times.max() - times.min() <= 1
    assert not items.duplicate.any()


def test_the_stream_is_a_function_of_the_seed(path: str) -> None:
    mixture = mixture_of(config_of(path))
    first, again, other = (MixtureItems(mixture, 50, seed, 0.3, 5) for seed in (1, 1, 2))
    assert np.array_equal(first.sequence, again.sequence) and not np.array_equal(first.sequence, other.sequence)


def test_duplicates_come_from_a_small_set_that_is_shared_by_seeds_and_seen_nowhere_else(path: str) -> None:
    mixture = mixture_of(config_of(path))
    seen = []
    for seed in (1, 2):
        items = MixtureItems(mixture, 2000, seed, duplicates=0.5, duplicate_set=12)
        places = list(zip(items.domain.tolist(), items.sequence.tolist(), strict=True))
        repeated = {place for place, again in zip(places, items.duplicate, strict=True) if again}
        others = {place for place, again in zip(places, items.duplicate, strict=True) if not again}
        assert items.duplicate.mean() == pytest.approx(0.5, abs=0.05)
        assert len(repeated) == 12 and not repeated & others
        seen.append(repeated)
    assert seen[0] == seen[1]


def test_a_batch_predicts_every_token_but_the_first(path: str) -> None:
    mixture = mixture_of(config_of(path))
    items = MixtureItems(mixture, 6, 0)
    batch = sequence_collate([items[index] for index in range(6)])
    assert batch["input_ids"].shape == batch["labels"].shape == (6, 8)
    assert batch["labels"][:, :-1].equal(batch["input_ids"][:, 1:]) and (batch["labels"][:, -1] == -100).all()
    assert len(batch["ids"]) == 6 and batch["domain"].tolist() == items.domain.tolist()


def test_a_domain_that_is_not_in_the_data_is_named(path: str) -> None:
    with pytest.raises(UserError, match="domain 'lend' has no documents") as raised:
        mixture_of(config_of(path, domains=("sea", "lend")))
    assert "land" in raised.value.hint


def test_a_domain_too_small_for_one_sequence_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="less than one sequence of 4096"):
        mixture_of(DomainsConfig(path=write_corpus(tmp_path, 3), length=4096, test_fraction=0.5))


def test_weights_and_domains_must_be_as_many(path: str) -> None:
    with pytest.raises(UserError, match=r"3 weights for 2 domains \(land, sea\)"):
        mixture_of(config_of(path, mixture="custom", weights=(0.5, 0.25, 0.25)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixture": "custom", "weights": (0.5, 0.6)}, "sum to 1.1, not to 1"),
        ({"weights": (1.0,)}, "belongs to data.mixture=custom; type both or neither"),
        ({"domains": ("sotu-erly",)}, "there is no sotu-erly; did you mean sotu-early?"),
        ({"mixture": "custom", "weights": (0.5, 0.5)}, "are 2, the domains 9"),
        ({"mixture": "doremi"}, "doremi is for SlimPajama; type data.path= and data.domain_column="),
        ({"domains": ("wiki-en", "wiki-en")}, "names a domain twice"),
        ({"domains": ()}, "is empty; name one, or leave it out"),
    ],
)
def test_what_a_config_alone_shows_to_be_wrong(keys: dict[str, object], message: str) -> None:
    assert [text for _, text in DomainsConfig(**keys).check()] == [message]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "description"),
    [
        ({}, "the domains that ship with the install or as assets"),
        ({"domains": ("licences", "news")}, "licences, news"),
        ({"path": "a.jsonl"}, "a.jsonl"),
        ({"path": "a.jsonl", "domains": ("sea", "land")}, "a.jsonl (sea, land)"),
    ],
)
def test_what_is_read_is_described_by_path_and_domains(keys: dict[str, object], description: str) -> None:
    assert DomainsConfig(**keys).description == description  # type: ignore[arg-type]


def test_near_duplicates_are_left_out_before_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "copies.jsonl"
    text = " ".join(f"word{number}" for number in range(40))
    rows = [{"text": f"{text} {number}", "domain": "sea"} for number in range(50)]
    rows += [{"text": " ".join(f"{number}-{word}" for word in range(40)), "domain": "land"} for number in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    everything = list(DomainCorpus(config_of(str(path))).parts())
    assert {part for part, _ in everything} == {"sea/train", "sea/test", "land/train", "land/test"}
    corpus = DomainCorpus(config_of(str(path), near_duplicates=0.8))
    assert [text for part, text in corpus.parts() if part.startswith("sea/")] == [rows[0]["text"]]
    assert len(list(corpus.parts())) == 51
    assert f"data.path={path}: 49 documents were left out: copies.jsonl@" in capsys.readouterr().err


def write_twice(path: Path, domains: tuple[str, str]) -> list[str]:
    """50 texts, all of them in the first domain and then in the second."""
    texts = [" ".join(f"{number}-{word}" for word in range(40)) for number in range(50)]
    path.write_text("".join(json.dumps({"text": text, "domain": name}) + "\n" for name in domains for text in texts))
    return texts


def texts_of(corpus: DomainCorpus, domain: str) -> list[str]:
    return [text for part, text in corpus.parts() if part.startswith(f"{domain}/")]


def test_a_copy_in_a_domain_that_is_not_read_leaves_nothing_out(tmp_path: Path) -> None:
    texts = write_twice(tmp_path / "a.jsonl", ("land", "sea"))

    def corpus(**keys: object) -> DomainCorpus:
        return DomainCorpus(config_of(str(tmp_path / "a.jsonl"), near_duplicates=0.8, **keys))

    assert texts_of(corpus(domains=("sea",)), "sea") == texts
    for keys in ({}, {"domains": ("sea", "land")}):
        assert texts_of(corpus(**keys), "land") == texts and not texts_of(corpus(**keys), "sea")
    fingerprints = {corpus(**keys).fingerprint for keys in ({}, {"domains": ("sea",)}, {"domains": ("land",)})}
    assert len(fingerprints) == 3
    assert corpus(domains=("sea", "land")).fingerprint == corpus(domains=("land", "sea")).fingerprint


def test_a_copy_beyond_the_characters_of_its_domain_leaves_nothing_out(tmp_path: Path) -> None:
    texts = write_twice(tmp_path / "a.jsonl", ("land", "sea"))
    keys = {"characters": 5_000, "domains": ("land", "sea")}
    path = str(tmp_path / "a.jsonl")
    land, sea = (texts_of(DomainCorpus(config_of(path, near_duplicates=0.8, **keys)), name) for name in keys["domains"])
    plain = texts_of(DomainCorpus(config_of(path, **keys)), "land")
    assert 0 < len(land) < 40 and land == plain == texts[: len(land)]
    assert sea == texts[len(land) : len(land) + len(sea)] and sea  # its first ones repeat what was read of land


def test_copies_within_a_domain_make_room_for_further_documents(tmp_path: Path) -> None:
    texts = write_twice(tmp_path / "a.jsonl", ("sea", "sea"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:1] * 30 + texts))
    corpus = DomainCorpus(config_of(str(tmp_path / "a.jsonl"), near_duplicates=0.8, characters=5_000))
    read = [text for _, text in corpus.parts()]
    assert read == texts[: len(read)] and sum(map(len, read)) >= 5_000


def test_the_search_stops_where_reading_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))  # where nothing is cached
    write_twice(tmp_path / "a.jsonl", ("land", "sea"))
    asked: list[str] = []
    repeats = NearDuplicates.repeats
    monkeypatch.setattr(NearDuplicates, "repeats", lambda *given: (asked.append(given[1].domain), repeats(*given))[1])
    corpus = DomainCorpus(
        config_of(str(tmp_path / "a.jsonl"), near_duplicates=0.7, characters=5_000, domains=("land",))
    )
    assert asked == ["land"] * len(texts_of(corpus, "land"))


@pytest.mark.parametrize(
    ("keys", "domains"),
    [
        ({}, EMBEDDED_DOMAINS),
        ({"domains": ("news",)}, ("news",)),
        ({"path": "x"}, None),
        ({"path": "x", "domains": ()}, None),
        ({"path": "x", "mixture": "doge"}, SLIMPAJAMA),
        ({"path": "x", "mixture": "doge", "domains": ("b", "a")}, ("b", "a")),
    ],
)
def test_domains_of_a_mixture(keys: dict[str, object], domains: tuple[str, ...] | None) -> None:
    assert domains_of(DomainsConfig(**keys)) == domains  # type: ignore[arg-type]


def test_without_near_duplicates_a_corpus_is_that_of_before(path: str) -> None:
    config = config_of(path, characters=None)
    content = [shard.fingerprint() for shard in open_documents(path, key="data.path").shards]
    assert DomainCorpus(config).fingerprint == sha256_json([content, None, 0.2, None, None, "both splits"])
    assert (
        DomainCorpus(config_of(path, characters=None, near_duplicates=0.9)).fingerprint
        != DomainCorpus(config).fingerprint
    )


def mixed(folder: Path, **words: Any) -> DomainsConfig:
    """Two files, each a domain by the name that it is given."""
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{name} {number} " * 30}) for number in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return DomainsConfig(paths=(f"one:{folder}/a.jsonl", f"two:{folder}/b.jsonl"), length=16, **words)


def test_several_data_sets_are_a_domain_each(tmp_path: Path) -> None:
    config = mixed(tmp_path, mixture="custom", weights=(0.7, 0.3))
    assert config.check() == []
    mixture = mixture_of(config)
    assert (mixture.domains, mixture.weights) == (("one", "two"), (0.7, 0.3))
    turned = replace(config, paths=(config.paths or ())[::-1])
    assert DomainCorpus(turned).fingerprint != DomainCorpus(config).fingerprint
    assert mixture_of(turned).domains == ("two", "one")
    assert mixture_of(replace(config, domains=("two",), mixture="natural", weights=None)).weights == (1.0,)
    alike = mixed(tmp_path)
    same = replace(alike, paths=(f"one:{tmp_path}/a.jsonl", f"two:{tmp_path}/a.jsonl"))
    assert [len(mixture_of(same).train(name)) > 0 for name in ("one", "two")] == [True, True]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"path": "c.jsonl"}, ("paths", "names the data as data.path does; type one of them")),
        ({"domain_column": "source"}, ("domain_column", "is of no use where each of data.paths is a domain")),
        ({"domains": ("three",)}, ("domains", "there is no three")),
        ({"mixture": "custom", "weights": (1.0,)}, ("weights", "are 1, the domains 2")),
    ],
)
def test_what_does_not_go_with_several_data_sets(words: Any, problem: tuple[str, str], tmp_path: Path) -> None:
    [(key, message)] = mixed(tmp_path, **words).check()
    assert key == problem[0] and message.startswith(problem[1])


def test_every_path_of_a_mixture_has_a_name() -> None:
    problems = DomainsConfig(paths=("a.jsonl", "b:b.jsonl", "b:c.jsonl")).check()
    assert problems == [("paths", "'a.jsonl' is not NAME:PATH"), ("paths", "gives a name twice")]
