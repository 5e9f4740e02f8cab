"""The catalogue: where data sets are looked for, what is said when they are not there, and the check."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dcgan_eval.cli.main import main
from dcgan_eval.data.catalog import DATASETS, dataset_info, find, load_data
from dcgan_eval.data.check import check_data
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.official import LAYOUTS
from dcgan_eval.errors import DataError


def cifar_like(forms, num_images: int = 40, seed: int = 0, split: str = "train") -> ImageSet:
    """A few random images in CIFAR-10's classes."""
    images = forms.make(num_images, 10, seed, size=32)
    return ImageSet(images.images, images.labels, DATASETS["cifar10"].class_names, "cifar10", split)


def test_table_is_consistent():
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.note
        assert info.torchvision_class is None or info.torchvision_class in LAYOUTS
        assert info.torchvision_class is None or set(LAYOUTS[info.torchvision_class].splits) == set(info.splits)
        assert info.class_names is None or len(info.class_names) == info.num_classes
    assert DATASETS["cifar10"].splits == ("train", "test")


@pytest.mark.parametrize("name", ["cifar-10", "cifra10"])
def test_unknown_names_bring_the_nearest(name):
    for function in (dataset_info, load_data, check_data):
        with pytest.raises(DataError, match="did you mean cifar10"):
            function(name)


def test_paths_that_do_not_exist(tmp_path):
    for path in (tmp_path / "absent", "./absent", "absent.npz"):
        with pytest.raises(DataError, match="There is no file or folder"):
            load_data(path)


def test_missing_data_say_what_where_and_how(tmp_path):
    with pytest.raises(DataError) as caught:
        load_data("cifar10", "train", tmp_path / "nowhere")
    message = str(caught.value)
    for part in ("nowhere/cifar10", "no such folder", "torchvision's layout", "train-*.parquet", "cifar10.npz"):
        assert part in message
    for remedy in ("--data-dir", "DCGAN_EVAL_DATA", "--download"):
        assert remedy in message
    with pytest.raises(DataError) as caught:
        load_data("tiny-imagenet", "train", tmp_path)
    assert "--download" not in str(caught.value)


def test_environment_variable_then_cache_folder(tmp_path, monkeypatch, forms):
    with pytest.raises(DataError, match=r"\.cache/dcgan-eval/data/cifar10"):
        load_data("cifar10")
    forms.parquet(cifar_like(forms), tmp_path / "cifar10")
    monkeypatch.setenv("DCGAN_EVAL_DATA", str(tmp_path))
    assert len(load_data("cifar10")) == 40


@pytest.mark.parametrize("subfolder", ["cifar10", "cifar10/data", "cifar10/plain_text/parquet", "."])
def test_parquet_is_found_in_the_data_sets_folder_and_directly_in_the_data_dir(tmp_path, forms, subfolder):
    forms.parquet(cifar_like(forms), tmp_path / subfolder)
    assert find("cifar10", tmp_path).path == tmp_path / subfolder
    assert len(load_data("cifar10", "train", tmp_path)) == 40


def test_another_data_sets_files_are_never_taken(tmp_path, forms):
    forms.parquet(cifar_like(forms), tmp_path / "cifar10")
    assert find("tiny-imagenet", tmp_path) is None
    assert find("svhn", tmp_path) is None
    for name in ("svhn", "tiny-imagenet"):  # here the files lie directly in the data directory
        with pytest.raises(DataError, match="has other classes"):
            load_data(name, "train", tmp_path / "cifar10")


def test_forms_are_preferred_in_the_documented_order(tmp_path, forms):
    place = tmp_path / "cifar10"
    images = cifar_like(forms)
    found = []
    place.mkdir()
    np.savez(place / "cifar10.npz", x_train=images.images, y_train=images.labels)
    found.append(find("cifar10", tmp_path).form)
    forms.folders(images, place / "train")
    found.append(find("cifar10", tmp_path).form)
    fingerprints = {load_data("cifar10", "train", tmp_path).fingerprint, images.fingerprint}
    forms.parquet(images, place / "data")
    found.append(find("cifar10", tmp_path).form)
    (place / "cifar-10-batches-py").mkdir()
    found.append(find("cifar10", tmp_path).form)
    assert found == ["npz", "folders", "parquet", "CIFAR10"]
    assert len(fingerprints) == 1


def test_a_form_that_lacks_the_split_is_passed_over(tmp_path, forms):
    forms.parquet(cifar_like(forms), tmp_path / "cifar10")
    forms.folders(cifar_like(forms, split="test"), tmp_path / "cifar10" / "test")
    assert find("cifar10", tmp_path, "test").form == "folders"
    assert load_data("cifar10", "test", tmp_path).split == "test"
    with pytest.raises(DataError, match="no valid split here"):
        load_data("cifar10", "valid", tmp_path)


def test_class_folders_get_the_official_label_numbers(tmp_path, forms):
    images = cifar_like(forms)
    some = images.take(np.flatnonzero(images.labels >= 5))
    forms.folders(some, tmp_path / "cifar10" / "train")
    assert load_data("cifar10", "train", tmp_path).fingerprint == some.fingerprint


def test_svhn_arrays_with_label_ten_get_the_remedy(tmp_path):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "svhn.npz", x_train=images, y_train=[1, 10])
    with pytest.raises(DataError, match="map 10 to 0"):
        load_data("svhn", "train", tmp_path)


def test_download_failure_is_a_data_error_and_success_is_read(tmp_path, monkeypatch, forms):
    import torchvision.datasets

    def fail(place, **_):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(DataError, match=r"could not be downloaded.*no route to host.*--data-dir"):
        load_data("cifar10", "train", tmp_path, download=True)

    def succeed(place, train, download):
        assert download
        forms.parquet(cifar_like(forms), Path(place))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", succeed)
    assert len(load_data("cifar10", "train", tmp_path, download=True)) == 40
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    assert len(load_data("cifar10", "train", tmp_path, download=True)) == 40  # what is there is not fetched again


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(DataError, match="SVHN is not here"):
        load_data("svhn", "train", tmp_path)


def test_unrecognised_places(tmp_path):
    with pytest.raises(DataError, match="No images were recognised"):
        load_data(tmp_path)
    (tmp_path / "x.md").write_text("x")
    with pytest.raises(DataError, match="No images were recognised"):
        load_data(tmp_path / "x.md")
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="unpack it"):
        load_data(tmp_path / "x.tar.gz")


def test_check_reports_counts_duplicates_and_problems(tmp_path, forms):
    train, test = cifar_like(forms), cifar_like(forms, 30, seed=1, split="test")
    pixels = test.images.copy()
    pixels[:3] = train.images[5]
    forms.parquet(train, tmp_path / "cifar10")
    forms.parquet(ImageSet(pixels, test.labels, test.class_names, "cifar10", "test"), tmp_path / "cifar10", 1)
    report = json.loads(json.dumps(check_data("cifar10", tmp_path)))
    assert list(report["splits"]) == ["train", "test"]
    assert report["splits"]["train"]["fingerprint"] == train.fingerprint
    assert report["splits"]["train"]["expected_images"] == 50_000
    assert sum(report["splits"]["train"]["class_counts"].values()) == 40
    assert report["splits"]["test"]["duplicates"] == 2
    assert report["duplicates_between"] == {"train/test": 1}
    text = " ".join(report["problems"])
    for part in ("40 images; the official one has 50,000", "2 images of test repeat", "1 different image of test"):
        assert part in text


def test_check_of_the_users_own_data_without_problems(tmp_path, forms):
    forms.folders(forms.make(seed=1), tmp_path / "train")
    forms.folders(forms.make(seed=2), tmp_path / "test")
    report = check_data(tmp_path)
    assert report["problems"] == []
    assert report["splits"]["train"]["expected_images"] is None
    assert report["splits"]["test"]["class_counts"] == {"class0": 24, "class1": 24, "class2": 12}


def test_check_of_missing_data(tmp_path):
    with pytest.raises(DataError, match="CIFAR-10 is not here"):
        check_data("cifar10", tmp_path)


@pytest.mark.parametrize(("name", "split", "expected"), [("svhn", "test", 10), ("cifar10", "test", 10)])
def test_real_data_load_with_the_catalogues_classes(real_data_dir, name, split, expected):
    if find(name, real_data_dir, split) is None:
        pytest.skip(f"no {name} {split} split in the data directory")
    images = load_data(name, split, real_data_dir)
    assert images.image_shape == DATASETS[name].image_shape
    assert images.class_names == DATASETS[name].class_names
    assert np.count_nonzero(np.bincount(images.labels)) == expected


def test_images_of_many_sizes_are_checked_like_others(tmp_path: Path) -> None:
    """They are what `svm` takes as well; the same pixels in two splits are found, whatever the files are called."""
    draw = np.random.default_rng(0)
    for number, size in enumerate([(5, 7), (8, 4), (6, 6)]):
        pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
        for split in ("train", "test") if number == 0 else ("train",):
            folder = tmp_path / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{split}{number}.png")
    (tmp_path / "test" / "class1").mkdir()
    Image.fromarray(draw.integers(0, 256, (9, 3, 3), dtype=np.uint8)).save(tmp_path / "test" / "class1" / "x.png")
    report = check_data(tmp_path)
    assert report["splits"]["train"]["image_shape"] is None
    assert report["splits"]["train"]["class_counts"] == {"class0": 2, "class1": 1}
    assert report["duplicates_between"] == {"test/train": 1} or report["duplicates_between"] == {"train/test": 1}
    result = CliRunner().invoke(main, ["data", "check", str(tmp_path)])
    assert "3 images of many sizes, 2 classes" in result.output
