"""Turkish tokenization as an experiment: tokenizers of one text, a small model of each, what their scores predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from recipes.core.data.text.splits import TEST
from recipes.core.data.text.text_ids import TextIds, tokenizer_fingerprint
from recipes.core.data.text.windows import Texts, Window
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.progress import progress
from recipes.core.scoring.bits import (
    TextBits,
    bits_once,
    says,
    text_bits,
)
from recipes.core.storage.files import sha256_json
from recipes.tokenization.small_models import load_small_model, train_small_model
from recipes.tokenization.turkish_tokenization.config import CHANCE, TurkishTokenizationConfig
from recipes.tokenization.turkish_tokenization.lexicon import load_lexicon
from recipes.tokenization.turkish_tokenization.method import WORD, Chains, normalise
from recipes.tokenization.turkish_tokenization.panel import Member, Panel
from recipes.tokenization.turkish_tokenization.results import evaluation
from recipes.tokenization.turkish_tokenization.scores import Row, chance, score

WORDS = 2_000  # word types whose cuts are compared


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        rows: One for each tokenizer.
        windows: The texts that its model read.
        words: Word types of the held-out text.
        chains: Their parses.
    """

    rows: Sequence[Row]
    windows: Sequence[Window]
    words: Sequence[str]
    chains: Chains


class TurkishTokenizationRecipe(Untrained):
    """Tokenizers, their scores, and one small model of each."""

    def prepare(self, config: TurkishTokenizationConfig, device: str) -> Prepared:
        """Everything but the correlation. Raises UserError."""
        chains, texts = load_lexicon(config.lexicon), Texts(config.data)
        windows, scored = texts.windows(config.evaluation, config.seed), _scored(config, texts)
        panel = Panel(config, texts, chains)
        members, turkish = panel.members(), config.lexicon.turkish_case
        words, drawn = _word_types(scored, turkish), chance([member.name for member in members], config.seed)
        _check_lengths(config, members, windows)
        rows = []
        with progress("scoring tokenizers", len(members)) as show:
            for member in members:
                values = score(member.tokenizer, scored, words, chains, config.measure, turkish)
                bits = _bits(config, panel, member, windows, device)
                rows.append(Row(member.name, member.tokenizer, values | {CHANCE: drawn[member.name]}, bits))
                show(len(rows))
        return Prepared(rows, windows, words, chains)

    def evaluate(
        self, config: TurkishTokenizationConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Correlate."""
        return evaluation(config, prepared.rows, prepared.windows, prepared.words, prepared.chains)


def _scored(config: TurkishTokenizationConfig, texts: Texts) -> list[str]:
    """Held-out documents, until they hold as many characters as are scored."""
    kept, left = [], config.measure.characters
    for _, _, text in texts.documents(TEST):
        if left <= 0:
            break
        kept.append(text[:left])
        left -= len(text)
    return kept


def _word_types(texts: Sequence[str], turkish: bool) -> list[str]:
    """Some of the words of texts, normalised, each once, in an order that they alone decide."""
    types = {normalise(word, turkish) for text in texts for word in WORD.findall(text)}
    return sorted(types, key=lambda word: sha256(word.encode()).digest())[:WORDS]


def _check_lengths(config: TurkishTokenizationConfig, members: Sequence[Member], windows: Sequence[Window]) -> None:
    """Models are trained on sequences of some tokens, and read longer texts worse: that would count against bytes."""
    for member in members:
        rows = TextIds(member.tokenizer).batch([window.text for window in windows])
        if (longest := max(map(len, rows))) > config.lm.length:
            what = f"{member.name} makes {longest:,} tokens of a text, and models learn texts of {config.lm.length:,}"
            hint = f"type a smaller evaluation.characters, or lm.length={longest}"
            raise UserError(what, "evaluation.characters", hint)


def _bits(
    config: TurkishTokenizationConfig, panel: Panel, member: Member, windows: Sequence[Window], device: str
) -> list[TextBits] | None:
    """What the model of a tokenizer says of the texts; None where the tokenizer does not give them back."""
    tokenizer, texts = member.tokenizer, [window.text for window in windows]
    lost = sum(not says(tokenizer, ids, text) for ids, text in zip(TextIds(tokenizer).batch(texts), texts, strict=True))
    if lost:
        note(f"{member.name}: {lost} of {len(texts)} texts do not come back, so it is left out of correlations")
        return None
    fingerprint = sha256_json([panel.fingerprint, member.key])
    name = f"the model of {member.name}"
    folder = train_small_model(config.lm, config.trainer, config.seed, tokenizer, panel.training, fingerprint, name)

    def read() -> list[TextBits]:
        model = load_small_model(folder, device)
        return text_bits(model, tokenizer, texts, "evaluation.characters", config.evaluation.batch_tokens)

    return bits_once([folder.parent.name, tokenizer_fingerprint(tokenizer), member.key, texts], read)


RECIPE = TurkishTokenizationRecipe
