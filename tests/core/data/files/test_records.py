"""The same rows in every format are the same in every reader; what is wrong is named, or skipped and counted."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from recipes.alignment.config import PreferencesConfig
from recipes.core.data.config import ImageTextConfig
from recipes.core.data.files.text_tables import JsonTable
from recipes.core.data.images.checks import StoredImage
from recipes.core.data.images.load import load_captions
from recipes.core.data.text.documents import open_documents
from recipes.core.data.text.shards import Skipped
from recipes.core.errors import UserError
from recipes.core.storage import hub
from recipes.pruning.token_pruning.config import VqaConfig
from recipes.pruning.token_pruning.vqa import read_vqa
from tests.alignment.rows import rows_of

# One row serves all readers: what one of them needs is a column that the others ignore.
ROWS: list[dict[str, Any]] = [
    {
        "image": f"{number}.png",
        "caption": f"a crème brûlée, number {number}",
        "question": f"how many, {number}?",
        "answer": "two \U0001f600",
        "text": f'text "{number}"\nwith a second line, and a comma',
        "prompt": f"What is {number}?",
        "chosen": f" thîs {number}",
        "rejected": " that",
    }
    for number in range(6)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    data = tmp_path / "da'ta & more = (1)"
    data.mkdir()
    for number in range(6):
        Image.new("RGB", (4, 4), (number * 40, 0, 0)).save(data / f"{number}.png")
    return data


Seen = tuple[list[Any], int]  # what a reader has read, and how many rows it left out


def pairs(path: Path, **words: Any) -> Seen:
    if "split" in words or path.is_dir():
        words.setdefault("test_fraction", 0.1)  # one split at a time
    rows, bad = rows_of(PreferencesConfig(path=str(path), **words))
    return [(row.prompt, row.chosen, row.rejected) for row in rows], bad


def captions(path: Path, **words: Any) -> Seen:
    data = load_captions(ImageTextConfig(path=str(path), caption_column="caption", **words), 0)
    parts = [(part, index) for part in (data.train, data.test) for index in range(len(part))]
    seen = [(part.caption(i).id, part.caption(i).text, part.image(i)[0, 0].tolist()) for part, i in parts]
    return sorted(seen, key=lambda pair: pair[1]), len(data.skipped)


def documents(path: Path, **words: Any) -> Seen:
    skipped = Skipped()
    opened = open_documents(str(path), key="data.path", **words)
    return [document.text for document in opened.read(skipped)], skipped.count


def questions(path: Path, **words: Any) -> Seen:
    asked = read_vqa(VqaConfig(path=str(path), question_column="question", **words))
    return [(one.question, one.answers, one.pixels()[0, 0].tolist()) for one in asked], -1


READERS: dict[str, Callable[..., Seen]] = {
    "pairs": pairs, "captions": captions, "documents": documents, "questions": questions,
}  # fmt: skip


def lines(rows: list[Any], **words: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, **words).encode() + b"\n" for row in rows)


def jsonl(folder: Path, rows: list[Any]) -> Path:
    (folder / "a=1.jsonl").write_bytes(lines(rows))
    return folder / "a=1.jsonl"


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def saved(folder: Path, rows: list[Any]) -> Path:
    import datasets

    table = datasets.Dataset.from_list(rows)
    entries = [row | {"image": str(folder / row["image"])} for row in rows]
    table = datasets.Dataset.from_list(entries).cast_column("image", datasets.Image())
    table.save_to_disk(folder / "saved")
    return folder / "saved"


def parquet(folder: Path, rows: list[Any], name: str = "a.parquet") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name, row_group_size=2)
    return folder / name


def table(folder: Path, rows: list[Any]) -> Path:
    import csv

    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "a.csv"


def images_inside(folder: Path, rows: list[Any]) -> Path:
    return parquet(folder, [row | {"image": {"bytes": (folder / row["image"]).read_bytes()}} for row in rows])


def sharded(folder: Path, rows: list[Any]) -> Path:
    for part in (0, 1):
        chosen = [row | {"image": str(folder / row["image"])} for row in rows[3 * part : 3 * part + 3]]
        parquet(folder, chosen, f"hub/data/train-0000{part}-of-00002.parquet")
    (folder / "hub/dataset_infos.json").write_text("{}", encoding="utf-8")
    (folder / "hub/README.md").write_text("about", encoding="utf-8")
    return folder / "hub"


FORMATS: dict[str, Callable[[Path, list[Any]], Path]] = {
    "jsonl": jsonl,
    "bom": lambda folder, rows: write(folder, "b.jsonl", b"\xef\xbb\xbf" + lines(rows)),
    "crlf and blank lines": lambda folder, rows: write(folder, "c.ndjson", lines(rows).replace(b"\n", b"\r\n\r\n")),
    "escapes": lambda folder, rows: write(folder, "e.json", "".join(json.dumps(r) + "\n" for r in rows).encode()),
    "array": lambda folder, rows: write(folder, "d.json", json.dumps(rows, ensure_ascii=False, indent=1).encode()),
    "array with bom": lambda folder, rows: write(folder, "f.json", b"\xef\xbb\xbf " + json.dumps(rows).encode()),
    "array in jsonl": lambda folder, rows: write(folder, "g.jsonl", json.dumps(rows).encode()),
    "gzip": lambda folder, rows: write(folder, "h.jsonl.gz", gzip.compress(lines(rows))),
    "array in gzip": lambda folder, rows: write(folder, "i.json.gz", gzip.compress(json.dumps(rows).encode())),
    "parquet": parquet,
    "parquet with images": images_inside,
    "parquet of the hub": sharded,
    "csv": table,
    "saved": saved,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_every_format_gives_every_reader_the_same(reader: str, folder: Path) -> None:
    for name, make in FORMATS.items():
        path = make(folder, ROWS)
        seen, left_out = READERS[reader](path)
        if name == "jsonl":
            expected = seen
            assert len(seen) == len(ROWS)
        assert seen == expected and left_out <= 0, name


# Columns that are nobody's concern, each of which made a library that guesses types refuse a file.
UNUSED = {
    "late": lambda number: {"late": 1} if number > 3 else {},
    "null first": lambda number: {"n": None if number < 3 else [1]},
    "dates": lambda number: {"day": "2024-01-02" if number else "no day"},
    "mixed": lambda number: {"mixed": [1, "x", {"a": 1}, None, 1.5, True][number]},
    "structs": lambda number: {"meta": {"a": number} if number % 2 else {"b": "x"}},
    "long integers": lambda number: {"n": 10 ** (30 * number)},
    "no number": lambda number: {"score": float("nan") if number else float("-inf")},
    "half a pair": lambda number: {"emoji": "\ud83d"},
    "empty key": lambda number: {"": number, " ": {}},
}


def test_places_count_blank_lines(tmp_path: Path) -> None:
    for begin in ("", "\ufeff"):
        file = write(tmp_path, "a.jsonl", f'{begin}\n \t\n{{"a": 1}}\n{{"a": 2}}\n\n\r\n{{"a": 3}}'.encode())
        table = JsonTable(file, "a.jsonl", tmp_path)
        assert [table.place(index) for index in range(len(table))] == ["a.jsonl:3", "a.jsonl:4", "a.jsonl:7"]
        assert [*table.rows(["a"])] == [{"a": 1}, {"a": 2}, {"a": 3}] == [table.row(index) for index in range(3)]
    file = write(tmp_path, "b.json", b'[{"a": 1},\n\n{"a": 2}]')
    assert JsonTable(file, "b.json", tmp_path).place(1) == "b.json row 1"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["lines", "array"])
def test_columns_that_nobody_needs_may_hold_anything(reader: str, form: str, folder: Path) -> None:
    expected = READERS[reader](jsonl(folder, ROWS))
    for name, column in UNUSED.items():
        rows = [row | column(number) for number, row in enumerate(ROWS)]
        text = json.dumps(rows) if form == "array" else "\n".join(json.dumps(row) for row in rows)
        assert READERS[reader](write(folder, "x.json", text.encode())) == expected, name


def spoiled(kind: str) -> bytes:
    """A line that is no good row for any reader."""
    good = json.dumps(ROWS[0]).encode()
    return {
        "latin-1": lines([ROWS[0]]).decode().encode("latin-1", "ignore")[:-1],
        "half a surrogate pair": good.replace(b'"a cr', b'"\\ud83d cr').replace(b" th", b" \\udc00")
        .replace(b"text \\", b"text\\ud800 \\").replace(b"how many", b"how \\ud83d many"),
        "no json": b'{"image": "0.png", caption}',
        "a scalar": b"3.5",
        "a list": b"[1, 2]",
        "a key twice": good[:-1] + b", " + good[1:],
        "another type": json.dumps(dict.fromkeys(ROWS[0], 3)).encode(),
        "nan": b"{" + b", ".join(f'"{name}": NaN'.encode() for name in ROWS[0]) + b"}",
        "null": json.dumps(dict.fromkeys(ROWS[0])).encode(),
        "an object": json.dumps(dict.fromkeys(ROWS[0], {"a": 1})).encode(),
        "cut off": good[: len(good) // 3],
    }[kind]  # fmt: skip


KINDS = (
    "latin-1", "half a surrogate pair", "no json", "a scalar", "a list", "a key twice", "another type", "nan", "null",
    "an object", "cut off",
)  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_line_is_named_or_skipped_and_counted(
    reader: str, kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, _ = READERS[reader](jsonl(folder, ROWS))
    path = write(folder, "bad.jsonl", lines(ROWS) + spoiled(kind))
    if reader == "pairs":  # its rows are judged when they are tokenised, all reasons together
        seen, left_out = pairs(path, on_error="skip")
        judged_later = kind in ("another type", "nan", "null", "an object")
        assert seen[: len(ROWS)] == expected and len(seen) + left_out == len(ROWS) + 1
        assert left_out == (0 if judged_later else 1)
        return
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    text = str(caught.value)
    assert caught.value.exit_code == 2 and "data.on_error=skip" in text
    assert "bad.jsonl:7" in text or f"{path}: line 7 " in text
    seen, left_out = READERS[reader](path, on_error="skip")
    assert seen == expected and left_out in (1, -1)
    assert reader != "questions" or "1 of 7 records were left out: bad.jsonl:7" in capsys.readouterr().err


@pytest.mark.parametrize("reader", READERS)
def test_one_bad_line_of_csv_is_named_or_skipped(reader: str, folder: Path) -> None:
    header, _, rest = table(folder, ROWS).read_bytes().partition(b"\r\n")
    expected, _ = READERS[reader](folder / "a.csv")
    path = write(folder, "bad.csv", header + b'\r\n"a"b' + b",x" * (len(ROWS[0]) - 1) + b"\r\n" + rest)
    if reader != "pairs":  # its rows are judged when they are tokenised, all reasons together
        with pytest.raises(UserError, match="is no CSV"):
            READERS[reader](path)
    seen, left_out = READERS[reader](path, on_error="skip")
    if reader == "captions":  # their ids are numbers of rows
        seen, expected = ([row[1:] for row in part] for part in (seen, expected))
    assert seen == expected and left_out in (1, -1)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_utf8_at_all_is_refused_by_its_name(reader: str, folder: Path) -> None:
    text = lines(ROWS).decode()
    for encoding, name in (("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32-le", "UTF-32")):
        for on_error in ("fail", "skip"):
            path = write(folder, "wide.jsonl", text.encode(encoding))
            with pytest.raises(UserError, match=f"wide.jsonl: is {name}, not UTF-8") as caught:
                READERS[reader](path, on_error=on_error)
            assert f"iconv -f {name} -t UTF-8" in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("kind", "why"), [("latin-1", "is not UTF-8"), ("a scalar", "is no JSON object"), ("cut off", "is ")]
)
def test_where_no_line_can_be_used_the_first_is_named(reader: str, kind: str, why: str, folder: Path) -> None:
    path = write(folder, "all.jsonl", (spoiled(kind) + b"\n") * 3)
    for on_error in ("fail", "skip"):
        with pytest.raises(UserError) as caught:
            READERS[reader](path, on_error=on_error)
        assert why in str(caught.value) and ("all.jsonl:1" in str(caught.value) or "line 1 " in str(caught.value))


DAMAGE = {
    "cut.json": (
        json.dumps(ROWS).encode()[:300],
        "cut.json: is cut off: the file ends inside its list, after record 1",
    ),
    "comma.json": (b'[{"text": "a"} {"text": "b"}]', "damaged in line 1 (byte 15), after record 1: a comma or ]"),
    "rest.json": (
        b'[{"text": "a"}]\n{"text": "b"}',
        "damaged in line 2 (byte 16), after record 1: something follows",
    ),
    "short.json": (b'[{"text": "a"}] x', "damaged in line 1 (byte 16), after record 1: something follows"),
    "object.json": (b'{\n "rows": []\n}', "object.json: is no table: it begins with an object that is spread over"),
    "pointer.jsonl": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a Git LFS pointer, not the data",
    ),
    "half.jsonl.gz": (gzip.compress(lines(ROWS))[:-30], "half.jsonl.gz: cannot be read as gzip: "),
    "no.jsonl.gz": (b"plain text", "no.jsonl.gz: cannot be read as gzip: "),
    "no.parquet": (b"PAR1 and no more", "no.parquet: cannot be read as Parquet: "),
    "quote.csv": (b'text,n\n"open,1\n', "quote.csv: line 2 is no CSV: unexpected end of data"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_error(reader: str, name: str, folder: Path) -> None:
    content, message = DAMAGE[name]
    path = write(folder, name, content)
    for on_error in ("fail", "skip"):
        with pytest.raises(UserError) as caught:
            READERS[reader](path, on_error=on_error)
        assert message in str(caught.value)


def named(rows: list[Any], folder: Path) -> list[Any]:
    return [row | {"image": str(folder / row["image"])} for row in rows]


LAYOUTS = {
    "files": ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
    "dots": ("pairs.v2.train.jsonl", "pairs.v2.test.jsonl"),
    "names": ("pairs_train.jsonl", "pairs-test.jsonl"),
    "years": ("captions_train2017.json", "captions_test2017.json"),
    "folders": ("train/a.jsonl", "test/a.jsonl"),
    "the hub's": ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    "the hub's conversion": ("default/train/0000.parquet", "default/test/0000.parquet"),
    "csv": ("train.csv", "test.csv"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_split_is_kept(reader: str, layout: str, folder: Path) -> None:
    read, root = READERS[reader], folder / "set"
    for rows, name in zip((ROWS[:4], ROWS[4:]), LAYOUTS[layout], strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("parquet"):
            parquet(root, named(rows, folder), name)
        elif name.endswith("csv"):
            table(folder, named(rows, folder)).rename(root / name)
        else:
            (root / name).write_bytes(lines(named(rows, folder)))
    train, test = (read(jsonl(folder, named(rows, folder)))[0] for rows in (ROWS[:4], ROWS[4:]))
    if reader == "captions":  # both are read, each on its side
        data = load_captions(ImageTextConfig(path=str(root), caption_column="caption"), 0)
        assert (len(data.train), len(data.test)) == (4, 2)
        assert data.test.caption(0).text == ROWS[4]["caption"] and data.test.caption(0).id == "test-row-0"
        data = load_captions(ImageTextConfig(path=str(root), caption_column="caption", test_fraction=0.25), 0)
        assert (len(data.train), len(data.test)) == (3, 1)
    else:
        assert read(root, split="train")[0] == train and read(root, split="test")[0] == test
        assert read(root)[0] == (test if reader == "questions" else train)
    with pytest.raises(UserError, match="there is no split 'validation'; the data has test, train"):
        read(root, split="validation")
    (root / "more.jsonl").write_bytes(lines(ROWS[:1]))
    with pytest.raises(UserError, match=r"more.jsonl belongs to no split|several formats"):
        read(root, split="train")
    (root / "more.jsonl").unlink()
    everything, _ = read(root, split="all")
    assert len(everything) == len(ROWS)


@pytest.mark.parametrize("reader", READERS)
def test_data_without_splits_is_all_train(reader: str, folder: Path) -> None:
    path = jsonl(folder, ROWS)
    assert READERS[reader](path, split="train") == READERS[reader](path)
    with pytest.raises(UserError, match="there is no split 'test': the data has no splits"):
        READERS[reader](path, split="test")


def test_texts_whose_names_all_tell_a_split_keep_it(folder: Path) -> None:
    (folder / "texts").mkdir()
    for name in ("wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"):
        write(folder / "texts", name, name.encode())
    assert documents(folder / "texts")[0] == ["wiki.train.txt"]
    assert documents(folder / "texts", split="test")[0] == ["wiki.test.txt"]
    write(folder / "texts", "faith.txt", b"one more")  # now all are documents, each with a name
    assert len(documents(folder / "texts")[0]) == 4


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["main/train.jsonl", "socratic/train.jsonl"], "main, socratic"),
        (["main/train.jsonl", "main/test.jsonl", "socratic/train.jsonl", "socratic/test.jsonl"], "main, socratic"),
        (["a/one_train.jsonl", "a/one_test.jsonl", "b/two_train.jsonl", "b/two_test.jsonl"], "a, b"),
        (["main/train/0.jsonl", "socratic/train/0.jsonl"], "main, socratic"),  # as the hub converts them to Parquet
        (["main/train-00000-of-00001.jsonl", "socratic/train-00000-of-00002.jsonl"], "main, socratic"),
        (["train.jsonl", "raw/train.jsonl"], "., raw"),
        (["x/en/train.jsonl", "x/de/train.jsonl"], "x/de, x/en"),
    ],
)
def test_two_data_sets_in_one_folder_are_not_one(names: list[str], folders: str, folder: Path) -> None:
    data = folder / "set"
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        write(data, name, lines(ROWS))
    with pytest.raises(
        UserError, match=f"holds several data sets with the same split, in {re.escape(folders)}"
    ) as error:
        pairs(data)
    one = str(error.value.hint).removeprefix("type data.path=").partition(" for one of them")[0]
    assert len(pairs(Path(one))[0]) == len(ROWS)
    assert "data.split=all reads everything" in str(error.value.hint)
    assert len(pairs(data, split="all")[0]) == len(ROWS) * len(names)


@pytest.mark.parametrize(
    "names",
    [
        ["train/2023/01/x.jsonl", "train/2023/02/x.jsonl"],
        ["2023/01/x.jsonl", "2024/01/x.jsonl"],
        ["a/train-00000-of-00002.jsonl", "b/train-00001-of-00002.jsonl"],
        ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"],
        ["2023/train_1.jsonl", "2024/train_2.jsonl"],
        ["train/main.jsonl", "train/extra.jsonl", "test/main.jsonl"],
    ],
)
def test_parts_of_a_split_in_several_folders_are_one(names: list[str], folder: Path) -> None:
    for name in names:
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / "set", name, lines(ROWS))
    assert len(pairs(folder / "set")[0]) == len(ROWS) * sum("test" not in name for name in names)


@pytest.mark.parametrize("reader", READERS)
def test_a_needed_column_may_appear_late(reader: str, folder: Path) -> None:
    needed = {"pairs": "chosen", "captions": "caption", "documents": "text", "questions": "question"}[reader]
    rows = [{name: value for name, value in ROWS[0].items() if name != needed}, *ROWS[1:]]
    seen, left_out = READERS[reader](jsonl(folder, rows), on_error="skip")
    expected, _ = READERS[reader](write(folder, "rest.jsonl", lines(ROWS[1:])))
    without_ids = (lambda rows: [row[1:] for row in rows]) if reader == "captions" else list
    assert without_ids(seen)[-5:] == without_ids(expected)
    assert len(seen) == (6 if reader == "pairs" else 5) and left_out in (0, 1, -1)


@pytest.mark.parametrize(
    ("written", "answers"),
    [
        ("1234567", ("1234567",)),
        ("0.10", ("0.10",)),
        ("1e3", ("1000", "1e3")),
        ("3.0", ("3", "3.0")),
        ("-0.000001", ("-0.000001",)),
        ("12345678901234567890", ("12345678901234567890",)),
        ('["2", 2.50]', ("2", "2.50")),
    ],
)
def test_numbers_in_answers_keep_their_digits(written: str, answers: tuple[str, ...], folder: Path) -> None:
    row = json.dumps({"image": "0.png", "question": "how much?"})[:-1] + f', "answer": {written}}}\n'
    [asked] = read_vqa(VqaConfig(path=str(write(folder, "n.jsonl", row.encode()))))
    assert asked.answers == answers


def test_numbers_of_parquet_are_as_short_as_they_are_exact(folder: Path) -> None:
    values = {"float": pa.array([0.1, 1234567], pa.float32()), "double": pa.array([0.1, 1234567], pa.float64())}
    values["decimal"] = pa.array([Decimal("0.1"), Decimal("1234567.0")], pa.decimal128(9, 1))
    for kind, column in values.items():
        table = pa.table({"image": ["0.png", "1.png"], "question": ["?", "?"], "answer": column})
        pq.write_table(table, folder / f"{kind}.parquet")
        answers = [asked.answers for asked in read_vqa(VqaConfig(path=str(folder / f"{kind}.parquet")))]
        assert answers == [("0.1",), ("1234567", "1234567.0")]


@pytest.mark.parametrize("value", [True, False, [True], {"text": "two"}, float("inf")])
def test_answers_that_are_no_answers_are_named(value: Any, folder: Path) -> None:
    path = jsonl(folder, [ROWS[0] | {"answer": value}])
    with pytest.raises(UserError, match="a=1.jsonl:1: it(s answer is| has no answer)"):
        read_vqa(VqaConfig(path=str(path)))


def test_places_that_cannot_be_written_are_named_and_not_the_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "no-home").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("STEELYARD_HOME", str(folder / "no-home"))
    for path in (jsonl(folder, ROWS), images_inside(folder, ROWS)):
        with pytest.raises((UserError, OSError)) as caught:
            captions(path)
        assert "no-home" in str(caught.value) and path.name not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_the_home_of_nobody_is_a_path_that_is_not_there(reader: str, folder: Path) -> None:
    with pytest.raises(UserError, match="data.path=~nobody-here/a.jsonl: no such file or folder"):
        READERS[reader](Path("~nobody-here/a.jsonl"))


@pytest.mark.parametrize("name", ["~nobody-here/a.png", "iVBORw0KGgo" * 50_000])
def test_what_cannot_be_the_name_of_an_image_is_told_shortly(name: str, folder: Path) -> None:
    path = jsonl(folder, [*ROWS, ROWS[0] | {"image": name}])
    for read in (captions, questions):
        with pytest.raises(UserError, match="a=1.jsonl:7: ") as caught:
            read(path)
        assert len(str(caught.value)) < 1000
        assert read(path, on_error="skip")[1] in (1, -1)


def test_a_home_sign_and_links_in_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    expected = pairs(jsonl(folder, ROWS))
    assert pairs(Path("~/a=1.jsonl")) == expected
    (folder / "far").mkdir()
    (folder / "far" / "train.jsonl").symlink_to(folder / "a=1.jsonl")
    (folder / "near").mkdir()
    (folder / "near" / "data").symlink_to(folder / "far")
    (folder / "far" / "loop").symlink_to(folder / "far")
    assert pairs(folder / "near") == expected


def test_a_link_to_nothing_is_told(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "a.jsonl").write_bytes(lines(ROWS))
    (folder / "set" / "b.jsonl").symlink_to(folder / "gone.jsonl")
    with pytest.raises(UserError, match=r"b.jsonl: is a link to a file that is not there"):
        pairs(folder / "set")


def test_questions_read_images_when_they_are_needed(folder: Path) -> None:
    asked = read_vqa(VqaConfig(path=str(images_inside(folder, ROWS)), question_column="question"))
    assert all(isinstance(one.image, StoredImage) for one in asked)
    assert [one.pixels()[0, 0, 0] for one in asked] == [40 * number for number in range(6)]


def test_splits_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    splits = {"train": ROWS[:3], "test": ROWS[3:], "validation": ROWS[:2]}

    def hub(name: str, split: str, **_: Any) -> Any:
        assert name == "owner/name"
        table = datasets.Dataset.from_list(named(splits[split], folder)).cast_column("image", datasets.Image())
        table.info.splits = datasets.SplitDict({word: datasets.SplitInfo(word) for word in splits})
        return table

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, revision: list(splits))
    rows, _ = rows_of(PreferencesConfig(path="owner/name"))
    assert [row.held_out for row in rows] == [False] * 3 + [True] * 3 and rows[3].id == "test row 0"
    data = load_captions(ImageTextConfig(path="owner/name", caption_column="caption"), 0)
    assert (len(data.train), len(data.test)) == (3, 3) and data.test.image(0)[0, 0, 0] == 120
    assert len(read_vqa(VqaConfig(path="owner/name", question_column="question"))) == 3
    assert len(read_vqa(VqaConfig(path="owner/name", question_column="question", split="validation"))) == 2


def test_saved_splits_are_kept(folder: Path) -> None:
    import datasets

    parts = {
        name: datasets.Dataset.from_list(named(rows, folder)) for name, rows in (("train", ROWS[:4]), ("test", ROWS))
    }
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    rows, _ = rows_of(PreferencesConfig(path=str(folder / "saved")))
    assert [row.held_out for row in rows] == [False] * 4 + [True] * 6
    assert len(read_vqa(VqaConfig(path=str(folder / "saved"), question_column="question"))) == 6
    assert len(documents(folder / "saved")[0]) == 4


def test_a_saved_data_set_counts_by_what_its_files_hold(folder: Path) -> None:
    """Not by the fingerprint that `datasets` wrote beside them, which survives a change."""
    before, _ = captions(saved(folder, ROWS))
    state = (folder / "saved" / "state.json").read_bytes()
    shutil.rmtree(folder / "saved")
    path = saved(folder, [row | {"caption": f"new: {row['caption']}"} for row in ROWS])
    (path / "state.json").write_bytes(state)
    assert captions(path)[0] != before


@pytest.fixture
def hub_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`datasets` with six rows under every name, streamed where asked; returns what it was asked for."""
    import datasets

    asked: list[dict[str, Any]] = []

    def load(path: str, split: str, streaming: bool = False, **options: Any) -> Any:
        asked.append({"path": path, "split": split, **options})
        rows = datasets.Dataset.from_list(named(ROWS, folder)).cast_column("image", datasets.Image())
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, **_: ["train"])
    monkeypatch.setattr(hub, "commit", lambda *_: hub.Commit("c" * 40, True))
    return asked


def test_a_hub_data_set_is_named_with_subset_and_revision(hub_rows: list[dict[str, Any]]) -> None:
    assert len(rows_of(PreferencesConfig(path="owner/name:small@v2"))[0]) == 6
    assert hub_rows == [{"path": "owner/name", "split": "train", "name": "small", "revision": "c" * 40}]


def test_a_stream_holds_the_same_rows(hub_rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    streamed, stored = (PreferencesConfig(path="owner/name", format=form, limit=4) for form in ("stream", "datasets"))
    assert rows_of(streamed) == rows_of(stored) and len(rows_of(streamed)[0]) == 4
    seen = [captions(Path("owner/name"), format=form, limit=5, test_fraction=0.4)[0] for form in ("stream", "datasets")]
    assert seen[0] == seen[1] and len(seen[0]) == 5


def test_files_are_no_stream(folder: Path) -> None:
    path = write(folder, "all.jsonl", b"{}")
    with pytest.raises(UserError, match="is no name of a data set on the hub, and only those are read as a stream"):
        rows_of(PreferencesConfig(path=str(path), format="stream"))


def test_without_network_another_revision_is_not_taken(
    hub_rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "commit", lambda *_: hub.Commit("c" * 40, False))
    assert len(rows_of(PreferencesConfig(path="owner/name"))[0]) == 6
    stored = SimpleNamespace(cache_files=[{"filename": f"/cache/{'b' * 40}/data.arrow"}])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stored)
    with pytest.raises(UserError, match="without network only the revision that was downloaded last can be had"):
        rows_of(PreferencesConfig(path="owner/name@v2"))
