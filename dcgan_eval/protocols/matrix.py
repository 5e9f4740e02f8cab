"""Features as a run holds them: on the device of its fits, in memory, or left in their file and read in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import memory_share, to_device
from ..features.store import FeatureStore

Matrix = np.ndarray | FeatureStore | Tensor
"""Features (N, D): in memory or on a device, or read in blocks from where they lie."""


def load(store: FeatureStore, memory_bytes: int, device: torch.device) -> Matrix:
    """Bring a matrix to a device that holds it, else into memory; leave one larger than memory where it is.

    Parameters
    ----------
    store : FeatureStore
        Features (N, D).
    memory_bytes : int
        Largest matrix that is held in the machine's memory.
    device : torch.device
        Where fits are computed.

    Returns
    -------
    Matrix
        For the processor float32; for other devices in the store's type, to be widened block by block there.
    """
    if device.type == "cpu":
        return store.read() if _size(store) <= memory_bytes else store
    stored = store.as_stored()
    if _size(stored) <= memory_share(device):
        return _brought(stored, device)
    return stored.read() if _size(stored) <= memory_bytes else stored


def part(X: Matrix, rows: slice | np.ndarray) -> Matrix:
    """Return some rows of a matrix: a view or copy of those that are held, else nothing read yet."""
    if isinstance(X, FeatureStore):
        return X.take(rows)
    if isinstance(X, Tensor) and not isinstance(rows, slice):
        return X[torch.from_numpy(rows).to(X.device)]
    return X[rows]


def place_of(classifier: Any) -> torch.device:
    """Return where a classifier is fitted: on the processor if it has no ``device``, or None."""
    return torch.device(getattr(classifier, "device", None) or "cpu")


def _size(store: FeatureStore) -> int:
    """Return the bytes of a matrix when it is read."""
    return len(store) * store.shape[1] * store.dtype.itemsize


def _brought(store: FeatureStore, device: torch.device) -> Tensor:
    """Copy a matrix to a device, block by block, as it lies in the file: each block of that is read once."""
    dtype = torch.from_numpy(np.empty(0, store.dtype)).dtype
    X = torch.empty(store.shape, dtype=dtype, device=device)
    order = np.argsort(store.positions, kind="stable")
    for rows, block in store.take(order).blocks():
        X[torch.from_numpy(order[rows]).to(device)] = to_device(torch.from_numpy(block), device)
    return X
