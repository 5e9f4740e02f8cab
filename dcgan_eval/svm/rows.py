"""Rows of a data matrix and the skinny products that the solvers live on, block by block."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

BLOCK_BYTES = 48 << 20
"""Working memory for one block of rows: large enough for full GEMM speed, small enough to stay bounded."""


@functools.lru_cache(maxsize=1)
def _has_onednn() -> bool:
    """Whether this torch can run float32 GEMM through oneDNN (on AMD twice as fast here as its default)."""
    try:
        probe = torch.ones(2, 2)
        torch.ops.mkldnn._linear_pointwise(probe, probe, None, "none", [], "")
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True


@functools.lru_cache(maxsize=1)
def _pools() -> Any:
    """Find the thread pools of the numerical libraries, once."""
    return ThreadpoolController()


class _Serial:
    """How many are inside :func:`serial`, and what to restore when the last one leaves."""

    lock = threading.Lock()
    inside = 0
    threads = 0
    limiter: Any = None


@contextlib.contextmanager
def serial(wanted: bool = True) -> Iterator[None]:
    """Run small products on one thread inside, and restore the thread counts on leaving.

    Every threaded call ends in a barrier; with other work on the machine a barrier waits for a time slice. Measured on
    two busy cores: 7 fits of 1,000 rows took 20 s with two threads and 0.4 s with one.
    """
    if not wanted:
        yield
        return
    with _Serial.lock:
        if _Serial.inside == 0:
            _Serial.threads, _Serial.limiter = torch.get_num_threads(), _pools().limit(limits=1)
            _Serial.limiter.__enter__()
            torch.set_num_threads(1)
        _Serial.inside += 1
    try:
        yield
    finally:
        with _Serial.lock:
            _Serial.inside -= 1
            if _Serial.inside == 0:
                _Serial.limiter.__exit__(None, None, None)
                torch.set_num_threads(_Serial.threads)


def product_nt(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B.T`` by the fastest route measured for the device and dtype.

    Parameters
    ----------
    A : torch.Tensor
        Shape (M, D), float32 or float64.
    B : torch.Tensor
        Shape (N, D), the same dtype; may be a transposed view.

    Returns
    -------
    torch.Tensor
        Shape (M, N).
    """
    if A.device.type != "cpu" or A.shape[0] == 0 or A.shape[1] == 0:
        return A @ B.T
    if A.dtype == torch.float32 and min(A.shape[0], B.shape[0]) > 1 and _has_onednn():
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(A, B, None, "none", [], "")
        return result
    if A.dtype == torch.float64:
        return torch.from_numpy(A.numpy() @ B.numpy().T)
    return F.linear(A, B)


class Rows:
    """A data matrix X with an implicit constant last column, read block by block and never copied whole.

    Parameters
    ----------
    X : numpy.ndarray or torch.Tensor
        Shape (N, D). float32 and float64 are used as they are; other dtypes become float32, one block at a time.
    intercept_scaling : float
        Value s of the constant column; 0 means no intercept (the column is then all zeros and its weight stays 0).
    block_bytes : int
        Upper bound, about, of the memory of one block.

    Attributes
    ----------
    passes : int
        How many times X has been read from end to end.
    """

    def __init__(self, X: Any, intercept_scaling: float = 1.0, block_bytes: int = BLOCK_BYTES):
        self.X: torch.Tensor = X if isinstance(X, torch.Tensor) else _wrap(_readable(X))
        if self.X.ndim != 2:
            raise ValueError(f"X must have two dimensions (rows, features); got shape {tuple(self.X.shape)}.")
        self.scale = float(intercept_scaling)
        self.dtype = torch.float64 if self.X.dtype == torch.float64 else torch.float32
        self.num_rows, self.num_features = int(self.X.shape[0]), int(self.X.shape[1])
        itemsize = 8 if self.dtype == torch.float64 else 4
        self.block_rows = max(64, block_bytes // max(1, self.num_features * itemsize))
        self.passes = 0

    @property
    def device(self) -> torch.device:
        """Where X lives."""
        return self.X.device

    def blocks(self, dtype: torch.dtype | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield (rows, block) from the first row to the last, converted to ``dtype`` (None: the working dtype)."""
        self.passes += 1
        for start in range(0, self.num_rows, self.block_rows):
            rows = slice(start, min(start + self.block_rows, self.num_rows))
            yield rows, self.X[rows].to(dtype or self.dtype)

    def take(self, index: np.ndarray) -> torch.Tensor:
        """Return some rows as a (len(index), D + 1) matrix with the constant column, in the working dtype."""
        part = self.X[torch.from_numpy(index).to(self.device)].to(self.dtype)
        return torch.cat([part, part.new_full((len(index), 1), self.scale)], dim=1)

    def forward(self, block: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
        """Return ``[block, s] @ V.T`` in float64; V is (K, D + 1) of any float dtype."""
        features = V[:, :-1].to(block.dtype).contiguous()
        return product_nt(block, features).double() + self.scale * V[:, -1].double()

    def backward(self, block: torch.Tensor, R: torch.Tensor, out: torch.Tensor) -> None:
        """Add ``R.T @ [block, s]`` to ``out`` (K, D + 1) in float64; R is (B, K) float64."""
        out[:, :-1] += product_nt(R.T.to(block.dtype).contiguous(), block.T)
        out[:, -1] += self.scale * R.sum(dim=0)

    def zeros(self, num_problems: int) -> torch.Tensor:
        """Return a float64 zero of shape (num_problems, D + 1) beside X."""
        return torch.zeros(num_problems, self.num_features + 1, dtype=torch.float64, device=self.device)

    def scores(self, V: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return ``[X, s] @ V.T`` (N, K) in float64, one pass."""
        out = torch.empty(self.num_rows, V.shape[0], dtype=torch.float64, device=self.device)
        for rows, block in self.blocks(dtype):
            out[rows] = self.forward(block, V)
        return out

    def adjoint(self, R: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return ``R.T @ [X, s]`` (K, D + 1) in float64, one pass."""
        out = self.zeros(R.shape[1])
        for rows, block in self.blocks(dtype):
            self.backward(block, R[rows], out)
        return out

    def all_finite(self) -> bool:
        """Whether X holds no NaN and no infinity (one pass, no copy)."""
        return all(bool(torch.isfinite(block.sum(dtype=torch.float64))) for _, block in self.blocks())


def _readable(X: Any) -> np.ndarray:
    """Return an array that torch can wrap without copying float data."""
    array = np.asarray(X)
    if array.dtype.kind in "biu":
        return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"X must hold real numbers of at most 64 bits; got dtype {array.dtype}.")
    awkward = not array.dtype.isnative or any(stride < 0 or stride % array.itemsize for stride in array.strides)
    return np.array(array, dtype=array.dtype.newbyteorder("=")) if awkward else array


def _wrap(array: np.ndarray) -> torch.Tensor:
    """Share an array's memory with torch, read-only ones (memory maps) too: nothing here writes to X."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
