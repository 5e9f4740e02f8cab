"""Splits and classes from names: what torchvision's ImageFolder sees, and what names like splits mean."""

from __future__ import annotations

import io
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.check import check_data
from dcgan_eval.data.readers import DataNotice
from dcgan_eval.data.tree import arrange
from dcgan_eval.errors import DataError


def grow(place: Path, *names: str, start: int = 0) -> Path:
    """Write an image of one grey value for each name, counted up from ``start``."""
    for value, name in enumerate(names, start):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)
    return place


def read(place: Path, split: str = "all"):
    """Load without the notices, and return {name: class} beside the set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNotice)
        images = load_data(place, split)
    labels = [None] * len(images) if images.labels is None else [images.class_names[v] for v in images.labels]
    return images, dict(zip(images.names.tolist(), labels, strict=True))


@pytest.mark.parametrize(
    "names",
    [
        ("ant/0.png", "ant/more/2.png", "ant/more/deeper/3.png", "bee/0.png"),
        ("ant/images/0.png", "bee/0.png", "cow/0.png"),
        ("2/0.png", "10/0.png", "1/0.png"),
        ("b/0.jpg", "B/0.JPEG", "a b/0.Png", "ä/0.webp"),
    ],
)
def test_classes_are_those_of_image_folder(tmp_path, names):
    grow(tmp_path, *names)
    peer = ImageFolder(str(tmp_path))
    images, found = read(tmp_path)
    assert found == {str(Path(p).relative_to(tmp_path)): peer.classes[label] for p, label in peer.samples}
    assert set(images.class_names) == set(peer.classes)


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    grow(tmp_path, *(f"{number}/0.png" for number in (10, 2, 0, 1)))
    assert read(tmp_path)[0].class_names == ("0", "1", "2", "10")
    grow(tmp_path, "1a/0.png")
    assert read(tmp_path)[0].class_names == ("0", "1", "10", "1a", "2")


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("exam", "homework", "test"), ("extra", "val", "zoo")])
def test_classes_may_be_named_like_splits(tmp_path, classes):
    grow(tmp_path, *(f"{name}/{n}.png" for name in classes for n in range(2)))
    images, _ = read(tmp_path, "train")
    assert images.class_names == classes
    assert images.num_images == 6
    with pytest.raises(DataError, match="no test split"):
        load_data(tmp_path, "test")
    with pytest.warns(DataNotice, match="named like splits"):
        load_data(tmp_path, "train")


def test_split_folders_win_where_they_hold_class_folders(tmp_path):
    grow(tmp_path, "train/ant/0.png", "train/bee/0.png", "test/ant/1.png", "docs/figure.png", "cover.png")
    images, found = read(tmp_path, "train")
    assert found == {"train/ant/0.png": "ant", "train/bee/0.png": "bee"}
    assert read(tmp_path, "test")[0].class_names == ("ant", "bee")
    assert images.split == "train"
    with pytest.warns(DataNotice, match=r"2 images beside the folders of the splits \(cover.png, docs/figure.png\)"):
        load_data(tmp_path, "train")


def test_any_folder_is_a_split_if_it_is_asked_for(tmp_path):
    grow(tmp_path, "fold1/ant/0.png", "fold1/bee/0.png", "fold2/bee/1.png")
    images, found = read(tmp_path, "fold2")
    assert found == {"fold2/bee/1.png": "bee"}
    assert images.labels.tolist() == [1]
    grow(tmp_path / "more", "training/x/0.png", "training/y/0.png", "testing/x/0.png")
    assert read(tmp_path / "more", "testing")[0].class_names == ("x", "y")


@pytest.mark.parametrize("asked", ["val", "valid", "validation"])
def test_names_of_the_validation_split_stand_for_one_another(tmp_path, asked):
    grow(tmp_path, "train/ant/0.png", "train/bee/0.png", "valid/ant/1.png", "valid/bee/1.png")
    assert read(tmp_path, asked)[0].split == "valid"


def test_tiny_imagenet_as_published(tmp_path):
    train = [f"train/{c}/images/{c}_{n}.JPEG" for c in ("n02", "n01") for n in range(2)]
    grow(tmp_path, *train, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG")
    assert read(tmp_path, "val")[0].labels is None
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t7\t7\nval_1.JPEG\tn01\t0\t0\t7\t7\n")
    assert read(tmp_path, "train")[1] == {name: name.split("/")[1] for name in train}
    images, found = read(tmp_path, "val")
    assert found == {"val/images/val_0.JPEG": "n02", "val/images/val_1.JPEG": "n01"}
    assert images.class_names == ("n01", "n02")
    assert read(tmp_path, "test")[0].labels is None


def test_a_folder_that_holds_everything_is_passed_through(tmp_path):
    grow(tmp_path / "a", "pets/cat/0.png", "pets/dog/0.png")
    assert read(tmp_path / "a")[0].class_names == ("cat", "dog")
    grow(tmp_path / "b", "set/train/cat/0.png", "set/train/dog/0.png", "set/test/cat/1.png")
    assert read(tmp_path / "b", "test")[0].class_names == ("cat", "dog")
    grow(tmp_path / "c", "images/0.png", "images/1.png")
    assert read(tmp_path / "c")[0].labels is None
    grow(tmp_path / "d", "cat/0.png", "cat/1.png")
    assert read(tmp_path / "d")[0].class_names == ("cat",)


@pytest.mark.parametrize("what", ["empty", ".txt", ".png~", ".jpg.1"])
def test_a_class_without_images_keeps_its_number_and_is_said(tmp_path, what):
    grow(tmp_path, "ant/0.png", "cow/0.png")
    (tmp_path / "bee").mkdir()
    if what != "empty":
        (tmp_path / "bee" / f"0{what}").write_bytes(b"x")
    images, _ = read(tmp_path)
    assert images.class_names == ("ant", "bee", "cow")
    assert images.labels.tolist() == [0, 2]
    with pytest.warns(DataNotice, match=r"1 class folder without images \(bee\)"):
        load_data(tmp_path)
    report = check_data(tmp_path)
    assert "1 class folder without images (bee)" in report["not_used"]
    assert report["splits"]["all"]["class_counts"]["bee"] == 0


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "JPEG", "jpe", "jfif", "webp", "bmp", "gif", "tif", "TIFF"])
def test_every_usual_suffix_is_read(tmp_path, suffix):
    form = {"png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF"}
    (tmp_path / "ant").mkdir()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "ant" / f"0.{suffix}", form.get(suffix.lower(), "JPEG"))
    grow(tmp_path, "bee/0.png")
    assert read(tmp_path)[0].class_names == ("ant", "bee")
    assert abs(int(read(tmp_path)[0].images[0, 0, 0, 0]) - 9) <= 2  # JPEG and lossy WebP


def test_an_image_beside_the_class_folders_is_kept_and_said(tmp_path):
    grow(tmp_path, "ant/0.png", "bee/0.png", "left_over.png")
    images, found = read(tmp_path)
    assert set(found) == {"ant/0.png", "bee/0.png", "left_over.png"}
    assert images.labels is None
    with pytest.warns(DataNotice, match=r"in no class folder, so that the set has no labels \(left_over.png\)"):
        load_data(tmp_path)


def test_hidden_files_and_what_programs_leave_behind_are_passed_over(tmp_path):
    grow(tmp_path, "ant/0.png", "bee/0.png", "__background__/0.png")
    names = (".ipynb_checkpoints/x.png", "ant/.thumbs/x.png", "__MACOSX/ant/x.png", "@eaDir/x.png", "bee/._0.png")
    grow(tmp_path, *names)
    assert read(tmp_path)[0].class_names == ("__background__", "ant", "bee")
    assert read(tmp_path)[0].num_images == 3


def test_links_are_followed_except_in_circles(tmp_path):
    place = grow(tmp_path / "place", "ant/0.png", start=5)
    outside = grow(tmp_path / "outside", "0.png", "1.png", start=20)
    (place / "bee").symlink_to(outside)
    (place / "ant" / "up").symlink_to(place)
    (place / "ant" / "itself.png").symlink_to(place / "ant" / "itself.png")
    (place / "ant" / "nowhere.png").symlink_to(tmp_path / "nowhere.png")
    (place / "ant" / "again.png").symlink_to(outside / "1.png")
    images, found = read(place)
    assert set(found) == {"ant/0.png", "ant/again.png", "bee/0.png", "bee/1.png"}
    assert images.images[:, 0, 0, 0].tolist() == [5, 21, 20, 21]
    with pytest.warns(DataNotice, match="link to a folder above .*up"):
        load_data(place)


def test_pipes_and_sockets_do_not_block(tmp_path):
    import os

    grow(tmp_path, "ant/0.png", "bee/0.png")
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    os.mkfifo(tmp_path / "train.parquet")
    os.mkfifo(tmp_path / "x.npz")
    assert read(tmp_path)[0].num_images == 2
    with pytest.warns(DataNotice, match=r"3 pipes, devices and broken links"):
        load_data(tmp_path)


def test_names_that_are_no_utf8_are_printable(tmp_path):
    import os

    grow(tmp_path, "ant/0.png", "bee/0.png")
    os.rename(tmp_path / "ant" / "0.png", os.fsencode(tmp_path / "ant") + b"/caf\xe9.png")
    os.rename(tmp_path / "bee", os.fsencode(tmp_path) + b"/b\xe9e")
    assert read(tmp_path)[1] == {"ant/caf\\xe9.png": "ant", "b\\xe9e/0.png": "b\\xe9e"}


def test_arranging_depends_on_nothing_but_the_names():
    tree = arrange(["train/a/0", "train/b/1", "val/b/2"], {"train", "train/a", "train/b", "train/c", "val"})
    assert tree.class_names == ("a", "b", "c")
    assert tree.splits["train"].classes == ["a", "b"]
    assert tree.splits["val"].rows == [2]
    assert tree.notes == {"class folders without images": ["c"]}


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("TRAIN", "TEST"), ("training", "Testing"), ("train", "Validation")]
)
def test_split_names_are_recognised_in_any_case(tmp_path, train, test):
    asked = "val" if test == "Validation" else "test"
    for form in ("folders", "archives", "lists", "npz", "parquet"):
        place = write_splits(tmp_path / form, form, train, test)
        images, later, again = (
            load_data(place, split) for split in ("train", test, asked)
        )  # spelled as there, and not
        assert images.images[:, 0, 0, 0].tolist() == images.labels.tolist() == [0, 1], form
        assert later.images[:, 0, 0, 0].tolist() == again.images[:, 0, 0, 0].tolist() == [2], form
        assert (later.class_names, later.labels.tolist()) == (("ant", "bee"), [1]), form


def write_splits(place: Path, form: str, train: str, test: str) -> Path:
    """Write an ant and a bee to train on and a bee to test, of grey values 0, 1 and 2; return what to load."""
    place.mkdir()
    for split, classes in ((train, {0: "ant", 1: "bee"}), (test, {2: "bee"})):
        pixels, labels = [np.full((4, 4, 3), value, np.uint8) for value in classes], list(classes.values())
        images = {f"{split}/{name}/{value}.png": value for value, name in classes.items()}
        if form == "npz":
            np.savez(place / f"{split}.npz", images=np.stack(pixels), labels=labels)
        elif form == "parquet":
            pq.write_table(pa.table({"image": [*map(encoded, pixels)], "label": labels}), place / f"{split}.parquet")
        else:
            _write_files(place, form, split, images)
    return place / {"lists": f"{train}.txt", "archives": "tars"}.get(form, "")


def _write_files(place: Path, form: str, split: str, images: dict[str, int]) -> None:
    """Write the images of a split, and the list or archive that holds them."""
    for name, value in images.items():
        grow(place, name, start=value)
    if form == "lists":
        (place / f"{split}.txt").write_text("\n".join(f"{name} {name.split('/')[1]}" for name in images))
    if form == "archives":
        (place / "tars").mkdir(exist_ok=True)
        with tarfile.open(place / "tars" / f"{split}.tar", "w") as tar:
            tar.add(place / split, ".")


def encoded(image: np.ndarray) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def test_two_folders_of_one_split_are_refused(tmp_path):
    grow(tmp_path, "train/ant/0.png", "Train/ant/1.png", "test/ant/2.png")
    with pytest.raises(DataError, match=r"Two names stand for the train split\. Got: Train and train"):
        load_data(tmp_path, "train")
