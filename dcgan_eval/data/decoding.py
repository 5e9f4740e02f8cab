"""Encoded images to pixels: one rule for every reader and for packs.

Images are turned upright (EXIF), brought to sRGB (ICC) and laid over white (alpha). Grey images stay grey (one
channel); palette and CMYK images become RGB; a set that mixes grey and colour becomes RGB. Of an animation the first
frame is taken. More than 8 bits a channel are refused: nothing says how they should be scaled.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from ..errors import DataError

Pixels = npt.NDArray[np.uint8]
Namer = Callable[[int], str]
T = TypeVar("T")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# tried in this order; Pillow's long tail of formats would make every WebP slower to recognise and files from strangers
# riskier to open
FORMATS = ("WEBP", "PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485
"""Where Pillow warns of decompression bombs; 20 kB of PNG can hold more."""

_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_THREADS = 4
_num_threads: int | None = None  # asked for
_CHUNK_IMAGES = 128  # single images are too small for a task of the pool each


class Encoded(Protocol):
    """Where the content of an image file comes from."""

    def open(self) -> IO[bytes]:
        """Open it for reading."""
        ...


def decode(item: bytes | Path | Encoded, where: str) -> Pixels:
    """Decode one image.

    Parameters
    ----------
    item : bytes, Path or Encoded
        Content of an image file, the file, or something that opens it.
    where : str
        What to call it in an error, e.g. ``"row 3 of train.parquet"``.

    Returns
    -------
    ndarray of uint8, (H, W, C)
        C is 1 for grey images and 3 otherwise.

    Raises
    ------
    DataError
        If it is damaged, no image, has more than 8 bits a channel or more than 89 million pixels.
    """
    with _naming(where), opened(item) as image:
        return as_array(as_shown(image))


def count_channels(item: bytes | Path | Encoded, where: str) -> int:
    """Read from an image's header whether :func:`decode` gives 1 channel or 3; raises as it does."""
    with _naming(where), opened(item) as image:
        return 1 if image.mode in _GREY_MODES else 3


@contextmanager
def opened(item: bytes | Path | Encoded) -> Iterator[ImageFile.ImageFile]:
    """Open an image without decoding it.

    Raises
    ------
    ValueError
        If it has more than 8 bits a channel, or too many pixels.
    Exception
        Whatever Pillow raises on damaged files, which is almost anything.
    """
    file = io.BytesIO(item) if isinstance(item, bytes) else item.open("rb") if isinstance(item, Path) else item.open()
    with file, _identified(file) as image:
        # 16-bit colour is opened as RGB and cut to its high bytes; only the raw mode of its tiles tells
        raw = " ".join(str(tile[3]) for tile in image.tile)
        if image.mode.startswith(("I", "F")) or ";16" in raw:
            raise ValueError(f"more than 8 bits a channel (mode {image.mode}): convert it to 8 bits first")
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: shrink it first")
        yield image


def _identified(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open an image, or say what it is not."""
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        empty = not file.seek(0, os.SEEK_END)
        raise ValueError("it is empty" if empty else f"it is none of {', '.join(FORMATS)}, or damaged") from error


def as_shown(image: Image.Image) -> Image.Image:
    """Return an open image as a viewer shows it on white: upright, in sRGB, opaque, mode L or RGB."""
    image.load()
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    profile = image.info.get("icc_profile")
    upright = _upright(image)
    alpha = upright.convert("LA" if mode == "L" else "RGBA").getchannel("A") if image.has_transparency_data else None
    # the profile of a CMYK image speaks of its four inks, every other of grey or RGB
    colour = upright if upright.mode in (mode, "CMYK") else upright.convert(mode)
    colour = _in_srgb(colour, profile) if profile else colour
    colour = colour if colour.mode == mode else colour.convert(mode)
    if alpha is None:
        return colour
    white = Image.new(mode, colour.size, "white")
    return Image.composite(colour, white, alpha)


def as_array(image: Image.Image) -> Pixels:
    """Return an image of mode L or RGB as (H, W, C)."""
    pixels = np.array(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def set_num_threads(count: int) -> None:
    """Let images be decoded by so many threads from now on, in this process; at first as many as cores, 4 at most."""
    global _num_threads
    _num_threads = count


def map_in_order(function: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield ``function(position)`` for 0 to ``count - 1``, worked out by a few threads a little ahead."""

    def chunk(start: int) -> list[T]:
        return [function(position) for position in range(start, min(start + _CHUNK_IMAGES, count))]

    threads = _num_threads or min(_MAX_THREADS, os.cpu_count() or 1)
    starts = iter(range(0, count, _CHUNK_IMAGES))
    with ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(chunk, start) for start in itertools.islice(starts, threads)]
        while ahead:
            done = ahead.pop(0).result()
            ahead += [pool.submit(chunk, start) for start in [next(starts, None)] if start is not None]
            yield from done


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a sentence with the image's name."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"The image at {where} cannot be decoded",
            got=str(error) or type(error).__name__,
            remedy="restore or convert the file, or remove that image",
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata must cost nothing but itself
        return image
    return image if method is None else image.transpose(method)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply an ICC profile; one that is damaged or of another colour space is passed over, as viewers do."""
    transform = _to_srgb(profile, image.mode)
    return image if transform is None else ImageCms.applyTransform(image, transform) or image


@functools.lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a profile to sRGB; None where there is nothing to do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
