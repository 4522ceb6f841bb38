"""Corpora of text in every format, read in shards; what is wrong is told with its place."""

import gzip
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.core.data.text.documents import Documents, Skipped, open_documents
from recipes.core.data.text.shards import MESSAGES_KEPT
from recipes.core.errors import UserError

TEXTS = [f"Document {n}, café number {n}.\n" + "word " * n for n in range(40)]
ROWS = [{"id": n, "text": text, "kind": "odd" if n % 2 else "even"} for n, text in enumerate(TEXTS)]


def lines(rows: list[object]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def make_jsonl(folder: Path) -> Path:
    (folder / "a.jsonl").write_bytes(lines(ROWS))
    return folder / "a.jsonl"


def make_gzip(folder: Path) -> Path:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)))
    return folder / "a.jsonl.gz"


def make_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet", row_group_size=7)
    return folder / "a.parquet"


def make_texts(folder: Path) -> Path:
    (folder / "texts" / "more").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / "texts" / ("more" if number > 20 else "") / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return folder / "texts"


def make_saved(folder: Path) -> Path:
    import datasets

    made = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": made, "test": made.select(range(3))}).save_to_disk(folder / "saved")
    return folder / "saved"


FORMATS = {
    "jsonl": make_jsonl,
    "jsonl-gzip": make_gzip,
    "parquet": make_parquet,
    "text": make_texts,
    "datasets": make_saved,
}


def load(path: Path | str, **changes: object) -> Documents:
    return open_documents(str(path), key="data.path", **changes)  # type: ignore[arg-type]


def refused(path: Path | str, **changes: object) -> str:
    with pytest.raises(UserError) as raised:
        list(load(path, **changes))
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_gives_the_same_documents_however_it_is_cut(tmp_path: Path, name: str) -> None:
    path = FORMATS[name](tmp_path)
    whole = list(load(path))
    assert [document.text for document in whole] == TEXTS
    assert len({document.id for document in whole}) == len(TEXTS)
    for size in (1, 300, 1000):
        cut = load(path, format=name.partition("-")[0], shard_bytes=size)
        assert list(cut) == whole
        assert len({shard.name for shard in cut.shards}) == len(cut.shards)
        assert len(cut.shards) > 1 or name in ("jsonl-gzip", "datasets")
        for shard in cut.shards:
            copy = pickle.loads(pickle.dumps(shard))
            assert list(copy.read()) == list(shard.read())
            assert copy.fingerprint() == shard.fingerprint()
        assert len({shard.fingerprint() for shard in cut.shards}) == len(cut.shards)


def test_ids_say_where_a_document_stands(tmp_path: Path) -> None:
    documents = list(load(make_jsonl(tmp_path)))
    raw = (tmp_path / "a.jsonl").read_bytes()
    for document in documents:
        offset = int(document.id.removeprefix("a.jsonl@"))
        assert json.loads(raw[offset:].split(b"\n")[0])["text"] == document.text
    assert [d.id for d in load(make_parquet(tmp_path), shard_bytes=1)] == [f"a.parquet#{n}" for n in range(40)]
    assert [d.id for d in load(make_texts(tmp_path))][:22:21] == ["00.txt", "more/21.txt"]
    assert [d.id for d in load(make_saved(tmp_path), split="test")] == ["test#0", "test#1", "test#2"]


def test_rows_of_a_saved_data_set_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.core.data.text.documents._DATASET_ROWS", 15)
    cut = load(make_saved(tmp_path))
    assert [len(list(shard.read())) for shard in cut.shards] == [15, 15, 10]
    assert [document.id for document in cut] == [f"train#{n}" for n in range(40)]


@pytest.mark.parametrize("name", ["jsonl", "jsonl-gzip", "parquet", "datasets"])
def test_domains_are_read_from_their_column(tmp_path: Path, name: str) -> None:
    path = FORMATS[name](tmp_path)
    assert {document.domain for document in load(path)} == {""}
    assert [document.domain for document in load(path, domain_column="kind")] == ["even", "odd"] * 20
    text = refused(path, domain_column="knid")
    assert "no column 'knid'" in text and "type data.domain_column=NAME; did you mean kind?" in text


def test_a_folder_holds_any_mix_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    (tmp_path / "b" / ".hidden" / "x.txt").write_text("not this")
    (tmp_path / "readme.md").write_text("not this")
    (tmp_path / "b" / "two.txt").write_text("\ufefftwo", encoding="utf-8")
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines([{"content": "one"}]) + b"\n  \n")
    pq.write_table(pa.table({"document": ["three"]}), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("four")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for format in ("auto", "folder"):
        assert [document.text for document in load(tmp_path, format=format)] == ["one", "two", "three", "four"]
    assert [document.text for document in load(tmp_path, format="text")] == ["two", "four"]
    assert [document.id for document in load(tmp_path, format="jsonl")] == ["a.jsonl@0"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_fingerprint_follows_the_content(tmp_path: Path, name: str) -> None:
    def of(texts: list[str], where: str) -> list[str]:
        folder = tmp_path / where
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "TEXTS", texts)
            patch.setitem(globals(), "ROWS", [{"id": 0, "text": text, "kind": "x"} for text in texts])
            return [shard.fingerprint() for shard in load(FORMATS[name](folder)).shards]

    first = of(TEXTS, "a")
    assert len(first) == 1 and first != of([*TEXTS[:-1], "another"], "b")
    if name != "jsonl-gzip":  # whose header holds a time
        assert first == of(TEXTS, "c")


def test_columns_are_tried_in_order_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"document": "no", "content": "yes", "raw": "raw"}]))
    assert [document.text for document in load(path)] == ["yes"]
    assert [document.text for document in load(path, text_column="raw")] == ["raw"]
    path.write_bytes(lines([{"txet": "x", "url": "y"}]))
    text = refused(path)
    assert "the data has no column 'text' or 'content' or 'document'; its columns are txet, url (a.jsonl)" in text
    assert "type data.text_column=NAME; did you mean txet?" in text
    with pytest.raises(UserError, match=r"data\.text_column: the data has no column 'body'"):
        open_documents(str(path), key="data.source", text_column="body")


BAD = {
    "utf8": (b'{"text": "caf\xe9"}\n', "is not UTF-8 (0xe9 at byte {byte})"),
    "json": (b'{"text": x}\n', "is no JSON (Expecting value at column 10: {{"),
    "deep": (b"[" * 100_000 + b"\n", "is no JSON (nested too deeply: [[["),
    "list": (b'["text"]\n', 'is no JSON object (it is ["text"])'),
    "key": (b'{"txt": "x", "n": 1}\n', "has no 'text'; its keys are txt, n"),
    "number": (b'{"text": 3}\n', "has no string for its text but 3"),
    "null": (b'{"text": null}\n', "has no string for its text but null"),
    "empty": (b'{"text": " \\n\\t"}\n', "has an empty text"),
    "surrogate": (b'{"text": "\\ud83d alone"}\n', "spells half of a surrogate pair"),
}


@pytest.mark.parametrize("name", sorted(BAD))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_bad_line_is_told_with_its_line_and_byte(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / "a.jsonl"
    bad, message = BAD[name]
    start = lines([{"text": "good ünd well"}]) + b"\n"
    path.write_bytes(start + bad + lines([{"text": "\U0001f600"}]))
    text = refused(path, shard_bytes=size)
    place = f"{path}: line 3 (byte {len(start)}) "
    assert place + message.format(byte=len(start) + 13) in text
    assert "mend it, or type data.on_error=skip to leave such documents out" in text
    skipped = Skipped()
    kept = list(load(path, on_error="skip", shard_bytes=size).read(skipped))
    assert [document.text for document in kept] == ["good ünd well", "\U0001f600"]
    assert skipped.count == 1 and skipped.messages[0].startswith(place)


@pytest.mark.parametrize("rest", [b'{"text": "half a sen', b'{"text": "caf\xc3', b'{"tex'])
def test_a_file_that_is_cut_off_is_told(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"text": "good"}]) + rest)
    assert "line 2 (byte 17) is cut off: the file ends inside a" in refused(path)
    path.write_bytes(lines([{"text": "good"}]) + b'{"text": "no newline at the end"}')
    assert len(list(load(path))) == 2


def test_a_file_that_shrinks_is_told(tmp_path: Path) -> None:
    path = make_jsonl(tmp_path)
    documents = load(path)
    path.write_bytes(lines(ROWS[:5]))
    with pytest.raises(UserError, match="the file has become shorter while it was read: it ends at byte"):
        list(documents)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: FileNotFoundError"):
        list(documents)


def test_skipped_are_counted_exactly_and_the_first_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"text": "x"}, *[{"text": ""}] * 50]))
    skipped = Skipped()
    for shard in load(path, on_error="skip", shard_bytes=40).shards:
        mine = Skipped()
        list(shard.read(mine))
        skipped.extend(mine)
    assert skipped.count == 50 and len(skipped.messages) == MESSAGES_KEPT
    assert skipped.messages[-1].endswith(f"line {MESSAGES_KEPT + 1} (byte {14 + 13 * 19}) has an empty text")


def test_no_documents_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"")
    assert f"data.path={path}: there are no documents: every file is empty" in refused(path)
    path.write_bytes(b"\n \n")
    assert "there are no documents" in refused(path)
    path.write_bytes(lines([{"text": ""}, {"text": 1}]))
    text = refused(path, on_error="skip")
    assert "no documents are left: all 2 documents cannot be used" in text and "line 2 (byte 13) has no string" in text
    (tmp_path / "hollow").mkdir()
    text = refused(tmp_path / "hollow")
    assert "the folder holds no documents" in text and ".jsonl, .ndjson, .json, .parquet, .csv, .tsv, .txt" in text
    assert "files end in .parquet" in refused(tmp_path / "hollow", format="parquet")


def test_bad_text_files(tmp_path: Path) -> None:
    path = make_texts(tmp_path)
    (path / "03.txt").write_bytes(b"first\nse\xff")
    (path / "05.txt").write_text(" \n")
    assert f"{path / '03.txt'}: is not UTF-8 (line 2, 0xff at byte 8)" in refused(path)
    skipped = Skipped()
    assert len(list(load(path, on_error="skip").read(skipped))) == 38
    assert skipped.messages[1] == f"{path / '05.txt'}: has an empty text"


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["good", None, ""], "n": [1, 2, 3]})
    pq.write_table(table, path)
    assert f"{path}: row 1 has no string for its text but null" in refused(path)
    skipped = Skipped()
    assert [d.id for d in load(path, on_error="skip").read(skipped)] == ["a.parquet#0"]
    assert skipped.count == 2
    assert "column 'n' holds int64, no text" in refused(path, text_column="n")
    latin = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"text": latin}), path)
    assert "row 1 is not UTF-8 (0xe9 at byte 3 of its text)" in refused(path)
    pq.write_table(table.slice(0, 0), path)
    assert "there are no documents" in refused(path)


@pytest.mark.parametrize("name", ["pool/", "./pool", "~/pool", "/pool", "a/b/c", "a b", "pool.jsonl", "a//b"])
def test_what_is_no_hub_name_is_a_path_that_is_missing(name: str) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        open_documents(name, key="data.path")


@pytest.mark.parametrize("damage", ["no parquet", "cut", "middle"])
def test_corrupt_parquet_is_one_error(tmp_path: Path, damage: str) -> None:
    path = make_parquet(tmp_path)
    raw = path.read_bytes()
    middle = bytearray(raw)
    middle[4:600] = b"\xff" * 596
    path.write_bytes({"no parquet": b"not parquet", "cut": raw[:500], "middle": bytes(middle)}[damage])
    for on_error in ("fail", "skip"):
        assert f"{path}: cannot be read as Parquet: " in refused(path, on_error=on_error)


def test_corrupt_gzip_is_one_error(tmp_path: Path) -> None:
    path = make_gzip(tmp_path)
    raw = path.read_bytes()
    for damaged in (raw[:-20], b"not gzip", raw[:60] + b"\xff" * 40 + raw[100:]):
        path.write_bytes(damaged)
        assert f"{path}: cannot be read as gzip: " in refused(path)


def test_no_such_path_says_what_is_near(tmp_path: Path) -> None:
    make_jsonl(tmp_path)
    text = refused(tmp_path / "b.jsonl")
    assert "b.jsonl: no such file or folder" in text and f"did you mean {tmp_path / 'a.jsonl'}?" in text
    assert f"the path exists up to {tmp_path}" in refused(tmp_path / "x" / "y" / "z.jsonl")
    assert "no such file or folder" in refused(tmp_path / "corpus", format="folder")
    assert "is a file, no folder" in refused(tmp_path / "a.jsonl", format="folder")
    (tmp_path / "notes.md").write_text("hello")
    text = refused(tmp_path / "notes.md")
    assert "is no .jsonl, .ndjson, .json, .parquet, .csv, .tsv or .txt file and no folder" in text
    assert "type data.format=X with one of jsonl, parquet, csv, text, datasets" in text
    assert [document.text for document in load(tmp_path / "notes.md", format="text")] == ["hello"]


def test_a_hub_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def hub(name: str, split: str, streaming: bool) -> object:
        asked.append((name, split, streaming))
        rows = [*ROWS, {"id": 40, "text": None, "kind": "x"}]
        return datasets.IterableDataset.from_generator(lambda: iter(rows))

    monkeypatch.setattr(datasets, "load_dataset", hub)
    [shard] = load("nobody/nothing", on_error="skip", domain_column="kind").shards
    skipped = Skipped()
    assert [document.text for document in shard.read(skipped)] == TEXTS
    assert skipped.messages == ["data.path=nobody/nothing: row 40 of split train has no string for its text but null"]
    assert set(asked) == {("nobody/nothing", "train", True)}
    assert len(shard.fingerprint()) == 64

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("the hub is unreachable")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "`datasets` cannot load split 'train': ConnectionError: the hub is unreachable" in refused("nobody/nothing")


def test_a_missing_split_is_told(tmp_path: Path) -> None:
    text = refused(make_saved(tmp_path), split="tset")
    assert "there is no split 'tset'" in text and "did you mean test?" in text
