"""From the names of image files to splits and classes: one rule for folders and for archives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ..errors import DataError
from .labels import sort_names

SPLIT_NAMES = ("train", "test", "val", "valid", "validation", "extra")
SPELLINGS = {**{name: name for name in SPLIT_NAMES}, "training": "train", "testing": "test"}
WHOLE = "all"  # the split of data that have none
_MEANINGLESS = {"images", "image", "imgs", "img", "jpg", "jpeg", "jpegimages", "png", "photos", "pictures", "data"}


class Branch(NamedTuple):
    """The images of one split.

    Attributes
    ----------
    rows : list of int
        Positions in the names that were arranged.
    classes : list of str, or None
        Class of each row; None if the split has no class folders.
    folders : tuple of str
        Every class folder there is, with or without images.
    """

    rows: list[int]
    classes: list[str] | None
    folders: tuple[str, ...]


class Tree(NamedTuple):
    """Splits and classes of a place.

    Attributes
    ----------
    splits : dict of str to Branch
        By name, in the order of :data:`SPLIT_NAMES`; ``"all"`` for data without splits.
    class_names : tuple of str
        Classes of all splits, so that one absent from a split does not shift the rest; empty without labels.
    notes : dict of str to list of str
        What was found and is not used, or not as it may seem: a sentence's beginning, and the names.
    """

    splits: dict[str, Branch]
    class_names: tuple[str, ...]
    notes: dict[str, list[str]]


def split_named(name: str) -> str | None:
    """Return the split that a folder, a file, an array or a user means by a name, whatever its case; None if none."""
    return SPELLINGS.get(name.lower())


def arrange(names: Sequence[str], folders: Collection[str], split: str | None = None) -> Tree:
    """Find the splits and classes in the names of image files.

    Below a split, or below the whole, the first folder is the class, however deep the image lies. Split folders are
    with a name of :data:`SPELLINGS` in any case: if other folders with images lie beside them, all are classes, unless
    the split folders hold class folders.

    Parameters
    ----------
    names : sequence of str
        Path of each image file below the place, with slashes.
    folders : collection of str
        Every visible folder below the place, whether or not it holds images.
    split : str, optional
        A split that is asked for: if a folder has this name, it and those beside it are splits, whatever their names.

    Returns
    -------
    Tree

    Raises
    ------
    DataError
        If two folders have names of one split.
    """
    notes: dict[str, list[str]] = {}
    base = _common_folder(names)
    inner = [name.removeprefix(base) for name in names]
    below = {folder.removeprefix(base) for folder in folders if folder.startswith(base)}
    tops = list(dict.fromkeys(name.split("/")[0] for name in inner if "/" in name))
    told = split is not None and not split_named(split) and split in tops
    present = sorted((top for top in tops if told or split_named(top)), key=lambda top: rank(split_named(top) or top))
    groups = {top: [row for row, name in enumerate(inner) if name.startswith(top + "/")] for top in present}
    beside = [row for row, name in enumerate(inner) if name.split("/")[0] not in present]
    if any("/" in inner[row] for row in beside) and not any(_has_classes(inner, *group) for group in groups.items()):
        if present:
            _note(notes, "folders named like splits, taken for classes because others lie beside them", present)
        groups = {}
    if groups:
        _note(notes, "images beside the folders of the splits", [names[row] for row in beside])
        prefixes = {top: top + "/" for top in groups}
    else:
        groups, prefixes = {WHOLE: list(range(len(inner)))}, {WHOLE: ""}
    branches = {
        called: _branch(inner, groups[top], prefixes[top], below, notes) for called, top in by_split(groups).items()
    }
    class_names = sort_names(folder for branch in branches.values() for folder in branch.folders)
    return Tree(branches, class_names, notes)


def by_split(names: Iterable[str]) -> dict[str, str]:
    """Return which of some names of folders or files stands for each split; a name of no split stands for itself.

    Raises
    ------
    DataError
        If two are names of one split, of which one would be lost.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_named(name) or name
        if split in found:
            raise DataError(
                f"Two names stand for the {split} split",
                got=f"{found[split]} and {name}",
                remedy="put their images together under one of them, or rename the other",
            )
        found[split] = name
    return found


def rank(split: str) -> tuple[int, str]:
    """Put train before test, and both before the rest."""
    return (SPLIT_NAMES.index(split) if split in SPLIT_NAMES else len(SPLIT_NAMES), split)


def _has_classes(names: Sequence[str], split: str, rows: list[int]) -> bool:
    """Whether all images of a split lie in folders that could be classes."""
    inner = [names[row].removeprefix(split + "/") for row in rows]
    base = _common_folder(inner, meaningless_only=True)
    return all("/" in name.removeprefix(base) for name in inner)


def _branch(
    names: Sequence[str], rows: list[int], prefix: str, folders: Collection[str], notes: dict[str, list[str]]
) -> Branch:
    """Find the classes of one split."""
    prefix += _common_folder([names[row].removeprefix(prefix) for row in rows], meaningless_only=True)
    parts = [names[row].removeprefix(prefix).split("/") for row in rows]
    found = {folder.removeprefix(prefix).split("/")[0] for folder in folders if folder.startswith(prefix)} - {""}
    loose = [names[row] for row, part in zip(rows, parts, strict=True) if len(part) == 1]
    if loose:
        if len(loose) < len(rows):
            _note(notes, "images in no class folder, so that the set has no labels", loose)
        return Branch(rows, None, ())
    classes = [part[0] for part in parts]
    _note(notes, "class folders without images", sorted(found - set(classes)))
    return Branch(rows, classes, tuple(found | set(classes)))


def _common_folder(names: Sequence[str], meaningless_only: bool = False) -> str:
    """Return the folders that hold all images and tell nothing apart, with a slash behind each; often none.

    A folder that holds everything is passed through if its name says nothing (``images/``), or if it holds folders
    alone, and is no split: ``pets/cat/1.png`` and ``pets/dog/1.png`` are two classes.
    """
    base = ""
    while True:
        parts = [name.removeprefix(base).split("/") for name in names]
        first = {part[0] for part in parts}
        if len(first) != 1 or min(map(len, parts)) < 2:
            return base
        (only,) = first
        depth, second = min(map(len, parts)), {part[1] for part in parts}
        inside = len(second) > 1 or all(map(split_named, second)) or (depth > 3 and min(second).lower() in _MEANINGLESS)
        wraps = depth > 2 and inside and not split_named(only)
        if only.lower() not in _MEANINGLESS and (meaningless_only or not wraps):
            return base
        base += only + "/"


def _note(notes: dict[str, list[str]], what: str, names: list[str]) -> None:
    """Remember names under a heading."""
    if names:
        notes.setdefault(what, []).extend(names)
