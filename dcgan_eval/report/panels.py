"""Pictures of many small images: rows with words beside them, numbered grids, animations. No torch here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RecordError
from ..files import write_file

if TYPE_CHECKING:
    from PIL.Image import Image

_GAP, _TEXT_HEIGHT = 2, 12  # pixels
_WHITE = 255


def write_rows(rows: Sequence[tuple[str, np.ndarray]], path: Path, enlarge: int = 2) -> Path:
    """Write rows of images as one PNG, each with words above it.

    Parameters
    ----------
    rows : sequence of (str, ndarray)
        Words, empty for none, and images uint8 (N, H, W, C); rows may differ in length and in size of image.
    path : Path
        PNG to write.
    enlarge : int
        Screen pixels along a side of each pixel.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from PIL import Image, ImageDraw

    strips = [_strip(images, enlarge) for _, images in rows]
    tops = np.cumsum([0, *(len(s) + _GAP + _TEXT_HEIGHT * bool(words) for s, (words, _) in zip(strips, rows))])  # noqa: B905
    canvas = np.full((int(tops[-1]), max(s.shape[1] for s in strips), 3), _WHITE, np.uint8)
    for (words, _), strip, top in zip(rows, strips, tops[:-1], strict=True):
        start = top + _TEXT_HEIGHT * bool(words)
        canvas[start : start + len(strip), : strip.shape[1]] = strip
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for (words, _), top in zip(rows, tops[:-1], strict=True):
        pen.text((0, int(top)), words, fill="black")
    return _written(_png(picture), path)


def _strip(images_NHWC: np.ndarray, enlarge: int) -> np.ndarray:
    """Set images side by side, white between them, in RGB."""
    big = images_NHWC.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    big = np.broadcast_to(big, (*big.shape[:3], 3))
    apart = np.pad(big, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=_WHITE)
    return np.concatenate(list(apart), axis=1)


def write_numbered(images_NHWC: np.ndarray, columns: int, path: Path, enlarge: int = 2) -> Path:
    """Write a grid of images as one PNG, the index of each above it.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8, C is 1 or 3.
    columns : int
        Images in a row.
    path : Path
        PNG to write.
    enlarge : int
        Screen pixels along a side of each pixel.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from PIL import Image, ImageDraw

    strips = [_strip(images_NHWC[i : i + columns], enlarge) for i in range(0, len(images_NHWC), columns)]
    tile_width, height = images_NHWC.shape[2] * enlarge + _GAP, len(strips[0]) + _TEXT_HEIGHT
    canvas = np.full((height * len(strips), strips[0].shape[1], 3), _WHITE, np.uint8)
    for row, strip in enumerate(strips):
        canvas[row * height + _TEXT_HEIGHT : (row + 1) * height, : strip.shape[1]] = strip
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for i in range(len(images_NHWC)):
        pen.text(((i % columns) * tile_width + 1, (i // columns) * height), str(i), fill="black")
    return _written(_png(picture), path)


def write_animation(frames_THWC: np.ndarray, path: Path, frame_ms: int = 60) -> Path:
    """Write frames as an animated GIF or PNG, by the suffix of ``path``, forwards and endlessly.

    Parameters
    ----------
    frames_THWC : ndarray
        uint8, C is 1 or 3.
    path : Path
        ``.gif`` or ``.png`` to write.
    frame_ms : int
        Time of a frame in milliseconds.

    Raises
    ------
    RecordError
        The file cannot be written.
    """
    from PIL import Image

    first, *others = (Image.fromarray(frame.squeeze()) for frame in frames_THWC)
    buffer, form = io.BytesIO(), "GIF" if path.suffix.lower() == ".gif" else "PNG"
    first.save(buffer, form, save_all=True, append_images=others, duration=frame_ms, loop=0)
    return _written(buffer.getvalue(), path)


def _png(picture: Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _written(data: bytes, path: Path) -> Path:
    """Write a file, or say why not."""
    try:
        return write_file(path, data)
    except OSError as error:
        raise RecordError("The picture cannot be written", got=str(error), remedy="give another --out") from error
