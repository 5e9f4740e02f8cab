"""Image files of a place with their splits, classes and names, without decoding any.

Images are listed in the order of their names, so that a pack of the same files is the same file.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DataError, counted
from . import lists
from .archives import read_archive
from .decoding import IMAGE_SUFFIXES, Encoded
from .folders import Found, hidden, walk
from .items import Item
from .labels import Labels, number_classes
from .mixed import Unit
from .tree import SPELLINGS, WHOLE, Branch, Tree, arrange, by_split, rank, split_named

UNIT_IMAGES = 1024
Notes = dict[str, list[str]]

_SPLIT_IN_NAME = re.compile(rf"(?:^|[_.-])({'|'.join(SPELLINGS)})(?:[_.-]|$)", re.IGNORECASE)
_OTHERS = "files of other kinds"
_JSON_BYTES = 1 << 20  # a label needs no more


@dataclass(frozen=True)
class Files:
    """Image files, a piece of work."""

    members: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.members)

    def items(self) -> Sequence[Encoded]:
        """Return the files."""
        return self.members

    def paths(self) -> list[Path]:
        """Return the files on the disk that they lie in."""
        return list(dict.fromkeys(item.path for item in self.members))

    @classmethod
    def in_units(cls, items: Sequence[Item]) -> tuple[Files, ...]:
        """Cut a list of files into pieces of work."""
        starts = range(0, len(items), UNIT_IMAGES)
        return tuple(cls(tuple(items[start : start + UNIT_IMAGES])) for start in starts)


@dataclass(frozen=True)
class Listing:
    """Encoded images, of one split or of several one behind the other.

    Attributes
    ----------
    units : tuple of Unit
        Pieces of work.
    names : tuple of str
        What each image is called, printable.
    labels : ndarray of int64, (N,), or None
        Class of each image; -1 for those of a split without labels, where others have them.
    class_names : tuple of str
        Classes in the order of their numbers; empty without labels.
    where : callable
        Maps a row to what its image is called in an error.
    splits : dict of str to int
        Images of each split.
    """

    units: tuple[Unit, ...]
    names: tuple[str, ...]
    labels: Labels | None
    class_names: tuple[str, ...]
    where: Callable[[int], str]
    splits: dict[str, int] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        """Images in all units."""
        return len(self.names)


@dataclass(frozen=True)
class Collection:
    """The image files of a place, in the order of their names.

    Attributes
    ----------
    place : Path
        Folder, archive or list.
    names : tuple of str
        Path of each image below the place, as the file system or the archive gives it.
    items : tuple of Item
        Where each is.
    tree : Tree
        Splits and class folders.
    stated : tuple of str or None
        Label that a file beside the images states for each.
    notes : dict of str to list of str
        What was found and is not used: a sentence's beginning, and the names; without names the whole phrase.
    """

    place: Path
    names: tuple[str, ...]
    items: tuple[Item, ...]
    tree: Tree
    stated: tuple[str | None, ...]
    notes: Notes = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.tree.splits)

    def listing(self, split: str, class_names: tuple[str, ...] | None = None) -> Listing:
        """List the images of a split.

        Parameters
        ----------
        split : str
            One of :attr:`splits`.
        class_names : tuple of str, optional
            Classes in the order of their numbers, if the data bear these names.

        Raises
        ------
        DataError
            If some images have a label and others have none.
        """
        rows = self.tree.splits[split].rows
        units = Files.in_units([self.items[row] for row in rows])
        names = tuple(printable(self.names[row]) for row in rows)

        def where(position: int) -> str:
            return str(self.place / names[position])

        labels, classes = None, tuple[str, ...]()
        values = self._values[split]
        if values is not None:
            labels, classes = number_classes(values, self._every_value, f"{self.place} ({split})", class_names, where)
        return Listing(units, names, labels, classes, where)

    @cached_property
    def _values(self) -> dict[str, np.ndarray | None]:
        """Label of each image of each split, as it is stated or as its class folder is called."""
        found: dict[str, np.ndarray | None] = {}
        for split, branch in self.tree.splits.items():
            stated = [self.stated[row] for row in branch.rows]
            values = branch.classes if not any(label is not None for label in stated) else [s or "" for s in stated]
            found[split] = None if values is None else np.array([printable(value) for value in values], np.str_)
        return self._as_numbers(found)

    def _as_numbers(self, values: dict[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """Take stated labels for numbers if all of them are, so that -1 can mean none and 2 comes before 10."""
        present = [each for each in values.values() if each is not None]
        numeric = all(re.fullmatch(r"-?\d{1,15}|", value) for each in present for value in np.unique(each))
        if not any(label is not None for label in self.stated) or not numeric:
            return values
        missing = {split: each is not None and bool((each == "").any()) for split, each in values.items()}
        return {s: each if each is None or missing[s] else each.astype(np.int64) for s, each in values.items()}

    @cached_property
    def _every_value(self) -> list[np.ndarray]:
        """Labels of all splits, and the names of class folders, empty ones among them."""
        by_folder = [b for b in self.tree.splits.values() if not any(self.stated[row] is not None for row in b.rows)]
        folders = [printable(folder) for branch in by_folder for folder in branch.folders]
        return [each for each in self._values.values() if each is not None] + [np.array(folders, np.str_)]


def collect(place: Path, split: str | None = None, label_column: str | None = None) -> Collection | None:
    """List the image files of a folder, of tar archives or of a list.

    Parameters
    ----------
    place : Path
        A folder of images at any depth or of tar archives; a tar archive, of archives too; or a list of images
        (``.txt``, ``.csv``, ``.tsv``, ``.jsonl``), together with those of other splits beside it. How labels are found
        is said in :func:`~dcgan_eval.data.tree.arrange`; labels that ``metadata.csv`` or ``metadata.jsonl``, or files
        ``.cls`` or ``.json`` of an image's name, state, come first.
    split : str, optional
        A split that is asked for, if its folder has another name than the usual ones.
    label_column : str, optional
        Column of a list that holds the labels.

    Returns
    -------
    Collection or None
        None if there are no images.

    Raises
    ------
    DataError
        If a file cannot be read or is damaged.
    """
    if place.is_file():
        if place.suffix.lower() in lists.LIST_SUFFIXES:
            return _from_lists(place, label_column)
        return (
            _from_archives(place, {place.name: place}, split, label_column) if place.suffix.lower() == ".tar" else None
        )
    found = walk(place)
    archives = {name: path for name, path in found.files.items() if name.lower().endswith(".tar")}
    images = [name for name in found.files if _is_image(name)]
    if archives and not any("/" in name for name in images):
        return _from_archives(place, archives, split, label_column, found)
    if not images:
        return None
    files = {name: Item(path) for name, path in found.files.items()}
    tree = arrange(sorted(images), found.folders, split)
    return _as_listed(_collection(place, files, tree, label_column, dict(found.notes)), found, label_column)


def printable(name: str) -> str:
    """Return a name that any file can hold: bytes that are no UTF-8 are written as ``\\xe9``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _from_archives(
    place: Path,
    archives: dict[str, Path],
    split: str | None,
    label_column: str | None,
    found: Found | None = None,
) -> Collection | None:
    """List what is in tar archives: shards of one data set, or an archive for each class or split."""
    notes = dict(found.notes) if found else {}
    _note_others(notes, [name for name in found.files if name not in archives] if found else [])
    files: dict[str, Item] = {}
    places: dict[str, str] = {}  # where each would lie if it were unpacked
    folders: set[str] = set()
    contents = {name: read_archive(path) for name, path in archives.items()}
    meaning = _meaning_of_archives({name: list(each.files) for name, each in contents.items()})
    for name, each in contents.items():
        shown = "" if len(archives) == 1 else f"{name}/"
        for inner, item in each.files.items():
            if hidden(inner):
                notes.setdefault("hidden files and folders", []).append(shown + inner)
                continue
            files[shown + inner] = item
            places[shown + inner] = meaning[name] + inner
        folders |= {meaning[name] + folder for folder in each.folders if not hidden(folder)}
        folders |= {meaning[name].rstrip("/")} - {""}
        for what, names in each.notes.items():
            notes.setdefault(what, []).extend(shown + inner for inner in names)
    images = sorted(name for name in files if _is_image(name))
    if not images:
        return None
    tree = arrange([places[name] for name in images], folders, split)
    return _collection(place, files, tree, label_column, notes)


def _meaning_of_archives(members: dict[str, list[str]]) -> dict[str, str]:
    """Return the folders that the name of each archive stands for: those it lies in, its split, its class."""
    folder = {name: posixpath.dirname(name) + "/" if "/" in name else "" for name in members}
    stems = {name: posixpath.basename(name)[: -len(".tar")] for name in members}
    if len(members) == 1:
        return folder
    splits = {name: split_named(match[1]) for name, stem in stems.items() if (match := _SPLIT_IN_NAME.search(stem))}
    if len(splits) == len(members) and len(set(splits.values())) > 1:
        return {name: f"{folder[name]}{splits[name]}/" for name in members}
    flat = not any("/" in inner for inners in members.values() for inner in inners)
    # ILSVRC2012 unpacked once: n01440764.tar holds n01440764_10026.JPEG; shards are numbered and hold any keys
    by_class = all(
        not any(character.isdigit() for character in stem) or all(inner.startswith(stem) for inner in members[name])
        for name, stem in stems.items()
    )
    return {name: f"{folder[name]}{stems[name]}/" if flat and by_class else folder[name] for name in members}


def _from_lists(place: Path, label_column: str | None, paths: dict[str, Path] | None = None) -> Collection:
    """Read a list of images, and those of the other splits: ``paths``, or what lies beside it."""
    names: list[str] = []
    stated: list[str | None] = []
    branches: dict[str, Branch] = {}
    notes: Notes = {}
    for split, path in (paths or _lists_beside(place)).items():
        found = lists.read_list(path, label_column)
        rows = sorted(found.rows, key=lambda row: row[0])
        notes |= lists.unused_columns(path.name, found.unused, found.has_labels)
        branches[split] = Branch(list(range(len(names), len(names) + len(rows))), None, ())
        names += [name for name, _ in rows]
        stated += [label for _, label in rows]
    items = [Item(place.parent / name) for name in names]
    absent = [name for name, item in zip(names, items, strict=True) if not item.path.is_file()]
    if absent or not names:
        raise DataError(
            f"{place} names {counted(len(absent), 'files')} not there" if absent else f"{place} names no images",
            got=", ".join(absent[:3]) or "an empty list",
            expected=f"paths below {place.parent}, each with its label behind white space or in a column",
            remedy="correct the paths, or move the list to the folder that they start from",
        )
    return Collection(place.parent, tuple(names), tuple(items), Tree(branches, (), {}), tuple(stated), notes)


def _as_listed(images: Collection, found: Found, label_column: str | None) -> Collection:
    """Read the lists that are named after splits and lie in a folder, unless its folders or metadata say it all."""
    listed = {
        name: path
        for name, path in found.files.items()
        if "/" not in name and split_named(path.stem) and _names_any(path, images, label_column)
    }
    if not listed:
        return images
    divided = images.splits != (WHOLE,) or images.tree.splits[WHOLE].classes is not None
    first = next(iter(listed.values()))
    if divided or any(images.stated) or len({path.suffix for path in listed.values()}) > 1:
        what = counted(len(listed), "lists of images")
        images.notes[f"{what} ({', '.join(listed)}); give {first} in place of the folder to read them"] = []
        return images
    names = by_split(path.stem for path in listed.values())
    paths = {split: first.with_stem(names[split]) for split in sorted(names, key=rank)}
    read = _from_lists(first, label_column, paths)
    left = sorted(set(images.names) - {posixpath.normpath(name) for name in read.names})
    notes = {**images.notes, **read.notes} | ({"images in none of the lists": left} if left else {})
    notes.pop(_OTHERS, None)
    _note_others(notes, [name for name in found.files if not _is_image(name) and name not in listed])
    return replace(read, notes=notes)


def _names_any(path: Path, images: Collection, label_column: str | None) -> bool:
    """Tell whether a file is a list that names at least one of some images; note what cannot be read."""
    if path.suffix.lower() not in lists.LIST_SUFFIXES:
        return False
    try:
        rows = lists.read_list(path, label_column).rows
    except DataError as error:
        images.notes[f"{path.name} as a list of images: {error.what}"] = []
        return False
    return not {posixpath.normpath(name) for name, _ in rows}.isdisjoint(images.names)


def _lists_beside(place: Path) -> dict[str, Path]:
    """Return the list of each split in the folder of a list that is named after one; else the list alone."""
    if not split_named(place.stem):
        return {WHOLE: place}
    beside = {path.stem: path for path in place.parent.glob("*" + place.suffix) if path.is_file()}
    found = by_split(sorted(filter(split_named, beside)))
    return {split: beside[found[split]] for split in sorted(found, key=rank)}


def _collection(place: Path, files: dict[str, Item], tree: Tree, label_column: str | None, notes: Notes) -> Collection:
    """Find the labels of images whose splits and classes are known; ``tree`` has them in the order of their names."""
    names = sorted(name for name in files if _is_image(name))
    stated, used = _stated_labels(files, names, place, label_column, notes)
    for what, more in tree.notes.items():
        notes.setdefault(what, []).extend(more)
    _note_others(notes, [name for name in files if not _is_image(name) and name not in used])
    items = tuple(files[name] for name in names)
    return Collection(place, tuple(names), items, tree, tuple(stated.get(name) for name in names), notes)


def _stated_labels(
    files: dict[str, Item], names: list[str], place: Path, label_column: str | None, notes: Notes
) -> tuple[dict[str, str], set[str]]:
    """Read the labels that files beside the images state; return them by image, and the files; note unused columns."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(_key(name), []).append(name)
    stated: dict[str, str] = {}
    used: set[str] = set()
    keys: dict[str, None] = {}  # of JSON files, that are not used
    for suffix in (".json", ".cls"):  # the second wins
        for name, item in files.items():
            if name.lower().endswith(suffix) and _key(name) in by_key:
                label, others = _label_in(item, suffix, place / printable(name), label_column)
                keys |= dict.fromkeys(others)
                used.add(name)
                stated |= {image: label for image in by_key[_key(name)] if label is not None}
    notes |= lists.unused_columns("the .json files", list(keys), bool(stated), "key")
    for name, item in files.items():
        if posixpath.basename(name) in lists.METADATA:
            used.add(name)
            content = None if item.size is None else item.read()
            found = lists.read_list(item.path if content is None else place / printable(name), label_column, content)
            stated |= _stated_by_list(name, place, found, set(names), notes)
    return stated, used


def _stated_by_list(name: str, place: Path, found: lists.ImageList, images: set[str], notes: Notes) -> dict[str, str]:
    """Return the labels by a list that lies beside the images it names, or above them."""
    notes |= lists.unused_columns(name, found.unused, found.has_labels)
    rows = {lists.beside(name, row): label for row, label in found.rows}
    folder = posixpath.dirname(name)
    if posixpath.basename(name) == "val_annotations.txt":  # names the files in images/ beside it
        rows = {posixpath.join(folder, "images", posixpath.basename(row)): label for row, label in rows.items()}
    if not rows.keys() <= images:  # shards may have one list for all of them
        within = Counter(map(_within_archive, images))
        found_in = {_within_archive(name): name for name in images if within[_within_archive(name)] == 1}
        rows = {row if row in images else found_in.get(_within_archive(row), row): label for row, label in rows.items()}
    absent = [row for row in rows if row not in images]
    if absent:
        raise DataError(
            f"{place / printable(name)} names {counted(len(absent), 'images')} not there",
            got=", ".join(absent[:3]),
            remedy="restore them, or remove their lines",
        )
    return {row: label for row, label in rows.items() if label is not None}


def _within_archive(name: str) -> str:
    """Return the path of a member without that of its archive."""
    return name.rpartition(".tar/")[2]


def _key(name: str) -> str:
    """Return what files that belong together share: the path up to the first dot of the file's name."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".")[0])


def _label_in(item: Item, suffix: str, where: Path, label_column: str | None) -> tuple[str | None, list[str]]:
    """Read a file that states a label, and its keys that nothing is read from."""
    with item.open() as file:
        content = file.read(_JSON_BYTES)
    try:
        text = content.decode("utf-8").strip()
        if suffix == ".cls":
            return text, []
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} states no label", got=str(error), remedy="correct or remove the file") from error
    values = {k: v for k, v in record.items() if isinstance(v, str | int | float)} if isinstance(record, dict) else {}
    key = lists.choose_label_column(list(values), str(where), label_column)
    others = [other for other in record if other != key] if isinstance(record, dict) else []
    return None if key is None else _as_text(values[key]), others


def _as_text(label: str | float) -> str:
    """Write a label of a JSON file; a whole float as its integer."""
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


def _note_others(notes: Notes, names: Iterable[str]) -> None:
    """Note files that are no images, by suffix."""
    suffixes = Counter(posixpath.splitext(name)[1].lower() or "no suffix" for name in names)
    for suffix, count in sorted(suffixes.items()):
        notes.setdefault(_OTHERS, []).extend([suffix] * count)


def describe_notes(notes: Notes) -> Iterator[str]:
    """Put what was found and not used in words: one phrase a kind, with the count and a few names."""
    for what, names in notes.items():
        if not names:  # a phrase that says it all
            yield what
            continue
        distinct = list(dict.fromkeys(printable(name) for name in names))
        shown = ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")
        yield f"{counted(len(names), what)} ({shown})"
