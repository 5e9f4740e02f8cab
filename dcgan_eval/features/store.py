"""The feature store: one file per identity, a lazy matrix that verifies what it reads, resumable while it is written.

The layout for other programs: ``docs/feature-store.md``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import StoreError, unknown_name
from ..files import PARTIAL, check_regular
from .store_file import (
    BLOCK_ROWS,
    Answers,
    DamagedFile,
    Layout,
    RowKeys,
    StoreIdentity,
    done_blocks,
    read_block,
    read_layout,
)

_READ_ROWS = 8 * BLOCK_ROWS
_THREADS = 4  # that read blocks at once, each holding one


class FeatureStore:
    """Complete features on disk as a matrix (N, D): ``store[rows]`` reads and verifies what it touches.

    Parameters
    ----------
    path : Path
        A complete file.
    positions : ndarray or None
        Row of the file for each image of the set at hand; None is the file's own order.
    complete : bool
        Refuse a file of which blocks are missing.

    Attributes
    ----------
    identity : StoreIdentity
        What decided the numbers.
    reused : bool
        Whether it was there before.
    dtype : numpy.dtype
        Of what is read: float32, or float16 after :meth:`as_stored`.

    Raises
    ------
    StoreError
        Missing, truncated, foreign, damaged or incomplete file.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, path: Path, positions: np.ndarray | None = None, *, complete: bool = True):
        self.path, self.reused = Path(path), False
        self._file, self._layout = _opened(self.path, complete)
        self.identity = self._layout.identity
        self.positions = np.arange(self.identity.num_rows) if positions is None else positions
        self.layers = tuple(name for name, _ in self.identity.layers)
        self._served: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows at hand, and length of the vector that joins the layers."""
        return len(self.positions), self.width(self.layers)

    def __len__(self) -> int:
        return len(self.positions)

    def width(self, layers: Sequence[str]) -> int:
        """Return the length of the vector that joins those of ``layers`` that are here."""
        wanted = (layers,) if isinstance(layers, str) else layers
        return sum(w for name, w in self.identity.layers if name in wanted)

    def only(self, layers: Sequence[str]) -> FeatureStore:
        """Return the same rows of some layers, in the file's order.

        Raises
        ------
        StoreError
            No layer, or one that the store does not hold.
        """
        wanted, view = self._checked(layers), copy.copy(self)
        view.layers = tuple(name for name in self.layers if name in wanted)
        return view

    def _checked(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Return the names of layers, a single one too, or say which is not here."""
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        for name in names:
            if name not in self.layers:
                raise unknown_name("layer", name, self.layers, StoreError)
        if not names:
            raise StoreError("No layer is asked for", got=f"layers={layers!r}", expected=", ".join(self.layers))
        return names

    def take(self, rows: Any) -> FeatureStore:
        """Return some rows (a slice, a mask or numbers), nothing read yet."""
        view = copy.copy(self)
        view.positions = self.positions[rows]
        return view

    def served_by(self, function: Callable[[np.ndarray], np.ndarray]) -> FeatureStore:
        """Return the same matrix with all that is read passed through ``function``, which may write to its argument."""
        view = copy.copy(self)
        view._served, view.dtype = function, FeatureStore.dtype
        return view

    def as_stored(self) -> FeatureStore:
        """Return the same matrix read as float16 where the file holds its very numbers so; else itself."""
        view = copy.copy(self)
        if self.identity.store_dtype == "float16" and self._served is None and not self._layout.scales:
            view.dtype = np.dtype(np.float16)
        return view

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read rows (a slice, a mask or numbers), (M, D); a single number gives (D,)."""
        if isinstance(rows, int | np.integer):
            return self.take([rows]).read()[0]
        return self.take(rows).read()

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
            Of the matrix's type, (len(rows), width), C-contiguous.

        Raises
        ------
        StoreError
            A block does not match its checksum.
        """
        view = self if layers is None else self.only(layers)
        positions = view.positions if rows is None else view.positions[rows]
        order = np.argsort(positions, kind="stable")
        sorted_positions = positions[order]
        X = np.empty((len(positions), view.shape[1]), self.dtype)

        def put(block: int) -> None:
            start = block * BLOCK_ROWS
            low, high = np.searchsorted(sorted_positions, [start, start + BLOCK_ROWS])
            X[order[low:high]] = view._block(block)[sorted_positions[low:high] - start]

        # Checksums and the widening of float16 let other threads go on.
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            list(pool.map(put, np.unique(sorted_positions // BLOCK_ROWS).tolist()))
        return X if view._served is None else view._served(X)

    def blocks(self, num_rows: int = _READ_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, features) over all rows at hand, ``num_rows`` at a time."""
        for start in range(0, len(self), num_rows):
            rows = slice(start, min(start + num_rows, len(self)))
            yield rows, self[rows]

    def memmap(self, layer: str) -> np.memmap:
        """Map one layer as it lies in the file, (N, width) in the store's dtype, every block verified first.

        Its numbers are to be divided by :meth:`scale`. Rows are in the file's order; :attr:`positions` says where those
        at hand are.
        """
        for block in range(self.identity.num_blocks):
            self.part(layer, block)
        shape = (self.identity.num_rows, dict(self.identity.layers)[layer])
        return np.memmap(self._file, self.identity.store_dtype, "r", self._layout.layers[layer], shape)

    def scale(self, layer: str) -> float:
        """Return the power of two by which a layer's features were multiplied in the file; 1 as a rule."""
        return float(self._layout.scales.get(layer, 1.0))

    @property
    def keys(self) -> RowKeys:
        """Which image each row of the file is, as far as it is known."""
        with self._hdf5() as file:
            sha256: np.ndarray = file["sha256"][:]
            labels, names = (file[name][:] if name in file else None for name in ("labels", "names"))
            class_names = tuple(map(str, file["labels"].attrs["class_names"])) if labels is not None else ()
        if names is not None:
            names = np.array([name.decode(errors="surrogateescape") for name in names], dtype=np.str_)
        return RowKeys(sha256, labels, names, class_names)

    @property
    def behaviour(self) -> Answers:
        """What the encoder answered to a few fixed images when the store was made."""
        with self._hdf5() as file:
            return {name: answers[:] for name, answers in file.get("behaviour", {}).items()}

    def _hdf5(self) -> h5py.File:
        """Give HDF5 the file that was opened, whose structure was checked; its name may be gone by now."""
        return h5py.File(self._file, "r")

    def _block(self, block: int) -> np.ndarray:
        """Return a block of all layers at hand, joined, as it was before it was scaled."""
        scales = self._layout.scales
        parts = [self.part(name, block) for name in self.layers]
        parts = [
            part / np.float32(scales.get(name, 1)) if scales else part
            for name, part in zip(self.layers, parts, strict=True)
        ]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def part(self, layer: str, block: int) -> np.ndarray:
        """Return a block of one layer as it lies in the file, (rows, width) in the store's dtype, verified."""
        try:
            return read_block(self._file, self._layout, layer, block)
        except (DamagedFile, OSError) as error:
            raise _damaged(self.path, error) from error


def find_store(cache_dir: Path, identity: StoreIdentity, is_alike: Callable[[Answers], bool]) -> Path | None:
    """Find a complete store that holds at least the layers asked for, everything else being equal.

    Parameters
    ----------
    cache_dir : Path
        Where stores are kept.
    identity : StoreIdentity
        What is wanted.
    is_alike : callable
        Tells, from the answers that a store keeps, whether today's encoder gives the same.

    Raises
    ------
    StoreError
        A file with the right name is damaged or was made by something else.
    """
    wanted = set(identity.layers)
    for path in sorted(cache_dir.glob(f"*-{identity.base_hash}-*.h5")):
        try:
            store = FeatureStore(path)
        except StoreError:
            if os.path.lexists(path):
                raise
            continue  # deleted by another process since it was listed
        found = store.identity
        if found.base_hash == identity.base_hash and wanted <= set(found.layers) and is_alike(store.behaviour):
            return path
    return None


def find_partial(cache_dir: Path, identity: StoreIdentity, is_alike: Callable[[Answers], bool]) -> Path | None:
    """Return the name that a store will have of which an interrupted run has left a part in the folder."""
    for path in sorted(cache_dir.glob(f"{identity.file_stem}-*.h5{PARTIAL}")):
        with suppress(StoreError):  # one that was killed while it was laid out
            if is_alike(FeatureStore(path, complete=False).behaviour):
                return path.with_name(path.name.removesuffix(PARTIAL))
    return None


def check_identity(store: FeatureStore, identity: StoreIdentity, *, is_alike: bool) -> None:
    """Raise unless a complete store holds what is wanted.

    Raises
    ------
    StoreError
        It holds something else; the first field that differs is named.
    """
    fields = [key for key in vars(identity) if key not in ("encoder", "data")]
    different = [key for key in fields if getattr(store.identity, key) != getattr(identity, key)]
    if different or not is_alike:
        key = different[0] if different else "the encoder's answers to the same images"
        raise StoreError(
            f"The file {store.path} holds other features: {key} differs",
            got=str(getattr(store.identity, key)) if different else None,
            expected=str(getattr(identity, key)) if different else None,
            remedy="choose another --out, or delete the file",
        )


def _opened(path: Path, complete: bool) -> tuple[Any, Layout]:
    """Open a store for reading, or say why not."""
    try:
        check_regular(path)
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - stays open as long as the store is used
        layout = read_layout(file)
        if complete and not done_blocks(file, layout).all():
            raise StoreError("The feature store is not complete", got=str(path), remedy="run `features` again")
    except FileNotFoundError as error:
        raise StoreError("The feature store does not exist", got=str(path), remedy="run `features` first") from error
    except (DamagedFile, OSError) as error:
        raise _damaged(path, error) from error
    return file, layout


def _damaged(path: Path, error: Exception) -> StoreError:
    """Say that a file is not what it should be; a file that cannot be read is not called damaged."""
    if isinstance(error, OSError):
        return StoreError(
            "The feature store cannot be read", got=f"{path}: {error}", remedy="check disk and permissions"
        )
    return StoreError(
        "The file is no feature store, or a damaged one",
        got=f"{path}: {error}",
        remedy="delete the file and run `features` again, or give another --out or --cache-dir",
    )
