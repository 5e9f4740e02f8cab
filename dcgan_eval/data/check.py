"""What a data set on disk holds, and what is unusual about it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import counted
from .catalog import DATASETS, VALIDATION, DatasetInfo, default_data_dir, distinct, load_data, splits_of
from .collection import describe_notes
from .imageset import ImageSet
from .readers import DataNotice, Source


def check_data(
    name_or_path: str | Path, data_dir: Path | None = None, label_column: str | None = None
) -> dict[str, Any]:
    """Read every split of a data set and report on it.

    Parameters
    ----------
    name_or_path, data_dir, label_column
        As for :func:`load_data`.

    Returns
    -------
    dict
        Ready for JSON. ``name``; ``splits``: for each split that is there its ``source``, ``num_images``,
        ``expected_images`` (None if unknown), ``image_shape`` (None where sizes differ), ``class_counts`` (None
        without labels),
        ``duplicates`` (images whose pixels occurred before in the split) and ``fingerprint``; ``duplicates_between``:
        for each pair of splits such as ``"train/test"``, the images of the second whose pixels are in the first;
        ``not_used``: what was found and is not used, in phrases; ``problems``: sentences, empty if all is well.

    Raises
    ------
    DataError
        If nothing is there, or a split cannot be read.
    """
    info = DATASETS.get(name_or_path) if isinstance(name_or_path, str) else None
    directory = data_dir or default_data_dir()
    found = splits_of(info, name_or_path, directory, label_column)
    report: dict[str, Any] = {"name": str(name_or_path), "splits": {}, "duplicates_between": {}, "problems": []}
    hashes: dict[str, np.ndarray] = {}
    report["not_used"] = [phrase for source in distinct(found) for phrase in describe_notes(source.notes)]
    for split, source in found.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataNotice)  # it is in the report
            images = load_data(name_or_path, split, directory, label_column=label_column, mixed=True)
        hashes[split] = np.unique(images.pixel_hashes)
        report["splits"][split] = _describe(images, source, info)
    for first, second in itertools.combinations(hashes, 2):
        shared = int(np.intersect1d(hashes[first], hashes[second], assume_unique=True).size)
        report["duplicates_between"][f"{first}/{second}"] = shared
    report["problems"] = list(_problems(report, info))
    return report


def _describe(images: ImageSet, source: Source, info: DatasetInfo | None) -> dict[str, Any]:
    """Report on one split."""
    counts = None
    if images.labels is not None:
        per_class = np.bincount(images.labels, minlength=images.num_classes)
        counts = {name: int(count) for name, count in zip(images.class_names, per_class, strict=True)}
    return {
        "source": str(source),
        "num_images": images.num_images,
        "expected_images": info.counts.get(_official_split(info, images.split)) if info else None,
        "image_shape": list(images.image_shape) if images.image_shape[0] else None,
        "class_counts": counts,
        "duplicates": images.num_images - len(np.unique(images.pixel_hashes)),
        "fingerprint": images.fingerprint,
    }


def _official_split(info: DatasetInfo, split: str) -> str:
    """Return the official name of a split that is there, which may spell val, valid or validation otherwise."""
    return next((other for other in info.splits if split in VALIDATION and other in VALIDATION), split)


def _problems(report: dict[str, Any], info: DatasetInfo | None) -> Iterator[str]:
    """Say what is unusual, in sentences."""
    splits = report["splits"]
    there = [_official_split(info, split) for split in splits] if info else []
    for split in info.splits if info else ():
        if split not in there and split != "extra":  # SVHN's extra images serve no protocol
            yield f"The {split} split is not here."
    for split, found in splits.items():
        yield from _split_problems(split, found, info)
    if len({tuple(found["image_shape"] or ()) for found in splits.values()}) > 1:
        yield "The splits differ in image shape."
    for pair, shared in report["duplicates_between"].items():
        if shared:
            first, second = pair.split("/")
            of_second = counted(shared, f"different images of {second}")
            yield f"{of_second} {'is' if shared == 1 else 'are'} in {first} as well, pixel for pixel."


def _split_problems(split: str, found: dict[str, Any], info: DatasetInfo | None) -> Iterator[str]:
    """Say what is unusual about one split."""
    expected = found["expected_images"]
    if expected is not None and expected != found["num_images"]:
        yield f"The {split} split has {counted(found['num_images'], 'images')}; the official one has {expected:,}."
    if info and info.image_shape and tuple(found["image_shape"] or ()) != info.image_shape:
        yield f"The {split} images are {_size(found['image_shape'])}; the official ones are {_size(info.image_shape)}."
    empty = [name for name, count in (found["class_counts"] or {}).items() if count == 0]
    if empty:
        yield f"The {split} split has no images of class {', '.join(empty)}."
    if found["duplicates"]:
        repeat = "repeats an earlier one" if found["duplicates"] == 1 else "repeat earlier ones"
        yield f"{counted(found['duplicates'], f'images of {split}')} {repeat} of the same split, pixel for pixel."


def _size(shape: Any) -> str:
    """Write a shape as 32x32x3."""
    return "x".join(str(size) for size in shape)
