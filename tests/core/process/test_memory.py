"""When Python looks for cycles of garbage."""

import gc

import pytest

from recipes.core.process.memory import uncollected


def test_cycles_are_looked_for_again_when_the_block_ends_however_it_ends() -> None:
    with uncollected(), uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="x"), uncollected():
        raise ValueError("x")
    assert gc.isenabled()


def test_who_looks_for_none_is_left_alone() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
