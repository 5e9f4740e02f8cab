"""Writing a feature store: block by block, resumable, by one process or by several of one job."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, cast

import filelock
import numpy as np

from ..errors import StoreError
from ..files import PARTIAL, flush, locked
from ..ranks import ALONE, Team
from .store import FeatureStore
from .store_file import (
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


class StoreWriter:
    """Writes a store block by block under a temporary name; a later writer continues after the last good block.

    A context manager: it holds the file's lock, and keeps the blocks that are complete when it is left early. The
    processes of a team write to one file: the one that leads locks it, lays it out and names it.

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
    team : Team
        Processes of which each has a writer with the same arguments.

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
        team: Team = ALONE,
    ):
        self.path, self.identity, self.keys, self.behaviour = path, identity, keys, behaviour
        self.wait, self.on_wait, self.team = wait, on_wait, team
        self.partial = path.with_name(path.name + PARTIAL)
        self._open = ExitStack()  # the lock, and the file below

    def __enter__(self) -> StoreWriter:
        with ExitStack() as opened:
            self._complete = self.team.decided(lambda: self._begin(opened))
            if not self._complete:
                self.team.together(lambda: None if self.team.leads else self._join(opened))
            self._open = opened.pop_all()
        return self

    def _begin(self, opened: ExitStack) -> bool:
        """Lock the file and open what there is of it; tell whether that is all of it."""
        try:
            opened.enter_context(locked(self.path, wait=self.wait, on_wait=self.on_wait))
            if self.path.exists():  # the process that was waited for has written it
                return True
            opened.enter_context(self._opened("r+b" if self.partial.exists() else "x+b"))
            self._layout = self._found() or self._lay_out()
        except filelock.Timeout as error:
            raise StoreError(
                "Another process is writing these features",
                got=str(self.path),
                remedy="wait until it has finished, or leave out --no-wait",
            ) from error
        except OSError as error:
            raise _unwritable(self.partial, error) from error
        return False

    def _join(self, opened: ExitStack) -> None:
        """Open what the process that leads has laid out."""
        layout = None
        with suppress(OSError):
            opened.enter_context(self._opened("r+b"))
            layout = self._found()
        if layout is None:
            raise StoreError(
                "A process of this job does not see the file that they write together, or has other images or weights",
                got=f"{self.partial} on {platform.node()}",
                remedy="give a --cache-dir that all machines share, and the same data and weights on each",
            )
        self._layout = layout

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        with self._open:  # the lock is held until the end
            if error is not None and self.team.leads and not self._complete and not self._has_blocks():
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

    def _opened(self, mode: str) -> BinaryIO:
        """Open what is written under a temporary name."""
        self._file = cast(BinaryIO, open(self.partial, mode))  # noqa: SIM115 - closed with the writer
        return self._file

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
        return self._complete

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
        self.team.together(self._flush)
        self.team.decided(self._name)
        self._complete = True

    def _flush(self) -> None:
        """Bring what this process has written down to the disk."""
        try:
            os.fsync(self._file.fileno())
            if not self.team.leads:  # on a network file system what is closed here is seen where it is opened next
                self._file.close()
        except OSError as error:
            raise _unwritable(self.partial, error) from error

    def _name(self) -> None:
        """Check the file as a whole and give it its name."""
        try:
            FeatureStore(self.partial)
            os.replace(self.partial, self.path)
            flush(self.path.parent)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _unwritable(path: Path, error: Exception) -> StoreError:
    """Say that a file cannot be written."""
    return StoreError(
        "The features cannot be written",
        got=f"{path}: {error}",
        remedy="free some space or give another --cache-dir; what is complete so far is kept and continued",
    )
