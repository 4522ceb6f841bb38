"""Two models that write one text have one vocabulary."""

from typing import Any

from recipes.core.errors import UserError


def check_vocabularies(one: Any, other: Any, names: tuple[str, str], where: str) -> None:
    """Refuse two tokenizers whose tokens differ, before a model is loaded. Raises UserError that names such a token.

    Args:
        one: A tokenizer.
        other: That of the model which `where` names.
        names: What the two models are called: ("target", "draft model").
        where: Key and value.
    """
    vocabularies = one.get_vocab(), other.get_vocab()
    first, second = vocabularies
    if first == second:
        return
    token = min((name for name in first.keys() | second.keys() if first.get(name) != second.get(name)), key=repr)
    places = [f"{ids[token]} in the {name}" if token in ids else f"missing in the {name}"
              for name, ids in zip(names, vocabularies, strict=True)]  # fmt: skip
    raise UserError(
        f"{names[0]} and {names[1]} have different vocabularies, of {len(first):,} and {len(second):,} tokens: "
        f"{token!r} is " + " and ".join(places),
        where,
        f"give a {names[1]} with the {names[0]}'s tokenizer",
    )
