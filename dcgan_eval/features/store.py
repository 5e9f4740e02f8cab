"""The feature store: one HDF5 file per identity, resumable while it is written, verified while it is read.

Layout of a file: ``layers/<name>`` (N, width), one contiguous dataset per layer; ``all``, a virtual dataset that joins
them; ``crc32/<name>`` (blocks,), a checksum per block of rows, 0 until the block is complete; the identity as a JSON
attribute. Rows are in the order of the SHA-256 of the images' pixels, so the order of the source does not matter.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import StoreError
from ..models.presets import GRID

FORMAT = "dcgan-eval-features-1"
BLOCK_ROWS = 256
_SPARE_BYTES = 1 << 20


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
        if not self.architecture:  # stores of discriminators keep the names they had before there were others
            del fields["architecture"]
        return _short_hash({"format": FORMAT, **fields})

    @property
    def file_name(self) -> str:
        """Name of the file: data, hash of everything but the layers, hash of the layers."""
        data = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.data)
        return f"{data}-{self.base_hash}-{_short_hash(self.layers)[:8]}.h5"

    @property
    def size_bytes(self) -> int:
        """Bytes that the features take."""
        return self.num_rows * sum(w for _, w in self.layers) * np.dtype(self.store_dtype).itemsize

    def to_json(self) -> str:
        """Return the identity as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)


def _short_hash(value: object) -> str:
    """Return 16 hex digits for a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _identity_from(attributes: Any, path: Path) -> StoreIdentity:
    """Read an identity from a file's attributes."""
    try:
        fields = json.loads(attributes["identity"])
        if fields.pop("format") != FORMAT:
            raise KeyError("format")
        return StoreIdentity(**{**fields, "layers": tuple((str(n), int(w)) for n, w in fields["layers"])})
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            "The file is no feature store of this toolkit", got=str(path), remedy="give another --out or --cache-dir"
        ) from error


class FeatureStore:
    """Complete features on disk.

    Parameters
    ----------
    path : Path
        A complete file.
    positions : ndarray or None
        Row of the store for each image of the set at hand; None is the store's own order.

    Raises
    ------
    StoreError
        Missing, truncated, foreign or incomplete file.
    """

    def __init__(self, path: Path, positions: np.ndarray | None = None):
        self.path = Path(path)
        with _opened(self.path) as file:
            self.identity = _identity_from(file.attrs, self.path)
            if not all(file[f"crc32/{name}"][:].all() for name, _ in self.identity.layers):
                raise StoreError("The feature store is not complete", got=str(path), remedy="run `features` again")
        self.positions = np.arange(self.identity.num_rows) if positions is None else positions
        self.reused = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers in the file, in order."""
        return tuple(name for name, _ in self.identity.layers)

    def width(self, layers: Sequence[str]) -> int:
        """Return the length of the vector that joins ``layers``."""
        return sum(w for name, w in self.identity.layers if name in layers)

    def read(self, rows: np.ndarray | None = None, layers: Sequence[str] | None = None) -> np.ndarray:
        """Read features into memory, verifying the checksum of every block that is touched.

        Parameters
        ----------
        rows : ndarray of int or None
            Rows of the image set at hand, in any order; None means all.
        layers : sequence of str or None
            Which layers, joined in the file's order; None means all.

        Returns
        -------
        ndarray
            float32, (len(rows), width), C-contiguous.

        Raises
        ------
        StoreError
            A block does not match its checksum.
        """
        layers = self.layers if layers is None else layers
        positions = self.positions if rows is None else self.positions[rows]
        order = np.argsort(positions, kind="stable")
        X = np.empty((len(positions), self.width(layers)), np.float32)
        with _opened(self.path) as file:
            for start, block in self._blocks(file, layers, np.unique(positions // BLOCK_ROWS)):
                low, high = np.searchsorted(positions[order], [start, start + len(block)])
                here = order[low:high]
                X[here] = block[positions[here] - start]
        return X

    def _blocks(self, file: h5py.File, layers: Sequence[str], blocks: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, float features of the block) for the blocks asked for."""
        names = [name for name in self.layers if name in layers]
        checks = {name: file[f"crc32/{name}"][:] for name in names}
        for block in blocks:
            start = int(block) * BLOCK_ROWS
            parts = [file[f"layers/{name}"][start : start + BLOCK_ROWS] for name in names]
            for name, part in zip(names, parts, strict=True):
                if _checksum(part) != checks[name][block]:
                    raise StoreError(
                        "The feature store is damaged: a block does not match its checksum",
                        got=f"{self.path}, layer {name}, rows from {start}",
                        remedy="delete the file and run `features` again",
                    )
            yield start, np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def find_store(cache_dir: Path, identity: StoreIdentity) -> Path | None:
    """Find a complete store that holds at least the layers asked for, everything else being equal.

    Parameters
    ----------
    cache_dir : Path
        Where stores are kept.
    identity : StoreIdentity
        What is wanted.

    Raises
    ------
    StoreError
        A file with the right name is damaged or was made by something else.
    """
    wanted = set(identity.layers)
    for path in sorted(cache_dir.glob(f"*-{identity.base_hash}-*.h5")):
        found = FeatureStore(path).identity
        if found.base_hash == identity.base_hash and wanted <= set(found.layers):
            return path
    return None


def check_identity(path: Path, identity: StoreIdentity) -> None:
    """Raise unless the complete store at ``path`` holds what is wanted.

    Raises
    ------
    StoreError
        It holds something else; the first field that differs is named.
    """
    found = FeatureStore(path).identity
    for key, value in asdict(identity).items():
        if key not in ("encoder", "data") and getattr(found, key) != value:
            raise StoreError(
                f"The file {path} holds other features: {key} differs",
                got=str(getattr(found, key)),
                expected=str(value),
                remedy="choose another --out, or delete the file",
            )


class StoreWriter:
    """Writes a store block by block under a temporary name; a later writer continues after the last good block.

    HDF5 lays the file out once and is closed; its space is reserved; blocks then go to the datasets' fixed places with
    plain writes. So neither a kill nor a full disk can leave HDF5's own structures half written.

    Parameters
    ----------
    path : Path
        Name of the complete file.
    identity : StoreIdentity
        What is written.

    Raises
    ------
    StoreError
        The folder cannot be written, the disk is too small, or another process is writing.
    """

    def __init__(self, path: Path, identity: StoreIdentity):
        self.path, self.identity = path, identity
        self.partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unwritable(self.partial, error) from error
        try:
            self._lock()
            if not self._is_laid_out():
                self._lay_out()
            self._places = self._find_places()
        except OSError as error:
            self.close()
            self.partial.unlink(missing_ok=True)
            raise _unwritable(self.partial, error) from error
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        """Make sure that no other process writes the same file."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                "Another process is writing these features", got=str(self.partial), remedy="wait until it has finished"
            ) from error

    def _is_laid_out(self) -> bool:
        """Tell whether an earlier run left a file that can be continued."""
        try:
            with h5py.File(self.partial, "r", locking=False) as file:
                return bool(file.attrs["identity"] == self.identity.to_json())
        except (OSError, KeyError):
            return False  # new, or killed while it was being laid out: nothing in it yet

    def _lay_out(self) -> None:
        """Reserve the space, then let HDF5 write all of its structures."""
        free = shutil.disk_usage(self.path.parent).free
        if free < self.identity.size_bytes + _SPARE_BYTES:
            os.unlink(self.partial)
            raise StoreError(
                f"The disk is too full for the features of {self.identity.data}",
                got=f"{free / 1e9:.2f} GB free at {self.path.parent}",
                expected=f"{self.identity.size_bytes / 1e9:.2f} GB",
                remedy="free some space, give another --cache-dir, or choose fewer layers with --layer",
            )
        # Tried before HDF5 is involved, which does not survive a failing write.
        os.posix_fallocate(self._descriptor, 0, self.identity.size_bytes + _SPARE_BYTES)
        rows, dtype = self.identity.num_rows, np.dtype(self.identity.store_dtype)
        joined = h5py.VirtualLayout((rows, sum(w for _, w in self.identity.layers)), dtype)
        column = 0
        with h5py.File(self.partial, "w", locking=False) as file:
            for name, width in self.identity.layers:
                _allocate(file, f"layers/{name}", (rows, width), dtype)
                file.create_dataset(f"crc32/{name}", data=np.zeros(self.num_blocks, np.uint32))
                joined[:, column : column + width] = h5py.VirtualSource(".", f"layers/{name}", (rows, width), dtype)
                column += width
            file.create_virtual_dataset("all", joined)
            file.attrs["identity"] = self.identity.to_json()
        os.posix_fallocate(self._descriptor, 0, os.fstat(self._descriptor).st_size)

    def _find_places(self) -> dict[str, tuple[int, int]]:
        """Return the offsets of each layer's features and checksums in the file."""
        with h5py.File(self.partial, "r", locking=False) as file:
            return {
                name: (file[f"layers/{name}"].id.get_offset(), file[f"crc32/{name}"].id.get_offset())
                for name, _ in self.identity.layers
            }

    @property
    def num_blocks(self) -> int:
        """Number of blocks of rows."""
        return -(-self.identity.num_rows // BLOCK_ROWS)

    def missing_blocks(self) -> list[int]:
        """Return the blocks that are not written yet, or whose bytes do not match their checksum."""
        return [b for b in range(self.num_blocks) if not all(self._is_done(n, w, b) for n, w in self.identity.layers)]

    def _row_bytes(self, width: int) -> int:
        """Return the bytes of one row of a layer."""
        return width * np.dtype(self.identity.store_dtype).itemsize

    def _is_done(self, name: str, width: int, block: int) -> bool:
        """Tell whether a block was written completely."""
        features_at, checks_at = self._places[name]
        expected = int.from_bytes(os.pread(self._descriptor, 4, checks_at + 4 * block), sys.byteorder)
        if expected == 0:
            return False
        num_rows = min(BLOCK_ROWS, self.identity.num_rows - block * BLOCK_ROWS)
        size = num_rows * self._row_bytes(width)
        data = os.pread(self._descriptor, size, features_at + block * BLOCK_ROWS * self._row_bytes(width))
        return (zlib.crc32(data) or 1) == expected

    def write(self, block: int, features: dict[str, np.ndarray]) -> None:
        """Write one block of every layer, each (rows, width) in the store's dtype.

        Raises
        ------
        StoreError
            The disk is full.
        """
        try:
            for name, width in self.identity.layers:
                features_at, checks_at = self._places[name]
                f_ND = np.ascontiguousarray(features[name])
                self._put(f_ND.tobytes(), features_at + block * BLOCK_ROWS * self._row_bytes(width))
                self._put(_checksum(f_ND).to_bytes(4, sys.byteorder), checks_at + 4 * block)
        except OSError as error:
            raise _unwritable(self.partial, error) from error

    def _put(self, data: bytes, offset: int) -> None:
        """Write all of the bytes at an offset."""
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written

    def finish(self) -> None:
        """Flush the file to disk, close it and give it its name.

        Raises
        ------
        StoreError
            The disk is full.
        """
        try:
            os.fsync(self._descriptor)
            os.replace(self.partial, self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the partial file; what is in it is kept for the next run."""
        os.close(self._descriptor)


def _allocate(file: h5py.File, name: str, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Create a contiguous dataset whose place in the file is fixed at once and never filled."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.require_group("layers")
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, creation)


def _checksum(f_ND: np.ndarray) -> int:
    """Return a checksum that is never 0, which stands for "not written"."""
    return zlib.crc32(np.ascontiguousarray(f_ND).data) or 1


def _opened(path: Path) -> h5py.File:
    """Open a file for reading, or say why not."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise StoreError("The feature store does not exist", got=str(path), remedy="run `features` first") from error
    except OSError as error:
        raise StoreError(
            "The feature store is truncated or no HDF5 file",
            got=f"{path} ({error})",
            remedy="delete the file and run `features` again",
        ) from error


def _unwritable(path: Path, error: Exception) -> StoreError:
    """Say that a file cannot be written."""
    return StoreError(
        "The features cannot be written",
        got=f"{path}: {error}",
        remedy="free some space or give another --cache-dir; what is complete so far is kept and continued",
    )
