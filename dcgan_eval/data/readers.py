"""Where images are kept on disk: which forms a place holds, and one way from each to an ImageSet or a listing.

Nothing here is unpickled; the official files that torchvision downloads are read in ``official``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError, counted
from . import lists, npz, official, packfile, parquet
from .collection import Collection, Listing, Notes, collect, describe_notes, printable
from .decoding import IMAGE_SUFFIXES
from .folders import walk
from .imageset import ImageSet
from .labels import number_classes
from .mixed import MixedImages, gather
from .tree import WHOLE, rank, split_named

DIGITS_SIZE = 32
MEMORY_BYTES = 8 << 30
"""Image sets larger than this are not decoded into memory but image by image."""


class DataNotice(UserWarning):
    """Something was found beside the images that are used, or is not as it may seem."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Data in one form at one place.

    Parameters
    ----------
    form : str
        One of torchvision's classes, ``"parquet"``, ``"saved"`` (``datasets.save_to_disk``), ``"files"`` (folders, tar
        archives, lists), ``"npz"``, ``"pack"`` or ``"bundled"`` (scikit-learn's digits).
    path : Path, optional
        Folder or file; None for bundled data.
    splits : tuple of str
        Splits that are there; ``("all",)`` for data without splits.
    files : Collection, optional
        The image files, for folders, tar archives and lists.
    notes : dict
        What was found and is not used.
    """

    form: str
    path: Path | None
    splits: tuple[str, ...]
    files: Collection | None = dataclasses.field(default=None, repr=False, compare=False)
    notes: Notes = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def encoded(self) -> bool:
        """Whether it holds encoded images, which can be listed; else arrays."""
        layout = official.LAYOUTS.get(self.form)
        return not layout.in_memory if layout else self.form in ("folders", "tar", "list", "parquet", "saved")

    def __str__(self) -> str:
        return f"{self.form} in {self.path or 'scikit-learn'} (splits: {', '.join(self.splits)})"


def find_torchvision(place: Path, layout: str) -> Source | None:
    """Look for one of torchvision's layouts in a folder, not below; None if it is not there."""
    splits = official.splits_at(place, layout)
    return Source(layout, place, splits) if splits else None


def find_parquet(place: Path, levels: int = 2, prefer: str | None = None) -> Source | None:
    """Look for Parquet splits in a folder and down to ``levels`` below it.

    Parameters
    ----------
    place : Path
        Folder to look in.
    levels : int
        How far down to look; 0 is the folder alone.
    prefer : str, optional
        Name of the subfolder to take where several hold splits.

    Returns
    -------
    Source or None
        None if there are none.

    Raises
    ------
    DataError
        If several folders hold splits, so that two data sets could be mixed up.
    """
    pattern = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
    folders = sorted({path.parent for depth in range(levels + 1) for path in place.glob(pattern[depth])})
    found = {folder: splits for folder in folders if (splits := parquet.split_files(folder))}
    if len(found) > 1:
        found = {folder: splits for folder, splits in found.items() if folder.name == prefer} or found
    if len(found) > 1:
        raise DataError(
            f"{place} holds Parquet files of more than one data set",
            got=", ".join(str(folder) for folder in found),
            expected="the splits of one data set in one folder",
            remedy="give one of these folders instead",
        )
    return next((Source("parquet", folder, tuple(splits)) for folder, splits in found.items()), None)


def find_saved(place: Path) -> Source | None:
    """Look for what ``datasets.save_to_disk`` left in a folder; None if it is not there."""
    splits = parquet.saved_splits(place) if place.is_dir() else {}
    return Source("saved", place, tuple(sorted(splits, key=rank))) if splits else None


def find_files(
    place: Path, split: str | None = None, label_column: str | None = None, split_names_only: bool = False
) -> Source | None:
    """Look for image files: in folders, in tar archives, in a list.

    Parameters
    ----------
    place, split, label_column
        As for :func:`~dcgan_eval.data.collection.collect`.
    split_names_only : bool
        Accept only data in splits (train, test, val, valid, validation, extra).

    Returns
    -------
    Source or None
        None if there are no images.
    """
    if not place.exists() or (split_names_only and not _has_split_folders(place)):
        return None
    found = collect(place, split, label_column)
    if found is None or (split_names_only and found.splits == (WHOLE,)):
        return None
    form = "tar" if found.items[0].size is not None else "folders" if place.is_dir() else "list"
    return Source(form, place, found.splits, found, found.notes)


def _has_split_folders(place: Path) -> bool:
    """Tell whether a folder holds one that is named after a split."""
    return place.is_dir() and any(split_named(each.name) and each.is_dir() for each in place.iterdir())


def find_npz(path: Path) -> Source | None:
    """Look for arrays in an ``.npz`` file, or in a folder that holds one file, or one for each split."""
    splits = npz.splits_in(path) if path.exists() else ()
    return Source("npz", path, splits) if splits else None


def detect(path: Path, split: str | None = None, label_column: str | None = None) -> Source | None:
    """Find out in which form a user's own file or folder holds images.

    Parameters
    ----------
    path : Path
        A ``.npz``, ``.parquet`` or ``.tar`` file, a pack (``.h5``), a list of images (``.txt``, ``.csv``, ``.tsv``,
        ``.jsonl``), or a folder. In a folder the first of these counts: torchvision's layouts, a saved data set,
        Parquet (down to two levels below), image files or tar archives at any depth, ``.npz`` files.
    split : str, optional
        A split that is asked for, if its folder has another name than the usual ones.
    label_column : str, optional
        Column of the labels, where several could be meant.

    Returns
    -------
    Source or None
        None if nothing is recognised.

    Raises
    ------
    DataError
        If what is there is damaged or ambiguous.
    """
    if path.is_file():
        return _detect_file(path, label_column)
    if not path.is_dir():
        return None
    if path.name in official.FOLDERS:
        return find_torchvision(path.parent, official.FOLDERS[path.name])
    layouts = (find_torchvision(path, layout) for layout in official.LAYOUTS)
    table = next(filter(None, layouts), None) or find_saved(path) or find_parquet(path)
    if table is not None:
        return _with_notes(dataclasses.replace(table, notes=_beside(table)), label_column)
    return find_files(path, split, label_column) or _with_notes(find_npz(path), label_column)


def read(
    source: Source,
    split: str,
    name: str,
    class_names: tuple[str, ...] | None = None,
    label_column: str | None = None,
    *,
    mixed: bool = False,
) -> ImageSet:
    """Read one split of a source.

    Parameters
    ----------
    source : Source
        As found by :func:`detect` or one of the finders.
    split : str
        One of ``source.splits``.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers, where the source itself does not say.
    label_column : str, optional
        Column or array of the labels, where several could be meant.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        If the data are damaged, incomplete or unusable.
    """
    say(source)
    if source.encoded:
        return read_listing(list_split(source, split, class_names, label_column), name, split, mixed=mixed)
    if source.path is None:
        return read_digits()
    if source.form == "pack":
        return packfile.read_pack(source.path, name=name, split=split)
    if source.form == "npz":
        return npz.read_npz(source.path, split, name=name, class_names=class_names, label_column=label_column)
    return official.read_torchvision(source.path, source.form, split, name=name, class_names=class_names)


def list_split(
    source: Source, split: str, class_names: tuple[str, ...] | None = None, label_column: str | None = None
) -> Listing:
    """List the encoded images of one split; the parameters are those of :func:`read`, for forms that encode images."""
    if source.files is not None:
        return source.files.listing(split, class_names)
    if source.form in ("parquet", "saved"):
        return _list_table(source, split, class_names, label_column)
    assert source.path is not None, "only bundled data have no path"
    return official.list_torchvision(source.path, source.form, split, class_names)


def read_listing(listing: Listing, name: str, split: str, *, mixed: bool = False) -> ImageSet:
    """Decode the images of a listing; with ``mixed`` they may differ in size, or be too many for memory.

    Raises
    ------
    DataError
        If there are none, or one cannot be decoded.
    """
    if not listing.num_images:
        raise DataError(f"{name} ({split}) has no images", remedy="check that the download or the copy is complete")
    images = gather(listing.units, listing.where, MEMORY_BYTES)
    if isinstance(images, MixedImages) and not mixed:
        sizes = Counter(f"{height}x{width}" for height, width in images.sizes.tolist())
        raise DataError(
            f"The images of {name} ({split}) differ in size",
            got=", ".join(f"{size} ({counted(count, 'images')})" for size, count in sizes.most_common(5)),
            expected="one height and width for all",
            remedy="bring all images to one size with `dcgan-eval data pack`, or before loading them",
        )
    return ImageSet(images, listing.labels, listing.class_names, name, split, np.array(listing.names, np.str_))


def say(source: Source) -> None:
    """Warn once of what was found in a source and is not used."""
    phrases = list(describe_notes(source.notes))
    if phrases:
        warnings.warn(DataNotice(f"Not used in {source.path}: {'; '.join(phrases)}"), stacklevel=3)


def read_digits() -> ImageSet:
    """Read the digits that come with scikit-learn.

    Returns
    -------
    ImageSet
        1,797 images (32, 32, 3), split ``all``: the 8x8 grey images, 0 to 16, scaled to 0 to 255, enlarged with
        Pillow's bicubic filter and repeated over three channels.

    Source
    ------
    Test part of the UCI data set of optical recognition of handwritten digits, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    size = (DIGITS_SIZE, DIGITS_SIZE)
    enlarged = np.stack([np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in grey])
    return ImageSet(np.repeat(enlarged[..., None], 3, axis=3), digits.target, (), "digits", WHOLE)


def _detect_file(path: Path, label_column: str | None) -> Source | None:
    """Find out what a file holds, by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _with_notes(find_npz(path), label_column)
    if suffix in (".h5", ".hdf5"):
        return Source("pack", path, packfile.splits_in(path))
    if suffix == ".parquet":
        return _with_notes(Source("parquet", path, (parquet.split_of(path) or WHOLE,)), label_column)
    if suffix == ".tar" or suffix in lists.LIST_SUFFIXES:
        return find_files(path, label_column=label_column)
    return None


def _list_table(source: Source, split: str, class_names: tuple[str, ...] | None, label_column: str | None) -> Listing:
    """List the rows of Parquet or Arrow files."""
    assert source.path is not None, "tables have a path"
    shards = _shards(source)
    table = parquet.read_table(shards[split], label_column)
    firsts = [(unit.path, unit.num_rows) for unit in table.units]
    title = f"{source.path} ({split})"

    def where(position: int) -> str:
        path, row = _row_in(firsts, position)
        return f"row {row} of {path}"

    labels, classes = None, tuple[str, ...]()
    if table.labels is not None:
        names = table.class_names or class_names
        others = [] if names else [shard for other, shard in shards.items() if other != split]
        every = [values for shard in others if (values := parquet.read_table(shard, label_column).labels) is not None]
        labels, classes = number_classes(table.labels, [*every, table.labels], title, names, where)
    return Listing(table.units, tuple(printable(name) for name in table.names), labels, classes, where)


def _shards(source: Source) -> dict[str, list[Path]]:
    """Return the files of each split of a table."""
    assert source.path is not None, "tables have a path"
    if source.path.is_file():
        return {source.splits[0]: [source.path]}
    return (parquet.saved_splits if source.form == "saved" else parquet.split_files)(source.path)


def _with_notes(source: Source | None, label_column: str | None) -> Source | None:
    """Note the columns of tables, and the arrays, that nothing is read from."""
    if source is None or source.path is None:
        return source
    notes = dict(source.notes)
    if source.form in ("parquet", "saved"):
        for files in _shards(source).values():
            notes |= parquet.unread_columns(files, label_column)
    if source.form == "npz":
        notes |= npz.unread_arrays(source.path, label_column)
    return dataclasses.replace(source, notes=notes)


def _row_in(units: list[tuple[Path, int]], position: int) -> tuple[Path, int]:
    """Return the file of a row, and its number in that file."""
    row, file = 0, None
    for path, count in units:
        row = row if path == file else 0
        file = path
        if position < count:
            return path, row + position
        position, row = position - count, row + count
    raise IndexError(position)


def _beside(source: Source) -> Notes:
    """Note the images and archives that lie in a folder of tables and are not read."""
    if source.path is None or source.form not in ("parquet", "saved"):
        return {}
    used = {file for files in _shards(source).values() for file in files}
    suffixes = (".tar", ".npz", ".h5", ".parquet", ".arrow", *IMAGE_SUFFIXES)
    names = [
        name for name, path in walk(source.path).files.items() if path not in used and name.lower().endswith(suffixes)
    ]
    return {f"images and archives beside the {source.form} files": names} if names else {}
