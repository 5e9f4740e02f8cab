"""Every encoded image of a place, without decoding any: the list that a pack is made from, and reading works from."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from ..errors import DataError, missing_path
from . import readers
from .collection import Listing
from .imageset import UNLABELLED
from .tree import split_named


def list_images(place: Path, split: str | None = None, label_column: str | None = None) -> Listing:
    """List the images of a place, as :func:`~dcgan_eval.data.catalog.load_data` would read them.

    Parameters
    ----------
    place : Path
        As for :func:`~dcgan_eval.data.readers.detect`, with encoded images: folders, tar archives, lists, Parquet.
    split : str, optional
        The split to list; None lists all there are, one behind the other.
    label_column : str, optional
        Column of the labels, where several could be meant.

    Returns
    -------
    Listing

    Raises
    ------
    DataError
        If there are no images, the split is not there, or a file cannot be read.

    Warns
    -----
    DataNotice
        If something was found beside the images and is not used.
    """
    if not place.exists():
        raise missing_path(place, DataError)
    source = readers.detect(place, split, label_column)
    if source is None or not source.encoded:
        raise DataError(
            f"{place} holds no encoded images",
            got=str(source or "nothing known"),
            expected="a folder of images, .tar or .parquet files, a list of images, or a saved data set",
            remedy="give the folder that holds the images; decompress .tar.gz and unpack .zip first",
        )
    split = split if split is None or split in source.splits else split_named(split) or split
    if split is not None and split not in source.splits:
        raise DataError(
            f"{place} has no {split} split", got=", ".join(source.splits), remedy="choose one of these with --split"
        )
    readers.say(source)
    chosen = source.splits if split is None else (split,)
    return _joined({each: readers.list_split(source, each, None, label_column) for each in chosen})


def _joined(listings: dict[str, Listing]) -> Listing:
    """Put splits one behind the other."""
    several = list(listings.values())
    starts = [0, *itertools.accumulate(each.num_images for each in several)]
    given = [np.full(each.num_images, UNLABELLED) if each.labels is None else each.labels for each in several]
    labelled = [each for each in several if each.labels is not None]

    def where(row: int) -> str:
        number = int(np.searchsorted(starts, row, "right")) - 1
        return several[number].where(row - starts[number])

    return Listing(
        tuple(unit for each in several for unit in each.units),
        tuple(name for each in several for name in each.names),
        np.concatenate(given) if labelled else None,
        labelled[0].class_names if labelled else (),
        where,
        {split: each.num_images for split, each in listings.items()},
    )
