"""The one rule by which images are shrunk: the square at the centre, bilinear with a filter as wide as needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..progress import Progress, no_progress

Pixels = NDArray[np.uint8]
_EVERY = 1_000


def shrunk(image: Image.Image, size: int) -> Image.Image:
    """Return the square at an image's centre, shrunk to ``size`` pixels."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def shrink_all(images_NHWC: Pixels, size: int, progress: Progress = no_progress) -> Pixels:
    """Shrink images as ``data pack`` does.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8, C is 1 or 3.
    size : int
        Side of the results, pixels.
    progress : Progress
        Called now and then.

    Returns
    -------
    ndarray
        uint8, (N, size, size, C); the images themselves if they have that size.

    Raises
    ------
    DataError
        They are smaller.
    """
    count, height, width, channels = images_NHWC.shape
    if (height, width) == (size, size):
        return images_NHWC
    if min(height, width) < size:
        raise DataError(
            "The images are smaller than what is trained on",
            got=f"{height}x{width} pixels",
            expected=f"{size}x{size} or more",
            remedy="choose other images with --data",
        )
    result = np.empty((count, size, size, channels), np.uint8)
    for number, image in enumerate(images_NHWC):
        small = shrunk(Image.fromarray(image.squeeze(2) if channels == 1 else image), size)
        result[number] = np.asarray(small).reshape(size, size, channels)
        if number % _EVERY == 0 or number + 1 == count:
            progress("shrinking images", number + 1, count)
    return result
