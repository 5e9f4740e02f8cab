"""Test images that are training images too, pixel for pixel."""

from __future__ import annotations

from dcgan_eval.data.imageset import ImageSet


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
