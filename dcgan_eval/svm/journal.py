"""What long fits have found so far, on the disk: a run that was killed goes on after the last finished part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..files import write_file
from .problems import Problem
from .rows import Rows

LONG = 1 << 34
"""Rows times features times columns from which a fit is worth the time to look for it and to write it down."""

FORMAT = "dcgan-eval-fit-1"
Arrays = dict[str, np.ndarray]


class Journal:
    """Parts of fits in a folder, each under a hash of everything that decides it; cleared when they are of no more use.

    Parameters
    ----------
    folder : Path
        Where the parts are kept, as ``fit-HASH.safetensors``.
    """

    def __init__(self, folder: Path):
        self._folder, self._used = folder, set[Path]()

    def find(self, digest: str) -> tuple[Arrays, dict[str, Any]] | None:
        """Return the arrays and the plain values of a part; None if it is not there, or not whole."""
        path = self._path(digest)
        try:
            with safe_open(path, "numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT or header.get("digest") != digest:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["values"])  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def keep(self, digest: str, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Write a part down; a folder that takes no more costs a new start, not the fit."""
        header = {"format": FORMAT, "digest": digest, "values": json.dumps(dict(values))}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with suppress(OSError):
            write_file(self._path(digest), save(contiguous, header))

    def clear(self) -> None:
        """Delete the parts that were found or kept."""
        for path in self._used:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._used.clear()

    def _path(self, digest: str) -> Path:
        """Return the file of a part, which is one of those in use from now on."""
        path = self._folder / f"fit-{digest[:32]}.safetensors"
        self._used.add(path)
        return path


def digest_of_rows(rows: Rows) -> str:
    """Return the SHA-256 of a data matrix: shape, working precision, constant feature, device and all numbers."""
    read = rows.rows_read
    found = hashlib.sha256(repr((rows.shape, rows.dtype, rows.scale, str(rows.device))).encode())
    for _, block in rows.blocks():
        found.update(block.contiguous().cpu().numpy().data)
    rows.rows_read = read  # the fit does not need this reading
    return found.hexdigest()


def digest_of_fit(rows: str, problem: Problem, start: torch.Tensor | None, how: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides a fit: rows by their digest, losses, start and options."""
    found = hashlib.sha256(f"{FORMAT} {rows} {type(problem).__name__} {sorted(how.items())}".encode())
    parts = [(field.name, getattr(problem, field.name)) for field in fields(problem)]  # type: ignore[arg-type]
    for name, value in [*parts, ("start", start)]:
        if isinstance(value, torch.Tensor):
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.contiguous().cpu().numpy().data)
        else:
            found.update(f"{name} {value!r}".encode())
    return found.hexdigest()
