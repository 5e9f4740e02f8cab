"""What lies in tar archives and in the tar archives inside them: as ``tar -x`` would leave it, without unpacking."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import DataError
from .items import Item, Window

_DEPTH = 3  # an archive, the archives of its classes, and one more
_UNREADABLE = (OSError, tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, MemoryError)


class Contents(NamedTuple):
    """The files of an archive.

    Attributes
    ----------
    files : dict of str to Item
        By their paths in the archive; those of an archive inside lie in a folder of its name without ``.tar``.
    folders : set of str
        Every folder, with or without files.
    notes : dict of str to list of str
        What is there and cannot be read: a sentence's beginning, and the names.
    """

    files: dict[str, Item]
    folders: set[str]
    notes: dict[str, list[str]]


def read_archive(path: Path) -> Contents:
    """List the files of a tar archive.

    Of members with one name the last counts; links count as the files that they point to.

    Parameters
    ----------
    path : Path
        Archive, not compressed.

    Returns
    -------
    Contents

    Raises
    ------
    DataError
        If it or an archive inside it is damaged, cut off, compressed, or goes on behind its end.
    """
    found = Contents({}, set(), {})
    with _naming(path, ""), open(path, "rb") as file:
        _list(file, path, 0, path.stat().st_size, "", found, _DEPTH)
    return found


def _list(file: IO[bytes], path: Path, start: int, size: int, prefix: str, found: Contents, depth: int) -> None:
    """List the archive in ``size`` bytes from ``start``; its files get a prefix."""
    links: dict[str, str] = {}
    inside: dict[str, Item] = {}
    with tarfile.open(fileobj=io.BufferedReader(Window(file, start, size, owns=False)), mode="r:") as archive:
        for member in archive:
            name = _inner(member.name)
            links.pop(name, None)
            inside.pop(name, None)
            if member.isdir():
                found.folders.add(prefix + name)
            elif member.islnk() and _inner(member.linkname) in inside:
                inside[name] = inside[_inner(member.linkname)]
            elif member.issym():
                links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            elif member.isreg() or member.issparse():
                inside[name] = _item(member, path, start)
            else:
                found.notes.setdefault("members that are neither files nor folders, or links to none", []).append(name)
            archive.members = []  # type: ignore[attr-defined]  # else a million of them stay in memory
        _check_end(archive, size)
    _follow(links, inside, found, prefix)
    for name, item in inside.items():
        if not name.lower().endswith(".tar"):
            found.files[prefix + name] = item
        elif not posixpath.basename(name).startswith("."):
            _descend(file, path, item, prefix + name, found, depth)


def _descend(file: IO[bytes], path: Path, item: Item, name: str, found: Contents, depth: int) -> None:
    """List an archive inside an archive."""
    if depth == 1 or item.pieces:
        raise DataError(
            f"{path} holds an archive that is {'sparse' if item.pieces else 'nested too deeply'}",
            got=name,
            expected=f"archives in archives, {_DEPTH} deep at most",
            remedy="unpack it, and give the folder",
        )
    folder = name[: -len(".tar")]
    found.folders.add(folder)
    with _naming(path, name):
        _list(file, path, item.offset, item.size or 0, folder + "/", found, depth - 1)


def _item(member: tarfile.TarInfo, path: Path, start: int) -> Item:
    """Say where the content of a member lies."""
    offset = start + member.offset_data
    if not member.issparse():
        return Item(path, offset, member.size)
    stored: Any = member.sparse
    pieces = tuple((place, count) for place, count in stored or () if count)
    return Item(path, offset, sum(count for _, count in pieces), pieces, member.size)


def _inner(name: str) -> str:
    """Return a member's name as a plain path: no leading slash, no ``.`` or ``..``."""
    parts = [part for part in posixpath.normpath(name).split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def _follow(links: dict[str, str], inside: dict[str, Item], found: Contents, prefix: str) -> None:
    """Add what symbolic links point to; those to folders, to nowhere and in circles are noted."""
    for name in links:
        target, seen = links[name], {name}
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in inside:
            inside[name] = inside[target]
        else:
            found.notes.setdefault("links to no file of the archive", []).append(prefix + name)


def _check_end(archive: tarfile.TarFile, size: int) -> None:
    """Raise unless the members end with a block of zeros, with nothing behind it: tarfile takes damage for the end."""
    assert archive.fileobj is not None, "the archive is open"
    archive.fileobj.seek(archive.offset)
    last = archive.fileobj.read(tarfile.BLOCKSIZE)
    if len(last) < tarfile.BLOCKSIZE or any(last):
        raise tarfile.ReadError(f"no valid header and no end at byte {archive.offset} of {size}")
    while rest := archive.fileobj.read(1 << 20):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it goes on behind its end, as archives do that were joined with cat")


@contextmanager
def _naming(path: Path, inside: str) -> Iterator[None]:
    """Turn what tarfile raises into a sentence with the archive's name."""
    try:
        yield
    except _UNREADABLE as error:
        raise DataError(
            f"{inside + ' in ' if inside else ''}{path} cannot be read as a tar archive",
            got=str(error) or type(error).__name__,
            remedy="it may be truncated, compressed or joined from several: fetch it again, decompress it to a plain "
            ".tar, or unpack it with tar -ixf and give the folder",
        ) from error
