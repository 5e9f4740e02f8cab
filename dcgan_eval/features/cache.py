"""What lies in the cache folder: which of its files are this toolkit's, what they hold, and how they are freed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
from filelock import Timeout
from safetensors import SafetensorError, safe_open

from ..errors import StoreError, counted
from ..files import PARTIAL, is_locked, locked
from .store_file import DamagedFile, read_layout

STORE, UNFINISHED, SEARCH, LOCK = "features", "unfinished", "search", "lock"
_STORE_NAME = re.compile(r".+-[0-9a-f]{16}(-[0-9a-f]{8}){2,3}\.h5")  # a third hash: labels being added
_SEARCH_NAME = re.compile(r"supervised-[0-9a-f]{16}\.json")
_FIT_NAME = re.compile(r"fit-[0-9a-f]{32}\.safetensors")
_TEMPORARY = re.compile(
    r"\..+\.\w{8}\.partial\.(h5|safetensors|npy|parquet|pth?|json|zip)(\.rows)?|supervised-.+\.json\.partial"
)
_STILL_WRITTEN_S = 3600  # some file systems have no locks: after so long nobody writes under a temporary name
_DAY_S = 86_400


@dataclass(frozen=True)
class CacheFile:
    """A file of this toolkit in the cache folder.

    Attributes
    ----------
    path : Path
        Where it lies.
    kind : str
        ``"features"``, ``"unfinished"``, ``"batch-norm statistics"``, ``"codebook"``, ``"search"`` or ``"lock"``.
    what : str
        What it was made of, for people.
    size_bytes : int
        Its size.
    written : float
        When it was last written, in seconds since 1970.
    """

    path: Path
    kind: str
    what: str
    size_bytes: int
    written: float

    @property
    def age_days(self) -> float:
        """Days since it was last written."""
        return max(0.0, time.time() - self.written) / _DAY_S

    @property
    def target(self) -> Path:
        """The file whose lock is held while this one is written."""
        return self.path.with_name(self.path.name.removesuffix(PARTIAL))

    @property
    def in_use(self) -> bool:
        """Whether a process is writing it."""
        if _TEMPORARY.fullmatch(self.path.name):
            return self.age_days * _DAY_S < _STILL_WRITTEN_S
        return self.kind in (STORE, UNFINISHED, SEARCH) and is_locked(self.target)


def cache_files(folder: Path) -> list[CacheFile]:
    """Return the files of this toolkit in a folder, oldest first; everything else is passed over.

    Raises
    ------
    StoreError
        The folder cannot be read.
    """
    try:
        found = [look(path) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            "The cache folder cannot be read", got=f"{folder}: {error}", remedy="give another --cache-dir"
        ) from error
    return sorted((file for file in found if file is not None), key=lambda file: (file.written, file.path))


def look(path: Path) -> CacheFile | None:
    """Return what a file of the cache is; None for what this toolkit did not put there, and for links."""
    with suppress(FileNotFoundError):  # a process that finished in between
        if path.is_symlink() or not path.is_file():
            return None
        described = _describe(path)
        if described is not None:
            status = path.stat()
            return CacheFile(path, *described, status.st_size, status.st_mtime)
    return None


def _describe(path: Path) -> tuple[str, str] | None:
    """Return kind and content of a file by its name and what is in it."""
    name = path.name
    if _STORE_NAME.fullmatch(name.removesuffix(PARTIAL)):
        return _describe_store(path)
    if _TEMPORARY.fullmatch(name):
        return UNFINISHED, "left by a run that was killed"
    if name.startswith(".") and name.endswith(".lock"):
        locks = name.removeprefix(".").removesuffix(".lock")
        is_ours = (_STORE_NAME.fullmatch(locks) or _SEARCH_NAME.fullmatch(locks)) and path.stat().st_size == 0
        return (LOCK, locks) if is_ours else None
    if re.fullmatch(r"(batchnorm|kmeans)-.+\.safetensors", name):
        return _describe_tensors(path)
    if _FIT_NAME.fullmatch(name):
        return _describe_fit(path)
    if _SEARCH_NAME.fullmatch(name):
        return _describe_search(path)
    return None


def _describe_store(path: Path) -> tuple[str, str] | None:
    """Describe a feature store by its identity, whole or not."""
    kind = UNFINISHED if path.name.endswith(PARTIAL) else STORE
    try:
        with open(path, "rb") as file:
            identity = read_layout(file).identity
    except DamagedFile as error:
        ours = h5py.is_hdf5(path) or kind == UNFINISHED  # what was killed while it was laid out holds anything
        return (kind, f"cannot be used: {error}") if ours else None
    layers = [name for name, _ in identity.layers]
    some = ", ".join(layers) if len(layers) <= 3 else f"{layers[0]} to {layers[-1]}, {len(layers)} in all"
    return kind, f"{identity.encoder}: {identity.data}, {counted(identity.num_rows, 'images')}, {some}"


def _describe_tensors(path: Path) -> tuple[str, str] | None:
    """Describe batch-norm statistics or a codebook by its header."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    form = header.get("format", "")
    if form.startswith("dcgan-eval-batchnorm"):
        weights, images = header.get("weights_sha256", ""), header.get("calibration_fingerprint", "")
        return "batch-norm statistics", f"weights {weights[:12]}, images {images[:12]}"
    if form.startswith("dcgan-eval-kmeans"):
        return "codebook", f"K-means, images {header.get('fingerprint', '')[:12]}"
    return None


def _describe_fit(path: Path) -> tuple[str, str] | None:
    """Describe a part of a long fit, which the run that made it would have deleted at its end."""
    try:
        with safe_open(path, framework="numpy") as file:
            is_ours, shape = (file.metadata() or {}).get("format", "").startswith("dcgan-eval-fit"), file.get_slice("U")
            classes, width = shape.get_shape()
    except (OSError, SafetensorError, ValueError):
        return None
    return (
        (UNFINISHED, f"part of a fit that was interrupted: {classes:,} classes, {width:,} weights") if is_ours else None
    )


def _describe_search(path: Path) -> tuple[str, str] | None:
    """Describe the finished trials of a supervised search."""
    try:
        values = json.loads(path.read_bytes())
        is_ours = values["format"].startswith("dcgan-eval-search")
        return (SEARCH, f"{len(values['trials'])} finished trials") if is_ours else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def choose(
    files: Sequence[CacheFile],
    *,
    older_than_days: float | None = None,
    keep_bytes: float | None = None,
    unfinished: bool = False,
) -> list[CacheFile]:
    """Return the files to free, oldest first; each condition narrows the choice. Locks are never chosen.

    Parameters
    ----------
    files : sequence of CacheFile
        All of the cache, oldest first.
    older_than_days : float or None
        Only what was written longer ago.
    keep_bytes : float or None
        Only so many of the oldest that all that stays is no larger.
    unfinished : bool
        Only what is not complete.
    """
    chosen = [file for file in files if file.kind != LOCK]
    if unfinished:
        chosen = [file for file in chosen if file.kind == UNFINISHED]
    if older_than_days is not None:
        chosen = [file for file in chosen if file.age_days > older_than_days]
    if keep_bytes is None:
        return chosen
    left, taken = sum(file.size_bytes for file in files), list[CacheFile]()
    for file in chosen:
        if left <= keep_bytes:
            break
        taken.append(file)
        left -= file.size_bytes
    return taken


def free(files: Iterable[CacheFile], on_kept: Callable[[CacheFile], None] = lambda file: None) -> list[CacheFile]:
    """Delete files and return those that are gone; what a process writes, or has written since, stays.

    A store is deleted under its lock. The lock itself stays: whoever waits for it has it open, and would hold one that
    no other process sees.

    Parameters
    ----------
    files : iterable of CacheFile
        From :func:`choose`.
    on_kept : callable
        Called with each file that stays.

    Raises
    ------
    StoreError
        A file cannot be deleted.
    """
    gone = []
    for file in files:
        try:
            if _delete(file):
                gone.append(file)
            else:
                on_kept(file)
        except OSError as error:
            raise StoreError(
                "A file of the cache cannot be deleted", got=f"{file.path}: {error}", remedy="check its permissions"
            ) from error
    return gone


def _delete(file: CacheFile) -> bool:
    """Delete a file unless it is in use or no longer what it was."""
    is_whole = _FIT_NAME.fullmatch(file.path.name) or file.kind not in (STORE, UNFINISHED, SEARCH)
    if _TEMPORARY.fullmatch(file.path.name) or is_whole:
        if file.in_use or look(file.path) != file:
            return False
        file.path.unlink()
        return True
    try:
        with locked(file.target, wait=False):
            if look(file.path) != file:
                return False
            file.path.unlink()
            return True
    except Timeout:
        return False
