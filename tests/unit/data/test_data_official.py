"""Sets that torchvision keeps as image files: the same images, labels and splits as torchvision's own objects give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from dcgan_eval.data.catalog import DATASETS, find, load_data
from dcgan_eval.data.official import LAYOUTS, list_torchvision
from dcgan_eval.errors import DataError


def grow(place: Path, names: list[str]) -> None:
    """Write an image for each name."""
    for row, name in enumerate(names):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(row).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def dtd(place: Path) -> None:
    grow(place / "dtd/dtd/images", [f"{c}/{c}_{n}.jpg" for c in ("banded", "dotted") for n in range(3)])
    (place / "dtd/dtd/labels").mkdir()
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        lines = [f"{c}/{c}_{number}.jpg" for c in ("dotted", "banded")]
        (place / f"dtd/dtd/labels/{split}1.txt").write_text("\n".join(lines))


def food101(place: Path) -> None:
    grow(place / "food-101/images", [f"{c}/{n}.jpg" for c in ("pie", "ramen") for n in range(3)])
    (place / "food-101/meta").mkdir()
    for split, numbers in (("train", (0, 2)), ("test", (1,))):
        rows = {c: [f"{c}/{n}" for n in numbers] for c in ("ramen", "pie")}
        (place / f"food-101/meta/{split}.json").write_text(json.dumps(rows))


def caltech101(place: Path) -> None:
    names = [f"{c}/image_{n:04d}.jpg" for c in ("BACKGROUND_Google", "ant", "Faces", "Faces_easy") for n in (1, 2)]
    grow(place / "caltech101/101_ObjectCategories", names)


def gtsrb(place: Path) -> None:
    grow(place / "gtsrb/GTSRB/Training", [f"{c:05d}/{n}.ppm" for c in range(3) for n in range(2)])
    grow(place / "gtsrb/GTSRB/Final_Test/Images", ["00000.ppm", "00001.ppm"])
    (place / "gtsrb/GT-final_test.csv").write_text("Filename;Width;ClassId\n00000.ppm;6;2\n00001.ppm;6;0\n")


def pets(place: Path) -> None:
    grow(place / "oxford-iiit-pet/images", ["Abyssinian_1.jpg", "beagle_7.jpg", "Abyssinian_2.jpg"])
    (place / "oxford-iiit-pet/annotations").mkdir()
    (place / "oxford-iiit-pet/annotations/trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_7 2 2 1\n")
    (place / "oxford-iiit-pet/annotations/test.txt").write_text("Abyssinian_2 1 1 1\nbeagle_7 2 2 1\n")


def imagenette(place: Path) -> None:
    names = [f"{s}/{c}/{n}.JPEG" for s in ("train", "val") for c in ("n01440764", "n02102040") for n in range(2)]
    grow(place / "imagenette2", names)


def eurosat(place: Path) -> None:
    grow(place / "eurosat/2750", [f"{c}/{c}_{n}.jpg" for c in ("AnnualCrop", "Forest") for n in range(2)])


SETS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "dtd": ("DTD", dtd),
    "food101": ("Food101", food101),
    "caltech101": ("Caltech101", caltech101),
    "gtsrb": ("GTSRB", gtsrb),
    "pets": ("OxfordIIITPet", pets),
    "imagenette": ("Imagenette", imagenette),
    "eurosat": ("EuroSAT", eurosat),
}


@pytest.mark.parametrize("name", SETS)
def test_images_and_labels_are_torchvisions(tmp_path, name):
    layout, make = SETS[name]
    make(tmp_path)
    for split, arguments in LAYOUTS[layout].splits.items():
        peer = getattr(torchvision.datasets, layout)(str(tmp_path), **arguments)
        listing = list_torchvision(tmp_path, layout, split)
        assert listing.labels.tolist() == [label for _, label in peer]
        items = [item for unit in listing.units for item in unit.items()]
        for item, (image, _) in zip(items, peer, strict=True):
            with Image.open(item.open()) as ours:
                assert np.array_equal(np.asarray(ours.convert("RGB")), np.asarray(image.convert("RGB")))
        assert len(set(listing.names)) == len(peer)


@pytest.mark.parametrize("name", SETS)
def test_they_are_found_in_the_data_directory(tmp_path, name):
    layout, make = SETS[name]
    make(tmp_path / name)
    source = find(name, tmp_path)
    assert source.form == layout
    assert set(source.splits) == set(DATASETS[name].splits)


def test_too_few_classes_are_refused_under_an_official_name(tmp_path):
    eurosat(tmp_path / "eurosat")
    with pytest.raises(DataError, match="has other classes than EuroSAT"):
        load_data("eurosat", "all", tmp_path)
    images = load_data(tmp_path / "eurosat", "all")
    assert images.class_names == ("AnnualCrop", "Forest")
    assert images.names.tolist() == [f"eurosat/2750/{c}/{c}_{n}.jpg" for c in ("AnnualCrop", "Forest") for n in (0, 1)]


def test_damaged_copies_bring_torchvisions_reason(tmp_path):
    dtd(tmp_path)
    (tmp_path / "dtd/dtd/labels/train1.txt").unlink()
    with pytest.raises(DataError, match=r"torchvision cannot read DTD.*train1\.txt"):
        list_torchvision(tmp_path, "DTD", "train")
