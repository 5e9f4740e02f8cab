"""The feature store: one file per identity, a lazy matrix that verifies what it reads, resumable while it is written.

The layout for other programs: ``docs/feature-store.md``.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import filelock
import h5py
import numpy as np

from ..errors import StoreError, unknown_name
from ..files import PARTIAL, check_regular, flush, locked
from .store_file import (
    BLOCK_ROWS,
    Answers,
    DamagedFile,
    Layout,
    RowKeys,
    StoreIdentity,
    checksum,
    done_blocks,
    lay_out,
    read_block,
    read_layout,
)

_SPARE_BYTES = 1 << 20
_READ_ROWS = 8 * BLOCK_ROWS


class FeatureStore:
    """Complete features on disk as a float32 matrix (N, D): ``store[rows]`` reads and verifies what it touches.

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

    Raises
    ------
    StoreError
        Missing, truncated, foreign, damaged or incomplete file.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, positions: np.ndarray | None = None, *, complete: bool = True):
        self.path, self.reused = Path(path), False
        self._file, self._layout = _opened(self.path, complete)
        self.identity = self._layout.identity
        self.positions = np.arange(self.identity.num_rows) if positions is None else positions
        self.layers = tuple(name for name, _ in self.identity.layers)
        self._served: Callable[[np.ndarray], np.ndarray] = lambda block: block

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
        view._served = function
        return view

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read rows (a slice, a mask or numbers) as float32, (M, D); a single number gives (D,)."""
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
            float32, (len(rows), width), C-contiguous.

        Raises
        ------
        StoreError
            A block does not match its checksum.
        """
        view = self if layers is None else self.only(layers)
        positions = view.positions if rows is None else view.positions[rows]
        order = np.argsort(positions, kind="stable")
        sorted_positions = positions[order]
        X = np.empty((len(positions), view.shape[1]), np.float32)
        for block in np.unique(sorted_positions // BLOCK_ROWS):
            start = int(block) * BLOCK_ROWS
            low, high = np.searchsorted(sorted_positions, [start, start + BLOCK_ROWS])
            X[order[low:high]] = view._block(int(block))[sorted_positions[low:high] - start]
        return view._served(X)

    def blocks(self, num_rows: int = _READ_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, float32 features) over all rows at hand, ``num_rows`` at a time."""
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


class StoreWriter:
    """Writes a store block by block under a temporary name; a later writer continues after the last good block.

    A context manager: it holds the file's lock, and keeps the blocks that are complete when it is left early.

    Parameters
    ----------
    path : Path
        Name of the complete file.
    identity, keys, behaviour : StoreIdentity, RowKeys, dict
        What is written, see :func:`~dcgan_eval.features.store_file.lay_out`.
    wait : bool
        Wait for another process that writes the same file, else raise.
    on_wait : callable
        Called about once a second while waiting.

    Raises
    ------
    StoreError
        On entering: the folder cannot be written, the disk is too small, or another process is writing.
    """

    def __init__(
        self,
        path: Path,
        identity: StoreIdentity,
        keys: RowKeys,
        behaviour: Answers,
        *,
        wait: bool = True,
        on_wait: Callable[[], None] = lambda: None,
    ):
        self.path, self.identity, self.keys, self.behaviour = path, identity, keys, behaviour
        self.wait, self.on_wait = wait, on_wait
        self.partial = path.with_name(path.name + PARTIAL)
        self._open = ExitStack()  # the lock, and the file below

    def __enter__(self) -> StoreWriter:
        with ExitStack() as opened:
            try:
                opened.enter_context(locked(self.path, wait=self.wait, on_wait=self.on_wait))
                if not self.path.exists():  # else the process that was waited for has written it
                    self._file = opened.enter_context(open(self.partial, "r+b" if self.partial.exists() else "x+b"))
                    self._layout = self._found() or self._lay_out()
            except filelock.Timeout as error:
                raise StoreError(
                    "Another process is writing these features",
                    got=str(self.path),
                    remedy="wait until it has finished, or leave out --no-wait",
                ) from error
            except OSError as error:
                raise _unwritable(self.partial, error) from error
            self._open = opened.pop_all()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        with self._open:  # the lock is held until the end
            if error is not None and not self.is_complete() and not self._has_blocks():
                self.discard()

    def discard(self) -> None:
        """Delete what is written so far, of which no later run could make a store."""
        self.partial.unlink(missing_ok=True)

    def _has_blocks(self) -> bool:
        """Tell whether there is something that a later run can go on from."""
        try:
            return bool(done_blocks(self._file, self._layout).any())
        except DamagedFile:
            return False

    def _found(self) -> Layout | None:
        """Return the layout of what an earlier run left, if it can be continued."""
        try:
            layout = read_layout(self._file)
        except DamagedFile:
            return None  # new, or killed while it was being laid out: nothing in it yet
        return layout if layout.identity == self.identity else None

    def _lay_out(self) -> Layout:
        """Reserve the space, then write all structures, the trailer last."""
        layout, pieces = lay_out(self.identity, self.keys, self.behaviour)
        trailer = layout.trailer()
        free = shutil.disk_usage(self.path.parent).free
        if free < layout.end + len(trailer) + _SPARE_BYTES:
            self.partial.unlink()
            raise StoreError(
                f"The disk is too full for the features of {self.identity.data}",
                got=f"{free / 1e9:.2f} GB free at {self.path.parent}",
                expected=f"{self.identity.size_bytes / 1e9:.2f} GB",
                remedy="free some space, give another --cache-dir, or choose fewer layers with --layer",
            )
        descriptor = self._file.fileno()
        os.ftruncate(descriptor, 0)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, layout.end + len(trailer))
        for at, data in {**pieces, layout.end: trailer}.items():
            self._put(data, at)
        return layout

    def scale(self, layer: str) -> float:
        """Return what a layer's features are to be multiplied by before they are written."""
        return float(self._layout.scales.get(layer, 1.0))

    def is_complete(self) -> bool:
        """Tell whether the file has its name already."""
        return self.path.exists()

    def missing_blocks(self) -> list[int]:
        """Return the blocks that are not written yet, or whose bytes do not match their checksum."""
        started = np.flatnonzero(done_blocks(self._file, self._layout))
        good = {
            int(block) for block in started if all(self._is_good(layer, int(block)) for layer in self._layout.layers)
        }
        return [block for block in range(self.identity.num_blocks) if block not in good]

    def _is_good(self, layer: str, block: int) -> bool:
        """Tell whether a block matches its checksum."""
        try:
            read_block(self._file, self._layout, layer, block)
        except DamagedFile:
            return False
        return True

    def write(self, block: int, features: dict[str, np.ndarray]) -> None:
        """Write one block of every layer, each (rows, width) in the store's dtype.

        Raises
        ------
        StoreError
            The disk is full.
        """
        start = self.identity.rows_of(block).start
        try:
            for layer, width in self.identity.layers:
                f_ND = np.ascontiguousarray(features[layer], np.dtype(self.identity.store_dtype).newbyteorder("<"))
                self._put(f_ND.tobytes(), self._layout.layers[layer] + start * width * f_ND.itemsize)
                self._put(checksum(f_ND).to_bytes(4, "little"), self._layout.checks[layer] + 4 * block)
        except OSError as error:
            raise _unwritable(self.partial, error) from error

    def _put(self, data: bytes, offset: int) -> None:
        """Write all of the bytes at an offset."""
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def finish(self) -> None:
        """Flush the file to the disk, check that it opens as a complete store, and give it its name.

        Raises
        ------
        StoreError
            It cannot be written, or does not read back.
        """
        try:
            os.fsync(self._file.fileno())
            FeatureStore(self.partial)
            os.replace(self.partial, self.path)
            flush(self.path.parent)
        except OSError as error:
            raise _unwritable(self.path, error) from error


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


def _unwritable(path: Path, error: Exception) -> StoreError:
    """Say that a file cannot be written."""
    return StoreError(
        "The features cannot be written",
        got=f"{path}: {error}",
        remedy="free some space or give another --cache-dir; what is complete so far is kept and continued",
    )
