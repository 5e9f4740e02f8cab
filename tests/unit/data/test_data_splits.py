"""Splits: proportions, determinism, and independence of files and their order."""

from __future__ import annotations

import numpy as np
import pytest

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.splits import draw_per_class, first_per_class, stratified_split
from dcgan_eval.errors import DataError


def shuffled(images: ImageSet, seed: int = 1) -> ImageSet:
    return images.take(np.random.default_rng(seed).permutation(len(images)))


def content(images: ImageSet, rows: np.ndarray) -> list[tuple[bytes, int]]:
    """What the rows hold, in their order."""
    return [(bytes(images.pixel_hashes[row]), int(images.labels[row])) for row in rows]


def with_counts(*counts: int) -> ImageSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 3, 3, 1), dtype=np.uint8)
    return ImageSet(pixels, labels)


@pytest.mark.parametrize("num_held_out", [1, 2, 10, 29, 55])
def test_stratified_split_is_a_partition_of_exact_size_in_canonical_order(toy, num_held_out):
    kept, held_out = stratified_split(toy, num_held_out, 0, "validation")
    assert len(held_out) == num_held_out
    assert sorted([*kept, *held_out]) == list(range(60))
    for rows in (kept, held_out):
        assert content(toy, rows) == sorted(content(toy, rows))


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ((50, 30, 20), 10, [5, 3, 2]),
        ((10, 10, 10), 10, [4, 3, 3]),  # a tie goes to the lower label
        ((97, 2, 1), 10, [10, 0, 0]),  # 9.7, 0.2, 0.1
        ((40, 35, 25), 7, [3, 2, 2]),  # 2.8, 2.45, 1.75
    ],
)
def test_stratified_split_shares_by_largest_remainder(counts, total, expected):
    images = with_counts(*counts)
    _, held_out = stratified_split(images, total, 0, "validation")
    assert np.bincount(images.labels[held_out], minlength=3).tolist() == expected


def test_every_function_ignores_the_order_of_the_images(toy):
    other = shuffled(toy)
    for images_rows, other_rows in zip(
        stratified_split(toy, 15, 3, "validation"), stratified_split(other, 15, 3, "validation"), strict=True
    ):
        assert content(toy, images_rows) == content(other, other_rows)
    assert content(toy, first_per_class(toy, 4)) == content(other, first_per_class(other, 4))
    draws = [draw_per_class(images, np.arange(60), 4, 3, 7, "draws") for images in (toy, other)]
    assert content(toy, draws[0]) == content(other, draws[1])


def test_exact_duplicates_do_not_make_a_split_depend_on_order(toy):
    doubled = toy.take([*range(60), *range(20)])
    other = shuffled(doubled)
    one, two = (stratified_split(images, 33, 0, "validation") for images in (doubled, other))
    assert content(doubled, one[1]) == content(other, two[1])


def test_seed_stream_and_draw_each_change_the_draw(toy):
    pool = np.arange(60)
    variants = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    drawn = {tuple(draw_per_class(toy, pool, 5, seed, draw, stream)) for seed, draw, stream in variants}
    splits = {tuple(stratified_split(toy, 20, seed, stream)[1]) for seed, _, stream in variants}
    assert len(drawn) == 4
    assert len(splits) == 3  # the split has no draw


def test_draws_are_pinned():
    """The published numbers rest on these rows: no version may change them."""
    images = with_counts(6, 6)
    assert first_per_class(images, 2).tolist() == [4, 8, 9, 0]
    assert draw_per_class(images, np.arange(12), 2, 0, 0, "draws").tolist() == [8, 6, 3, 1]
    assert sorted(stratified_split(images, 4, 0, "validation")[1].tolist()) == [0, 2, 7, 11]


def test_draw_stays_within_its_pool_whatever_the_pools_order(toy):
    kept, _ = stratified_split(toy, 20, 0, "validation")
    rows = draw_per_class(toy, kept, 5, 0, 2, "draws")
    assert set(rows) <= set(kept)
    assert np.bincount(toy.labels[rows]).tolist() == [5, 5, 5]
    assert np.array_equal(rows, draw_per_class(toy, kept[::-1], 5, 0, 2, "draws"))
    assert set(draw_per_class(toy, kept, 3, 0, 2, "draws")) < set(rows)


def test_changing_one_class_leaves_the_draws_of_the_others_alone(toy):
    pixels = toy.images.copy()
    pixels[toy.labels == 1] ^= 255
    changed = ImageSet(pixels, toy.labels, toy.class_names)
    before, after = (draw_per_class(images, np.arange(60), 4, 0, 0, "draws") for images in (toy, changed))
    assert np.array_equal(before[toy.labels[before] != 1], after[toy.labels[after] != 1])
    assert not np.array_equal(before, after)


def test_first_per_class_is_the_smallest_hashes(toy):
    rows = first_per_class(toy, 3)
    for label in range(3):
        members = sorted(toy.pixel_hashes[toy.labels == label])
        assert toy.pixel_hashes[rows[toy.labels[rows] == label]].tolist() == members[:3]


@pytest.mark.parametrize("count", [0, -1, 60, 61])
def test_stratified_split_refuses_impossible_sizes(toy, count):
    with pytest.raises(DataError, match="Cannot hold"):
        stratified_split(toy, count, 0, "validation")


def test_stratified_split_refuses_to_take_the_last_image_of_a_class():
    with pytest.raises(DataError, match="leaves none of class '1'"):
        stratified_split(with_counts(9, 1), 9, 0, "validation")


@pytest.mark.parametrize(
    "function",
    [
        lambda images: stratified_split(images, 2, 0, "validation"),
        lambda images: draw_per_class(images, [0, 1], 1, 0, 0, "draws"),
        lambda images: first_per_class(images, 1),
    ],
)
def test_all_refuse_images_without_labels_or_of_one_class(toy, function):
    with pytest.raises(DataError, match="no labels"):
        function(toy.without_labels())
    with pytest.raises(DataError, match="single class"):
        function(with_counts(5))
    with pytest.raises(DataError, match="single class"):
        function(toy.take(np.flatnonzero(toy.labels == 1)))


def test_draws_name_the_class_that_has_too_few():
    images = with_counts(9, 3, 9)
    with pytest.raises(DataError, match=r"Class '1'.*too few.*3 to choose from.*4 of each.*fewer labels per class"):
        first_per_class(images, 4)
    with pytest.raises(DataError, match=r"Class '2'.*2 to choose from"):
        draw_per_class(images, np.arange(14), 3, 0, 0, "draws")
    with pytest.raises(DataError, match="at least 1"):
        draw_per_class(images, np.arange(21), 0, 0, 0, "draws")


@pytest.mark.parametrize("rows", [[0, 60], [-1, 2], [[1, 2]], [0.5]])
def test_draw_refuses_rows_that_do_not_exist(toy, rows):
    with pytest.raises(DataError, match="not rows of toy"):
        draw_per_class(toy, rows, 1, 0, 0, "draws")
