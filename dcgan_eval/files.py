"""One way to finish a file: written under a name of its own, flushed, read back, renamed, and the folder flushed."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import DcganEvalError

PARTIAL = ".partial"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # network file systems without a lock service
_MAGIC = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x89PNG": "PNG",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet",
    b"GIF8": "GIF",
    b"\x93NUMPY": "NumPy",
}
_KINDS = {
    ".json": "JSON",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".png": "PNG",
    ".gif": "GIF",
    ".npz": "zip",
    ".npy": "NumPy",
    ".pt": "zip",
    ".pth": "zip",
    ".parquet": "Parquet",
    ".safetensors": "safetensors",
    ".html": "HTML",
    ".csv": "CSV",
    ".tex": "LaTeX",
    ".md": "Markdown",
    ".xml": "XML",
}


def write_file(path: Path, data: bytes | str) -> Path:
    """Write a whole file so that its name holds either what it held before or all of ``data``.

    Parameters
    ----------
    path : Path
        Name of the file; its folder is made.
    data : bytes or str
        Content; text is encoded as UTF-8.

    Raises
    ------
    OSError
        The file cannot be written, or does not read back as what was written; the earlier file is as it was.
    """
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, check=lambda written: _compare(written, content)) as partial:
        partial.write_bytes(content)
    return path


@contextmanager
def replacing(path: Path, check: Callable[[Path], None] = lambda written: None) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; on leaving, flush it, check it and let it take its place.

    Parameters
    ----------
    path : Path
        Name of the file; its folder is made.
    check : callable
        Called with the temporary name once all of it is on the disk; raises where it is not what it should be.

    Yields
    ------
    Path
        Unique to this call, in the same folder, with the same suffix.

    Raises
    ------
    OSError
        As :func:`write_file`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    descriptor, partial = _held(path)
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        yield partial
        flush(partial)
        check(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    flush(path.parent)


def _held(path: Path) -> tuple[int, Path]:
    """Make a temporary file beside ``path``, locked as long as its descriptor is open."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:80]}.", suffix=PARTIAL + path.suffix, dir=path.parent)
        with suppress(OSError):  # a file system without locks, where nothing is cleared
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # cleared by another process before it was locked


def _clear(path: Path) -> None:
    """Remove the temporary files of ``path`` that no process holds: what wrote them was killed."""
    pattern = f".{glob.escape(path.stem[:80])}.????????{PARTIAL}{glob.escape(path.suffix)}"
    for partial in filter(Path.is_file, list(path.parent.glob(pattern))):
        with suppress(OSError), open(partial, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = True, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock that goes with ``path``, a file of its own in the same folder, while something is written.

    A killed process lets go of it. A file system without locks is refused, unless the user says with HDF5's own
    variable, ``HDF5_USE_FILE_LOCKING=FALSE``, that only one process writes there.

    Parameters
    ----------
    path : Path
        What is written; its folder is made.
    wait : bool
        Wait for another process that holds the lock; else raise.
    on_wait : callable
        Called about once a second while waiting.

    Raises
    ------
    filelock.Timeout
        Another process holds it, and ``wait`` is false.
    OSError
        The folder cannot be written, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(path))
    while True:
        try:
            lock.acquire(timeout=1 if wait else 0)
            break
        except Timeout:
            if not wait:
                raise
            on_wait()
        except OSError as problem:
            if problem.errno not in _NO_LOCKS:
                raise
            if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
                break
            what = "the file system has no locks; if one process alone writes there, set HDF5_USE_FILE_LOCKING=FALSE"
            raise OSError(problem.errno, what, str(path.parent)) from problem
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether another process is seen to hold the lock that goes with ``path``; nothing is written."""
    if not _lock_of(path).exists():
        return False
    try:
        with locked(path, wait=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False


def _lock_of(path: Path) -> Path:
    """Return the file that is locked while ``path`` is written."""
    return path.with_name(f".{path.name}.lock")


def check_regular(path: Path) -> None:
    """Raise an OSError for a pipe, a device or a socket: to open one could wait for ever.

    Called before one of the files of this toolkit is opened; that says what is not there, or is a folder.
    """
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "it is a pipe, a device or a socket", str(path))


def flush(path: Path) -> None:
    """Bring a file, or the entries of a folder, down to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hexadecimal) of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(
    path: Path,
    option: str,
    error: type[DcganEvalError] = DcganEvalError,
    *,
    suffixes: tuple[str, ...] = (),
    force: bool = False,
) -> None:
    """Raise, before any work, unless a result can be written to ``path``; nothing but its folder is made.

    Parameters
    ----------
    path : Path
        Where the result will go.
    option : str
        The option that named it, for the remedy: ``"--out"``.
    error : type
        Class of the error.
    suffixes : tuple of str
        Suffixes that the result may have, the first being the usual one; empty allows any.
    force : bool
        Replace a file of another kind.

    Raises
    ------
    DcganEvalError
        No name, a wrong suffix, a folder, a folder that cannot be written, or a file of another kind.
    """
    remedy = f"give another place with {option}"
    if not path.name:
        raise error("The result has no file name", got=f"{option} {str(path)!r}", remedy=remedy)
    if suffixes and path.suffix.lower() not in suffixes:
        raise error(
            f"The name given with {option} has another suffix",
            got=str(path),
            expected=" or ".join(suffixes),
            remedy=remedy,
        )
    if path.is_dir():
        raise error("The result would replace a folder", got=str(path), remedy=f"give the name of a file with {option}")
    if path.exists() and not path.is_file():
        raise error("The result would go to something that is no file", got=str(path), remedy=remedy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        raise error("The result cannot be written", got=f"{path}: {problem}", remedy=remedy) from problem
    found, wanted = kind_of(path), _KINDS.get(path.suffix.lower())
    if not force and found is not None and wanted is not None and found != wanted:
        raise error(
            "The result would replace a file of another kind",
            got=f"{path}, which holds {found}",
            expected=f"a new name, or a file of {wanted}",
            remedy=remedy,
        )


def kind_of(path: Path) -> str | None:
    """Return what an existing file holds, by its first bytes, else by its suffix; None for an empty or missing one."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return None
    if not head:
        return None
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[8:9] == b"{" and head[7] == 0:  # a length of 64 bits, then the header
        return "safetensors"
    if head.lstrip()[:1] in (b"{", b"["):
        return "JSON"
    return _KINDS.get(path.suffix.lower(), "something else")


def _compare(path: Path, content: bytes) -> None:
    """Raise unless a file reads back as what was written."""
    if path.read_bytes() != content:
        raise OSError(f"{path} does not read back as what was written")


def _umask() -> int:
    """Return the process's file mode mask."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
