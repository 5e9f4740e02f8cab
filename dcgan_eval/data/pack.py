"""Any number of encoded images to one HDF5 file of small uint8 images, the form that training wants.

Work is cut into units. Processes write each unit to a part of its own beside the pack, completely or not at all, so
that a run that was killed goes on where it stopped; the parts are joined last, and the pack appears under its name when
it is whole. No more than a few units are ever in memory.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from dcgan_eval.data import parquet
from dcgan_eval.data.decoding import FORMATS, Pixels
from dcgan_eval.data.imageset import ImageSet, fingerprint_of, hash_pixels
from dcgan_eval.data.listing import Item, Listing, RowGroup, list_images
from dcgan_eval.errors import DataError

FORMAT = "dcgan-eval-pack-1"
RULE = "shorter side to {size}, bilinear with antialiasing, JPEGs first decoded at reduced scale; centre square"
MARGIN = 2
"""A JPEG is decoded at the least of 1/8, 1/4, 1/2 and 1 that leaves this many times the wanted size."""

BLOCK_IMAGES = 1024
"""Images behind each checksum."""

STREAM_BYTES = 8 << 30
"""Packs larger than this are not read into memory but mapped, so that the system keeps in memory what it can."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Packed:
    """What a pack holds.

    Attributes
    ----------
    path : Path
        The file.
    num_images : int
        Images in it.
    skipped : tuple of (str, str)
        Name of each image left out, and why.
    class_names : tuple of str
        Classes in the order of their numbers; empty without labels.
    fingerprint : str
        That of the :class:`~dcgan_eval.data.imageset.ImageSet` which :func:`read_pack` returns.
    """

    path: Path
    num_images: int
    skipped: tuple[tuple[str, str], ...]
    class_names: tuple[str, ...]
    fingerprint: str


def pack(
    source: Path,
    out: Path,
    size: int = 32,
    *,
    num_processes: int | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> Packed:
    """Shrink every image of a place and write them to one file.

    Parameters
    ----------
    source : Path
        As for :func:`~dcgan_eval.data.listing.list_images`.
    out : Path
        HDF5 file to write: ``images`` uint8 (N, size, size, 3), contiguous, with a CRC-32 of each block in ``crc32``;
        ``labels`` int64 (N,) if every image has a class; ``names``, ``class_names``, ``skipped``.
    size : int
        Pixels of the shorter side, and of the square cut from the centre.
    num_processes : int, optional
        Processes that decode; None means one for each core.
    on_progress : callable
        Called with (what, images done, images in all).

    Returns
    -------
    Packed

    Raises
    ------
    DataError
        If ``out`` exists, there is nothing to pack, all images are unusable, or a part of another run is in the way.

    Source
    ------
    PROTOCOLS section 2: min-resize and centre crop, no augmentation.

    Deviations
    ----------
    The filter of the 2016 release is not documented; bilinear with antialiasing is ours.
    """
    if out.exists():
        raise DataError(f"{out} exists already", remedy="give another --out, or delete it")
    if size < 1:
        raise DataError("The size of packed images must be positive", got=str(size), remedy="give another --size")
    listing = list_images(source)
    parts = _prepare_parts(out, {"format": FORMAT, "size": size, "margin": MARGIN, "listing": listing.digest})
    _write_parts(listing, parts, size, num_processes or os.cpu_count() or 1, on_progress)
    packed = _join(listing, parts, out, size)
    shutil.rmtree(parts)
    return packed


def read_pack(path: Path, *, name: str = "images", stream_bytes: int = STREAM_BYTES) -> ImageSet:
    """Read a pack.

    Parameters
    ----------
    path : Path
        File written by :func:`pack`.
    name : str
        What to call the result.
    stream_bytes : int
        A pack with more bytes of images is mapped instead of read, and its checksums are not verified.

    Returns
    -------
    ImageSet
        Split ``all``; without labels if the pack has none.

    Raises
    ------
    DataError
        If it is no pack, or damaged.
    """
    with _reading(path), h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise DataError(f"{path} is no pack of images", expected=FORMAT, remedy="make one with data pack")
        labels = file["labels"][:] if "labels" in file else None
        images = file["images"]
        pixels = _mapped(path, images) if images.nbytes > stream_bytes else _verified(images[:], file["crc32"][:], path)
        return ImageSet(pixels, labels, tuple(file["class_names"].asstr()[:]), name, "all")


def _mapped(path: Path, images: h5py.Dataset) -> Pixels:
    """Map the images of a pack, copying on write, so that nothing can change the file."""
    return np.memmap(path, np.uint8, "c", images.id.get_offset(), images.shape)


def _verified(images: Pixels, expected: np.ndarray, path: Path) -> Pixels:
    """Return images whose blocks match their checksums."""
    if not np.array_equal(_checksums(images), expected):
        raise DataError(f"{path} is damaged: its images do not match their checksums", remedy="make it again")
    return images


def _checksums(images: Pixels) -> np.ndarray:
    """Return the CRC-32 of each block of images."""
    starts = range(0, len(images), BLOCK_IMAGES)
    return np.array([zlib.crc32(images[start : start + BLOCK_IMAGES].data) for start in starts], np.uint32)


def shrink(encoded: bytes, size: int) -> Pixels:
    """Decode an image and shrink it to a square.

    Parameters
    ----------
    encoded : bytes
        Content of an image file.
    size : int
        Pixels of the shorter side, and of the square cut from the centre.

    Returns
    -------
    ndarray of uint8, (size, size, 3)

    Raises
    ------
    ValueError
        For images in CMYK, with more than 8 bits a channel, or one pixel wide or high.
    Exception
        Whatever Pillow raises on damaged files, which is almost anything.
    """
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        if image.mode in ("CMYK", "I", "F") or image.mode.startswith("I;"):
            raise ValueError(f"colour mode {image.mode}")
        if min(image.size) < 2:
            raise ValueError(f"{image.width}x{image.height} pixels")
        image.draft("RGB", (MARGIN * size, MARGIN * size))
        colour = image if image.mode == "RGB" else image.convert("RGB")
        side = min(colour.size)
        left, top = (colour.width - side) / 2, (colour.height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(colour.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _prepare_parts(out: Path, identity: dict[str, object]) -> Path:
    """Make the folder of parts, or take that of an earlier run of the same work."""
    parts = out.with_name(out.name + ".parts")
    about, wanted = parts / "about.json", json.dumps(identity)
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if not about.exists():
            about.write_text(wanted)
        found = about.read_text()
    except OSError as error:
        raise _unwritable(out, error) from error
    if found != wanted:
        raise DataError(
            f"{parts} holds parts of other images, or of another size",
            got=found,
            expected=wanted,
            remedy=f"delete {parts}, or give another --out",
        )
    return parts


def _write_parts(listing: Listing, parts: Path, size: int, num_processes: int, on_progress: Progress) -> None:
    """Write the parts that are not there yet."""
    missing = [(n, unit) for n, unit in enumerate(listing.units) if not (parts / _part_name(n)).exists()]
    done = listing.num_images - sum(_count(unit) for _, unit in missing)
    on_progress("packing", done, listing.num_images)
    work = partial(_write_part, parts=parts, size=size, class_names=listing.class_names)
    with _mapping(min(num_processes, len(missing))) as mapping:
        for count in mapping(work, missing):
            done += count
            on_progress("packing", done, listing.num_images)


@contextmanager
def _mapping(num_processes: int) -> Iterator[Callable[..., Iterable[int]]]:
    """Offer a map over processes, or the plain one for one process."""
    if num_processes <= 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        yield pool.imap_unordered


def _write_part(
    task: tuple[int, tuple[Item, ...] | RowGroup], parts: Path, size: int, class_names: tuple[str, ...]
) -> int:
    """Shrink the images of a unit and write them; return how many there were."""
    number, unit = task
    images, labels, names, skipped = [], [], [], []
    for name, label, encoded in _encoded(unit, class_names):
        try:
            images.append(shrink(encoded, size))
        except Exception as error:  # one bad image in a million must not cost the others
            skipped.append((name, str(error) or type(error).__name__))
            continue
        labels.append(label)
        names.append(name)
    stacked = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
    part, temporary = parts / _part_name(number), parts / f"{_part_name(number)}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                images=stacked,
                hashes=hash_pixels(stacked),
                labels=np.array(labels, np.int64),
                names=np.array(names, np.str_),
                skipped=np.array(json.dumps(skipped)),
            )
        os.replace(temporary, part)
    except OSError as error:
        raise _unwritable(part, error) from error
    return _count(unit)


def _encoded(unit: tuple[Item, ...] | RowGroup, class_names: tuple[str, ...]) -> Iterator[tuple[str, int, bytes]]:
    """Yield the name, label (-1 for none) and content of each image of a unit."""
    if isinstance(unit, RowGroup):
        images, labels = parquet.read_encoded(unit.path, unit.group)
        for row, encoded in enumerate(images):
            name = f"row {unit.first_row + row} of {unit.path.name}"
            yield name, -1 if labels is None else int(labels[row]), encoded or b""
        return
    numbers = {name: number for number, name in enumerate(class_names)}
    for item in unit:
        yield item.name, numbers.get(item.class_name or "", -1), item.read()


def _join(listing: Listing, parts: Path, out: Path, size: int) -> Packed:
    """Join all parts to the pack."""
    temporary = out.with_name(out.name + ".partial")
    paths = [parts / _part_name(number) for number in range(len(listing.units))]
    small: dict[str, list[np.ndarray]] = {"labels": [], "hashes": [], "names": [], "skipped": []}
    for path in paths:
        for key, value in _read_part(path, tuple(small)).items():
            small[key].append(value)
    skipped = [(name, why) for text in small.pop("skipped") for name, why in json.loads(str(text))]
    joined = {key: np.concatenate(pieces) for key, pieces in small.items()}
    if not len(joined["labels"]):
        raise DataError("None of the images can be used", got="; ".join(": ".join(s) for s in skipped[:3]))
    try:
        with h5py.File(temporary, "w") as file:
            _join_images(file, paths, (len(joined["labels"]), size, size, 3))
            packed = _describe(file, listing, joined, skipped, out)
        os.replace(temporary, out)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return packed


def _join_images(file: h5py.File, paths: list[Path], shape: tuple[int, ...]) -> None:
    """Write the images of all parts, in order, with their checksums."""
    images, start = file.create_dataset("images", shape, np.uint8), 0
    for path in paths:
        part = _read_part(path, ("images",))["images"]
        images[start : start + len(part)] = part
        start += len(part)
    blocks = (images[start : start + BLOCK_IMAGES] for start in range(0, len(images), BLOCK_IMAGES))
    file["crc32"] = np.concatenate([_checksums(block) for block in blocks])


def _describe(
    file: h5py.File, listing: Listing, small: dict[str, np.ndarray], skipped: list[tuple[str, str]], out: Path
) -> Packed:
    """Write everything but the images, and return it."""
    shape, labels = file["images"].shape[1:], small["labels"]
    labelled = bool((labels >= 0).all())
    if labelled:
        file["labels"] = labels
    class_names = listing.class_names if labelled else ()
    packed = Packed(out, len(labels), tuple(skipped), class_names, fingerprint_of(shape, labels, small["hashes"]))
    attributes = {"format": FORMAT, "rule": RULE.format(size=shape[0]), "fingerprint": packed.fingerprint}
    file.attrs.update(attributes)
    texts = {"names": small["names"].tolist(), "class_names": list(class_names)}
    texts["skipped"] = [": ".join(entry) for entry in skipped]
    for key, values in texts.items():
        file.create_dataset(key, data=values, dtype=h5py.string_dtype())
    return packed


def _read_part(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read some arrays of a part; one that is damaged is deleted, so that the next run makes it anew."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in keys}
    except Exception as error:  # zipfile and NumPy raise almost anything on damaged files
        path.unlink(missing_ok=True)
        remedy = "run the same command again: only this part is made anew"
        raise DataError(f"{path} is damaged and was deleted", got=str(error), remedy=remedy) from error


def _count(unit: tuple[Item, ...] | RowGroup) -> int:
    """Count the images of a unit."""
    return unit.num_rows if isinstance(unit, RowGroup) else len(unit)


def _part_name(number: int) -> str:
    """Name the part of a unit."""
    return f"{number:06d}.npz"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into a DataError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{path} cannot be read as a pack of images",
            got=str(error),
            remedy="it is damaged or of another kind: make it again with data pack",
        ) from error


def _unwritable(path: Path, error: OSError) -> DataError:
    """Build the error for a place that cannot be written."""
    remedy = "free some space or give another --out, then run again: what is done is kept"
    return DataError(f"{path} cannot be written", got=str(error), remedy=remedy)
