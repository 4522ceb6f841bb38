"""Prefix tests: what they accept can be completed, and nothing that a valid text begins with is refused."""

import itertools
import json
import textwrap
from pathlib import Path

import pytest
import regex

from recipes.core.errors import UserError
from recipes.decoding.awrs import python_prefix
from recipes.decoding.awrs.config import CodeConstraint, JsonConstraint, RegexConstraint, SumConstraint
from recipes.decoding.awrs.constraints import (
    Constraint,
    Python,
    Regex,
    RightSum,
    TextTest,
    begun_text,
    build_constraint,
    check_satisfiable,
    is_ascii,
    json_constraint,
)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 10},
        "kind": {"enum": ["cat", "dog", 12, None]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
        "code": {"type": "string", "pattern": "^[A-Z][0-9]+$"},
        "size": {"anyOf": [{"type": "number", "maximum": 1}, {"const": "big"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "boolean"}},
}


def test_a_character_that_has_only_begun_may_be() -> None:
    euro = "a\u20ac".encode()
    assert [begun_text(euro[:size]) for size in range(5)] == ["", "a", "a", "a", "a\u20ac"]
    assert begun_text(b"\xff") is None and begun_text(b"\xe2a") is None and begun_text(b"\xe2\x82a") is None
    constraint = Constraint(Regex("[0-9]+.?"), "")
    assert constraint.viable(b"1\xe2\x82") and not constraint.complete(b"1\xe2\x82")
    assert not constraint.viable("12\u20ac.".encode()) and constraint.complete(b"12")
    # Of patterns that plainly match ASCII only, it cannot be; nor outside of the strings of JSON.
    json_test = json_constraint({"type": "object"}, "")
    assert [json_test.viable(text + b"\xe2") for text in (b"", b'{"', b'{"a"', b'{"a":1}', b'{"a":"')] == [
        False, True, False, False, True]  # fmt: skip
    assert not Constraint(Regex("[0-9]+"), "").viable(b"1\xe2\x82")
    assert [is_ascii(each) for each in ("a\\.[b-c]{2}", "\\w", "a.", "[^a]", "(?i)k", "\u20ac")] == [True] + [False] * 5


@pytest.mark.parametrize("pattern", ["ab*c?", "(ab|ba)+", "a{2,3}b", "(a|b)*abb", "a(?=b)b", "(a+)b\\1", "[^a]b.", ""])
def test_partial_matches_are_beginnings_of_matches(pattern: str) -> None:
    test, longest = Regex(pattern), 7
    texts = ["".join(one) for size in range(longest + 1) for one in itertools.product("abc", repeat=size)]
    valid = {text for text in texts if regex.fullmatch(pattern, text)}
    begun = {text[:size] for text in valid for size in range(len(text) + 1)}
    assert {text for text in texts if test.complete(text)} == valid
    assert not [text for text in begun if not test.viable(text)]
    # Only a lookahead or a reference may be taken for possible where it is not.
    if "\\1" not in pattern and "?=" not in pattern:
        assert not [text for text in texts if len(text) <= 3 and test.viable(text) and text not in begun]


def test_sums_are_right() -> None:
    test = RightSum(2)
    assert [test.complete(text) for text in ("2+3=5", "10+90=100", "2+3=6", "02+3=5", "2+3=", "123+1=124")] == [
        True, True, False, False, False, False]  # fmt: skip
    for text, possible in {"": 1, "12": 1, "123": 0, "12+": 1, "0": 1, "00": 0, "12+9": 1, "12+9=": 1, "12+9=2": 1,
                           "12+9=3": 0, "12+9=211": 0, "+": 0}.items():  # fmt: skip
        assert test.viable(text) == bool(possible), text


VALID_JSON = (
    '{"name": "Ann"}', '{ "age":12,"name":"A\\u00e9\\n" }',
    '{"name":"a","kind":null,"tags":[true , false]}\n',
    '{"name":"a","kind":12,"code":"A10","size":0.5e0}', '{"name":"a","size":"big","kind":"cat","tags":[]}',
)  # fmt: skip
WRONG_JSON = (
    "[", '"', '{"nam" ', '{"x', '{"name":1', '{"name":"Anniee', '{"name":"a","name"', '{"name":"a",}', '{}',
    '{"age":9,', '{"age":1.5', '{"age":01', '{"kind":"cow', '{"kind":13', '{"tags":[true,true,', '{"tags":[1',
    '{"code":"a', '{"code":"A1b', '{"size":2,', '{"size":"bit',
    '{"name":"\\x', '{"name":"a"} x', '{"name":tru', "{,", '{"name" 1', '{"kind":true',
)  # fmt: skip


def test_json_that_can_become_valid_goes_on_and_other_json_does_not() -> None:
    test: TextTest = json_constraint(PERSON, "").test
    for text in VALID_JSON:
        assert test.complete(text), text
        assert not [text[:size] for size in range(len(text) + 1) if not test.viable(text[:size])]
        assert not any(test.complete(text[:size]) for size in range(len(text.rstrip())))
    for text in WRONG_JSON:
        assert not test.viable(text), text
    numbers = json_constraint({"type": "number"}, "").test
    assert numbers.viable("-") and numbers.viable("1e") and numbers.complete("1e5") and not numbers.complete("1e")
    assert not numbers.viable("1ee") and not numbers.complete("NaN") and not numbers.viable("N")


def test_random_json_of_a_schema_is_never_refused() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": ["integer", "null"]}, "b": {"items": {"enum": ["x", 2.5]}}},
    }
    test = json_constraint(schema, "").test
    for a, b in itertools.product([0, -3, 17, None], [[], ["x"], [2.5, "x"], "free", {"c": [1, {"d": None}]}]):
        for indent in (None, 1):
            text = json.dumps({"a": a, "b": b}, indent=indent)
            assert test.complete(text)
            assert all(test.viable(text[:size]) for size in range(len(text) + 1)), text


CODE = textwrap.dedent('''
    """Text."""
    import os.path as p, sys
    from a.b import (c, d as e)

    @decorate(1)
    class A(B, metaclass=C):
        x: int = 0x1F + 1_000 - 1e-5 * 0b1 // 2 ** 3 % 4j
        async def f(self, *a, b=None, **c) -> dict[str, "A"]:
            """Doc "quoted"."""
            async with g() as h, i: return [j async for j in k if j != 1 and not l or m is not None]
            try:
                raise ValueError(f"{x!r:>{y}} {z}") from None
            except* (E, F) as error:
                pass
            else:
                del a[1:2, ..., ::3]; yield from (n := lambda q, /, r=1: q if r else -q)
            finally:
                while x <= 3 >= 2 == y:  # comment
                    x <<= 1; x @= 2; continue
            match x:
                case {"a": [1, *_], **rest} | None if rest: print('a\\'b\\n', r"\\d", b"x", """t
    r""")
                case _: assert x, \\
                    "continued"
    if __name__ == "__main__": print(0.5, 08.5, [*a], {**b}, {c for c in d})
''').lstrip()  # fmt: skip


def test_python_that_can_go_on_goes_on_and_other_python_does_not() -> None:
    test = Python()
    assert test.complete(CODE)
    assert not [CODE[max(0, size - 30) : size] for size in range(len(CODE) + 1) if not test.viable(CODE[:size])]
    for text in ("print(a b", "x = )", "if x:\n    a\n  b", "for i in r # c", "x = 'a\n", "x = 5 retu", "else:", " x",
                 "1 +* 2", "class class ", "def f(:", "x\n  y", "a = b = = c", "import 5", "return ]", "x $",
                 "The date", "\0"):  # fmt: skip
        assert not test.viable(text), text
    code = Constraint(test, "")
    assert [code.viable(text + b"\xe2") for text in (b"x", b"'", b"# ", b"x = ", b"x y", b"1")] == [True] * 4 + [
        False
    ] * 2
    assert not test.complete("") and not test.complete("if x:") and not test.complete("# only a comment")


def test_this_module_of_the_recipe_begins_python_at_every_character() -> None:
    text = Path(python_prefix.__file__).read_text("utf-8")
    assert all(python_prefix.may_become_python(text[:size]) for size in range(0, len(text), 7))


def test_what_cannot_be_a_constraint_is_refused(tmp_path: Path) -> None:
    def refusal(config: object) -> str:
        with pytest.raises(UserError) as refused:
            check_satisfiable(build_constraint(config))
        return str(refused.value)

    assert "is no regular expression" in refusal(RegexConstraint(pattern="(a"))
    assert "no text satisfies it: dead end before the first token" in refusal(RegexConstraint(pattern="(?!)"))
    assert "cannot be read as JSON" in refusal(JsonConstraint(path=str(tmp_path / "none.json")))
    (tmp_path / "schema.json").write_text('{"type": "objekt"}')
    assert "is no JSON Schema" in refusal(JsonConstraint(path=str(tmp_path / "schema.json")))
    code = tmp_path / "mine.py"
    code.write_text("def viable(text): return 1 / 0")
    assert "has no function complete" in refusal(CodeConstraint(path=str(code)))
    code.write_text("def viable(text): return 1 / 0\ndef complete(text): return True")
    assert "the constraint raised ZeroDivisionError: division by zero" in refusal(CodeConstraint(path=str(code)))
    assert str(code) in refusal(CodeConstraint(path=str(code)))
    assert build_constraint(SumConstraint()).viable(b"1+1=2")
