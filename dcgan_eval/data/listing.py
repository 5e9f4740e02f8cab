"""Every encoded image of a place, without decoding any: folders, tar archives, archives of archives, Parquet.

Images are listed in the order of their names, so that a pack of the same files is the same file.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from dcgan_eval.data import parquet
from dcgan_eval.data.decoding import IMAGE_SUFFIXES
from dcgan_eval.errors import DataError

UNIT_IMAGES = 1024


class Item(NamedTuple):
    """An image file: all of ``path``, or ``size`` bytes of it from ``offset``."""

    name: str
    class_name: str | None
    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Read the encoded image."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read() if self.size is None else file.read(self.size)


class RowGroup(NamedTuple):
    """A group of rows of a Parquet file."""

    path: Path
    group: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class Listing:
    """What there is to pack.

    Attributes
    ----------
    units : tuple
        Pieces of work, each a tuple of :class:`Item` or a :class:`RowGroup`.
    class_names : tuple of str
        Classes in the order of their numbers; empty without labels.
    num_images : int
        Images in all units.
    """

    units: tuple[tuple[Item, ...] | RowGroup, ...]
    class_names: tuple[str, ...]
    num_images: int

    @property
    def digest(self) -> str:
        """SHA-256 of names, places and sizes, which tells whether a listing is that of an earlier run."""
        found = hashlib.sha256()
        for unit in self.units:
            found.update(repr(unit).encode())
        return found.hexdigest()


def list_images(place: Path, unit_images: int = UNIT_IMAGES) -> Listing:
    """List the images of a place.

    Parameters
    ----------
    place : Path
        A folder of images at any depth, of tar shards, or of Parquet files; or one tar or Parquet file. In folders the
        class is the first folder's name; in a tar archive that of the inner archive (as in ILSVRC2012's) or of the
        folder, or the number in a ``.cls`` file beside the image (as in WebDataset's).
    unit_images : int
        Images of a piece of work, at most; row groups of Parquet stay whole.

    Returns
    -------
    Listing

    Raises
    ------
    DataError
        If there are no images, several splits, or a file cannot be read.
    """
    if not place.exists():
        raise DataError(f"{place} does not exist", remedy="check the path")
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    by_suffix = {s: [path for path in files if path.suffix.lower() == s] for s in (".parquet", ".tar")}
    if by_suffix[".parquet"]:
        return _parquet_listing(by_suffix[".parquet"])
    tars = by_suffix[".tar"]
    items = [item for path in tars for item in _in_tar(path)] if tars else list(_in_folder(place, files))
    if not items:
        expected = f"images ({', '.join(IMAGE_SUFFIXES)}), .tar or .parquet files"
        raise DataError(f"{place} holds no images", got=f"{len(files)} other files", expected=expected)
    starts = range(0, len(items), unit_images)
    units = tuple(tuple(items[start : start + unit_images]) for start in starts)
    return Listing(units, _class_names(items), len(items))


def _class_names(items: Sequence[Item]) -> tuple[str, ...]:
    """Number the classes: numbers by size, names by alphabet; none if an image has none."""
    found = {item.class_name for item in items}
    names = [name for name in found if name is not None]
    if len(names) < len(found):
        return ()
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _in_folder(place: Path, files: Sequence[Path]) -> Iterator[Item]:
    """List image files at any depth."""
    if place.is_file():
        raise DataError(
            f"{place.name} is no folder, tar archive or Parquet file",
            got=place.suffix or "no suffix",
            remedy="give the folder that holds the images, or unpack the archive to .tar first",
        )
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    names = [path.relative_to(place).as_posix() for path in found]
    splits = sorted({name.split("/")[0] for name in names} & {"train", "test", "val", "valid", "validation"})
    if splits:
        raise DataError(
            f"{place} holds splits, which are packed one at a time",
            got=", ".join(splits),
            remedy=f"give {place / splits[0]}",
        )
    for path, name in zip(found, names, strict=True):
        yield Item(name, name.split("/")[0] if "/" in name else None, path)


def _in_tar(path: Path) -> Iterator[Item]:
    """List the images in a tar archive and in the tar archives inside it, in the order of their names."""
    try:
        with open(path, "rb") as file:
            found = list(_members(file, path, 0, ""))
            numbers = {item.name: item.read() for item in found if item.name.endswith(".cls")}
    except (OSError, tarfile.TarError) as error:
        remedy = "it may be truncated or compressed: fetch it again, or decompress it to a plain .tar"
        raise DataError(f"{path} cannot be read as a tar archive", got=str(error), remedy=remedy) from error
    images = sorted(item for item in found if not item.name.endswith(".cls"))
    for item in images:
        number = numbers.get(str(PurePosixPath(item.name).with_suffix(".cls")))
        yield item._replace(class_name=number.decode().strip()) if number else item


def _members(file: IO[bytes], path: Path, start: int, within: str) -> Iterator[Item]:
    """List images and class files of the archive that begins at ``start``."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            suffix, offset = name.suffix.lower(), member.offset_data  # counted from the start of the file
            if not member.isfile() or name.name.startswith("."):
                continue
            if suffix == ".tar":
                yield from _members(file, path, offset, name.stem)
            elif suffix in (*IMAGE_SUFFIXES, ".cls"):
                class_name = within or name.parent.name or None
                yield Item(f"{path.name}/{within}/{name}".replace("//", "/"), class_name, path, offset, member.size)


def _parquet_listing(files: Sequence[Path]) -> Listing:
    """List the row groups of the Parquet files of one split."""
    splits = sorted({path.name.split("-")[0] for path in files})
    if len(splits) > 1 or len({path.parent for path in files}) > 1:
        raise DataError(
            "The Parquet files are of more than one split, and these are packed one at a time",
            got=", ".join(str(path) for path in files[:8]),
            remedy="give one file, or a folder that holds the shards of one split",
        )
    parquet.check_shards(files)
    layouts = [parquet.layout_of(path) for path in files]
    if len({names for _, names in layouts}) > 1:
        raise DataError("The Parquet files differ in their classes", got=", ".join(path.name for path in files))
    units = tuple(
        RowGroup(path, group, sum(sizes[:group]), size)
        for path, (sizes, _) in zip(files, layouts, strict=True)
        for group, size in enumerate(sizes)
    )
    return Listing(units, layouts[0][1] or (), sum(unit.num_rows for unit in units))
