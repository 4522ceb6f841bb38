"""A user's YAML file: what its scalars are, and everything that may be wrong with it, with its line."""

from pathlib import Path

import pytest

from recipes.core.config.yaml_file import read_yaml_file
from recipes.core.errors import UserError


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(folder: Path, content: str) -> dict:
    read = read_yaml_file(file(folder, content))
    assert not read.problems
    return {entry.key: entry.value for entry in read.entries}


def test_nested_and_dotted_keys_are_the_same(tmp_path):
    text = "\ufefftrainer:\r\n  max_steps: 5\r\n  device: cpu\r\ntrainer.seed: 1  # more\r\n"
    assert values(tmp_path, text) == {"trainer.max_steps": 5, "trainer.device": "cpu", "trainer.seed": 1}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-3", 0.003), ("1.", 1.0), (".5", 0.5), ("-2E4", -2e4), ("7", 7), ("007", 7), ("1_000", "1_000"),
        ("1:30", "1:30"), ("2024-11-05", "2024-11-05"), ("yes", "yes"), ("on", "on"), ("True", True), ("null", None),
        ("~", None), ("", None), ("'5'", "5"), ("a b", "a b"), ("[1, x, 2.5]", [1, "x", 2.5]), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_are_what_hydra_reads(written, value, tmp_path):
    assert values(tmp_path, f"key: {written}\n") == {"key": value}


def test_how_a_plain_scalar_was_written_is_kept(tmp_path):
    read = read_yaml_file(file(tmp_path, "a: 2024_11\nb: 1e3\nc: '1e3'\n"))
    assert [entry.raw for entry in read.entries] == ["2024_11", "1e3", None]


def test_an_alias_is_what_it_stands_for(tmp_path):
    assert values(tmp_path, "a: &x {b: 1}\nc: *x\n") == {"a.b": 1, "c.b": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"mine.yaml: is empty"),
        ("# nothing\n", r"mine.yaml: is empty"),
        ("null\n", r"line 1: holds a single value, not keys with values"),
        ("# a\n- x\n", r"line 2: holds a list, not keys with values"),
        ("a:\n\tb: 1\n", r"line 2: begins with a tab\n  YAML is indented with blanks"),
        ("a: 1\nb: [1\nc: 2\n", r"line 3: is no YAML"),
        ("a: 1\n---\nb: 1\n", r"line 2: begins a second document"),
        (b"a: 1\nb: caf\xe9\n", r"line 2: is not UTF-8: byte 0xe9\n  save the file as UTF-8"),
        (b"a: \x00\n", r"holds a character that YAML has not"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply|is no YAML"),
        ("a: &a [x]\n" + "".join(f"b{i}: &b{i} {{p: *{'b' + str(i - 1) if i else 'a'}, q: *{'b' + str(i - 1) if i else 'a'}}}\n" for i in range(20)), "holds more than 10,000 keys"),  # noqa: E501
        ("a: 1" + " " * 2**20, "is no config: it has 1,048,580 bytes"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_yaml_file(file(tmp_path, content))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="none.yaml: there is no such file"):
        read_yaml_file(tmp_path / "none.yaml")
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=f"is a folder\n  type --config {tmp_path}/config.yaml"):
        read_yaml_file(tmp_path)


def test_all_that_is_wrong_with_keys_and_values_is_collected_with_its_line(tmp_path):
    text = (
        "a: 1\na: 2\nb: {c: 1}\nb.c: 3\n<<: {d: 1}\n1 x: 2\ne: {}\nf: [[1]]\ng: !!set {a}\nh: !mine x\nok: &o {p: *o}\n"
    )
    assert [str(one).replace(f"{tmp_path}/", "") for one in read_yaml_file(file(tmp_path, text)).problems] == [
        "mine.yaml, line 2: a: is set before, in line 1",
        "mine.yaml, line 4: b.c = 3: is set before, in line 3",
        "mine.yaml, line 5: <<: is no key; << is not read here",
        "mine.yaml, line 6: 1 x: is no key, as trainer.max_steps is one",
        "mine.yaml, line 7: e: sets nothing; write e: {NAME: VALUE}",
        "mine.yaml, line 8: f: is a list of other things than values",
        "mine.yaml, line 9: g: has a tag (!!set); write the value alone",
        "mine.yaml, line 10: h: has a tag (!mine); write the value alone",
        "mine.yaml, line 11: ok.p: holds itself",
    ]
