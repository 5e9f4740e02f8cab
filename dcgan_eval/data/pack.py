"""Any number of encoded images to one HDF5 file of small uint8 images, the form that training wants.

Work is cut into units. Processes write each unit to a part of its own beside the pack, completely or not at all, so
that a run that was killed goes on where it stopped; the parts are joined last, and the pack appears under its name when
it is whole and has been read back. Only then are the parts deleted. No more than a few units are ever in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import Timeout

from ..errors import DataError
from ..files import check_target, flush, locked, replacing, write_file
from ..progress import Progress, no_progress
from . import packfile
from .collection import Listing
from .decoding import Encoded, Pixels, as_array, as_shown, opened
from .imageset import UNLABELLED, fingerprint_of, hash_pixels
from .listing import list_images
from .mixed import Unit
from .packfile import PackHead, read_pack
from .readers import DataNotice
from .resize import shrunk

RULE = (
    "upright, sRGB, on white; shorter side to {size}, bilinear with antialiasing, JPEGs first decoded at reduced "
    "scale; centre square"
)
MARGIN = 2
"""A JPEG is decoded at the least of 1/8, 1/4, 1/2 and 1 that leaves this many times the wanted size."""

_PARTS = ".parts"


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
        That of the :class:`~dcgan_eval.data.imageset.ImageSet` of all its images.
    splits : dict of str to int
        Images of each split.
    """

    path: Path
    num_images: int
    skipped: tuple[tuple[str, str], ...]
    class_names: tuple[str, ...]
    fingerprint: str
    splits: dict[str, int]


def pack(
    source: Path,
    out: Path,
    size: int = 32,
    *,
    split: str | None = None,
    label_column: str | None = None,
    num_processes: int | None = None,
    on_progress: Progress = no_progress,
) -> Packed:
    """Shrink every image of a place and write them to one file.

    Parameters
    ----------
    source : Path
        As for :func:`~dcgan_eval.data.readers.detect`, with encoded images: folders, tar archives, lists, Parquet.
    out : Path
        HDF5 file to write: ``images`` uint8 (N, size, size, C), contiguous, with a CRC-32 of each block in ``crc32``;
        ``labels`` int64 (N,) if the images have classes; ``names``, ``class_names``, ``skipped``. C is 1 if all images
        are grey.
    size : int
        Pixels of the shorter side, and of the square cut from the centre.
    split : str, optional
        The split to pack; None packs all there are, one behind the other.
    label_column : str, optional
        Column of the labels, where several could be meant.
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
        If ``out`` exists, there is nothing to pack, all images are unusable, or a file cannot be read or written.

    Source
    ------
    arXiv:1511.06434, section 4.3: min-resized centre crops, no augmentation.

    Deviations
    ----------
    The filter of the 2016 release is not documented; bilinear with antialiasing is ours.
    """
    if size < 1 or size > 4096:
        raise DataError(
            "The size of packed images is out of range",
            got=str(size),
            expected="1 to 4096 pixels",
            remedy="give another --size",
        )
    check_target(out, "--out", DataError, suffixes=(".h5", ".hdf5"))
    parts = out.with_name(out.name + _PARTS)
    if out.exists() and not parts.exists():
        raise DataError(f"{out} exists already", remedy="give another --out, or delete it")
    listing = list_images(source, split, label_column)
    try:
        with locked(parts / "pack", wait=False):
            packed = _make(listing, parts, out, size, num_processes or os.cpu_count() or 1, on_progress)
            shutil.rmtree(parts)
    except Timeout as error:
        remedy = "wait for it, or give another --out"
        raise DataError(f"Another process is packing to {out}", remedy=remedy) from error
    except OSError as error:
        remedy = "free some space or give another --out, then run again: what is done is kept"
        raise DataError(f"{out} cannot be written", got=str(error), remedy=remedy) from error
    return packed


def source_of(source: Path, size: int, split: str | None = None, label_column: str | None = None) -> str:
    """Return what a pack of these files, in the state in which they are, says in its attribute ``source``."""
    return _source(_parts_of(list_images(source, split, label_column), Path(), size))


def pack_rows(pack_path: Path, rows: np.ndarray, out: Path, rule: str, on_progress: Progress = no_progress) -> Packed:
    """Write a pack of some images of another, as a stream.

    Parameters
    ----------
    pack_path : Path
        The other.
    rows : ndarray
        Which of its images, rising.
    out : Path
        HDF5 file to write.
    rule : str
        What was done, for the attribute ``rule``.
    on_progress : callable
        Called with (what, images done, images in all).

    Returns
    -------
    Packed

    Raises
    ------
    DataError
        The other is no pack, or is damaged.
    OSError
        A file cannot be written.
    """
    old, images = packfile.read_head(pack_path), packfile.map_images(pack_path)
    labels = None if old.labels is None else old.labels[rows]
    blocks = [rows[start : start + packfile.BLOCK_IMAGES] for start in range(0, len(rows), packfile.BLOCK_IMAGES)]
    hashes = np.concatenate([hash_pixels(images[block]) for block in blocks])
    shape = (len(rows), *images.shape[1:])
    numbers = np.full(len(rows), UNLABELLED) if labels is None else labels
    source = hashlib.sha256(f"{old.attributes.get('source')} {rows.tolist()}".encode()).hexdigest()
    attributes = {"rule": f"{old.attributes.get('rule')}; {rule}", "source": source}
    attributes["fingerprint"] = fingerprint_of(shape[1:], numbers, hashes)
    head = PackHead(
        labels, [old.names[row] for row in rows], old.class_names, old.skipped, _counts(old.splits, rows), attributes
    )

    def pixels() -> Iterator[Pixels]:
        for number, block in enumerate(blocks, start=1):
            yield images[block]
            on_progress("packing what is kept", min(number * packfile.BLOCK_IMAGES, len(rows)), len(rows))

    with replacing(out, partial(_compare, head=head, hashes=hashes)) as temporary:
        packfile.write_pack(temporary, head, shape, pixels())
    return _packed(out, head)


def shrink(item: bytes | Encoded, size: int) -> Pixels:
    """Decode an image and shrink it to a square.

    Parameters
    ----------
    item : bytes or Encoded
        Content of an image file, or what opens it.
    size : int
        Pixels of the shorter side, and of the square cut from the centre.

    Returns
    -------
    ndarray of uint8, (size, size, C)
        C is 1 for grey images and 3 otherwise.

    Raises
    ------
    ValueError
        For images with more than 8 bits a channel, or too many pixels.
    Exception
        Whatever Pillow raises on damaged files, which is almost anything.
    """
    with opened(item) as image:
        image.draft(image.mode, (MARGIN * size, MARGIN * size))
        shown = as_shown(image)
    return as_array(shrunk(shown, size))


@dataclass(frozen=True)
class _Part:
    """The shrunk images of a unit, in a file of their own.

    Attributes
    ----------
    path : Path
        The file: a stamp, the SHA-256 of the rest, and an ``.npz`` of ``images``, ``hashes``, ``kept`` (positions in
        the unit) and ``why`` (the others, as JSON).
    unit : Unit
        The encoded images.
    stamp : str
        Says of which files, in which state, and by which rule it is made; parts of any other stamp are made anew.
    size : int
        Pixels of a side.
    """

    path: Path
    unit: Unit
    stamp: str
    size: int

    def is_made(self) -> bool:
        """Whether the file is there and of this stamp."""
        if not self.path.is_file():
            return False
        with open(self.path, "rb") as file:
            return file.read(len(self.stamp)).decode("ascii", "replace") == self.stamp

    def make(self) -> int:
        """Shrink the images and write the file; return how many images there were."""
        images, kept, why = [], [], {}
        for position, item in enumerate(self.unit.items()):
            try:
                images.append(shrink(item, self.size))
                kept.append(position)
            except Exception as error:  # one bad image in a million must not cost the others
                why[position] = str(error) or type(error).__name__
        stacked = _stacked(images, self.size)
        buffer = io.BytesIO()
        reasons = np.array(json.dumps(list(why.items())))
        np.savez(buffer, images=stacked, kept=np.array(kept, np.int64), why=reasons)
        content = buffer.getvalue()
        write_file(self.path, f"{self.stamp}\n{hashlib.sha256(content).hexdigest()}\n".encode() + content)
        return len(self.unit)

    def read(self) -> dict[str, np.ndarray]:
        """Read the file; one that is damaged is made anew."""
        for made_anew in (False, True):
            stamp, digest, content = (*self.path.read_bytes().split(b"\n", 2), b"", b"")[:3]
            if (
                stamp.decode("ascii", "replace") == self.stamp
                and hashlib.sha256(content).hexdigest() == digest.decode()
            ):
                with np.load(io.BytesIO(content), allow_pickle=False) as file:
                    return dict(file)
            if not made_anew:
                self.make()
        raise OSError(f"{self.path} does not read back as what was written")


def _stacked(images: Sequence[Pixels], size: int) -> Pixels:
    """Join images; grey ones are repeated to three channels if others have colour."""
    channels = max((image.shape[2] for image in images), default=1)
    stacked = np.empty((len(images), size, size, channels), np.uint8)
    for position, image in enumerate(images):
        stacked[position] = image
    return stacked


def _parts_of(listing: Listing, folder: Path, size: int) -> list[_Part]:
    """Say which parts the work has."""
    status: dict[Path, tuple[int, int, int]] = {}

    def stamp(unit: Unit) -> str:
        for path in unit.paths():
            if path not in status:
                found = path.stat()
                # the time of change tells what the time of modification does not: files that keep the times of another
                status[path] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        about = repr((packfile.FORMAT, RULE, MARGIN, size, unit, [status[path] for path in unit.paths()]))
        return hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest()

    return [_Part(folder / f"{n:06d}.part", unit, stamp(unit), size) for n, unit in enumerate(listing.units)]


def _make(listing: Listing, folder: Path, out: Path, size: int, num_processes: int, on_progress: Progress) -> Packed:
    """Write the parts that are not there yet, and join them; or find that this was done, and only not cleared away."""
    parts = _parts_of(listing, folder, size)
    source = _source(parts)
    if out.exists():
        head = packfile.read_head(out)
        if head.attributes.get("source") != source:
            raise DataError(f"{out} exists already", remedy="give another --out, or delete it")
        return _packed(out, head)
    missing = [part for part in parts if not part.is_made()]
    done = listing.num_images - sum(len(part.unit) for part in missing)
    on_progress("packing", done, listing.num_images)
    for count in _made(missing, num_processes):
        done += count
        on_progress("packing", done, listing.num_images)
    return _packed(out, _join(listing, parts, folder / "joined.h5", out, source))


def _source(parts: Sequence[_Part]) -> str:
    """Return the digest of all stamps."""
    return hashlib.sha256("".join(part.stamp for part in parts).encode()).hexdigest()


def _made(parts: Sequence[_Part], num_processes: int) -> Iterator[int]:
    """Make parts in several processes, and yield how many images each holds."""
    left = list(parts)
    if min(num_processes, len(left)) > 1:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(num_processes, len(left)), context, _leave_interrupts_to_the_parent)
        try:
            futures = {pool.submit(part.make): part for part in left}
            for future in as_completed(futures):
                count = future.result()
                left.remove(futures[future])
                yield count
        except BrokenProcessPool as error:
            if len(left) < len(parts):
                remedy = "give fewer --processes if memory ran out, then run again: what is done is kept"
                raise DataError("A process that packs has died", got=str(error), remedy=remedy) from error
            text = "No second process can start, so this one packs alone: in a script, call pack() below"
            warnings.warn(DataNotice(f'{text} if __name__ == "__main__"'), stacklevel=2)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    yield from (part.make() for part in left)


def _leave_interrupts_to_the_parent() -> None:
    """Ignore Ctrl-C in a process that packs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _join(listing: Listing, parts: Sequence[_Part], joined: Path, out: Path, source: str) -> PackHead:
    """Join all parts to the pack, read it back, and give it its name."""
    kept, skipped, channels, start = [np.empty(0, np.int64)], list[str](), 1, 0
    for part in parts:
        made = part.read()
        kept.append(start + made["kept"])
        skipped += [f"{listing.names[start + position]}: {why}" for position, why in json.loads(str(made["why"]))]
        channels = max(channels, made["images"].shape[3])
        start += len(part.unit)
    rows = np.concatenate(kept)
    if not len(rows):
        raise DataError("None of the images can be used", got="; ".join(skipped[:3]))
    shape = (len(rows), parts[0].size, parts[0].size, channels)
    hashes = np.concatenate([hash_pixels(_in_channels(part.read()["images"], channels)) for part in parts])
    head = _head(listing, rows, skipped, fingerprint_of(shape[1:], _numbers(listing)[rows], hashes), source, shape[1])
    with replacing(joined, partial(_compare, head=head, hashes=hashes)) as temporary:
        packfile.write_pack(temporary, head, shape, (_in_channels(part.read()["images"], channels) for part in parts))
    os.replace(joined, out)
    flush(out.parent)
    return head


def _head(listing: Listing, rows: np.ndarray, skipped: list[str], fingerprint: str, source: str, size: int) -> PackHead:
    """Say what the pack of some rows of a listing holds besides pixels."""
    return PackHead(
        labels=None if listing.labels is None else listing.labels[rows],
        names=[listing.names[row] for row in rows],
        class_names=list(listing.class_names),
        skipped=skipped,
        splits=_counts(listing.splits, rows),
        attributes={"rule": RULE.format(size=size), "fingerprint": fingerprint, "source": source},
    )


def _counts(splits: dict[str, int], rows: np.ndarray) -> dict[str, int]:
    """Return how many of some rows, which rise, lie in each split."""
    ends = np.searchsorted(rows, np.cumsum(list(splits.values())))
    return {split: int(n) for split, n in zip(splits, np.diff(ends, prepend=0), strict=True)}


def _numbers(listing: Listing) -> np.ndarray:
    """Return the labels, -1 where there are none."""
    return np.full(listing.num_images, UNLABELLED) if listing.labels is None else listing.labels


def _in_channels(images: Pixels, channels: int) -> Pixels:
    """Repeat grey images over the channels of the set."""
    return np.broadcast_to(images, (*images.shape[:3], channels))


def _compare(written: Path, head: PackHead, hashes: np.ndarray) -> None:
    """Raise unless a pack that was written holds what it should."""
    found, start = packfile.read_head(written), 0
    same = all(getattr(found, key) == getattr(head, key) for key in ("names", "class_names", "splits", "attributes"))
    same = same and np.array_equal(found.labels, head.labels)  # type: ignore[arg-type]
    for split, count in head.splits.items():
        if count:
            images = read_pack(written, split=split).images
            same = same and np.array_equal(hash_pixels(images), hashes[start : start + count])
        start += count
    if not same:
        raise OSError(f"{written} does not read back as what was written")


def _packed(out: Path, head: PackHead) -> Packed:
    """Describe a pack."""
    skipped = tuple((name, why) for name, _, why in (entry.partition(": ") for entry in head.skipped))
    names, splits = tuple(head.class_names), head.splits
    return Packed(out, len(head.names), skipped, names, head.attributes["fingerprint"], splits)
