"""Names say what a value holds or what a function does; words that only say how it came about name nothing."""

import ast
from collections.abc import Iterator

import pytest

from recipes.core.config.registry import ROOT

EMPTY = {"found", "told", "said", "owned", "handled", "own", "made"}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of the functions, parameters and local values of a module; fields of classes are no part of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name.strip("_"), node.lineno
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id, inner.lineno
                elif isinstance(inner, ast.arg):
                    yield inner.arg, inner.lineno


@pytest.mark.parametrize("folder", ["recipes", "cli"])
def test_no_value_or_function_has_an_empty_name(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    problems = {
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in files
        for name, line in names(ast.parse(file.read_text(encoding="utf-8")))
        if name in EMPTY
    }
    assert files and not problems, "\n".join(sorted(problems))


def test_what_counts_as_a_name() -> None:
    source = "class A:\n    made: int\n\ndef told(own):\n    said = [found for found in own]\n"
    assert set(names(ast.parse(source))) == {("told", 4), ("own", 4), ("said", 5), ("found", 5)}
