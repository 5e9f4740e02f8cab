"""Which protocols there are: the paper's, pinned, and those of the sets that the data catalogue knows."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_eval.data.catalog import DATASETS, load_data
from dcgan_eval.data.check import check_data
from dcgan_eval.errors import DataError, ProtocolError
from dcgan_eval.protocols import catalog
from dcgan_eval.protocols.catalog import MORE_PROTOCOLS, PROTOCOLS, get_protocol, load_protocol_data
from dcgan_eval.protocols.rebuild import record_protocol
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.spec import Protocol
from dcgan_eval.report.summary import protocol_title


def write(folder: Path, count: int, side: int, seed: int) -> None:
    """Ten classes of noise, each with a bright row or column of its own, in folders."""
    draw = np.random.default_rng(seed)
    for label in range(10):
        for number in range(count):
            pixels = draw.integers(0, 100, (side, side, 3))
            pixels[label % 5] += 150 * (label < 5)
            pixels[:, label % 5] += 150 * (label >= 5)
            path = folder / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_unknown_protocol_names_the_closest() -> None:
    with pytest.raises(ProtocolError, match="cifar10-400"):
        get_protocol("cifar10-40")


def test_protocol_ids_are_pinned() -> None:
    assert {name: (p.id, p.version) for name, p in PROTOCOLS.items()} == {
        "cifar10": ("cifar10_l2svm_full", 1),
        "cifar10-400": ("cifar10_l2svm_400", 1),
        "cifar10-small": ("cifar10_small_l2svm", 1),
        "digits": ("digits_l2svm", 1),
        "svhn": ("svhn_l2svm_1000", 1),
        "svhn-small": ("svhn_small_l2svm_1000", 1),
    }
    assert PROTOCOLS["cifar10-small"].paper is None


def test_the_svhn_protocol_is_the_releases() -> None:
    protocol = PROTOCOLS["svhn"]
    assert protocol.Cs == (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    assert (protocol.num_validation, protocol.per_class) == (10_000, 100)
    assert (protocol.selection_draws, protocol.num_draws) == (10, 100)
    assert protocol.patience >= len(protocol.Cs)  # no value is left out
    assert (protocol.shown_as, protocol.preset, protocol.paper.value) == ("error", "svhn32", pytest.approx(1 - 0.2248))
    small = PROTOCOLS["svhn-small"]
    assert (small.num_validation, small.test_rows, small.paper) == (1_000, (4_000, 10_000), None)
    differing = {"id", "command", "title", "paper", "num_validation", "test_rows", "fingerprints"}
    same = {f.name for f in fields(Protocol)} - differing
    assert all(getattr(small, name) == getattr(protocol, name) for name in same)


def test_the_small_svhn_suite_is_the_official_files_first_rows(
    real_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = load_protocol_data(PROTOCOLS["svhn-small"], real_data_dir)
    assert (train.num_images, test.images.num_images) == (4_000, 6_000)
    official = load_data("svhn", "test", real_data_dir)
    assert sorted(train.pixel_hashes) == sorted(official.pixel_hashes[:4_000])
    shuffled = official.take(np.random.default_rng(0).permutation(10_000))
    monkeypatch.setattr(catalog, "load_data", lambda *_, **__: shuffled)
    with pytest.raises(DataError, match="not those of the official file in its order"):
        load_protocol_data(PROTOCOLS["svhn-small"], real_data_dir)
    monkeypatch.setattr(catalog, "load_data", lambda *_, **__: official.take(np.arange(9_999)))
    with pytest.raises(DataError, match="too few images"):
        load_protocol_data(PROTOCOLS["svhn-small"], real_data_dir)


def test_every_labelled_set_has_a_protocol_of_its_own() -> None:
    assert not set(PROTOCOLS) & set(MORE_PROTOCOLS)
    assert set(DATASETS) == set(MORE_PROTOCOLS) | {"cifar10", "svhn", "digits", "tiny-imagenet"}
    everything = [*PROTOCOLS.values(), *MORE_PROTOCOLS.values()]
    assert len({protocol.id for protocol in everything}) == len(everything)
    for name, protocol in MORE_PROTOCOLS.items():
        assert set(protocol.splits) <= set(DATASETS[name].splits) or protocol.num_test


def test_the_validation_split_tests_where_there_is_no_other(tmp_path: Path) -> None:
    for split, count, seed in (("train", 20, 0), ("val", 10, 1)):
        write(tmp_path / "imagenette" / split, count, 8, seed)
    protocol = get_protocol("imagenette")
    train, test = load_protocol_data(protocol, tmp_path)
    assert (train.num_images, test.images.num_images) == (200, 100)
    record = run_protocol(protocol, train, test, PixelFeatures(), place=Place(cache_dir=tmp_path / "cache"))
    assert (record.protocol, record.score) == ("imagenette_l2svm", 1.0)
    assert protocol_title(record) == "Imagenette, official splits"
    assert record_protocol(record) == protocol


def test_images_of_a_known_set_differ_in_size_where_it_says_so(tmp_path: Path) -> None:
    for split, sides in (("train", (8, 9)), ("val", (7, 10))):
        for side in sides:
            write(tmp_path / "imagenette" / split, 1, side, side)
            for path in (tmp_path / "imagenette" / split).rglob("0.png"):
                path.rename(path.with_stem(str(side)))
    train, test = load_protocol_data(get_protocol("imagenette"), tmp_path)
    assert (train.num_images, train.image_shape, test.images.num_images) == (20, (0, 0, 3), 20)
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "imagenette/train").rename(tmp_path / "eurosat/all")
    with pytest.raises(DataError, match="differ in size"):
        load_protocol_data(get_protocol("eurosat"), tmp_path)  # all of one size, officially


def test_imagenet_is_read_in_the_official_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = DATASETS["imagenet-1k"]
    assert (info.num_classes, info.counts) == (1000, {"train": 1_281_167, "val": 50_000})
    monkeypatch.setitem(DATASETS, info.name, replace(info, num_classes=20))
    draw, names = np.random.default_rng(0), [f"n{label * 7:08d}" for label in range(20)]
    for place, count in (("train", 3), ("val", 1)):
        for name in names:
            (tmp_path / info.name / place / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (24, 20 + number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / info.name / place / name / f"{name}_{number}.JPEG")
    protocol = get_protocol(info.name)
    assert (protocol.id, protocol.version, protocol.num_held_out(1_281_167)) == ("imagenet_1k_l2svm", 1, 50_000)
    train, test = load_protocol_data(protocol, tmp_path)
    assert np.bincount(train.labels).tolist() == [3] * 20
    assert (test.images.num_images, test.images.split, test.images.class_names) == (20, "val", tuple(names))


def test_a_validation_split_is_the_official_one_however_it_is_spelt(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(tmp_path / "imagenette" / split, 1, 8, len(split))
    assert check_data("imagenette", tmp_path)["problems"] == [
        "The train split has 10 images; the official one has 9,469.",
        "The validation split has 10 images; the official one has 3,925.",
    ]


def test_a_set_without_splits_gets_one(tmp_path: Path) -> None:
    write(tmp_path / "eurosat" / "all", 30, 8, 2)
    protocol = get_protocol("eurosat")
    assert protocol.num_test == 5_400  # a fifth of 27,000
    train, test = load_protocol_data(replace(protocol, num_test=60), tmp_path)
    assert np.bincount(train.labels).tolist() == [24] * 10
    assert len(set(train.pixel_hashes) | set(test.images.pixel_hashes)) == 300


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./imagenett", "There is no file or folder imagenett. Remedy: did you mean ./imagenette?"),
        ("./nothing", "There is no file or folder nothing. Remedy: correct the path."),
        ("photos/cat", "There is no file or folder photos/cat. Remedy: did you mean photos/cats?"),
        ("phots/cats", "There is no file or folder phots/cats. Remedy: did you mean ./photos?"),
    ],
)
def test_a_path_that_is_not_there_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("imagenette", "photos/cats"):
        Path(folder).mkdir(parents=True)
    with pytest.raises(ProtocolError) as of_protocol:
        get_protocol(name)
    with pytest.raises(DataError) as of_data:
        check_data(name)
    assert str(of_protocol.value) == said
    assert str(of_data.value).startswith(said.rstrip("."))
    with pytest.raises(DataError, match=r"give \./imagenette for the one that is in this folder, or set --data-dir"):
        check_data("imagenette", tmp_path / "data")
