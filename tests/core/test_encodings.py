"""Every text file of ours is opened as UTF-8 by name, so that no locale decides what is read or written."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT_CALLS = ("read_text", "write_text", "open", "fdopen", "NamedTemporaryFile", "TemporaryFile")
NO_TEXT = ("Image", "tarfile", "os", "gzip", "tokenize", "member")  # whose `open` reads bytes, or knows the encoding


def silent(source: str) -> Iterator[int]:
    """Lines that open a file as text and leave its encoding to the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in TEXT_CALLS or (
            name == "write_text" and isinstance(node.func, ast.Name)
        ):  # core.files writes UTF-8
            continue
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name == "open" and isinstance(owner, ast.Name) and owner.id in NO_TEXT:
            continue
        words = [word.value for word in node.keywords if word.arg == "mode"] + list(node.args)
        texts = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        if name == "read_text" and texts:  # the encoding, by its place
            continue
        if name in ("NamedTemporaryFile", "TemporaryFile") and not texts:  # bytes, unless another mode is typed
            continue
        if not any("b" in text and set(text) <= set("abrwx+t") for text in texts):
            yield node.lineno


@pytest.mark.parametrize("folder", ["cli", "recipes", "benchmarks"])
def test_every_text_file_names_its_encoding(folder: str) -> None:
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in silent(path.read_text(encoding="utf-8"))
    ]
    assert not places, f"type encoding='utf-8' at {', '.join(places)}"


def test_the_check_sees_what_it_should() -> None:
    bad = [
        "p.read_text()",
        "p.write_text('x')",
        "open(p)",
        "p.open('a')",
        "os.fdopen(1, 'w')",
        "f(mode='w+').open('w')",
    ]
    good = ["p.read_text(encoding='utf-8')", "p.read_text('latin-1')", "p.open('rb')", "open(p, mode='wb')"]
    assert [bool(list(silent(line))) for line in bad + good] == [True] * len(bad) + [False] * len(good)
