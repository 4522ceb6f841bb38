"""Two models of different vocabularies are refused by name."""

import pytest

from recipes.core.errors import UserError
from recipes.core.models.tokenizer import character_tokenizer
from recipes.decoding.vocabularies import check_vocabularies


def test_other_vocabularies_are_refused_by_the_first_token_that_differs() -> None:
    target, draft = (character_tokenizer([text], name, 300) for name, text in (("one", "abc"), ("two", "abd")))
    names, where = ("target", "draft model"), "draft.path=/small"
    check_vocabularies(target, target, names, where)
    with pytest.raises(
        UserError,
        match="target and draft model have different vocabularies, of .*: 'c' is .* in the target and missing",
    ) as refused:
        check_vocabularies(target, draft, names, where)
    assert (refused.value.where, refused.value.hint) == (where, "give a draft model with the target's tokenizer")
