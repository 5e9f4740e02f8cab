"""Encoded images to pixels: one rule for every reader.

Grey images stay grey (one channel); palette, RGBA and CMYK images become RGB, with transparency dropped; a set that
mixes grey and colour becomes RGB. EXIF orientation is not applied, and of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dcgan_eval.errors import DataError

Pixels = npt.NDArray[np.uint8]
Namer = Callable[[int], str]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# tried in this order; Pillow's long tail of formats would make every WebP slower to recognise and files from strangers
# riskier to open
FORMATS = ("WEBP", "PNG", "JPEG", "BMP", "GIF", "TIFF")
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # more than 8 bits a channel: Pillow would clip rather than scale
_MAX_THREADS = 4
_CHUNK_IMAGES = 128  # single images are too small for a task of the pool each


def decode(item: bytes | Path, where: str) -> Pixels:
    """Decode one image.

    Parameters
    ----------
    item : bytes or Path
        Content of an image file, or the file.
    where : str
        What to call it in an error, e.g. ``"row 3 of train.parquet"``.

    Returns
    -------
    ndarray of uint8, (H, W, C)
        C is 1 for grey images and 3 otherwise.

    Raises
    ------
    DataError
        If it is damaged, no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS) as image:
            mode = image.mode
            pixels = None if mode.startswith(_DEEP_MODES) else _to_array(image)
    # Pillow's plugins raise almost anything on damaged files: SyntaxError, struct.error, EOFError, OSError
    except Exception as error:
        raise DataError(
            f"The image at {where} cannot be decoded",
            got=str(error) or type(error).__name__,
            remedy="restore the file from its source, or remove that image",
        ) from error
    if pixels is None:
        raise DataError(
            f"The image at {where} has more than 8 bits a channel",
            got=f"mode {mode}",
            expected="8-bit grey or colour",
            remedy="convert it to 8 bits first",
        )
    return pixels


def decode_many(items: Sequence[bytes | Path], where: Namer) -> list[Pixels]:
    """Decode images in a small thread pool, in order.

    Parameters
    ----------
    items : sequence of bytes or Path
        Contents of image files, or the files.
    where : callable
        Maps a position in ``items`` to what that image is called in an error.

    Returns
    -------
    list of ndarray of uint8, (H, W, C)
        One array for each item.

    Raises
    ------
    DataError
        For the first item that cannot be decoded.
    """

    def decode_chunk(start: int) -> list[Pixels]:
        stop = min(start + _CHUNK_IMAGES, len(items))
        return [decode(items[position], where(position)) for position in range(start, stop)]

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        chunks = list(pool.map(decode_chunk, range(0, len(items), _CHUNK_IMAGES)))
    return [pixels for chunk in chunks for pixels in chunk]


def stack(images: Sequence[Pixels], title: str, where: Namer) -> Pixels:
    """Join decoded images of one size into one array.

    Parameters
    ----------
    images : sequence of ndarray of uint8, (H, W, C)
        At least one; grey ones are repeated to three channels if others have colour.
    title : str
        What to call the set in an error.
    where : callable
        Maps a position to what that image is called in an error.

    Returns
    -------
    ndarray of uint8, (N, H, W, C)

    Raises
    ------
    DataError
        If there are no images, or they differ in size.
    """
    if not images:
        raise DataError(f"{title} has no images", remedy="check that the download or the copy is complete")
    sizes = Counter(pixels.shape[:2] for pixels in images)
    if len(sizes) > 1:
        raise _different_sizes(images, sizes, title, where)
    num_channels = max(pixels.shape[2] for pixels in images)
    height, width = next(iter(sizes))
    stacked = np.empty((len(images), height, width, num_channels), np.uint8)
    for position, pixels in enumerate(images):
        stacked[position] = pixels  # broadcasts grey over three channels
    return stacked


def _to_array(image: Image.Image) -> Pixels:
    """Convert an open 8-bit image to (H, W, C)."""
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _different_sizes(images: Sequence[Pixels], sizes: Counter[tuple[int, ...]], title: str, where: Namer) -> DataError:
    """Build the error for images of different sizes, naming the commonest sizes and one odd image."""
    commonest = sizes.most_common(1)[0][0]
    odd = next(position for position, pixels in enumerate(images) if pixels.shape[:2] != commonest)
    found = [f"{height}x{width} ({count} images)" for (height, width), count in sizes.most_common(5)]
    more = f" and {len(sizes) - 5} further sizes" if len(sizes) > 5 else ""
    return DataError(
        f"The images of {title} differ in size",
        got=f"{', '.join(found)}{more}; the first odd one is {where(odd)}",
        expected="one height and width for all",
        remedy="resize or crop all images to one size before loading them",
    )
