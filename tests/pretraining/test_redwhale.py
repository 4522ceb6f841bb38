"""RedWhale's parts: merges behind those of a BPE, rows of new tokens, filters, and which parameters a stage has."""

import json
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.core.config import compose
from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.near_duplicates import NearDuplicates, character_runs
from recipes.core.data.text.shards import Document
from recipes.core.errors import UserError
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.adapter_config import LoraConfig
from recipes.core.models.adapters import with_adapters
from recipes.core.models.build import llama, local_seed
from recipes.core.models.head import output_head, untie
from recipes.core.models.tokenizer import character_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.bits import TextBits
from recipes.core.training.sequences import next_token_collate
from recipes.core.training.stages import Stages
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from recipes.pretraining.redwhale import corpus
from recipes.pretraining.redwhale.config import CorpusConfig, ExtendConfig, ScheduleConfig
from recipes.pretraining.redwhale.method import KINDS, add_rows, groups, match_norm, new_rows
from recipes.pretraining.redwhale.plans import ALL, EEVE, EVEN, LORA, ODD, PLANS, REST, plan
from recipes.pretraining.redwhale.recipe import Adapters, _describe, _documents
from recipes.pretraining.redwhale.vocabulary import Extension, allowed, extend

VOCABULARY = 280
ENGLISH = ["the model reads the text, and then it reads the other text again"] * 30
KOREAN = [
    "대한민국의 국민이 되는 요건은 법률로 정한다",
    "국가는 법률이 정하는 바에 의하여 재외국민을 보호할 의무를 진다",
] * 30
TURKISH = ["kitapları okuyorlardı, çünkü öğretmen çocukları çağırdı", "çocuklar kitapları çok seviyorlardı"] * 30
UNSEEN = "재외국민의 의무는 법률로 정한다 2024 model"


def base(lists_special: bool = True) -> Any:
    """A byte-level BPE of English, with an end of text, which its vocabulary lists (GPT-2) or not (Llama 3)."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY if lists_special else VOCABULARY - 1,
        special_tokens=["<eos>"] if lists_special else [],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(ENGLISH, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", clean_up_tokenization_spaces=False)


def small(tied: bool = True, layers: int = 3) -> Any:
    with local_seed(1):
        config = llama(VOCABULARY, layers, 16, 2, 32)
        config.tie_word_embeddings = tied
        return LlamaForCausalLM(config).eval()


def ids(tokenizer: Any, text: str) -> list[int]:
    read: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return read


@pytest.fixture(scope="module")
def korean() -> Any:
    return extend(base(), KOREAN, "korean", ExtendConfig(tokens=40, frequency=5, ascii=False), "model=x")


def test_texts_without_new_tokens_keep_their_tokens_and_all_texts_come_back(korean: Any) -> None:
    old, new = base(), korean.tokenizer
    for text in (*ENGLISH[:1], "Zürich 12:30, naïve?", "  two  blanks\n"):
        assert ids(new, text) == ids(old, text)
    for text in (*KOREAN[:2], *ENGLISH[:1], UNSEEN, "한 mixed 글 <eos>"):
        assert new.decode(ids(new, text), clean_up_tokenization_spaces=False) == text
    assert len(ids(new, KOREAN[0])) / len(ids(old, KOREAN[0])) < 0.6
    assert len(ids(new, UNSEEN)) < len(ids(old, UNSEEN))
    assert korean.first == VOCABULARY and len(new) == VOCABULARY + len(korean.pieces)


@pytest.mark.parametrize("merge", ["merges", "added_tokens"])
def test_added_tokens_that_the_vocabulary_does_not_list_keep_their_ids(merge: str) -> None:
    old = base(lists_special=False)
    assert (old.eos_token_id, "<eos>" in vocabulary(old)) == (VOCABULARY - 1, False)
    new = extend(old, KOREAN, "korean", ExtendConfig(tokens=9, frequency=5, merge=merge), "model=x").tokenizer
    assert new.eos_token_id == old.eos_token_id and new.get_vocab().items() >= old.get_vocab().items()
    assert sorted(new.get_vocab().values()) == [*range(len(new))]
    assert ids(new, UNSEEN + "<eos>")[-1] == VOCABULARY - 1


def vocabulary(tokenizer: Any) -> dict[str, int]:
    known: dict[str, int] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    return known


def test_a_new_token_is_spelt_by_old_ones_and_every_one_can_be_reached(korean: Any) -> None:
    old, vocabulary = base(), korean.tokenizer.get_vocab()
    names = {token: piece for piece, token in vocabulary.items()}
    for number, (spelt, text) in enumerate(zip(korean.pieces, korean.texts, strict=True)):
        assert "".join(old.convert_ids_to_tokens(spelt)) == names[korean.first + number]
        if "\ufffd" not in text:
            assert spelt == ids(old, text), text
    assert never_made(korean) == []


def never_made(extension: Extension) -> list[str]:
    """New tokens that the merges do not make of their own bytes."""
    model, new = extension.tokenizer.backend_tokenizer.model, range(extension.first, len(extension.tokenizer))
    names = extension.tokenizer.convert_ids_to_tokens([*new])
    return [name for token, name in zip(new, names, strict=True) if [one.id for one in model.tokenize(name)] != [token]]


def test_nothing_is_merged_on_top_of_an_old_token_that_no_merge_makes(korean: Any) -> None:
    halves = {half for pair in pairs(korean.tokenizer)[-len(korean.pieces) :] for half in pair}
    new = {*korean.tokenizer.convert_ids_to_tokens([*range(korean.first, len(korean.tokenizer))])}
    half = sorted(halves & new, key=len)[0]  # other new tokens are made of it
    old, text = base(), korean.tokenizer.convert_tokens_to_string([half])
    pipeline = json.loads(old.backend_tokenizer.to_str())
    pipeline["model"]["vocab"][half] = VOCABULARY
    old = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)), eos_token="<eos>")
    assert old.convert_tokens_to_ids(half) == VOCABULARY and len(ids(old, text)) > 1
    extended = extend(old, KOREAN, "korean", ExtendConfig(tokens=40, frequency=5, ascii=False), "model=x")
    assert extended.first == VOCABULARY + 1 and never_made(extended) == []
    assert half not in {each for pair in pairs(extended.tokenizer) for each in pair}


def pairs(tokenizer: Any) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return merges


def test_latin_letters_need_tokens_of_ascii() -> None:
    plain, own = (
        extend(base(), TURKISH, "turkish", ExtendConfig(tokens=40, frequency=5, ascii=flag), "model=x")
        for flag in (True, False)
    )
    lengths = [sum(len(ids(each.tokenizer, text)) for text in TURKISH[:2]) for each in (plain, own)]
    assert lengths[0] < lengths[1] < sum(len(ids(base(), text)) for text in TURKISH[:2])
    assert ids(own.tokenizer, "kitaplar okuyor") == ids(base(), "kitaplar okuyor")
    assert ids(plain.tokenizer, "kitaplar okuyor") != ids(base(), "kitaplar okuyor")


def test_added_tokens_are_the_crude_way() -> None:
    new = extend(base(), KOREAN, "korean", ExtendConfig(tokens=40, frequency=5, merge="added_tokens"), "model=x")
    assert set(new.texts) <= set(new.tokenizer.get_added_vocab()) and not any("\ufffd" in text for text in new.texts)
    assert new.tokenizer.decode(ids(new.tokenizer, UNSEEN), clean_up_tokenization_spaces=False) == UNSEEN
    assert [ids(new.tokenizer, text) for text in new.texts] == [[VOCABULARY + n] for n in range(len(new.texts))]


@pytest.mark.parametrize(
    ("text", "ascii", "is_allowed"),
    [(" 국민", False, True), ("lar", False, False), ("lar", True, True), ("a1", True, False), ("son.", True, False),
     ("abcdefghi", True, False), (" ", True, False), ("  ab", True, False)],
)  # fmt: skip
def test_rules_of_new_tokens(text: str, ascii: bool, is_allowed: bool) -> None:
    assert allowed(text.encode(), ExtendConfig(ascii=ascii)) is is_allowed


def test_a_tokenizer_without_bytes_and_a_text_without_merges_are_refused() -> None:
    characters = character_tokenizer(KOREAN, "k", 300)
    with pytest.raises(UserError, match="does not say which bytes its tokens are"):
        extend(characters, KOREAN, "korean", ExtendConfig(), "model=x")
    with pytest.raises(UserError, match="no new token that occurs 1000 times"):
        extend(base(), KOREAN, "korean", ExtendConfig(frequency=1000), "model=x")


OLD = torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 1.0]])


def test_worked_example_of_the_sheet() -> None:
    random = torch.Generator().manual_seed(0)
    row = new_rows(OLD, [[0, 1, 2]], "decomp_both", random)
    assert torch.equal(row, torch.tensor([[1.0, 1.0]]))
    assert float(OLD.norm(dim=1).mean()) == pytest.approx(1.745, abs=5e-4)
    torch.testing.assert_close(match_norm(row, OLD), torch.tensor([[1.234, 1.234]]), atol=5e-4, rtol=0)
    assert torch.equal(new_rows(OLD, [[1, 2]], "first", random), OLD[1:2])
    assert torch.equal(new_rows(OLD, [[2]], "decomp_both", random), OLD[2:])
    assert torch.equal(new_rows(OLD, [[], [0]], "decomp_both", random), torch.stack([OLD.mean(0), OLD[0]]))
    assert torch.equal(new_rows(OLD, [[0], [1]], "mean", random), OLD.mean(0).expand(2, 2))


def test_random_rows_have_mean_and_deviation_of_each_dimension() -> None:
    old = torch.randn(500, 3) * torch.tensor([1.0, 0.1, 5.0]) + torch.tensor([0.0, 3.0, -1.0])
    rows = new_rows(old, [[0]] * 20_000, "random", torch.Generator().manual_seed(0))
    torch.testing.assert_close(rows.mean(0), old.mean(0), atol=0.1, rtol=0.02)
    torch.testing.assert_close(rows.std(0), old.std(0), atol=0, rtol=0.03)


def test_bits_per_byte_of_the_sheet() -> None:
    long = TextBits([0] * 40, np.full(40, 2.0 / np.log(2)), 90, True)
    short = TextBits([0] * 23, np.full(23, 3.2 / np.log(2)), 90, True)
    assert [round(each.per_byte, 4) for each in (long, short)] == [1.2824, 1.1798]
    assert short.per_token > long.per_token


def extended(init: str, tied: bool = False) -> tuple[Any, list[Tensor]]:
    model = small()
    if not tied:
        untie(model)
    add_rows(model, VOCABULARY, [[5, 6], [7]], init, rescale=False, pad_to=8, seed=3)
    return model, [model.get_input_embeddings().weight.detach(), output_head(model).weight.detach()]


def test_old_tokens_have_the_same_logits_and_old_rows_the_same_bits() -> None:
    model, tables = extended("random")
    text = torch.arange(20)[None]
    assert torch.equal(model(text).logits[..., :VOCABULARY], small()(text).logits)
    assert all(torch.equal(table[:VOCABULARY], small().get_input_embeddings().weight) for table in tables)
    assert all(len(table) == 288 for table in tables) and model.config.vocab_size == 288


def test_three_initialisations_are_the_same_where_the_head_is_the_embedding() -> None:
    new = {init: extended(init)[1] for init in KINDS}
    parts = {init: tuple(table[280:282].numpy().tobytes() for table in tables) for init, tables in new.items()}
    assert len({*parts.values()}) == 6
    embeddings, heads = ({init: pair[side] for init, pair in parts.items()} for side in (0, 1))
    assert embeddings["decomp_emb"] == embeddings["decomp_both"] == embeddings["eeve"]
    assert heads["decomp_head"] == heads["decomp_both"]
    assert torch.equal(new["eeve"][1][280:282], small().get_input_embeddings().weight[[5, 7]])
    for init in ("decomp_emb", "decomp_head", "decomp_both", "eeve"):
        tied, tables = extended(init, tied=True)
        assert tables[0].data_ptr() == tables[1].data_ptr() and tied.config.tie_word_embeddings
        assert tables[0][280:282].numpy().tobytes() == embeddings["decomp_both"]
    assert extended("random", tied=True)[1][0][280:282].numpy().tobytes() == embeddings["random"]


def test_stages_cover_every_layer_once_and_freeze_what_is_no_part_of_them() -> None:
    model = small()
    untie(model)
    with_adapters(TextModel(model), LoraConfig(rank=2), 0)
    parts = groups(model)
    whole = [id(parameter) for name in (*ALL, LORA) for parameter in parts[name]]
    assert len(whole) == len({*whole}) == len([*model.parameters()])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = {group: {names[id(p)].split(".")[2] for p in parts[group]} for group in (ODD, EVEN)}
    assert layers == {ODD: {"0", "2"}, EVEN: {"1"}} and [names[id(p)] for p in parts[REST]] == ["model.norm.weight"]


def test_adapters_change_nothing_at_first() -> None:
    model, text = small(), torch.arange(20)[None]
    before = model(text).logits
    with_adapters(TextModel(model), LoraConfig(rank=2), 0)
    assert torch.equal(model(text).logits, before)


@pytest.mark.parametrize(("pieces", "is_adapter"), [([[5, 6], [7]], False), ([], True)])
def test_adapters_alone_are_left_only_for_a_model_with_its_old_rows(
    pieces: list[list[int]], is_adapter: bool, tmp_path: Path
) -> None:
    text = with_adapters(TextModel(small()), LoraConfig(rank=2), 0)
    plans, trainer = plan(ScheduleConfig(name="lora_only"), 0.01), TrainerConfig(max_steps=10)
    stages = Stages(text, plans, groups(text.language_model), trainer, 0, VOCABULARY)
    prepared: Any = SimpleNamespace(model=text, extension=Extension(base(), VOCABULARY, pieces, []))
    _describe(prepared, stages, tmp_path)
    assert (tmp_path / "model" / "adapter").exists() is is_adapter


class Hashes(TrainEvents):
    """Digest of every tensor after each step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, str]] = {}

    def on_step_end(self, step: int, model: nn.Module) -> None:
        self.steps[step] = hashes(model)


def hashes(model: nn.Module) -> dict[str, str]:
    return {name: sha256(p.detach().numpy().tobytes()).hexdigest() for name, p in model.named_parameters()}


def test_each_stage_of_a_run_changes_its_tensors_alone(tmp_path: Path) -> None:
    model = small()
    untie(model)
    add_rows(model, VOCABULARY, [[5, 6], [7]], "random", rescale=False, pad_to=8, seed=3)
    text = with_adapters(TextModel(model), LoraConfig(rank=2), 0)
    trainer = TrainerConfig(max_steps=10, batch_size=2, weight_decay=0.1, learning_rate=0.01, warmup_ratio=0.0)
    plans = plan(ScheduleConfig(new_rows_only=True), 0.01)
    stages = Stages(text, plans, groups(model), trainer, 0, VOCABULARY)
    ids = np.random.default_rng(0).integers(288, size=(20, 9))
    rows = [{"id": str(n), "tokens": row, "domain": 0, "duplicate": False} for n, row in enumerate(ids)]
    adapters = Adapters(plans, 10)
    parts: Any = (rows, next_token_collate)
    training = Training(text, WeightedCrossEntropy(), *parts, before_step=adapters.before_step, stages=stages)
    before, events, old = hashes(text), Hashes(), small().get_input_embeddings().weight.detach()
    train(training, trainer, 0, tmp_path, events)
    for end, inside in ((2, "embed_tokens lm_head"), (4, "layers.0 layers.2"), (6, "layers.1"), (10, "lora_")):
        changed = {name for name, value in events.steps[end].items() if value != before[name]}
        wanted = {name for name in before if any(part in name for part in inside.split())}
        assert changed == {name for name in wanted if ("lora_" in name) == (inside == "lora_")}
        before = events.steps[end]
    for table in (model.get_input_embeddings().weight, output_head(model).weight):
        assert torch.equal(table[:VOCABULARY], old) and not torch.equal(table[VOCABULARY:282], old[:2])


def test_plans() -> None:
    stages = plan(ScheduleConfig(), 2e-4)
    assert [(stage.train, stage.share) for stage in stages] == [
        (("embedding", "head"), 0.2), (("odd",), 0.2), (("even",), 0.2), (("lora",), 0.4),
    ]  # fmt: skip
    assert [stage.learning_rate for stage in stages] == pytest.approx([1e-3, 2e-4, 2e-4, 2e-4])
    new = plan(ScheduleConfig(new_rows_only=True, tables=True), 2e-4)
    assert (new[0].train, new[3].train) == (("embedding:new", "head:new"), ("lora", "embedding", "head"))
    rates = [stage.learning_rate for stage in plan(ScheduleConfig(name=EEVE), 2e-4)]
    assert [rates[2], rates[3], rates[5], rates[6]] == pytest.approx([1e-3, 5e-4, 2e-4, 1e-4])
    assert all(sum(row[2] for row in rows) == pytest.approx(1) for rows in PLANS.values())
    assert [stage.share for stage in plan(ScheduleConfig(shares=(1, 2, 3, 4)), 1)] == [1, 2, 3, 4]


ALWAYS = "data.mixture data.weights data.duplicates data.duplicate_set data.seed evaluation.shown"
RATES = "schedule.new_rows_only schedule.tables_rate"
RAW_KEYS = " ".join(f"corpus.{key}" for key in ("lines", "ngram", "similarity", "order", "low", "high"))


@pytest.mark.parametrize(
    ("words", "unread"),
    [
        ("", ""),
        ("arm=full", f"{RATES} schedule.shares schedule.tables schedule.adapters_rate lora"),
        ("arm=lora_only", f"{RATES} schedule.shares"),
        ("arm=eeve", f"{RATES} schedule.tables schedule.adapters_rate"),
        (
            "schedule.train=false",
            f"{RATES} schedule.name schedule.shares schedule.tables schedule.adapters_rate lora replay.share "
            "evaluation.watch_every",
        ),
        ("arm=raw", RAW_KEYS),
        ("arm=raw corpus.planted=0", f"{RAW_KEYS} corpus.trusted corpus.seed"),
    ],
)
def test_keys_that_change_nothing_are_said(words: str, unread: str) -> None:
    assert {key for key, _ in compose.compose("redwhale", words.split()).unread()} == {*f"{ALWAYS} {unread}".split()}


def test_blank_documents_are_none() -> None:
    rows = [("a", "x", " \n "), ("b", "x", "text")]
    texts: Any = SimpleNamespace(documents=lambda split: rows, where="data.path=x")
    assert _documents(texts) == [("b", "text", "x")]
    rows.pop()
    with pytest.raises(UserError, match="no document to train on"):
        _documents(texts)


def documents(count: int) -> list[Document]:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice([*"abcdefghiklmnoprst"], 5)) for _ in range(60)]
    texts = ["\n".join(" ".join(draw.choice(words, 12)) for _ in range(12)) for _ in range(count)]
    return [Document(f"d{number}", text, "x") for number, text in enumerate(texts)]


def test_nothing_is_planted_in_texts_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "Bir deneme."}\n', encoding="utf-8")
    mine = f"data.path={tmp_path / 'mine.jsonl'}"
    shares = [
        compose.compose("redwhale", words).filters.planted for words in ([], [mine], [mine, "corpus.planted=0.2"])
    ]
    assert shares == [0.1, 0.0, 0.2]


def test_filters_take_what_was_planted() -> None:
    config = CorpusConfig(planted=0.4)
    before = corpus.plant(documents(100), config)
    assert [piece.kind for piece in before].count("trusted") == 10 and len(before) == 140
    after = corpus.filtered(before, config)
    gone = corpus.removed(before, after)
    assert gone["lines"] == gone["copy"] == gone["noise"] == 1 and gone["repeated"] >= 0.9
    assert gone["trusted"] == 0 and gone["real"] < 0.2
    assert corpus.filtered(before, config) == after


def test_documents_that_all_say_the_same_leave_nothing_to_trust() -> None:
    config = CorpusConfig(planted=0)
    same = [Document(str(number), "one two three four\nfive six", "x") for number in range(12)]
    with pytest.raises(UserError, match="leave no document whose n-grams could be counted") as refused:
        corpus.filtered(corpus.plant(same, config), config)
    assert refused.value.where == "corpus.trusted=0.1"


def test_each_filter_by_itself() -> None:
    pieces = [corpus.Piece(Document(name, text, "x"), "real", len(text)) for name, text in
              (("a", "one\ntwo\n\none"), ("b", "two\nthree"))]  # fmt: skip
    assert [piece.document.text for piece in corpus.each_line_once(pieces)] == ["one\ntwo\n", "three"]
    search = NearDuplicates(0.8, lambda text: character_runs(text, 5))
    text = "대한민국의 국민이 되는 요건은 법률로 정한다. 국가는 재외국민을 보호한다. " * 2
    assert len(character_runs("abcdef", 5)) == 2 and len(character_runs("ab", 5)) == 1
    copies = [text, text.replace("요건", "조건", 1), text[:20]]
    assert [search.repeats(Document(str(i), each, "x")) for i, each in enumerate(copies)] == [False, True, False]


def test_perplexity_is_that_of_interpolated_ngrams() -> None:
    trusted, text = ["abab"], "ab"
    # Behind one zero each: 5 counted signs of 3 kinds. P1(a) = (2 + 5/4) / (5 + 5), P1(b) the same.
    one = (2 + 5 / 4) / 10
    # N(0a) = 1 of N(0) = 1; N(ab) = 2 of N(a) = 2.
    two = ((1 + 5 * one) / 6) * ((2 + 5 * one) / 7)
    assert corpus.perplexities(trusted, [text], 2)[0] == pytest.approx(two**-0.5)
    common, rare = corpus.perplexities(["the cat and the dog"] * 5, ["the cat", "xq zvw"], 3)
    assert common < 3 < rare


def test_percentiles_in_order() -> None:
    assert CorpusConfig(low=90, high=10).check() == [("low", "is not below high=10")]
