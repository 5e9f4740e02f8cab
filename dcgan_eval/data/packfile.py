"""The file that a pack is: HDF5 whose every byte is covered by a checksum, read without trusting it.

A sealed pack carries, as an attribute, the place of its pixels and the SHA-256 of all other bytes (with these 64 digits
as zeros). It is compared before HDF5 sees the file, because a damaged header can hang or crash the library. Pixels have
a CRC-32 for each block of images.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from ..errors import DataError
from .decoding import Pixels
from .imageset import ImageSet

FORMAT = "dcgan-eval-pack-2"
BLOCK_IMAGES = 1024
"""Images behind each checksum."""

STREAM_BYTES = 8 << 30
"""Packs larger than this are not read into memory but mapped, so that the system keeps in memory what it can."""

_UNSEALED_FORMAT = "dcgan-eval-pack-1"  # written before labels and names were covered
_SEAL = re.compile(rb"dcgan-eval-pack-2 (\d{16}) (\d{16}) ([0-9a-f]{64})")
_HEAD_BYTES = 1 << 16  # the attributes are written first
_CHUNK = 1 << 22


@dataclass(frozen=True)
class PackHead:
    """What a pack holds besides pixels.

    Attributes
    ----------
    labels : ndarray of int64, (N,), or None
        -1 for images of a split without labels.
    names, class_names, skipped : list of str
        Name of each image; classes in the order of their numbers; what was left out, and why.
    splits : dict of str to int
        Images of each split, one behind the other.
    attributes : dict of str to str
        ``rule``, ``fingerprint``, ``source``.
    """

    labels: np.ndarray | None
    names: list[str]
    class_names: list[str]
    skipped: list[str]
    splits: dict[str, int]
    attributes: dict[str, str]


def write_pack(path: Path, head: PackHead, shape: tuple[int, ...], parts: Iterable[Pixels]) -> None:
    """Write a pack; ``path`` must be a temporary name.

    Parameters
    ----------
    path : Path
        File to write.
    head : PackHead
        Everything but pixels.
    shape : tuple of int
        (N, size, size, C).
    parts : iterable of ndarray of uint8, (M, size, size, 1 or C)
        The pixels, in order.

    Raises
    ------
    OSError
        If a write fails. HDF5 itself crashes when one does while it closes a file, so it never hears of it.
    """
    with open(path, "w+b", buffering=0) as raw:
        sink = _Sink(raw)
        with sink.reporting(), h5py.File(sink, "w") as file:
            file.attrs["seal"] = np.bytes_(_seal(0, 0))
            file.attrs.update({"format": FORMAT, **head.attributes, "splits": json.dumps(head.splits)})
            images = file.create_dataset("images", shape, np.uint8)
            file["crc32"] = _fill(images, sink.watching(parts))
            if head.labels is not None:
                file["labels"] = head.labels.astype("<i8")
            for key in ("names", "class_names", "skipped"):
                _write_texts(file, key, getattr(head, key))
            place, size = images.id.get_offset(), images.nbytes
        _put_seal(raw, place, size)


def read_pack(
    path: Path, *, name: str = "images", split: str | None = None, stream_bytes: int = STREAM_BYTES
) -> ImageSet:
    """Read a pack.

    Parameters
    ----------
    path : Path
        File written by :func:`~dcgan_eval.data.pack.pack`.
    name : str
        What to call the result.
    split : str, optional
        Which split; None, or ``"all"`` where there is no such split, means the only one.
    stream_bytes : int
        A pack with more bytes of images is mapped instead of read, and the checksums of its pixels are not verified.

    Returns
    -------
    ImageSet
        Without labels if the pack, or the split, has none.

    Raises
    ------
    DataError
        If it is no pack, damaged, holds links to other data, or lacks the split.
    """
    with _opened(path) as file:
        counts = _splits(file, path)
        only = next(iter(counts)) if len(counts) == 1 else None
        chosen = split if split in counts else only if split in (None, "all") else None
        if chosen is None:
            raise DataError(
                f"{path} has no {split or 'single'} split", got=", ".join(counts), remedy="choose one of these"
            )
        start = sum(count for other, count in list(counts.items())[: list(counts).index(chosen)])
        rows = slice(start, start + counts[chosen])
        images = _dataset(file, "images", path, np.uint8, 4)
        pixels = _mapped(path, images) if images.nbytes > stream_bytes else _verified(file, images, path)
        labels = _dataset(file, "labels", path, "<i8", 1)[:][rows] if "labels" in file else None
        labelled = labels is not None and not (labels == -1).all()
        class_names = tuple(_texts(file, "class_names", path)) if labelled else ()
        names = np.array(_texts(file, "names", path)[rows], np.str_)
        return ImageSet(pixels[rows], labels if labelled else None, class_names, name, chosen, names)


def splits_in(path: Path) -> tuple[str, ...]:
    """Return the splits of a pack; raises as :func:`read_pack` does."""
    with _opened(path) as file:
        return tuple(_splits(file, path))


def read_head(path: Path) -> PackHead:
    """Read everything but the pixels of a pack; raises as :func:`read_pack` does."""
    with _opened(path) as file:
        labels = _dataset(file, "labels", path, "<i8", 1)[:] if "labels" in file else None
        names, class_names, skipped = (_texts(file, key, path) for key in ("names", "class_names", "skipped"))
        attributes = {key: str(file.attrs[key]) for key in ("rule", "fingerprint", "source") if key in file.attrs}
        return PackHead(labels, names, class_names, skipped, _splits(file, path), attributes)


def map_images(path: Path) -> Pixels:
    """Map the images of all splits of a pack, every block verified once; raises as :func:`read_pack` does."""
    with _opened(path) as file:
        images = _dataset(file, "images", path, np.uint8, 4)
        return _checked(_mapped(path, images), file, path)


class _Sink(io.RawIOBase):
    """A file for HDF5 to write to that remembers the first error and reports none.

    Ctrl-C counts: raised below HDF5 it is lost there, and what comes up in its place is an AttributeError.
    """

    def __init__(self, raw: IO[bytes]):
        self._raw = raw
        self._error: OSError | KeyboardInterrupt | None = None

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise the first error once HDF5 has closed the file."""
        try:
            yield
        except Exception:
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error

    def watching(self, parts: Iterable[Pixels]) -> Iterator[Pixels]:
        """Yield the parts until a write has failed."""
        for part in parts:
            if self._error is not None:
                raise self._error
            yield part

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._quietly(lambda: self._raw.seek(offset, whence), 0)

    def tell(self) -> int:
        return self._quietly(self._raw.tell, 0)

    def truncate(self, size: int | None = None) -> int:
        return self._quietly(lambda: self._raw.truncate(size), size or 0)

    def readinto(self, buffer: Any) -> int:
        return self._quietly(lambda: self._raw.readinto(buffer), len(buffer))  # type: ignore[attr-defined]

    def write(self, data: Any) -> int:
        view = memoryview(data)

        def whole() -> int:
            left = view
            while left:
                left = left[self._raw.write(left) :]
            return len(view)

        return self._quietly(whole, len(view))

    def _quietly(self, call: Callable[[], int], otherwise: int) -> int:
        try:
            return call()
        except (OSError, KeyboardInterrupt) as error:
            self._error = self._error or error
            return otherwise


def _fill(images: h5py.Dataset, parts: Iterable[Pixels]) -> np.ndarray:
    """Write the pixels and return the CRC-32 of each block of images."""
    crcs, start = [0], 0  # of the block that is being filled
    row_bytes = int(np.prod(images.shape[1:]))
    for part in parts:
        pixels = np.ascontiguousarray(np.broadcast_to(part, (len(part), *images.shape[1:])))
        if len(pixels):
            images[start : start + len(pixels)] = pixels
        flat, at = pixels.reshape(-1), 0
        while at < len(flat):
            room = (BLOCK_IMAGES - start % BLOCK_IMAGES) * row_bytes
            piece = flat[at : at + room]
            crcs[-1] = zlib.crc32(piece.data, crcs[-1])
            start, at = start + len(piece) // row_bytes, at + len(piece)
            if start % BLOCK_IMAGES == 0:
                crcs.append(0)
    return np.array(crcs[: -(-len(images) // BLOCK_IMAGES)], "<u4")


def _write_texts(file: h5py.File, key: str, texts: list[str]) -> None:
    """Write strings of one length, which need no heap."""
    encoded = [text.encode() for text in texts]
    dtype = h5py.string_dtype("utf-8", max(1, *map(len, encoded), 1))
    file.create_dataset(key, data=np.array(encoded, dtype), dtype=dtype)


def _seal(place: int, size: int, digest: str = "0" * 64) -> bytes:
    """Return the text of the seal."""
    return f"{FORMAT} {place:016d} {size:016d} {digest}".encode()


def _put_seal(raw: IO[bytes], place: int, size: int) -> None:
    """Compute the seal of a written file and put it in its place."""
    raw.seek(0)
    found = _SEAL.search(raw.read(_HEAD_BYTES))
    assert found is not None, "the seal's attribute is written first"
    raw.seek(found.start())
    raw.write(_seal(place, size))
    digest = _digest(raw, found.start(3), place, size)
    raw.seek(found.start())
    raw.write(_seal(place, size, digest))


def _digest(raw: IO[bytes], digits: int, place: int, size: int) -> str:
    """Return the SHA-256 of all bytes but the pixels, with the seal's own digits as zeros."""
    digest, end = hashlib.sha256(), raw.seek(0, os.SEEK_END)
    for start, stop in ((0, digits), (digits + 64, place), (place + size, end)):
        if start == digits + 64:
            digest.update(b"0" * 64)
        raw.seek(start)
        while start < stop and (chunk := raw.read(min(_CHUNK, stop - start))):
            digest.update(chunk)
            start += len(chunk)
    return digest.hexdigest()


def _check_seal(path: Path) -> bool:
    """Raise if a sealed file is damaged; return whether it is sealed."""
    with open(path, "rb") as raw:
        found = _SEAL.search(raw.read(_HEAD_BYTES))
        if found is None:
            return False
        if _digest(raw, found.start(3), int(found[1]), int(found[2])).encode() != found[3]:
            raise _damaged(path, "its labels, names or structure do not match their checksum")
        return True


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a pack, turning what h5py raises on a damaged file into a DataError."""
    try:
        sealed = _check_seal(path)
        with h5py.File(path, "r", locking=False) as file:
            kind = file.attrs.get("format")
            if not isinstance(kind, str) or kind not in (FORMAT, _UNSEALED_FORMAT):
                raise DataError(f"{path} is no pack of images", expected=FORMAT, remedy="make one with data pack")
            if kind == FORMAT and not sealed:
                raise _damaged(path, "its seal is not there")
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise DataError(
            f"{path} cannot be read as a pack of images",
            got=str(error),
            remedy="it is damaged or of another kind: make it again with data pack",
        ) from error


def _dataset(file: h5py.File, key: str, path: Path, dtype: Any, ndim: int) -> h5py.Dataset:
    """Return an array that lies whole in this file; whatever leads elsewhere could show other files as pixels."""
    link = file.get(key, getlink=True)
    found = file[key] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset):
        raise _foreign(path, key)
    properties = found.id.get_create_plist()
    plain = properties.get_layout() == h5py.h5d.CONTIGUOUS and not properties.get_external_count()
    fits = found.id.get_storage_size() == found.nbytes <= os.path.getsize(path)
    texts = dtype is str and h5py.check_string_dtype(found.dtype) is not None
    unsealed_texts = texts and found.dtype.kind == "O"  # of variable length, in a heap
    if not plain or not (fits or unsealed_texts) or found.ndim != ndim or not (texts or found.dtype == dtype):
        raise _foreign(path, key)
    return found


def _texts(file: h5py.File, key: str, path: Path) -> list[str]:
    """Read an array of strings."""
    texts: list[str] = _dataset(file, key, path, str, 1).asstr()[:].tolist()
    return texts


def _splits(file: h5py.File, path: Path) -> dict[str, int]:
    """Return the images of each split."""
    num_images = len(_dataset(file, "images", path, np.uint8, 4))
    counts = json.loads(file.attrs.get("splits", "{}")) or {"all": num_images}
    if sum(counts.values()) != num_images:
        raise _damaged(path, "its splits do not add up to its images")
    return counts


def _mapped(path: Path, images: h5py.Dataset) -> Pixels:
    """Map the images of a pack, copying on write, so that nothing can change the file."""
    return np.memmap(path, np.uint8, "c", images.id.get_offset(), images.shape)


def _verified(file: h5py.File, images: h5py.Dataset, path: Path) -> Pixels:
    """Read images whose blocks match their checksums."""
    return _checked(images[:], file, path)


def _checked(pixels: Pixels, file: h5py.File, path: Path) -> Pixels:
    """Return images; raise unless every block of them matches its checksum."""
    starts = range(0, len(pixels), BLOCK_IMAGES)
    found = [zlib.crc32(pixels[start : start + BLOCK_IMAGES].data) for start in starts]
    if not np.array_equal(found, _dataset(file, "crc32", path, "<u4", 1)[:]):
        raise _damaged(path, "its images do not match their checksums")
    return pixels


def _damaged(path: Path, why: str) -> DataError:
    """Build the error for a file that has changed."""
    return DataError(f"{path} is damaged: {why}", remedy="make it again with data pack")


def _foreign(path: Path, key: str) -> DataError:
    """Build the error for a file that no packer wrote."""
    return DataError(
        f"{path} is not as data pack writes it, and is not read",
        got=f"{key!r} is missing, of another type or shape, compressed, virtual, or a link to other data",
        remedy="make it again with data pack",
    )
