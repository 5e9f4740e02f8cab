"""The file of a feature store: an HDF5 file for everyone, and fixed places for plain reads and writes for this toolkit.

HDF5 lays its structures out in a sparse file in memory, once; they go to the disk with plain writes, so that no failing
write happens inside HDF5. Behind HDF5's part stands a trailer: the identity, the place of every block of numbers, and
the hash of every byte that is no block. Whoever opens the file checks the trailer and those bytes before anything is
believed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import h5py
import numpy as np

from ..models.presets import GRID

FORMAT = "dcgan-eval-features-2"
BLOCK_ROWS = 256
STORE_TYPES = ("float16", "float32", "uint8")
_MAGIC = b"dcgan-eval-store"
_TAIL = struct.Struct("<32sQ16s")  # SHA-256 of the trailer's JSON, its length, the magic
_MOST_TRAILER_BYTES = 1 << 26
_SMALL = 2.0**-10  # below this float16's subnormal numbers, from 6e-5 down, hold too many of a layer's features

Answers = Mapping[str, np.ndarray]
"""Layer -> features of a few fixed images, float32 (P, width)."""


class DamagedFile(Exception):
    """The bytes are not those of a store; the message says what is wrong with them."""


@dataclass(frozen=True)
class StoreIdentity:
    """Everything that decides the numbers in a store; two stores with one identity hold the same features.

    Attributes
    ----------
    encoder : str
        Name of the encoder, for people; not part of the hash.
    weights_sha256 : str
        Hash of the encoder's parameters and buffers.
    layers : tuple of (str, int)
        Tapped layers and the width of each once pooled.
    preprocessing, batch_norm, pooling, compute, store_dtype : str
        How the features are made.
    calibration_fingerprint : str
        Images behind the batch-norm statistics, ``""`` for the checkpoint's own.
    data : str
        Name and split of the data, for people; not part of the hash.
    data_fingerprint : str
        Hash of the images' pixels, whatever their order and labels.
    num_rows : int
        Number of images.
    architecture : str
        Hash of the encoder's modules and source, ``""`` for a discriminator, whose weights and layers say it all.
    """

    encoder: str
    weights_sha256: str
    layers: tuple[tuple[str, int], ...]
    preprocessing: str
    batch_norm: str
    compute: str
    store_dtype: str
    calibration_fingerprint: str
    data: str
    data_fingerprint: str
    num_rows: int
    pooling: str = f"max{GRID}"
    architecture: str = ""

    @property
    def base_hash(self) -> str:
        """Hash of everything but the layers: stores that share it agree on the layers that they share."""
        fields = {k: v for k, v in asdict(self).items() if k not in ("encoder", "data", "layers")}
        return _short_hash({"format": FORMAT, **fields})

    @property
    def file_stem(self) -> str:
        """Beginning of the file's name: data, hash of everything but the layers, hash of the layers."""
        data = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.data)[:80]
        return f"{data}-{self.base_hash}-{_short_hash(self.layers)[:8]}"

    @property
    def num_blocks(self) -> int:
        """Number of blocks of rows."""
        return -(-self.num_rows // BLOCK_ROWS)

    @property
    def size_bytes(self) -> int:
        """Bytes that the features take."""
        return self.num_rows * sum(w for _, w in self.layers) * np.dtype(self.store_dtype).itemsize

    def rows_of(self, block: int) -> slice:
        """Return the rows of a block."""
        return slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, self.num_rows))


@dataclass(frozen=True)
class RowKeys:
    """Which image each row is, in the store's order.

    Attributes
    ----------
    sha256 : ndarray
        Pixel hashes, hexadecimal, (N,), dtype ``S64``, ascending.
    labels : ndarray or None
        Classes, int64, (N,); None where they were not known, or not to be known, when the store was written.
    names : ndarray or None
        What each image is called, str, (N,).
    class_names : tuple of str
        In label order.
    """

    sha256: np.ndarray
    labels: np.ndarray | None = None
    names: np.ndarray | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Attributes
    ----------
    identity : StoreIdentity
        What the store holds.
    layers, checks : dict
        Layer -> offset of its features, row after row, and of the CRC-32 of its blocks (uint32; 0 is "not written").
    scales : dict
        Layer -> power of two by which its features were multiplied, where they are too small for float16.
    fixed : tuple
        (offset, length, SHA-256) of the stretches between, which never change.
    end : int
        Bytes of HDF5's part; the trailer follows.
    """

    identity: StoreIdentity
    layers: dict[str, int]
    checks: dict[str, int]
    scales: dict[str, float]
    fixed: tuple[tuple[int, int, str], ...]
    end: int

    def trailer(self) -> bytes:
        """Return the bytes behind HDF5's part."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()
        return text + _TAIL.pack(hashlib.sha256(text).digest(), len(text), _MAGIC)


def lay_out(identity: StoreIdentity, keys: RowKeys, behaviour: Answers) -> tuple[Layout, dict[int, bytes]]:
    """Let HDF5 lay a store out in memory; features and checksums take no memory.

    Parameters
    ----------
    identity : StoreIdentity
        What will be written.
    keys : RowKeys
        Its rows.
    behaviour : dict
        What the encoder answered to a few fixed images: layer -> float32 (P, width).

    Returns
    -------
    layout : Layout
    pieces : dict
        Offset -> bytes of every fixed stretch.
    """
    scratch = _Sparse()
    with h5py.File(scratch, "w") as file:
        blocks = _fill_in(file, identity, keys, behaviour)
    end = scratch.seek(0, os.SEEK_END)
    pieces = {at: scratch.part(at, stop) for at, stop in _between(blocks, end)}
    fixed = tuple((at, len(data), hashlib.sha256(data).hexdigest()) for at, data in pieces.items())
    layers, checks = (
        {name: at for (kind, name), (at, _) in blocks.items() if kind == which} for which in ("layers", "crc32")
    )
    return Layout(identity, layers, checks, _scales(identity, behaviour), fixed, end), pieces


def _scales(identity: StoreIdentity, behaviour: Answers) -> dict[str, float]:
    """Return the powers of two that bring a layer's answers near one, where float16 would lose digits of them."""
    if identity.store_dtype != "float16":
        return {}
    largest = {name: float(np.abs(answers).max(initial=0)) for name, answers in behaviour.items()}
    return {name: 2.0 ** -math.ceil(math.log2(top)) for name, top in largest.items() if 0 < top < _SMALL}


def _fill_in(
    file: h5py.File, identity: StoreIdentity, keys: RowKeys, behaviour: Answers
) -> dict[tuple[str, str], tuple[int, int]]:
    """Create every dataset; return (kind, layer) -> (offset, bytes) of those that are written later."""
    rows, dtype = identity.num_rows, np.dtype(identity.store_dtype)
    blocks = {}
    for name, width in identity.layers:
        for kind, shape, kept in (("layers", (rows, width), dtype), ("crc32", (identity.num_blocks,), np.dtype("<u4"))):
            dataset = _allocate(file, f"{kind}/{name}", shape, kept)
            blocks[kind, name] = (dataset.get_offset(), dataset.get_storage_size())
    _join(file, identity)
    file["sha256"] = keys.sha256
    for name, answers in behaviour.items():
        file[f"behaviour/{name}"] = answers
    for name, scale in _scales(identity, behaviour).items():
        file[f"layers/{name}"].attrs["scale"] = scale
    if keys.labels is not None:
        file["labels"] = keys.labels
        file["labels"].attrs["class_names"] = np.array(keys.class_names, dtype=h5py.string_dtype())
    if keys.names is not None:
        names = np.array([name.encode(errors="surrogateescape") or b"-" for name in keys.names])
        file["names"] = names.astype(h5py.string_dtype(length=names.dtype.itemsize))
    file.attrs["identity"] = json.dumps({"format": FORMAT, **asdict(identity)}, sort_keys=True)
    return blocks


def _creation() -> h5py.h5p.PropDCID:
    """Return how a dataset is made: without the time, so that the same features are the same bytes whenever made."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    return creation


def _join(file: h5py.File, identity: StoreIdentity) -> None:
    """Create the virtual dataset ``all``: the layers side by side."""
    rows, column = identity.num_rows, 0
    creation, whole = _creation(), h5py.h5s.create_simple((rows, sum(width for _, width in identity.layers)))
    creation.set_layout(h5py.h5d.VIRTUAL)
    for name, width in identity.layers:
        place = whole.copy()
        place.select_hyperslab((0, column), (rows, width))
        creation.set_virtual(place, b".", f"layers/{name}".encode(), h5py.h5s.create_simple((rows, width)))
        column += width
    kind = h5py.h5t.py_create(np.dtype(identity.store_dtype), logical=True)
    h5py.h5d.create(file.id, b"all", kind, whole, creation)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.h5d.DatasetID:
    """Create a contiguous dataset whose place in the file is fixed at once and never filled."""
    creation = _creation()
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.require_group(name.partition("/")[0])
    space = h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, creation)


class _Sparse(io.RawIOBase):
    """A file in memory of which only the pages that were written take any."""

    _PAGE = 1 << 16

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._at = self._size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, and return it."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size; what lies behind it is not kept."""
        self._size = self._at if size is None else size
        return self._size

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position on, with zeros where nothing was written."""
        data = self.part(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        """Write at the position."""
        left = memoryview(data).cast("B")
        while left:
            page, start = divmod(self._at, self._PAGE)
            kept = self._pages.setdefault(page, bytearray(self._PAGE))
            count = min(len(left), self._PAGE - start)
            kept[start : start + count] = left[:count]
            left, self._at = left[count:], self._at + count
        self._size = max(self._size, self._at)
        return len(data)

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop``."""
        empty = bytes(self._PAGE)
        pages = range(start // self._PAGE, -(-stop // self._PAGE))
        joined = b"".join(self._pages.get(page, empty) for page in pages)
        return joined[start % self._PAGE :][: stop - start]


def _between(blocks: dict[Any, tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches (start, stop) of a file that no block takes."""
    at = 0
    for start, length in sorted(blocks.values()):
        if start > at:
            yield at, start
        at = start + length
    if end > at:
        yield at, end


def read_layout(file: BinaryIO) -> Layout:
    """Return the layout of an open store, its trailer and every fixed byte checked.

    Raises
    ------
    DamagedFile
        No store of this format, truncated, or a byte that is not what it was.
    OSError
        The file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    text = _trailer_text(file, size)
    try:
        values = json.loads(text)
        identity = values["identity"]
        identity["layers"] = tuple((str(name), int(width)) for name, width in identity["layers"])
        layout = Layout(
            StoreIdentity(**identity),
            values["layers"],
            values["checks"],
            values["scales"],
            tuple((int(at), int(length), str(digest)) for at, length, digest in values["fixed"]),
            values["end"],
        )
    except (KeyError, TypeError, ValueError) as error:  # written by another version of this format
        raise DamagedFile(f"its trailer lacks {error}") from error
    for at, length, digest in layout.fixed:
        if hashlib.sha256(os.pread(file.fileno(), length, at)).hexdigest() != digest:
            raise DamagedFile(f"its structures do not match their hash, from byte {at:,}")
    return layout


def _trailer_text(file: BinaryIO, size: int) -> bytes:
    """Return the trailer's JSON, checked."""
    tail = os.pread(file.fileno(), _TAIL.size, max(0, size - _TAIL.size))
    if len(tail) != _TAIL.size:
        raise DamagedFile("it is too short")
    digest, length, magic = _TAIL.unpack(tail)
    if magic != _MAGIC:
        raise DamagedFile(
            "it does not end in this format's trailer: truncated, made by something else or by an earlier version"
        )
    text = (
        os.pread(file.fileno(), length, size - _TAIL.size - length) if length < min(size, _MOST_TRAILER_BYTES) else b""
    )
    if hashlib.sha256(text).digest() != digest:
        raise DamagedFile("its trailer does not match its hash")
    return text


def checksum(block: np.ndarray) -> int:
    """Return the CRC-32 of a block, never 0, which stands for "not written"."""
    return zlib.crc32(np.ascontiguousarray(block).data) or 1


def read_block(file: BinaryIO, layout: Layout, layer: str, block: int) -> np.ndarray:
    """Return one block of a layer, (rows, width) in the store's dtype, checked.

    Raises
    ------
    DamagedFile
        It does not match its checksum.
    OSError
        The file cannot be read.
    """
    identity, rows = layout.identity, layout.identity.rows_of(block)
    width, dtype = dict(identity.layers)[layer], np.dtype(identity.store_dtype)
    row_bytes = width * dtype.itemsize
    data = os.pread(file.fileno(), (rows.stop - rows.start) * row_bytes, layout.layers[layer] + rows.start * row_bytes)
    expected = int.from_bytes(os.pread(file.fileno(), 4, layout.checks[layer] + 4 * block), "little")
    if len(data) != (rows.stop - rows.start) * row_bytes or (zlib.crc32(data) or 1) != expected:
        raise DamagedFile(f"a block does not match its checksum: layer {layer}, rows from {rows.start}")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(-1, width).astype(dtype, copy=False)


def done_blocks(file: BinaryIO, layout: Layout) -> np.ndarray:
    """Tell of which blocks every layer has a checksum, (blocks,) bool; what they hold is not read."""
    num_blocks = layout.identity.num_blocks
    checks = [np.frombuffer(os.pread(file.fileno(), 4 * num_blocks, at), "<u4") for at in layout.checks.values()]
    if any(len(values) != num_blocks for values in checks):
        raise DamagedFile("it is truncated")
    return np.all(checks, axis=0)


def _short_hash(value: object) -> str:
    """Return 16 hex digits for a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
