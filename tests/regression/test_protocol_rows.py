"""The rows of every protocol of the catalogue are pinned: no version may give a published number other images.

The digests were made by the first version; the digests here are formed with hashlib, from pixels and labels.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.splits import draw_per_class, rows_digest, stratified_split
from dcgan_eval.protocols import catalog
from dcgan_eval.protocols.catalog import PROTOCOLS, get_protocol, load_protocol_data
from dcgan_eval.protocols.spec import SealedTest

_CIFAR10_VALIDATION = "48a617badeb164f73972e742d90623d7f74cc5385caf407373de3a5cd6f8f7a4"
VALIDATION = {
    "digits": "69c7d2b39744410ff723ac31f1cde428925a9c2628f0bc41fcfe681d4356c5ed",
    "cifar10": _CIFAR10_VALIDATION,
    "cifar10-400": _CIFAR10_VALIDATION,
    "cifar10-small": "7c5a04fd86d30ce7fbdc2bf40082c66c997d766b951333c9efc42de339f92a77",
    "svhn-small": "2d445a9a74f581f928f8f9be76c098edd52afe1a15f1cf6441d7488087659c13",
}
_CIFAR10 = (
    "809f74100bacabb954907cabc8e63c909737309dd081f05e51375d949d54f2c7",
    "28be0e1992efef1e246ef57cfb737f61224def1c714ecdccc2657a7cfb72e36e",
)
TRAIN_AND_TEST = {
    "digits": (
        "691748ad1df0b8817ba8270ec8fa6283e65defddcceca52a0c48283f5131c122",
        "9b282dc70c35664b3b009fd2119d17ee4dab8f82dfb54ee4bb94b6f1765e8cd1",
    ),
    "cifar10": _CIFAR10,
    "cifar10-400": _CIFAR10,
    "cifar10-small": (
        "28f8eb30d2152b6493af854f1331fbaecc94e1049c5c40a94bc407ce60a37b6a",
        "cf8b8aeacca14cdd760a5a741d344b79178617f8b54fe6393ec6bf6b17501330",
    ),
    "svhn-small": (
        "a9fc6cc8aa96bb954563576499e3bd2a97396f1ef32d7b051dca0a3c9dc79b9c",
        "318392ab19bef6dea3a9a508b4a288e670d71ec68ecba0b366edcc4c35b1a00c",
    ),
}  # as the first version's records hold them
DRAWS = {
    ("cifar10-400", "selection", 2): "380173301f24de4c47abd96c8181550fc0fc9a3a8fb042ad9165d1b2712f40c3",
    ("cifar10-400", "test", 9): "ee528aca1ee59b508e51203ee8b96d0cfea840c7dd79c052225828987429bbd4",
    ("svhn-small", "selection", 9): "ef000126e0beb09e18773a7a7235e430e092dfd38105d1d98dd31ec7879a3e6e",
    ("svhn-small", "test", 99): "b48b6a37ae33c22b59a92d3634edfadc2d9b6f664c33b452c6354dc42736c1c0",
}


_load_once = cache(load_data)


@pytest.fixture
def splits(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[ImageSet, SealedTest]:
    """Both splits of the protocol ``name``; only the digits come with a library."""
    monkeypatch.setattr(catalog, "load_data", _load_once)
    return load_protocol_data(
        get_protocol(name), None if name == "digits" else request.getfixturevalue("real_data_dir")
    )


@pytest.fixture
def train_images(splits: tuple[ImageSet, SealedTest]) -> ImageSet:
    """Train split of the protocol ``name``."""
    return splits[0]


def digest(images: ImageSet, rows: np.ndarray) -> str:
    """Hash the rows' pixel hashes in the order of (label, hash)."""
    assert images.labels is not None
    keys = sorted((int(images.labels[row]), hashlib.sha256(images.images[row].tobytes()).hexdigest()) for row in rows)
    return hashlib.sha256("\n".join(key for _, key in keys).encode()).hexdigest()


def test_every_protocol_is_pinned() -> None:
    assert set(PROTOCOLS) - set(VALIDATION) == {"svhn"}  # its training split was at hand nowhere
    assert VALIDATION.keys() == TRAIN_AND_TEST.keys()


@pytest.mark.parametrize("name", TRAIN_AND_TEST)
def test_train_and_test_rows_are_pinned(name: str, splits: tuple[ImageSet, SealedTest]) -> None:
    assert tuple(split.fingerprint for split in splits) == TRAIN_AND_TEST[name]
    images = splits[0]
    assert images.labels is not None
    pairs = [
        (int(label), hashlib.sha256(pixels).hexdigest())
        for label, pixels in zip(images.labels, images.images, strict=True)
    ]
    content = b"".join(label.to_bytes(8, "little") + key.encode() for label, key in sorted(pairs))
    size = "x".join(map(str, images.images.shape[1:]))
    assert hashlib.sha256(f"{size}\n".encode() + content).hexdigest() == TRAIN_AND_TEST[name][0]


@pytest.mark.parametrize("name", VALIDATION)
def test_validation_rows_are_pinned(name: str, train_images: ImageSet) -> None:
    images, protocol = train_images, get_protocol(name)
    _, validation = stratified_split(images, protocol.num_held_out(images.num_images), 0, "validation")
    assert digest(images, validation) == VALIDATION[name]
    assert rows_digest(images, validation) == VALIDATION[name]


@pytest.mark.parametrize(("name", "stream", "number"), DRAWS)
def test_draws_are_pinned(name: str, stream: str, number: int, train_images: ImageSet) -> None:
    images, protocol = train_images, get_protocol(name)
    kept, _ = stratified_split(images, protocol.num_held_out(images.num_images), 0, "validation")
    assert protocol.per_class is not None
    rows = draw_per_class(images, kept, protocol.per_class, 0, number, stream)
    assert digest(images, rows) == DRAWS[name, stream, number]


def test_the_digits_split_is_pinned() -> None:
    train, test = load_protocol_data(get_protocol("digits"))
    assert (train.num_images, test.images.num_images) == (1_297, 500)
    assert not set(train.pixel_hashes) & set(test.images.pixel_hashes)
