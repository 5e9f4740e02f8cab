"""Readers: the same images from every form, and a clear refusal of everything damaged."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image

from dcgan_eval.data import readers
from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.splits import draw_per_class, stratified_split
from dcgan_eval.errors import DataError


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class Mine:
    """A pickle that would create a file when unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


# the same content from every form


@pytest.mark.parametrize("form", ["parquet", "webp parquet", "one shard", "folders", "bmp folders", "npz"])
def test_every_form_gives_the_same_images_and_the_same_splits(tmp_path, toy, forms, form):
    shuffled = toy.take(np.random.default_rng(2).permutation(len(toy)))
    place = tmp_path / "toy"
    if form == "npz":
        place = tmp_path / "toy.npz"
        np.savez(place, x_train=shuffled.images, y_train=shuffled.labels[:, None].astype(np.uint8))
    elif "folders" in form:
        forms.folders(shuffled, place / "train", "bmp" if "bmp" in form else "png")
    else:
        kind = "webp" if "webp" in form else "png"
        forms.parquet(shuffled, place / "data" / "deeper", 1 if "one" in form else 3, kind=kind)
    loaded = load_data(place)
    assert (loaded.name, loaded.split) == ("toy", "train")
    assert loaded.fingerprint == toy.fingerprint
    for split, expected in zip(stratified_split(loaded, 20, 0, "v"), stratified_split(toy, 20, 0, "v"), strict=True):
        assert np.array_equal(loaded.pixel_hashes[split], toy.pixel_hashes[expected])
    drawn, expected = (draw_per_class(images, np.arange(60), 5, 0, 1, "d") for images in (loaded, toy))
    assert np.array_equal(loaded.pixel_hashes[drawn], toy.pixel_hashes[expected])


# Parquet


def test_parquet_keeps_order_names_and_grey(tmp_path, forms):
    grey = forms.make(channels=1)
    forms.parquet(grey, tmp_path, 3, "image")
    loaded = load_data(tmp_path)
    assert np.array_equal(loaded.images, grey.images)
    assert np.array_equal(loaded.labels, grey.labels)
    assert loaded.class_names == grey.class_names
    assert loaded.names.tolist() == [f"{row}.png" for row in range(60)]


def test_parquet_without_metadata_takes_given_names_or_numbers(tmp_path, toy, forms):
    forms.parquet(toy, tmp_path, names=False)
    assert load_data(tmp_path).class_names == ("0", "1", "2")
    source = readers.detect(tmp_path)
    assert readers.read(source, "train", "t", ("a", "b", "c")).class_names[0] == "a"


def test_parquet_without_labels_or_with_minus_one_is_unlabelled(tmp_path, toy, forms):
    files = forms.parquet(toy.without_labels(), tmp_path)
    assert load_data(tmp_path).labels is None
    table = pq.read_table(files[0]).append_column("label", pa.array([-1] * 30))
    pq.write_table(table, tmp_path / "test.parquet")
    assert load_data(tmp_path, "test").labels is None


def test_parquet_errors_name_file_and_row(tmp_path, toy, forms):
    files = forms.parquet(toy, tmp_path)
    table = pq.read_table(files[1]).to_pylist()
    table[4]["img"]["bytes"] = table[4]["img"]["bytes"][:50]
    metadata = pq.read_schema(files[1]).metadata
    pq.write_table(pa.Table.from_pylist(table).replace_schema_metadata(metadata), files[1])
    with pytest.raises(DataError, match=r"row 4 of .*train-00001-of-00002.parquet cannot be decoded"):
        load_data(tmp_path)
    table[4]["img"]["bytes"] = None
    pq.write_table(pa.Table.from_pylist(table).replace_schema_metadata(metadata), files[1])
    with pytest.raises(DataError, match=r"row 4 of .*train-00001-of-00002.parquet cannot be decoded. Got: it is empty"):
        load_data(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.99])
def test_truncated_parquet_is_refused(tmp_path, toy, forms, kept):
    path = forms.parquet(toy, tmp_path, 1)[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_data(tmp_path)


def test_overwritten_parquet_page_is_refused(tmp_path, toy, forms):
    path = forms.parquet(toy, tmp_path, 1)[0]
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be"):
        load_data(tmp_path)


def test_missing_and_foreign_shards_are_refused(tmp_path, toy, forms):
    files = forms.parquet(toy, tmp_path, 3)
    files[1].unlink()
    with pytest.raises(DataError, match="missing: train-00001-of-00003"):
        load_data(tmp_path)
    forms.parquet(toy, tmp_path, 3)
    forms.parquet(toy, tmp_path, 1)
    with pytest.raises(DataError, match="not one complete set"):
        load_data(tmp_path)


def test_one_shard_of_several_does_not_pass_for_the_whole(tmp_path, toy, forms):
    with pytest.raises(DataError, match=r"one shard of 2.*give the folder"):
        load_data(forms.parquet(toy, tmp_path, 2)[0])
    assert len(load_data(forms.parquet(toy, tmp_path / "whole", 1)[0])) == 60


def test_shards_that_disagree_are_refused(tmp_path, toy, forms):
    files = forms.parquet(toy, tmp_path)
    pq.write_table(pq.read_table(files[1]).replace_schema_metadata({}), files[1])
    with pytest.raises(DataError, match="differ in their labels or class names"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, "no columns of images"),
        ({"image": ["a.png", "b.png"], "label": [0, 1]}, "no columns of images"),
        ({"left": [{"bytes": b""}] * 2, "right": [{"bytes": b""}] * 2}, "several columns"),
        ({"image": [{"bytes": b"x"}] * 2, "label": [[1], [2]]}, "class numbers or names"),
        ({"image": [{"bytes": b"not an image"}] * 2, "label": [0, 1]}, "row 0 of .* cannot be decoded"),
    ],
)
def test_parquet_of_another_layout_is_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_empty_cells_and_empty_files_are_refused(tmp_path, toy, forms):
    path = forms.parquet(toy, tmp_path, 1)[0]
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", pa.array([None] + [0] * 59)), path)
    with pytest.raises(DataError, match="empty cells"):
        load_data(tmp_path)
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(DataError, match="has no images"):
        load_data(tmp_path)


def test_two_data_sets_in_one_place_are_not_mixed_up(tmp_path, toy, forms):
    forms.parquet(toy, tmp_path / "one")
    forms.parquet(toy, tmp_path / "two")
    with pytest.raises(DataError, match="more than one data set"):
        load_data(tmp_path)
    assert readers.find_parquet(tmp_path, prefer="two").path == tmp_path / "two"


# folders


def test_a_class_absent_from_one_split_does_not_shift_the_others(tmp_path, toy, forms):
    forms.folders(toy, tmp_path / "train")
    forms.folders(toy.take(np.flatnonzero(toy.labels != 1)), tmp_path / "test")
    test = load_data(tmp_path, "test")
    assert test.class_names == toy.class_names
    assert set(test.labels) == {0, 2}


def test_folders_without_splits_answer_to_train_and_all_only(tmp_path, toy, forms):
    forms.folders(toy, tmp_path / "pets")
    assert load_data(tmp_path / "pets", "train").fingerprint == load_data(tmp_path / "pets", "all").fingerprint
    with pytest.raises(DataError, match=r"no test split here.*folders named train and test"):
        load_data(tmp_path / "pets", "test")


def test_folders_without_classes_are_unlabelled(tmp_path, toy, forms):
    for row, image in enumerate(toy.images):
        (tmp_path / f"{row}.PNG").write_bytes(forms.encode(image))
    assert load_data(tmp_path).fingerprint == toy.without_labels().fingerprint


def test_left_over_files_are_ignored(tmp_path, toy, forms):
    forms.folders(toy, tmp_path / "train")
    for name in ("train/class0/._0000.png", "train/class0/notes.txt", "train/__MACOSX/x.png", "train/.cache/x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"junk")
    assert load_data(tmp_path).fingerprint == toy.fingerprint


def test_images_of_different_sizes_are_refused_with_the_sizes(tmp_path, toy, forms):
    forms.folders(toy, tmp_path / "train")
    Image.new("RGB", (9, 8)).save(tmp_path / "train" / "class1" / "odd.png")
    with pytest.raises(DataError, match=r"differ in size.*6x6 \(60 images\), 8x9 \(1 image\)"):
        load_data(tmp_path)


def test_damaged_image_file_is_named(tmp_path, toy, forms):
    forms.folders(toy, tmp_path / "train")
    path = tmp_path / "train" / "class1" / "bad.png"
    path.write_bytes(forms.encode(toy.images[0])[:40])
    with pytest.raises(DataError, match=r"bad\.png cannot be decoded"):
        load_data(tmp_path)


# npz


def test_npz_with_images_and_labels_has_the_split_all(tmp_path, toy):
    np.savez(tmp_path / "x.npz", images=toy.images, labels=toy.labels)
    assert load_data(tmp_path / "x.npz").split == "all"
    with pytest.raises(DataError, match="no test split"):
        load_data(tmp_path / "x.npz", "test")


def test_npz_of_grey_images_and_of_all_key_styles(tmp_path, toy):
    arrays = {"train_images": toy.images[..., 0], "train_labels": toy.labels, "test_images": toy.images[:9, ..., 0]}
    np.savez(tmp_path / "x.npz", **arrays)
    assert load_data(tmp_path / "x.npz").images.shape == (60, 6, 6, 1)
    assert load_data(tmp_path / "x.npz", "test").labels is None


def test_npz_with_objects_is_refused_and_never_unpickled(tmp_path):
    target = tmp_path / "created"
    images = np.empty(1, object)
    images[0] = Mine(target)
    np.savez(tmp_path / "x.npz", images=images, labels=[0])
    with pytest.raises(DataError, match="Python objects"):
        load_data(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(pickle.dumps(Mine(target)))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        load_data(tmp_path / "y.npz")
    assert not target.exists()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
def test_truncated_npz_is_refused(tmp_path, toy, kept):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=toy.images, labels=toy.labels)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        load_data(path)


def test_npz_with_flipped_bytes_is_refused(tmp_path, toy):
    path = tmp_path / "x.npz"
    np.savez(path, images=toy.images, labels=toy.labels)
    content = bytearray(path.read_bytes())
    content[2000:2010] = bytes(byte ^ 255 for byte in content[2000:2010])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        load_data(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros(3)}, "no array of images.*pictures"),
        ({"images": np.zeros((2, 4, 4, 3))}, "8-bit"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "channels last"),
        ({"images": np.zeros((2, 48), np.uint8)}, "reshape"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(3, int)}, "do not match"),
    ],
)
def test_npz_of_another_layout_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "x.npz")


def test_npy_renamed_to_npz_is_refused(tmp_path, toy):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, toy.images)
    with pytest.raises(DataError, match="single array"):
        load_data(tmp_path / "x.npz")


# torchvision's layouts


@pytest.fixture
def cifar(tmp_path, monkeypatch, forms) -> tuple[Path, ImageSet]:
    """A small copy of the CIFAR-10 layout whose checksums torchvision is told to expect."""
    from torchvision.datasets import CIFAR10

    images = forms.make(60, 10, size=32)
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    flat = images.images.transpose(0, 3, 1, 2).reshape(60, -1)
    for index, filename in enumerate([entry[0] for entry in CIFAR10.train_list + CIFAR10.test_list]):
        rows = slice(10 * index, 10 * index + 10)
        (folder / filename).write_bytes(pickle.dumps({"data": flat[rows], "labels": images.labels[rows].tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{label}" for label in range(10)]}))
    for table in ("train_list", "test_list"):
        known = [[entry[0], md5(folder / entry[0])] for entry in getattr(CIFAR10, table)]
        monkeypatch.setattr(CIFAR10, table, known)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    return folder, images


def test_cifar10_in_torchvisions_layout(tmp_path, cifar):
    folder, images = cifar
    train, test = (load_data("cifar10", split, tmp_path) for split in ("train", "test"))
    assert np.array_equal(train.images, images.images[:50])
    assert np.array_equal(train.labels, images.labels[:50])
    assert np.array_equal(test.images, images.images[50:])
    assert train.class_names[0] == "airplane"
    assert np.array_equal(load_data(folder, "test").images, test.images)


@pytest.mark.parametrize("filename", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_cifar10_with_a_wrong_checksum_is_never_unpickled(tmp_path, cifar, filename):
    folder, _ = cifar
    target = tmp_path / "created"
    (folder / filename).write_bytes(pickle.dumps(Mine(target)))
    for split in ("train", "test"):
        with pytest.raises(DataError, match=f"{filename} is not the official file, so nothing was read.*--download"):
            load_data("cifar10", split, tmp_path)
    assert not target.exists()
    pickle.loads((folder / filename).read_bytes())
    assert target.exists(), "the mine must be one, or the test shows nothing"


def test_cifar10_with_a_missing_batch_is_refused(tmp_path, cifar):
    (cifar[0] / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        load_data("cifar10", "train", tmp_path)


def test_svhn_maps_label_ten_to_the_digit_zero(tmp_path, monkeypatch, forms):
    from torchvision.datasets import SVHN

    images = forms.make(20, 10, size=32)
    path = tmp_path / "test_32x32.mat"
    matlab_labels = np.where(images.labels == 0, 10, images.labels)[:, None]
    scipy.io.savemat(path, {"X": images.images.transpose(1, 2, 3, 0), "y": matlab_labels})
    with pytest.raises(DataError, match=r"test_32x32\.mat is not the official file"):
        load_data("svhn", "test", tmp_path)
    monkeypatch.setitem(SVHN.split_list, "test", ["", path.name, md5(path)])
    loaded = load_data("svhn", "test", tmp_path)
    assert np.array_equal(loaded.images, images.images)
    assert np.array_equal(loaded.labels, images.labels)
    with pytest.raises(DataError, match="svhn has no train split here"):
        load_data("svhn", "train", tmp_path)


def test_mnist_in_torchvisions_layout(tmp_path, forms):
    images = forms.make(20, 10, size=28, channels=1)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    image_file, label_file = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    image_file.write_bytes(struct.pack(">iiii", 2051, 20, 28, 28) + images.images.tobytes())
    label_file.write_bytes(struct.pack(">ii", 2049, 20) + images.labels.astype(np.uint8).tobytes())
    loaded = load_data("mnist", "train", tmp_path)
    assert np.array_equal(loaded.images, images.images)
    assert np.array_equal(loaded.labels, images.labels)
    image_file.write_bytes(image_file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cannot be read as MNIST.*--download"):
        load_data("mnist", "train", tmp_path)


def test_digits_are_enlarged_and_complete():
    digits = load_data("digits", "all")
    assert digits.images.shape == (1797, 32, 32, 3)
    assert (digits.images[..., 0] == digits.images[..., 2]).all()
    assert digits.images.min() == 0
    assert digits.images.max() == 255
    assert load_data("digits").split == "all"
    with pytest.raises(DataError, match=r"no test split here.*let the protocol split"):
        load_data("digits", "test")
