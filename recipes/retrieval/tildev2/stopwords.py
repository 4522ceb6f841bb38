"""Terms that count nowhere: the same in training, in expansions, in the index and in queries.

Function words of English by their classes, without those that ask (who, what, when, where, which, why, how), and what
is left of contractions once a tokenizer has cut them at the apostrophe. Fixed here, so that an index reads alike on
every machine.
"""

import re
from collections.abc import Iterable
from typing import Any

# Articles, demonstratives, quantities; pronouns; forms of be, have, do, and modal verbs; prepositions, conjunctions,
# adverbs of place and time; pieces of contractions.
_LIST = """
a an the this that these those all any both each few more most other some such no nor not only own same so than too very
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves whom
am is are was were be been being have has had having do does did doing can will just should now
and but if or because as until while of at by for with about against between into through during before after above
below to from up down in out on off over under again further then once here there
s t d m o y re ve ll ma don ain aren couldn didn doesn hadn hasn haven isn mightn mustn needn shan shouldn wasn weren
won wouldn
"""
WORDS = frozenset(_LIST.split())
PLURAL = "##s"
PLAIN = re.compile(r"[A-Za-z0-9_-]*")
CONTINUED = "##"
NO_TERM = "definition"  # what collections of questions ask for, whatever the passage says


def stop_ids(tokenizer: Any, pieces: str = "ascii") -> frozenset[int]:
    """Ids that are no terms: function words, the plural's `##s`, special tokens, and pieces with other characters.

    Args:
        tokenizer: That of a BERT-type encoder.
        pieces: "ascii": a piece that begins a word has letters, digits, `_` and `-` of ASCII only, as in the code;
            "letters": letters of any script.

    Source:
        `get_stop_ids` of the official code, with a list of ours in place of NLTK's.
    """
    vocabulary = tokenizer.get_vocab()
    stop = {number for piece, number in vocabulary.items() if _no_term(piece, pieces)}
    return frozenset(stop | set(tokenizer.all_special_ids))


def bad_ids(tokenizer: Any, stop: Iterable[int]) -> frozenset[int]:
    """Ids that a passage is never expanded by: those that are no terms, and the word "definition"."""
    number = tokenizer.get_vocab().get(NO_TERM)
    return frozenset({*stop, *([] if number is None else [number])})


def _no_term(piece: str, pieces: str) -> bool:
    if piece == PLURAL or piece.lower() in WORDS:
        return True
    if piece.startswith(CONTINUED):
        return False
    if pieces == "ascii":
        return PLAIN.fullmatch(piece) is None
    return not piece.replace("_", "").replace("-", "").isalnum()
