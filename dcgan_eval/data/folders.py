"""What lies in a folder, at any depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

_LEFT_BEHIND = {"__MACOSX", "__pycache__", "@eaDir", "lost+found"}


class Found(NamedTuple):
    """The files and folders below a place.

    Attributes
    ----------
    files : dict of str to Path
        Visible files by their paths below the place, with slashes, sorted; links are followed.
    folders : set of str
        Visible folders, with or without files.
    notes : dict of str to list of str
        What was passed over: a sentence's beginning, and the names.
    """

    files: dict[str, Path]
    folders: set[str]
    notes: dict[str, list[str]]


def hidden(name: str) -> bool:
    """Whether a part of a path begins with a dot, or is what archive and file programs leave behind."""
    return any(part.startswith(".") or part in _LEFT_BEHIND for part in name.split("/"))


def walk(place: Path) -> Found:
    """List a folder.

    Raises
    ------
    DataError
        If a folder cannot be listed.
    """
    found = Found({}, set(), {})
    _walk(place, "", (os.path.realpath(place),), found)
    return Found(dict(sorted(found.files.items())), found.folders, found.notes)


def _walk(folder: Path, prefix: str, above: tuple[str, ...], found: Found) -> None:
    """Add what a folder holds; ``above`` are the real paths of the folders it lies in, to notice circles."""
    try:
        with os.scandir(folder) as entries:
            listed = [(entry.name, *_kind(entry)) for entry in entries]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed", got=str(error), remedy="check its permissions") from error
    for name, is_folder, is_file in sorted(listed):
        path, inner = folder / name, prefix + name
        if hidden(name):
            found.notes.setdefault("hidden files and folders", []).append(inner)
        elif is_file:
            found.files[inner] = path
        elif not is_folder:
            found.notes.setdefault("pipes, devices and broken links", []).append(inner)
        elif (real := os.path.realpath(path)) in above:
            found.notes.setdefault("links to a folder above", []).append(inner)
        else:
            found.folders.add(inner)
            _walk(path, inner + "/", (*above, real), found)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is, or links to, a folder and a file."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        return False, False
