"""Where an encoded image lies: a file, or a stretch of one such as a member of a tar archive."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import IO, NamedTuple


class Item(NamedTuple):
    """An image file: all of ``path``, or ``size`` bytes of it from ``offset``.

    Attributes
    ----------
    path : Path
        The file, or the archive that holds it.
    offset, size : int
        Where in it; a size of None means all of it.
    pieces : tuple of (int, int)
        For a sparse member of an archive: place in the image and length of each piece that is stored, in order.
    length : int
        Size of a sparse member's image.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    pieces: tuple[tuple[int, int], ...] = ()
    length: int = 0

    def open(self) -> IO[bytes]:
        """Open the encoded image for reading."""
        file = open(self.path, "rb")  # noqa: SIM115 (closed by whoever reads)
        if self.size is None:
            return file
        window = io.BufferedReader(Window(file, self.offset, self.size))
        if not self.pieces:
            return window
        whole = bytearray(self.length)
        with window:
            for place, count in self.pieces:
                whole[place : place + count] = window.read(count)
        return io.BytesIO(bytes(whole))

    def read(self) -> bytes:
        """Read the encoded image."""
        with self.open() as file:
            return file.read()


class Window(io.RawIOBase):
    """A stretch of an open file, read as a file of its own: nobody who reads it sees what lies behind its end."""

    def __init__(self, file: IO[bytes], start: int, size: int, owns: bool = True):
        self._file, self._start, self._size, self._at, self._owns = file, start, size, 0, owns

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it has places."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer) -> int:
        """Read as much as fits and is left."""
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file below, if it was opened for this window alone."""
        if self._owns and not self.closed:
            self._file.close()
        super().close()


class Spooled(NamedTuple):
    """An encoded image in a :class:`Spool`."""

    file: IO[bytes]
    offset: int
    size: int

    def open(self) -> IO[bytes]:
        """Open the encoded image for reading."""
        return io.BytesIO(os.pread(self.file.fileno(), self.size, self.offset))


class Spool:
    """A temporary file without a name that takes encoded images, each of which can then be read at once."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (open as long as its images live)
        self._size = 0

    def add(self, content: bytes) -> Spooled:
        """Append an image."""
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(content)
        return Spooled(self._file, self._size - len(content), len(content))
