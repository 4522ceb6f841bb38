"""Real corpora in every format, made by the tests; what is wrong is told before training."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from recipes.core.data.config import ImageTextConfig
from recipes.core.data.images import caption_rows, checks
from recipes.core.data.images.captions import CaptionData
from recipes.core.data.images.decoding import decode
from recipes.core.data.images.image_text import split_by_image
from recipes.core.data.images.load import load_captions
from recipes.core.data.images.sources import detect_format
from recipes.core.errors import UserError

COUNT = 10


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder `data/pictures` of ten images; the number of an image is its red value / 10."""
    folder = tmp_path / "data" / "pictures"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        Image.new("RGB", (6, 4), (10 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


def rows() -> list[dict[str, str]]:
    return [{"image": f"pictures/{n}.png", "caption": f"red is {10 * n} here"} for n in range(COUNT)]


def write_jsonl(images: Path, entries: list[dict[str, object]], name: str = "pairs.jsonl") -> Path:
    path = images.parent / name
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def make_jsonl(images: Path) -> Path:
    return write_jsonl(images, rows())


def make_parquet_paths(images: Path) -> Path:
    path = images.parent / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows()), path)
    return path


def make_parquet_bytes(images: Path) -> Path:
    folder = images.parent / "shards"
    folder.mkdir()
    for start in (0, 5):
        chosen = rows()[start : start + 5]
        pixels = [{"bytes": (images.parent / row["image"]).read_bytes(), "path": None} for row in chosen]
        entries = [{"image": image, "text": row["caption"]} for image, row in zip(pixels, chosen, strict=True)]
        pq.write_table(pa.Table.from_pylist(entries), folder / f"part-{start}.parquet")
    return folder


def make_sidecars(images: Path) -> Path:
    for number, row in enumerate(rows()):
        (images / f"{number}.txt").write_text(row["caption"] + "\n", encoding="utf-8")
    return images


def make_metadata(images: Path) -> Path:
    entries = [{"file_name": f"{n}.png", "text": row["caption"]} for n, row in enumerate(rows())]
    write_jsonl(images, entries, "pictures/metadata.jsonl")
    return images


def make_llava(images: Path) -> Path:
    entries = [
        {
            "id": str(number),
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": "<image>\nProvide a brief description of the given image."},
                {"from": "gpt", "value": row["caption"]},
            ],
        }
        for number, row in enumerate(rows())
    ]
    path = images.parent / "blip.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def make_saved_dataset(images: Path) -> Path:
    import datasets

    table = {"image": [str(images / f"{n}.png") for n in range(COUNT)], "caption": [row["caption"] for row in rows()]}
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": made, "validation": made.select(range(3))}).save_to_disk(images.parent / "saved")
    return images.parent / "saved"


FORMATS = {
    "jsonl": make_jsonl,
    "parquet": make_parquet_paths,
    "parquet-bytes": make_parquet_bytes,
    "folder": make_sidecars,
    "folder-metadata": make_metadata,
    "llava": make_llava,
    "datasets": make_saved_dataset,
}


def load(path: Path | str, run_seed: int = 0, **changes: object) -> CaptionData:
    return load_captions(ImageTextConfig(path=str(path), **changes), run_seed)  # type: ignore[arg-type]


def refused(path: Path | str, **changes: object) -> str:
    with pytest.raises(UserError) as raised:
        load(path, **changes)
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_gives_the_same_pairs(images: Path, name: str) -> None:
    path = FORMATS[name](images)
    for format in ("auto", name.partition("-")[0]):
        data = load(path, format=format, test_fraction=0.2)
        assert (len(data.train), len(data.test)) == (8, 2)
        seen = []
        for split in (data.train, data.test):
            for index in range(len(split)):
                image, caption = split.image(index), split.caption(index)
                assert image.shape == (4, 6, 3) and image.dtype == np.uint8
                assert caption.text == f"red is {image[0, 0, 0]} here" and caption.spans == ()
                assert split.label(index) is None
                seen.append(caption)
        assert len({caption.id for caption in seen}) == len({caption.group for caption in seen}) == COUNT
        assert data.label_names == () and data.questions == () and data.skipped == ()


def test_the_data_seed_chooses_the_test_images(images: Path) -> None:
    path = make_jsonl(images)

    def test_texts(**changes: object) -> list[str]:
        test = load(path, test_fraction=0.5, **changes).test
        return [test.caption(i).text for i in range(len(test))]

    assert test_texts() == test_texts(run_seed=1) == test_texts(seed=None, run_seed=0)
    assert test_texts(seed=1) == test_texts(seed=None, run_seed=1) != test_texts()
    data = load(path)
    assert data.train.fingerprint() == load(path).train.fingerprint() != data.test.fingerprint()


def test_captions_of_one_image_stay_on_one_side(images: Path) -> None:
    entries = [{"image": f"pictures/{n}.png", "caption": f"view {v}"} for n in range(COUNT) for v in range(5)]
    data = load(write_jsonl(images, entries), test_fraction=0.3)
    groups = [{split.caption(i).group for i in range(len(split))} for split in (data.train, data.test)]
    assert (len(groups[0]), len(groups[1])) == (7, 3) and not groups[0] & groups[1]
    assert len(data.test) == 15


def test_split_by_image_keeps_at_least_one_test_image() -> None:
    train, test = split_by_image(np.array([0, 0, 4]), 0.01, 0)
    assert len(test) >= 1 and sorted([*train, *test]) == [0, 1, 2]
    assert {0, 1} <= set(train) or {0, 1} <= set(test)


def test_a_published_test_split_is_used(images: Path) -> None:
    data = load(make_saved_dataset(images), test_split="validation")
    assert (len(data.train), len(data.test)) == (10, 3)
    assert data.test.caption(0).id == "test-row-0"
    text = refused(images.parent / "saved", test_split="validatoin")
    assert "there is no split 'validatoin'" in text and "did you mean validation?" in text
    assert "leave out data.test_split" in refused(make_jsonl(images), test_split="validation")


def test_limit_reads_the_first_examples(images: Path) -> None:
    for make in (make_jsonl, make_sidecars):
        data = load(make(images), limit=4, test_fraction=0.5)
        assert {split.caption(i).text for split in (data.train, data.test) for i in range(2)} == {
            f"red is {10 * n} here" for n in range(4)
        }


def test_a_missing_column_is_named_with_what_was_found(images: Path) -> None:
    path = write_jsonl(images, [{"image": "pictures/0.png", "captoin": "x", "width": 3}])
    text = refused(path)
    assert (
        "no column 'caption' or 'text' or 'captions' or 'conversations'; its columns are image, captoin, width" in text
    )
    assert "type data.caption_column=NAME; did you mean captoin?" in text
    assert (
        load(write_jsonl(images, [r | {"alt": "y"} for r in rows()]), caption_column="alt").train.caption(0).text == "y"
    )
    assert "no column 'pixels'" in refused(path, image_column="pixels")


def test_bad_images_are_all_collected_and_the_first_five_named(images: Path) -> None:
    path = make_jsonl(images)
    for number in range(6):
        (images / f"{number}.png").unlink()
    (images / "7.png").write_text("not an image")
    text = refused(path)
    assert "7 of 10 examples cannot be used" in text
    assert text.count("no such file") == 5 and "pairs.jsonl:5: " in text and "pairs.jsonl:6: " not in text
    assert "and 2 more" in text and "data.on_error=skip" in text


def test_skipping_counts_what_it_leaves_out(images: Path) -> None:
    entries = rows()
    entries[3]["caption"] = "  "
    path = write_jsonl(images, entries)
    (images / "7.png").write_text("not an image")
    data = load(path, on_error="skip")
    assert len(data.train) + len(data.test) == 8
    assert data.skipped == ("pairs.jsonl:4: its caption is empty", f"pairs.jsonl:8: {images / '7.png'}: not an image")
    assert not {"row-3", "row-7"} & {data.train.caption(i).id for i in range(len(data.train))}


def test_a_png_with_a_wrong_checksum_is_found(images: Path) -> None:
    path = make_jsonl(images)
    raw = bytearray((images / "2.png").read_bytes())
    raw[raw.index(b"IDAT") + 6] ^= 0xFF
    (images / "2.png").write_bytes(raw)
    assert "2.png: damaged image" in refused(path)


def test_a_mended_image_is_looked_at_again(images: Path) -> None:
    path = make_jsonl(images)
    good = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(b"")
    assert "2.png: not an image" in refused(path)
    (images / "2.png").write_bytes(good)
    before = load(path).train.fingerprint()
    Image.new("RGB", (6, 4), "blue").save(images / "2.png")
    assert load(path).train.fingerprint() != before


def test_images_that_are_cut_off_are_found_before_training(images: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("jpg", "webp", "gif", "tif", "bmp"):
        Image.fromarray(noise).save(images / f"half.{kind}")
        raw = (images / f"half.{kind}").read_bytes()
        (images / f"half.{kind}").write_bytes(raw[: len(raw) // 2])
        path = write_jsonl(images, [*rows(), {"image": f"pictures/half.{kind}", "caption": "noise"}])
        assert f"pairs.jsonl:11: {images / f'half.{kind}'}: " in refused(path)
        assert len(load(path, on_error="skip").skipped) == 1
    pixels = {"bytes": (images / "half.jpg").read_bytes(), "path": None}
    table = [{"image": {"bytes": (images / f"{n}.png").read_bytes(), "path": None}, "text": "red"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist([*table, {"image": pixels, "text": "x"}]), images.parent / "half.parquet")
    assert "half.parquet row 3: damaged image (" in refused(images.parent / "half.parquet")


def test_an_image_that_changes_during_the_run_is_named(images: Path) -> None:
    data = load(make_jsonl(images))
    for file in images.iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=r"\d\.png: the image cannot be decoded"):
        data.train.image(0)


def test_empty_and_absent_captions_are_told(images: Path) -> None:
    entries = rows()
    entries[1]["caption"] = ""
    assert "pairs.jsonl:2: its caption is empty" in refused(write_jsonl(images, entries))
    path = make_llava(images)
    entries = json.loads(path.read_text())
    entries[2]["conversations"].pop()
    path.write_text(json.dumps(entries))
    assert "blip.json row 2: its conversation has no answer from gpt" in refused(path)
    assert "caption is no text but 3" in refused(write_jsonl(images, [r | {"caption": 3} for r in rows()]))


def test_sidecars_that_are_missing_or_not_utf8_are_told(images: Path) -> None:
    make_sidecars(images)
    (images / "4.txt").unlink()
    (images / "5.txt").write_bytes("caf\xe9".encode("latin-1"))
    text = refused(images)
    assert "4.png has no caption: 4.txt cannot be read or is missing" in text
    assert "5.png has a caption 5.txt that is not UTF-8 (line 1, 0xe9 at byte 3)" in text
    assert len(load(images, on_error="skip").skipped) == 2


def test_files_that_cannot_be_read_are_told(images: Path) -> None:
    base = images.parent
    (base / "latin.jsonl").write_bytes('{"image": "a.png", "caption": "ok"}\n{"caption": "café"}\n'.encode("latin-1"))
    assert "latin.jsonl:2 is not UTF-8 (0xe9 at byte 52)" in refused(base / "latin.jsonl")
    (base / "broken.jsonl").write_text('{"image": "a.png", "caption": "ok"}\n{"image": \n')
    assert 'broken.jsonl:2 is no JSON (Expecting value at column 12: {"image":)' in refused(base / "broken.jsonl")
    (base / "empty.jsonl").write_text("")
    assert "the file is empty" in refused(base / "empty.jsonl")
    (base / "fake.parquet").write_text("not parquet")
    assert "cannot be read as Parquet" in refused(base / "fake.parquet")
    (base / "hollow").mkdir()
    assert "the folder holds no images" in refused(base / "hollow")
    assert "the folder holds no records" in refused(base / "hollow", format="parquet")
    (base / "notes.md").write_text("hello")
    assert "is no .jsonl, .ndjson, .json, .parquet, .csv or .tsv file and no folder" in refused(base / "notes.md")
    assert "no such file or folder" in refused(base / "absent.jsonl")
    assert "no such file or folder" in refused(base / "absent", format="folder")


def test_one_image_is_not_enough(images: Path) -> None:
    text = refused(write_jsonl(images, rows()[:1]))
    assert "0 examples are left to train on and 1 to test on" in text


def test_auto_takes_a_short_name_for_a_hub_name(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect_format("nobody/nothing", Path("nobody/nothing")) == "datasets"
    jsonl_in_json = images.parent / "lines.json"
    jsonl_in_json.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    assert len(load(jsonl_in_json).train) == COUNT - 1
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("the hub is unreachable")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    text = refused("nobody/nothing")
    assert "`datasets` cannot load split 'train': ConnectionError: the hub is unreachable" in text


def test_decoding_is_upright_on_white_and_rgb(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 255, 255))
    clear.save(tmp_path / "clear.png")
    image = decode(tmp_path / "clear.png")
    assert image[0, 0].tolist() == [0, 0, 255] and image[1, 1].tolist() == [255, 255, 255]
    Image.fromarray(np.array([[0, 200]], np.uint8)).save(tmp_path / "gray.png")
    assert decode(tmp_path / "gray.png").tolist() == [[[0] * 3, [200] * 3]]
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned by 90 degrees
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg").shape == (4, 2, 3)


def test_images_are_not_kept_in_memory(images: Path) -> None:
    data = load(make_parquet_bytes(images))
    parts = data.train._source.table.tables  # type: ignore[attr-defined]
    assert all(part._file.is_file() for part in parts)  # mapped from the disk
    copy = pickle.loads(pickle.dumps(data.train))
    assert copy.image(3).tolist() == data.train.image(3).tolist() and copy.caption(3) == data.train.caption(3)


def test_several_captions_of_an_image(images: Path) -> None:
    entries: list[dict[str, object]] = [
        {"image": f"pictures/{n}.png", "captions": [f"red is {10 * n}", f"again {n}"]} for n in range(4)
    ]
    path = write_jsonl(images, [*entries, {"image": "pictures/4.png", "captions": "alone"}])
    text = refused(path)
    assert "4 of 5 examples cannot be used" in text and "pairs.jsonl:1: it has a list of 2 captions" in text
    assert "type data.captions=all for one example each, or first" in text
    for captions, count in (("all", 9), ("first", 5)):
        data = load(path, captions=captions, test_fraction=0.4)
        parts = [(part, index) for part in (data.train, data.test) for index in range(len(part))]
        captions_of_both = [part.caption(index) for part, index in parts]
        assert len(captions_of_both) == len({caption.id for caption in captions_of_both}) == count
        assert ({"again 0", "again 3"} <= {caption.text for caption in captions_of_both}) == (captions == "all")
        groups = [{part.caption(i).group for i in range(len(part))} for part in (data.train, data.test)]
        assert (len(groups[0]), len(groups[1])) == (3, 2) and not groups[0] & groups[1]
        for part, index in parts:
            red = part.image(index)[0, 0, 0]
            assert part.caption(index).text in (f"red is {red}", f"again {red // 10}", "alone")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "sidecars", "one above"])
def test_image_folders_keep_their_splits(images: Path, kind: str) -> None:
    import csv

    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        folder = images.parent / "set" / split
        folder.mkdir(parents=True)
        entries = [{"file_name": f"{n}.png", "text": f"red is {10 * n}"} for n in numbers]
        for entry in entries:
            (images / entry["file_name"]).rename(folder / entry["file_name"])
            if kind == "sidecars":
                (folder / entry["file_name"]).with_suffix(".txt").write_text(entry["text"], encoding="utf-8")
        if kind == "jsonl":
            (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(entries), folder / "metadata.parquet")
        if kind == "csv":
            with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "text"])
                writer.writeheader()
                writer.writerows(entries)
        if kind == "one above":
            with (folder.parent / "metadata.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(entry | {"file_name": f"{split}/{entry['file_name']}"}) + "\n" for entry in entries
                )
    data = load(images.parent / "set")
    assert (len(data.train), len(data.test)) == (6, 4)
    for part in (data.train, data.test):
        for index in range(len(part)):
            assert part.caption(index).text == f"red is {part.image(index)[0, 0, 0]}"
    assert len(load(images.parent / "set", split="test", test_fraction=0.5).train) == 2
    assert "there is no split 'validation'; the data has test, train" in refused(
        images.parent / "set", test_split="validation"
    )


def test_metadata_in_folders_of_splits_may_name_images_elsewhere(images: Path) -> None:
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        (images.parent / split).mkdir()
        entries = [{"file_name": f"../pictures/{n}.png", "text": f"red is {10 * n}"} for n in numbers]
        (images.parent / split / "metadata.jsonl").write_text(
            "".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8"
        )
    data = load(images.parent)
    assert [data.train.caption(index).text for index in range(6)] == [f"red is {10 * n}" for n in range(6)]
    assert (len(data.train), len(data.test)) == (6, 4)
    assert len(load(images.parent, split="all").train) == 9


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_images_that_no_row_names_are_counted_and_named(
    images: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [{"file_name": f"./{n}.png", "text": f"red is {10 * n}"} for n in range(COUNT) if n not in (3, 7)]
    if form == "csv":
        (images / "metadata.csv").write_text("file_name,text\n" + "".join(f"{e['file_name']},x\n" for e in entries))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(entries), images / "metadata.parquet")
    else:
        write_jsonl(images, entries, "pictures/metadata.jsonl")
    data = load(images)
    assert len(data.train) + len(data.test) == COUNT - 2
    warning = f"warning: data.path={images}: 2 images are left out: no row of the metadata names them: 3.png, 7.png\n"
    assert capsys.readouterr().err == warning


def test_images_of_a_split_without_metadata_have_texts_beside_them(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        (images / split).mkdir()
        for number in numbers:
            (images / f"{number}.png").rename(images / split / f"{number}.png")
            if split == "test":
                (images / split / f"{number}.txt").write_text("red", encoding="utf-8")
    write_jsonl(images, [{"file_name": f"{n}.png", "text": "red"} for n in range(5)], "pictures/train/metadata.jsonl")
    data = load(images)
    assert (len(data.train), len(data.test)) == (5, 4)
    assert "1 image is left out: no row of the metadata names it: train/5.png\n" in capsys.readouterr().err


def test_two_image_folders_in_one_are_not_one(images: Path) -> None:
    for name in ("set/a/train", "set/b/train"):
        (images.parent / name).mkdir(parents=True)
        (images.parent / name / "0.png").write_bytes((images / "0.png").read_bytes())
        write_jsonl(images, [{"file_name": "0.png", "text": "red"}], f"{name}/metadata.jsonl")
    assert "holds several data sets with the same split, in a, b" in refused(images.parent / "set")


def test_copies_of_an_image_stay_on_one_side(images: Path) -> None:
    for number in range(5):
        (images / f"copy-{number}.png").write_bytes((images / f"{number}.png").read_bytes())
    copies = [{"image": f"pictures/copy-{n}.png", "caption": f"red is {10 * n}"} for n in range(5)]
    data = load(write_jsonl(images, [*rows(), *copies]), test_fraction=0.5)
    groups = [{part.caption(i).group for i in range(len(part))} for part in (data.train, data.test)]
    assert (len(groups[0]), len(groups[1])) == (5, 5) and not groups[0] & groups[1]


def test_the_fingerprint_is_that_of_the_content(images: Path, tmp_path: Path) -> None:
    import shutil

    first = load(make_jsonl(images)).train.fingerprint()
    shutil.copytree(images.parent, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere" / "pairs.jsonl").train.fingerprint() == first
    Image.new("RGB", (6, 4), "blue").save(tmp_path / "elsewhere" / "pictures" / "3.png")
    assert load(tmp_path / "elsewhere" / "pairs.jsonl").train.fingerprint() != first


def test_a_second_start_looks_at_no_row_and_no_image(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(images, [*rows(), {"image": "pictures/gone.png", "caption": "gone"}])
    first = load(path, on_error="skip")
    monkeypatch.setattr(caption_rows, "_Writer", None)
    monkeypatch.setattr(checks, "inspect_image", None)
    again = load(path, on_error="skip")
    assert again.skipped == first.skipped and again.train.fingerprint() == first.train.fingerprint()
    parts = [[split.caption(i) for i in range(len(split))] for split in (first.train, again.train)]
    assert parts[0] == parts[1] and len(parts[0]) == 9
