"""ImageSet: what it refuses, and that its identity is that of its content."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DataError


def pixels(num_images: int = 4) -> np.ndarray:
    return np.arange(num_images * 12, dtype=np.uint8).reshape(num_images, 2, 2, 3)


def test_constructs_from_plain_arrays_with_default_names():
    images = ImageSet(pixels(), [0, 2, 1, 2])
    assert images.class_names == ("0", "1", "2")
    assert (images.num_images, len(images), images.num_classes, images.image_shape) == (4, 4, 3, (2, 2, 3))
    assert images.labels.dtype == np.int64
    assert "toy" in repr(ImageSet(pixels(), name="toy"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels().astype(np.float32) / 255, "8-bit"),
        (pixels().astype(np.int64), "8-bit"),
        ([[1, 2], [3, 4]], "8-bit"),
        (pixels()[:0], "at least one image"),
        (pixels()[..., 0], r"images\[..., None\]"),
        (pixels().transpose(0, 3, 1, 2), "channels last"),
        (np.zeros((2, 4, 4, 4), np.uint8), "C 1"),
        (np.zeros((2, 0, 4, 3), np.uint8), "wrong shape"),
    ],
)
def test_refuses_images_and_says_what_to_do(images, message):
    with pytest.raises(DataError, match=message):
        ImageSet(images)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2], (), "do not match"),
        ([[0], [1], [0], [1]], (), "do not match"),
        ([0.0, 1.0, 0.0, 1.0], (), "not integers"),
        (["cat", "dog", "cat", "dog"], (), "not integers"),
        ([True, False, True, False], (), "not integers"),
        ([[0, 1], [1], [0], [1]], (), "do not form an array"),
        ([0, 1, -1, 0], (), "from -1 to 1"),
        ([0, 1, 2**40, 0], (), "outside"),
        ([1, 2, 10, 3], tuple("0123456789"), "map 10 to 0"),
        ([0, 1, 0, 1], ("cat", "cat"), "same name"),
    ],
)
def test_refuses_labels_and_says_what_to_do(labels, names, message):
    with pytest.raises(DataError, match=message):
        ImageSet(pixels(), labels, names)


def test_pixel_hashes_are_sha256_of_the_bytes_also_of_strided_images():
    images = ImageSet(pixels()[:, :, ::-1])
    expected = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest().encode() for image in images.images]
    assert images.pixel_hashes.tolist() == expected


def test_canonical_order_is_by_hash_alone(toy):
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in toy.images]
    assert [hashes[row] for row in toy.canonical_order] == sorted(hashes)
    assert np.array_equal(toy.canonical_order[toy.canonical_rank], np.arange(len(toy)))


def test_nobody_learns_labels_from_the_order_of_rows(toy):
    """Shuffled and relabelled, a set shows the same bytes in the same order."""
    shuffle = np.random.default_rng(1).permutation(len(toy))
    relabelled = ImageSet(toy.images[shuffle], np.random.default_rng(2).integers(0, 3, len(toy)), toy.class_names)
    assert np.array_equal(relabelled.images[relabelled.canonical_order], toy.images[toy.canonical_order])


def test_identical_images_with_two_labels_keep_one_order_wherever_they_stand(toy):
    twice = ImageSet(np.concatenate([toy.images[:5], toy.images[:5]]), [0] * 5 + [1] * 5)
    swapped = twice.take(np.arange(10)[::-1])
    assert np.array_equal(twice.labels[twice.canonical_order], swapped.labels[swapped.canonical_order])


def test_names_follow_their_images(toy):
    named = ImageSet(toy.images, toy.labels, toy.class_names, names=np.array([f"{i}.png" for i in range(len(toy))]))
    assert named.take([4, 2]).names.tolist() == ["4.png", "2.png"]
    assert named.without_labels().names is None  # a path tells the class
    with pytest.raises(DataError, match="names"):
        ImageSet(toy.images, names=np.array(["a"]))


def test_fingerprint_ignores_order_and_names(toy):
    shuffled = toy.take(np.random.default_rng(1).permutation(len(toy)))
    renamed = ImageSet(toy.images, toy.labels, ("x", "y", "z"), "other", "test")
    assert shuffled.fingerprint == renamed.fingerprint == toy.fingerprint


def test_fingerprint_is_pinned():
    """Records hold fingerprints: they must never change between versions."""
    labels = [0, 1, 0, 1]
    pairs = sorted(
        (label, hashlib.sha256(image.tobytes()).hexdigest()) for label, image in zip(labels, pixels(), strict=True)
    )
    digest = hashlib.sha256(b"2x2x3\n")
    for label, pixel_hash in pairs:
        digest.update(label.to_bytes(8, "little") + pixel_hash.encode())
    assert ImageSet(pixels(), labels).fingerprint == digest.hexdigest()
    assert digest.hexdigest()[:16] == "f4f1e6bc8f5a39db"


def test_fingerprint_changes_with_one_pixel_one_label_or_the_shape(toy):
    pixel, label = toy.images.copy(), toy.labels.copy()
    pixel[7, 3, 2, 1] ^= 1
    label[7] = (label[7] + 1) % 3
    others = [
        ImageSet(pixel, toy.labels, toy.class_names),
        ImageSet(toy.images, label, toy.class_names),
        ImageSet(toy.images.reshape(60, 4, 9, 3), toy.labels, toy.class_names),
        toy.without_labels(),
        toy.take(np.arange(59)),
        toy.take([*range(60), 0]),
    ]
    assert len({toy.fingerprint, *(other.fingerprint for other in others)}) == 7


def test_take_and_without_labels_carry_hashes_over_correctly(toy):
    rows = np.array([5, 3, 59])
    fresh = ImageSet(toy.images[rows], toy.labels[rows], toy.class_names)
    assert toy.pixel_hashes is not None
    taken = toy.take(rows, split="pool")
    assert (taken.split, taken.class_names) == ("pool", toy.class_names)
    assert taken.fingerprint == fresh.fingerprint
    assert taken.without_labels().fingerprint == fresh.without_labels().fingerprint
    assert taken.without_labels().labels is None


@pytest.mark.parametrize("rows", [[], [60], [-1], [[0, 1]], [0.5], [True, False]])
def test_take_refuses_rows_that_do_not_exist(toy, rows):
    with pytest.raises(DataError, match="Rows of toy"):
        toy.take(rows)


@pytest.mark.parametrize(("kind", "largest"), [("uint16", 65_535), ("uint16", 255), ("int64", 200), ("float64", 1.0)])
def test_the_advice_for_another_type_keeps_the_brightness(kind, largest):
    """What the error says, done to a ramp from black to the largest value, gives a ramp up to white, or as it was."""
    x = np.linspace(0, largest, 48).reshape(1, 4, 4, 3).astype(kind)
    with pytest.raises(DataError) as caught:
        ImageSet(x)
    advice = str(caught.value).split("convert with ")[1].split(" for ")[0].split(", since")[0]
    converted = eval(advice, {"numpy": np, "x": x}).ravel()  # our own text
    assert converted.dtype == np.uint8
    assert converted[-1] == (largest if largest in (255, 200) else 255)
    assert (np.diff(converted.astype(int)) >= 0).all()
