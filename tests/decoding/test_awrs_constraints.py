"""Prefix tests: what they accept can be completed, and nothing that a valid text begins with is refused."""

import itertools
import json
import textwrap
from pathlib import Path

import pytest
import regex

from recipes.core.errors import UserError
from recipes.decoding.awrs import patterns, python_prefix
from recipes.decoding.awrs.characters import begun_text, can_follow, characters, quote
from recipes.decoding.awrs.config import CodeConstraint, JsonConstraint, RegexConstraint, SumConstraint
from recipes.decoding.awrs.constraints import (
    Constraint,
    Python,
    Regex,
    RightSum,
    TextTest,
    build_constraint,
    check_satisfiable,
    json_constraint,
)
from recipes.decoding.awrs.patterns import is_ascii

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
    assert [is_ascii(each) for each in ("a\\.[b-c]{2,}", "(?:a|b)\\{(?=c)", "\\w", "a.", "[^a]", "(?i)k", "\u20ac",
                                        "[[:alpha:]]{2}", "(abc){e<=1}")] == [True] * 2 + [False] * 7  # fmt: skip


def test_characters_are_those_that_begin_with_these_bytes() -> None:
    begun: dict[bytes, list[int]] = {}
    for place in (*range(0x80, 0xD800), *range(0xE000, 0x110000, 0x1000), 0xFFFF, 0x10FFFF):
        data = chr(place).encode()
        for size in range(1, len(data)):
            begun.setdefault(data[:size], []).append(place)
    for data, places in begun.items():
        assert set(places) <= set(characters(data)), data
        ends = (characters(data)[0], characters(data)[-1])
        assert all(chr(place).encode().startswith(data) for place in ends), data
    assert characters(b"\xed")[-1] == 0xD7FF and len(characters(b"\xf0")) == 0x30000
    assert all(begun[data] == list(characters(data)) for data in (b"\xc3", b"\xe2\x82", b"\xe0", b"\xed"))


@pytest.mark.parametrize(
    ("pattern", "valid", "wrong"),
    [
        ("\u00e9", "\u00e9", "\u0119\u20ac"),
        ("(ja|n\u00f6)", "n\u00f6", "\u0119\u4e00\u20ac"),
        ("[\u4e00-\u9fa5]{3}", "\u4e00\u6c49\u9fa5", "\u20ac\u00e9\U0001f600"),
        ("[^\\x00-\u4fff]", "\u5000", "\u4e00\u00e9"),
        ("(?i)\u00c9\u0160", "\u00e9\u0161", "\u20ac"),
        ("[[:alpha:]]{2}", "\u00e9\u4e00", "\u2028"),
        ("\\d\\s", "\u0663\u2003", "\u4e00"),
        ("(abc){e<=1}", "ab\u00e9", ""),
        ("[\U0001f600-\U0001f64f]", "\U0001f602", "\u20ac\U00010000"),
        (".{0}", "", "\u00e9\u4e00"),
    ],
)
def test_a_character_begins_exactly_where_the_pattern_goes_on_with_one(pattern: str, valid: str, wrong: str) -> None:
    constraint, data = Constraint(Regex(pattern), ""), valid.encode()
    assert all(constraint.viable(data[:size]) for size in range(len(data) + 1)) and constraint.complete(data)
    assert not [letter for letter in wrong if constraint.viable(letter.encode()[:-1])]


def test_a_character_of_a_users_test_is_one_that_it_accepts() -> None:
    asked: list[str] = []

    def viable(text: str) -> bool:
        asked.append(text)
        return "n\u00f6".startswith(text)

    assert can_follow(viable, "n", b"\xc3") and not can_follow(viable, "n", b"\xc4")
    assert not can_follow(viable, "n", b"\xe2") and len(set(asked)) < 5000
    assert can_follow(viable, "n", b"\xf0"), "too many to ask about all"
    assert quote(b" \n\xc3") == repr(b" \n\xc3") and quote("\u00f6 ".encode()) == "'\u00f6 '"
    assert quote(b"a" * 99).startswith("...'aaa")


def test_characters_of_json_are_those_of_its_strings() -> None:
    schema = {"properties": {"a": {"enum": ["\u00fc"]}, "b": {"pattern": "^[\u4e00-\u9fa5]+$"}}}
    test = json_constraint(schema, "")
    possible = {'{"a":"\u00fc': 1, '{"a":"\u0119': 0, '{"b":"\u6c49': 1, '{"b":"\u00e9': 0, '{"c":"\u0119': 1}
    for text, answer in {**possible, "\u0119": 0, "{\u6c49": 0}.items():
        assert test.viable(text.encode()[:-1]) == bool(answer), text


def test_a_pattern_that_takes_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = Constraint(Regex("(a|aa)+[bc]"), "constraint.pattern=P")

    def refusal(text: bytes) -> str:
        with pytest.raises(UserError) as refused:
            constraint.viable(text)
        return str(refused.value)

    monkeypatch.setattr(patterns, "SECONDS", 0.01)
    said = refusal(b"a" * 32 + b"!")
    assert "the pattern takes more than 0.01 seconds for a text" in said and "constraint.pattern=P" in said
    for name in ("SLOW", "PROMPT_SECONDS"):
        monkeypatch.setattr(patterns, name, 0.0)
    assert "the pattern takes more than 0 seconds for the texts of a prompt" in refusal(b"a")


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
    '{"name":"a","kind":null,"tags":[true , false]}',
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
    spaces = {'{"name":"a"} ': 0, '{"name":"a"}\n': 0, " " * 20 + "{": 1, " " * 21 + "{": 0, '{"name"' + "\n" * 21: 0}
    free = json_constraint(PERSON, "", spaces=None)
    for text, possible in spaces.items():
        assert test.viable(text) == bool(possible) and free.viable(text.encode()), text
    assert free.complete(b'{"name":"a"}\n') and not test.complete('{"name":"a"}\n')
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


def test_the_first_values_of_an_array_have_schemas_of_their_own() -> None:
    pair = {"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False}
    older = {"$schema": "http://json-schema.org/draft-07/schema#", "items": pair["prefixItems"],
             "additionalItems": False}  # fmt: skip
    for schema in (pair, older):
        test = json_constraint(schema, "").test
        assert test.complete('["a", 1]') and all(test.viable('["a", 1]'[:size]) for size in range(9))
        assert not any(test.viable(text) for text in ("[1", '["a","', '["a",1,'))
    rest = json_constraint({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, "").test
    assert rest.viable('["a",1,2') and not rest.viable('["a","') and rest.complete("[]")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1", "it is an object, or true or false"), ("null", "it is an object"), ("[]", "it is an object"),
        ('{"$schema": 1}', "it is an object"), ('{"type": "objekt"}', "is no JSON Schema"),
        ('{"properties": {"a": {"$ref": "#/$defs/none"}}}', "its $ref '#/$defs/none' leads nowhere"),
        ('{"items": {"$ref": "https://example.org/x.json"}}', "leads nowhere"),
        ('{"$ref": "#"}', "its $ref '#' leads to itself"), ("{", "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_what_is_no_schema_is_refused_before_anything_is_written(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        build_constraint(JsonConstraint(path=str(path)))
    assert why in str(refused.value) and str(path) in str(refused.value)


def test_a_schema_may_begin_with_a_byte_order_mark_and_refer_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "enum": [{"$ref": "#/none"}, {"next": {}}]}
    path.write_text(json.dumps({**tree, "enum": [{}, {"next": {}}]}), "utf-8-sig")
    assert build_constraint(JsonConstraint(path=str(path))).viable(b'{"next"')
    assert json_constraint(tree, "").viable(b"{")


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
    code.write_text("import sys\ndef viable(text): sys.exit(3)\ndef complete(text): return True")
    assert "the constraint raised SystemExit: 3" in refusal(CodeConstraint(path=str(code)))
    assert build_constraint(SumConstraint()).viable(b"1+1=2")
