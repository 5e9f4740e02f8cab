"""Images of mixed sizes: identity, memory and resizing, against hashlib and torchvision."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from dcgan_eval.data.items import Spool
from dcgan_eval.data.mixed import MixedImages, gather
from dcgan_eval.errors import DataError

SHAPES = [(20, 30), (30, 20), (8, 8), (16, 16), (64, 17)]


def pixels_of(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, *shape[2:]), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """Encode without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    return buffer.getvalue()


ARRAYS = [pixels_of((*shape, 3), seed) for seed, shape in enumerate(SHAPES)]


class Pieces:
    """A unit of contents in memory."""

    def __init__(self, contents: list[bytes]):
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def items(self) -> list[bytes]:
        return self.contents

    def paths(self) -> list:
        return []


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
def test_rows_are_known_by_size_and_pixels_whatever_the_container(form):
    images = MixedImages([encoded(array, form) for array in ARRAYS], str)
    expected = []
    for array in ARRAYS:
        inner = hashlib.sha256(array.tobytes()).hexdigest()
        expected.append(hashlib.sha256(f"{array.shape[0]}x{array.shape[1]}x3\n{inner}".encode()).hexdigest())
    assert [digest.decode() for digest in images.pixel_hashes] == expected
    assert images.sizes.tolist() == [list(shape) for shape in SHAPES]
    assert not images.uniform
    order = [3, 0, 4]
    assert np.array_equal(images.take(order).pixel_hashes, images.pixel_hashes[order])
    assert np.array_equal(
        MixedImages([encoded(ARRAYS[row]) for row in order], str).pixel_hashes, images.pixel_hashes[order]
    )


def test_the_same_bytes_in_another_shape_are_another_image():
    flat = np.full((4, 16, 3), 7, np.uint8)
    images = MixedImages([encoded(flat), encoded(flat.reshape(8, 8, 3))], str)
    assert images.pixel_hashes[0] != images.pixel_hashes[1]


def test_images_of_one_size_have_the_hashes_of_arrays():
    same = [pixels_of((9, 7, 3), seed) for seed in range(4)]
    images = MixedImages([encoded(array) for array in same], str)
    assert images.uniform
    assert images.pixel_hashes.tolist() == [hashlib.sha256(array.tobytes()).hexdigest().encode() for array in same]


@pytest.mark.parametrize("size", [8, 12, 32, 50])
def test_resizing_is_what_torchvision_does(size):
    images = MixedImages([encoded(array) for array in ARRAYS], str)
    from torchvision.transforms import functional as vision  # here, because it takes longer to import than all else

    bicubic = vision.InterpolationMode.BICUBIC
    for row, square in enumerate(images.resized(size)):
        image = vision.resize(Image.fromarray(ARRAYS[row]), [size], bicubic)
        assert np.array_equal(square, np.asarray(vision.center_crop(image, [size, size]))), SHAPES[row]


def test_grey_images_are_repeated_only_beside_colour():
    grey = pixels_of((9, 7), 1)
    alone = MixedImages([encoded(grey), encoded(grey.T.copy())], str)
    assert alone.num_channels == 1
    assert alone.resized(4).shape == (2, 4, 4, 1)
    beside = MixedImages([encoded(grey), encoded(ARRAYS[0])], str)
    assert beside.num_channels == 3
    assert np.array_equal(beside[0], np.repeat(grey[..., None], 3, axis=2))


def test_rows_are_decoded_when_asked_for():
    images = MixedImages([encoded(array) for array in ARRAYS], str)
    assert np.array_equal(images[-1], ARRAYS[-1])
    assert [image.shape for image in images[1:3]] == [(30, 20, 3), (8, 8, 3)]
    assert [image.shape for image in images[np.array([4, 0])]] == [(64, 17, 3), (20, 30, 3)]
    assert list(images.each(np.max, [2])) == [ARRAYS[2].max()]
    with pytest.raises(IndexError):
        images[5]


def test_damage_is_named_when_it_is_met():
    content = encoded(ARRAYS[0])
    images = MixedImages([encoded(ARRAYS[1]), content[: len(content) // 2]], "picture {}".format)
    assert images.resized(8, [0]).shape == (1, 8, 8, 3)
    with pytest.raises(DataError, match="The image at picture 1 cannot be decoded"):
        images.resized(8)
    with pytest.raises(DataError, match="picture 0"):
        MixedImages([b"nothing"], "picture {}".format)


def test_one_size_is_gathered_into_an_array_and_others_are_not():
    same = [pixels_of((9, 7, 3), seed) for seed in range(5)]
    units = [Pieces([encoded(a) for a in same[:2]]), Pieces([encoded(a) for a in same[2:]])]
    together = gather(units, str, 10_000)
    assert np.array_equal(together, np.stack(same))
    for images in (gather(units, str, 100), gather([*units, Pieces([encoded(ARRAYS[0])])], str, 10_000)):
        assert isinstance(images, MixedImages)
        assert all(np.array_equal(images[row], array) for row, array in enumerate(same))


def test_gathered_grey_has_one_channel_and_grey_beside_colour_three():
    grey = [pixels_of((9, 7), seed) for seed in range(3)]
    assert np.array_equal(gather([Pieces([encoded(a) for a in grey])], str, 10_000), np.stack(grey)[..., None])
    mixed = gather([Pieces([encoded(grey[0]), encoded(pixels_of((9, 7, 3), 9))])], str, 10_000)
    assert np.array_equal(mixed[0], np.repeat(grey[0][..., None], 3, axis=2))


def test_a_spool_gives_back_what_was_added():
    spool = Spool()
    contents = [b"abc", b"", b"x" * 100_000]
    kept = [spool.add(content) for content in contents]
    assert [item.open().read() for item in reversed(kept)] == list(reversed(contents))
