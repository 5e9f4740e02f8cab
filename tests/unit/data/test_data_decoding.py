"""Pixels as a viewer shows them on white, made independently with Pillow and NumPy."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from dcgan_eval.data import decoding
from dcgan_eval.data.decoding import count_channels, decode
from dcgan_eval.data.pack import shrink
from dcgan_eval.errors import DataError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (8, 12, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (8, 12), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation_is_applied(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    content = encoded(Image.fromarray(COLOUR), form, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape[:2] == ((12, 8) if orientation > 4 else (8, 12))
    assert np.array_equal(decode(content, "x"), expected)
    assert shrink(content, 8).shape == (8, 8, 3)


def test_damaged_exif_costs_nothing_but_itself():
    content = encoded(Image.fromarray(COLOUR), "PNG", exif=b"Exif\0\0MM\0*" + b"\xff" * 9)
    assert np.array_equal(decode(content, "x"), COLOUR)


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blend with white as the alpha channel says."""
    a = alpha[..., None] / 255
    return values * a + 255 * (1 - a)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB key", "L key"])
def test_transparency_is_laid_over_white(mode):
    alpha = RANDOM.integers(0, 256, (8, 12), dtype=np.uint8)
    if mode == "RGBA":
        image, expected = Image.fromarray(np.dstack([COLOUR, alpha])), over_white(COLOUR, alpha)
    elif mode == "LA":
        image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
        expected = over_white(GREY[..., None], alpha)
    elif mode == "P":
        image = Image.fromarray(GREY % 3).copy()
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        expected = np.array([[255, 255, 255], [40, 50, 60], [70, 80, 90]])[GREY % 3]
    else:
        values = COLOUR if mode.startswith("RGB") else GREY[..., None]
        image = Image.fromarray(values.squeeze())
        expected = values.copy()
        expected[0, 0] = 255
    key = {"P": 0, "RGB key": tuple(COLOUR[0, 0].tolist()), "L key": int(GREY[0, 0])}.get(mode)
    if mode == "L key":
        expected[key == GREY] = 255
    content = encoded(image, "PNG", **({} if key is None else {"transparency": key}))
    # Pillow rounds the blend to whole levels
    assert np.abs(decode(content, "x") - expected).max() <= 1


def test_icc_profiles_are_brought_to_srgb():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # red and blue change places, and the name is no longer sRGB's
    swapped = srgb.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    content = encoded(Image.fromarray(COLOUR), "PNG", icc_profile=swapped)
    # the profile's numbers have 16 bits, and the transform rounds
    assert np.abs(decode(content, "x").astype(int) - COLOUR[..., ::-1]).max() <= 2


@pytest.mark.parametrize("profile", ["sRGB", "damaged", "of grey"])
def test_profiles_that_say_nothing_change_nothing(profile):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = {"sRGB": srgb, "damaged": srgb[:200], "of grey": srgb[:16] + b"GRAY" + srgb[20:]}[profile]
    assert np.array_equal(decode(encoded(Image.fromarray(COLOUR), "PNG", icc_profile=data), "x"), COLOUR)


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_modes_become_grey_or_rgb(mode, channels):
    content = encoded(Image.fromarray(COLOUR).convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    assert decode(content, "x").shape == (8, 12, channels)
    assert count_channels(content, "x") == channels
    assert shrink(content, 4).shape == (4, 4, channels)


def png16(kind: int, channels: int) -> bytes:
    """Write a PNG of 16 bits a channel."""
    values = RANDOM.integers(0, 4096, (8, 8, channels)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


DEEP = {"grey": png16(0, 1), "grey and alpha": png16(4, 2), "RGB": png16(2, 3), "RGBA": png16(6, 4)}
DEEP["32 bits"] = encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF")
DEEP["floats"] = encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
DEEP["PGM"] = b"P5 2 2 65535\n" + bytes(8)


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_refused_rather_than_clipped(kind):
    with pytest.raises(DataError, match="more than 8 bits"):
        decode(DEEP[kind], "x")
    with pytest.raises(ValueError, match="more than 8 bits"):
        shrink(DEEP[kind], 4)


def test_bombs_are_refused_before_they_are_decoded():
    side = 13_000
    line = zlib.compress(bytes(side * (side + 1)), 9)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", line) + chunk(b"IEND", b"")
    assert len(content) < 200_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(DataError, match="13000 x 13000 pixels"):
            decode(content, "x")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), (b"text", "none of WEBP"), (b"\x89PNG", "none of")]
)
def test_what_is_no_image_is_said_plainly(content, message):
    with pytest.raises(DataError, match=f"The image at row 3 cannot be decoded. Got: .*{message}"):
        decode(content, "row 3")


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 255)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content, "x").max() == 0


# decoding ahead in threads


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 256, 257, 1_000])
def test_map_in_order_is_map(count: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MAX_THREADS", threads)
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 8)
    assert list(decoding.map_in_order(lambda i: i * i, count)) == [i * i for i in range(count)]
