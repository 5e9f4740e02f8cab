"""Lists, metadata, .npz spellings, saved data sets, labels of every kind: right values written by hand."""

from __future__ import annotations

import json
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.check import check_data
from dcgan_eval.data.labels import number_classes, sort_names
from dcgan_eval.data.pack import pack, read_pack
from dcgan_eval.data.readers import DataNotice
from dcgan_eval.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def photos(place: Path, count: int = 6) -> Path:
    """Write 0.png to 5.png."""
    place.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(IMAGES[:count]):
        Image.fromarray(image).save(place / f"{row}.png")
    return place


def told(place: Path, split: str = "all", **options) -> list[str | None]:
    """Load without notices and return the class of each image, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNotice)
        images = load_data(place, split, **options)
    assert images.names is None or images.names.tolist() == sorted(images.names.tolist())
    return [None] * len(images) if images.labels is None else [images.class_names[v] for v in images.labels]


ANIMALS = ["bee", "ant", "bee", "cow", "ant", "bee"]


# metadata and lists


@pytest.mark.parametrize("form", ["csv", "jsonl", "csv with BOM", "nested"])
def test_metadata_of_imagefolder(tmp_path, form):
    place = photos(tmp_path / "train")
    rows = [{"file_name": f"{row}.png", "label": label, "caption": "a, b"} for row, label in enumerate(ANIMALS)]
    if form == "jsonl":
        (place / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        above = form == "nested"
        lines = [f'{"train/" * above}{row["file_name"]},"a, b",{row["label"]}' for row in rows]
        text = "\n".join(["file_name,caption,label", *lines])
        target = tmp_path if above else place
        (target / "metadata.csv").write_text(text, encoding="utf-8-sig" if "BOM" in form else "utf-8")
    assert told(tmp_path, "train") == ANIMALS


def test_metadata_with_several_columns_of_labels_wants_one_named(tmp_path):
    place = photos(tmp_path / "p", 2)
    (place / "metadata.csv").write_text("file_name,fine_label,coarse_label\n0.png,7,1\n1.png,10,1\n")
    with pytest.raises(DataError, match=r"several columns of labels.*fine_label, coarse_label.*--label-column"):
        load_data(place, "all")
    assert told(place, label_column="fine_label") == ["7", "10"]
    assert told(place, label_column="coarse_label") == ["1", "1"]
    with pytest.raises(DataError, match="no column 'colour'"):
        load_data(place, "all", label_column="colour")


def test_metadata_that_names_what_is_not_there(tmp_path):
    place = photos(tmp_path / "p", 2)
    (place / "metadata.csv").write_text("file_name,label\n0.png,a\n9.png,b\n")
    with pytest.raises(DataError, match=r"names 1 image not there. Got: 9.png"):
        load_data(place, "all")
    (place / "metadata.csv").write_text("file_name,label\n0.png,a\n")
    with pytest.raises(DataError, match=r"have no label. Got: 1 of 2, the first .*1\.png"):
        load_data(place, "all")
    (place / "metadata.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match="cannot be read as a list"):
        load_data(place, "all")


@pytest.mark.parametrize("suffix", ["txt", "csv", "tsv"])
def test_lists_of_paths_and_labels(tmp_path, suffix):
    photos(tmp_path / "pictures of animals")
    separator = {"txt": " ", "csv": ",", "tsv": "\t"}[suffix]
    header = [] if suffix == "txt" else [f"path{separator}label"]
    for split, rows in (("train", range(4)), ("val", range(4, 6))):
        lines = [f"pictures of animals/{row}.png{separator}{ANIMALS[row]}" for row in rows]
        (tmp_path / f"{split}.{suffix}").write_text("\n".join([*header, *lines]) + "\n")
    assert told(tmp_path / f"train.{suffix}", "train") == ANIMALS[:4]
    images = load_data(tmp_path / f"train.{suffix}", "val")
    assert images.class_names == ("ant", "bee", "cow")
    assert np.array_equal(images.images, IMAGES[4:])
    packed = pack(tmp_path / f"train.{suffix}", tmp_path / "p.h5", 8, num_processes=1)
    assert packed.splits == {"train": 4, "val": 2}
    assert read_pack(tmp_path / "p.h5", split="val").fingerprint == images.fingerprint


def test_lists_that_cannot_be_right(tmp_path):
    photos(tmp_path, 2)
    (tmp_path / "a.txt").write_text("0.png ant\n7.png bee\n")
    with pytest.raises(DataError, match=r"names 1 file not there. Got: 7.png"):
        load_data(tmp_path / "a.txt", "all")
    (tmp_path / "a.txt").write_text("0.png ant\n0.png bee\n")
    with pytest.raises(DataError, match=r"gives 0.png two labels"):
        load_data(tmp_path / "a.txt", "all")
    (tmp_path / "a.txt").write_text("0.png\n1.png\n")
    assert load_data(tmp_path / "a.txt", "all").labels is None
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column of file names"):
        load_data(tmp_path / "a.csv", "all")


# .npz


@pytest.mark.parametrize(
    ("keys", "split"),
    [
        (("images", "labels"), "all"),
        (("images", "targets"), "all"),
        (("X", "Y"), "all"),
        (("data", "label"), "all"),
        (("arr_0", "arr_1"), "all"),
        (("x_train", "y_train"), "train"),
        (("X_train", "Y_train"), "train"),
        (("train_images", "train_label"), "train"),
        (("images_test", "labels_test"), "test"),
        (("testX", "testY"), "test"),
        (("valid.x", "valid.y"), "valid"),
    ],
)
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], ["a", "b", "a", "c", "b", "a"], [0.0, 1.0, 0.0, 2.0, 1.0, 0.0]])
def test_npz_spellings(tmp_path, keys, split, labels):
    np.savez(tmp_path / "a.npz", **{keys[0]: IMAGES, keys[1]: np.array(labels)[:, None]})
    images = load_data(tmp_path / "a.npz", split)
    assert images.labels.tolist() == [0, 1, 0, 2, 1, 0]
    assert images.class_names == tuple(sorted({str(label).removesuffix(".0") for label in labels}))
    assert np.array_equal(images.images, IMAGES)


def test_npz_of_each_split_in_a_folder(tmp_path):
    np.savez(tmp_path / "train.npz", images=IMAGES[:4], labels=[5, 6, 7, 5])
    np.savez(tmp_path / "test.npz", x=IMAGES[4:], y=[7, 6])
    assert load_data(tmp_path, "train").labels.tolist() == [0, 1, 2, 0]
    test = load_data(tmp_path, "test")
    assert test.labels.tolist() == [2, 1]
    assert test.class_names == ("5", "6", "7")


def test_npz_with_names(tmp_path):
    names = {"class_names": np.array(["ant", "bee", "cow"]), "filenames": np.array([f"{n}.png" for n in range(6)])}
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=[2, 1, 0, 0, 1, 2], **names)
    images = load_data(tmp_path / "a.npz", "all")
    assert images.class_names == ("ant", "bee", "cow")
    assert images.labels.tolist() == [2, 1, 0, 0, 1, 2]
    assert images.names[3] == "3.png"


def test_npz_with_several_labels_wants_one_named(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, fine_labels=np.arange(6), coarse_labels=np.arange(6) // 3)
    with pytest.raises(DataError, match=r"several arrays of labels.*--label-column"):
        load_data(tmp_path / "a.npz", "all")
    assert load_data(tmp_path / "a.npz", "all", label_column="coarse_labels").labels.tolist() == [0, 0, 0, 1, 1, 1]


# Parquet and Arrow


def table(labels, **columns) -> pa.Table:
    """A table of the six images."""
    import io

    cells = []
    for row, image in enumerate(IMAGES):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": f"{row}.png"})
    return pa.table({"image": cells, **({} if labels is None else {"label": labels}), **columns})


@pytest.mark.parametrize("labels", [pa.array(ANIMALS), pa.array(ANIMALS).dictionary_encode()])
def test_parquet_with_names_for_labels(tmp_path, labels):
    pq.write_table(table(labels), tmp_path / "train.parquet")
    assert told(tmp_path, "train") == ANIMALS


def test_parquet_with_fine_and_coarse_labels_wants_one_named(tmp_path):
    columns = {"fine_label": [3, 1, 2, 3, 1, 2], "coarse_label": [0, 0, 1, 0, 0, 1]}
    pq.write_table(table(None, **columns), tmp_path / "train.parquet")
    for function in (load_data, lambda place: pack(place, tmp_path / "p.h5", 8, num_processes=1)):
        with pytest.raises(DataError, match=r"several columns of labels.*--label-column"):
            function(tmp_path)
    assert told(tmp_path, "train", label_column="fine_label") == ["3", "1", "2", "3", "1", "2"]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 0, 1, 0, -1],
        [0, 1, 0, 1, 0, None],
        np.array([0, 1, 0, 1, 0, 2**63 + 1], np.uint64),
        [0.0, 1.0, 0.0, 1.0, 0.0, 0.5],
        [0.0, 1.0, 0.0, 1.0, 0.0, float("nan")],
        ["a", "b", "a", "b", "a", ""],
    ],
)
def test_one_row_without_a_class_is_refused_by_reading_and_packing(tmp_path, labels):
    pq.write_table(table(pa.array(labels)), tmp_path / "train.parquet")
    for function in (load_data, lambda place: pack(place, tmp_path / "p.h5", 8, num_processes=1)):
        with pytest.raises(DataError, match=r"no label|empty cells|not classes"):
            function(tmp_path)


@pytest.mark.parametrize("stream", [True, False])
def test_saved_data_sets(tmp_path, stream):
    for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        place = tmp_path / split
        place.mkdir()
        part = table(ANIMALS).slice(rows.start, rows.stop - rows.start)
        opener = pa.ipc.new_stream if stream else pa.ipc.new_file
        with opener(str(place / "data-00000-of-00001.arrow"), part.schema) as writer:
            writer.write_table(part, max_chunksize=3)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        (place / "state.json").write_text(json.dumps(state))
        (place / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert told(tmp_path, "train") == ANIMALS[:4]
    images = load_data(tmp_path, "test")
    assert np.array_equal(images.images, IMAGES[4:])
    assert images.class_names == ("ant", "bee", "cow")
    assert told(tmp_path / "train") == ANIMALS[:4]
    assert pack(tmp_path, tmp_path / "p.h5", 8, num_processes=1).splits == {"train": 4, "test": 2}
    (tmp_path / "test" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match="lacks files"):
        load_data(tmp_path, "train")


def test_the_same_images_in_every_form_have_one_fingerprint(tmp_path):
    numbers = [10, 2, 1, 10, 2, 1]
    for row, number in enumerate(numbers):
        (tmp_path / "f" / str(number)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[row]).save(tmp_path / "f" / str(number) / f"{row}.png")
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=numbers)
    pq.write_table(table(numbers), tmp_path / "all.parquet")
    pack(tmp_path / "f", tmp_path / "p.h5", 8, num_processes=1)
    sets = [load_data(tmp_path / name, "all") for name in ("f", "a.npz", "all.parquet", "p.h5")]
    assert {images.class_names for images in sets} == {("1", "2", "10")}
    assert len({images.fingerprint for images in sets}) == 1


# numbering


def test_numbering_by_hand():
    labels, names = number_classes(np.array([3, 1, 2]), [np.array([1, 2, 3, 5])], "x")
    assert (labels.tolist(), names) == ([2, 0, 1], ("1", "2", "3", "5"))
    assert number_classes(np.array([-1, -1]), [], "x") == (None, ())
    labels, names = number_classes(np.array(["b", "a"]), [np.array(["c"])], "x", ("a", "b", "c", "d"))
    assert (labels.tolist(), names) == ([1, 0], ("a", "b", "c", "d"))
    assert number_classes(np.array([True, False]), [], "x")[0].tolist() == [1, 0]
    assert sort_names(["10", "9", "9"]) == ("9", "10")
    assert sort_names(["b", "10", "9"]) == ("10", "9", "b")
    with pytest.raises(DataError, match=r"argmax"):
        number_classes(np.eye(3), [], "x")


# names of the labels, and what is not used


SPELLINGS = ["Label", "LABELS", "y", "Class", "label_name", "class-id", "Category", "Fine Label", "ground_truth"]


@pytest.mark.parametrize("column", SPELLINGS)
@pytest.mark.parametrize("form", ["csv", "jsonl", "list", "parquet", "npz", "tar"])
def test_labels_are_found_under_any_usual_name(tmp_path, form, column):
    assert told(labelled(tmp_path, form, {column: ANIMALS})) == ANIMALS


@pytest.mark.parametrize("form", ["csv", "jsonl", "list", "parquet", "npz", "tar"])
def test_what_is_not_used_is_listed_and_can_be_chosen(tmp_path, form):
    place = labelled(tmp_path, form, {"breed": ANIMALS})
    assert told(place) == [None] * 6
    with pytest.warns(DataNotice, match=r"1 \w+ of .*\(breed\); choose labels with --label-column breed"):
        load_data(place, "all")
    assert "breed" in " ".join(check_data(place)["not_used"])
    assert told(place, label_column="breed") == told(place, label_column="Breed") == ANIMALS


@pytest.mark.parametrize("form", ["csv", "jsonl", "list", "parquet", "npz", "tar"])
def test_columns_beside_the_labels_are_listed(tmp_path, form):
    place = labelled(tmp_path, form, {"mask": [*"abcdef"], "label": ANIMALS, "class_name": [*"uvwxyz"]})
    assert told(place) == ANIMALS
    with pytest.warns(DataNotice, match=r"2 \w+s of .* \(mask, class_name\)"):
        load_data(place, "all")


def labelled(place: Path, form: str, columns: dict[str, list[str]]) -> Path:
    """Write the images with columns of texts in one form; return what to load."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if form == "npz":
        np.savez(place / "a.npz", images=IMAGES, **columns)
        return place / "a.npz"
    if form == "parquet":
        files = photos(place / "p")
        contents = [(files / f"{row}.png").read_bytes() for row in range(6)]
        pq.write_table(pa.table({"image": contents, **columns}), place / "all.parquet")
        return place / "all.parquet"
    photos(place)
    if form == "tar":
        for row, values in enumerate(rows):
            (place / f"{row}.json").write_text(json.dumps(values))
        with tarfile.open(place / "a.tar", "w") as tar:
            for path in sorted(place.glob("?.*")):
                tar.add(path, path.name)
        return place / "a.tar"
    named = [{"file_name": f"{row}.png", **values} for row, values in enumerate(rows)]
    if form == "jsonl":
        (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, named)))
        return place
    name = "metadata.csv" if form == "csv" else "mine.csv"
    (place / name).write_text("\n".join(",".join(line) for line in [named[0].keys(), *(r.values() for r in named)]))
    return place if form == "csv" else place / name


def test_arrays_of_each_split_are_chosen_by_one_name(tmp_path):
    arrays = {f"x_{split}": IMAGES for split in ("train", "test")} | {
        f"{split}_breed": ANIMALS for split in ("train", "test")
    }
    np.savez(tmp_path / "a.npz", **arrays)
    for name in ("breed", "train_breed"):
        for split in ("train", "test"):
            images = load_data(tmp_path / "a.npz", split, label_column=name)
            assert [images.class_names[label] for label in images.labels] == ANIMALS
    with pytest.raises(DataError, match="no column 'colour'"):
        load_data(tmp_path / "a.npz", "test", label_column="colour")


@pytest.mark.parametrize("folder", ["", "pictures"])
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_lists_of_splits_in_a_folder_of_images_are_read(tmp_path, folder, suffix):
    photos(tmp_path / folder)
    comma, head = (",", ["path,label"]) if suffix == ".csv" else (" ", [])
    for split, rows in (("Train", range(3)), ("test", range(3, 5))):
        lines = [f"{folder or '.'}/{row}.png{comma}{ANIMALS[row]}" for row in rows]
        (tmp_path / f"{split}{suffix}").write_text("\n".join([*head, *lines]))
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "val.txt").write_text("a text about the pictures\n")
    assert told(tmp_path, "train") == ANIMALS[:3]
    assert told(tmp_path, "test") == ANIMALS[3:5]
    report = check_data(tmp_path)
    unread = "5.png" if not folder else f"{folder}/5.png"
    assert report["not_used"] == [f"1 image in none of the lists ({unread})", "2 files of other kinds (.md, .txt)"]


def test_a_list_that_cannot_be_read_is_said(tmp_path):
    photos(tmp_path, 2)
    (tmp_path / "train.csv").write_text("path,fine_label,coarse_label\n0.png,7,1\n1.png,10,1\n")
    with pytest.warns(DataNotice, match=r"train.csv as a list of images: .* several columns of labels"):
        load_data(tmp_path, "train")
    assert told(tmp_path, "train", label_column="fine_label") == ["7", "10"]


def test_lists_beside_class_folders_are_named_with_what_reads_them(tmp_path):
    for row in range(4):
        photos(tmp_path / "all", 4)
        (tmp_path / ANIMALS[row]).mkdir(exist_ok=True)
        (tmp_path / "all" / f"{row}.png").rename(tmp_path / ANIMALS[row] / f"{row}.png")
    shutil.rmtree(tmp_path / "all")
    (tmp_path / "train.txt").write_text("bee/0.png bee\nant/1.png ant\n")
    (tmp_path / "test.txt").write_text("bee/2.png bee\n")
    assert told(tmp_path) == ["ant", "bee", "bee", "cow"]
    with pytest.warns(DataNotice, match=r"2 lists of images \(test.txt, train.txt\); give .*/test.txt in place"):
        load_data(tmp_path, "all")
    assert told(tmp_path / "test.txt", "train") == ["ant", "bee"]
