"""Test images that are training images too: pixel for pixel, or nearly so."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import DataError, check_installed
from .feature_rows import FeatureRows
from .imageset import ImageSet

NEAR_BITS = 4
"""Of the 64 bits of a perceptual hash, in how many near-duplicates differ at most."""

_BLOCK = 1024  # test images compared at once


def count_repeats(train: ImageSet, test: ImageSet) -> dict[str, int]:
    """Count the test images whose pixels are in the training set.

    Parameters
    ----------
    train, test : ImageSet
        Labelled; of one shape, or both of mixed sizes.

    Returns
    -------
    dict
        ``num_images``: how many there are, each counted as often as it is in the test set; ``other_label``: of these,
        how many have a label that none of their copies in the training set has.
    """
    assert train.labels is not None, "training images are labelled"
    assert test.labels is not None, "test images are labelled"
    known = set(train.pixel_hashes.tolist())
    labelled = set(zip(train.pixel_hashes.tolist(), train.labels.tolist(), strict=True))
    pairs = zip(test.pixel_hashes.tolist(), test.labels.tolist(), strict=True)
    repeated = [pair for pair in pairs if pair[0] in known]
    return {"num_images": len(repeated), "other_label": sum(pair not in labelled for pair in repeated)}


def check_near_duplicates(images: ImageSet) -> None:
    """Raise, before the work, unless near-duplicates can be looked for.

    Raises
    ------
    DcganEvalError
        The package is not installed, or there are no images.
    """
    check_installed("imagehash", "--near-duplicates", extra="imagehash", distribution="ImageHash")
    if isinstance(images.images, FeatureRows):
        raise DataError(
            "Rows of features have no near-duplicates", got="--near-duplicates beside --features", remedy="leave it out"
        )


def count_near_duplicates(train: ImageSet, test: ImageSet) -> int:
    """Count the test images that look like one of the training set: the same rescaled, brightened or compressed.

    Copies pixel for pixel are counted too. Small or smooth images look alike sooner: the number is a reason to look.

    Parameters
    ----------
    train, test : ImageSet
        Images of any sizes.

    Source: ``imagehash.phash``, 64 bits of the lowest frequencies of 32x32 grey values; near are those within 4.
    """
    # as +-1, so that a product counts: 64 bits agree in (64 + a.b) / 2
    known, asked = (_hashes(images) for images in (train, test))
    least = 64 - 2 * NEAR_BITS
    blocks = (asked[at : at + _BLOCK] for at in range(0, len(asked), _BLOCK))
    return sum(int(((block @ known.T).max(1) >= least).sum()) for block in blocks)


def _hashes(images: ImageSet) -> np.ndarray:
    """Return the perceptual hashes as +-1, float32 (N, 64)."""
    import imagehash

    pictures = (Image.fromarray(np.squeeze(images.images[row])) for row in range(images.num_images))
    return np.array([2.0 * imagehash.phash(picture).hash.ravel() - 1 for picture in pictures], np.float32)
