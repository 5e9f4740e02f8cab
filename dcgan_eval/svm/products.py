"""Dense products by the fastest route for the machine, and one thread for what is too small to share out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

_LARGE = 1_500_000  # entries of a matrix whose products take longer than it takes to prepare them elsewhere
_IN_CACHE = 1 << 15  # numbers that are converted at once
_SHARED_PRODUCTS = 1 << 22  # multiplications from which it pays to wake other threads
_TILES, _NARROWEST = 16, 512  # that NumPy multiplies one by one, and columns of one, at least

_LONGEST = 1 << 14  # rows that oneDNN multiplies in one go
_FEW, _SMALL = 1000, 1 << 16  # rows, and numbers of a product, below which it cuts longer ones to suit the threads


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


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Keep TF32, which has 11 significant bits, out of float32 products on a GPU, whatever the process allows."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_nt(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B.T`` by the fastest route measured for the device and dtype; float32 means float32 on GPUs too.

    On a processor float32 products are the same bits for any number of threads, but for those of over 65,536 numbers
    from rows longer than 16,384, on six or more.

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
    if A.device.type == "cpu" and B.T.is_contiguous() and _is_numpy_faster(B.T):
        return _by_numpy(A, B.T)
    if A.device.type == "cpu" and A.dtype == torch.float32 and min(*A.shape, B.shape[0]) > 1 and _has_onednn():
        if A.shape[1] <= _LONGEST or max(len(A), len(B)) >= _FEW or len(A) * len(B) > _SMALL:
            return _by_onednn(A, B)
        parts = columns_at_once(A.shape[1])
        return torch.stack([_by_onednn(A[:, part].contiguous(), B[:, part].contiguous()) for part in parts]).sum(0)
    if A.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        with _full_float32():
            return product_nt(A, B)
    return A @ B.T if A.shape[0] < B.shape[0] else (B @ A.T).T


def _by_onednn(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B.T``, float32."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(A, B, None, "none", [], "")
    return result


def columns_at_once(num_columns: int) -> list[slice]:
    """Cut rows of so many numbers into even pieces, each multiplied in one go: sums are the same on any threads."""
    count = max(1, -(-num_columns // _LONGEST))
    bounds = [num_columns * k // count for k in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def add_to(total: torch.Tensor, part: torch.Tensor) -> None:
    """Add a float32 or float64 matrix to a float64 one, in place.

    On a processor torch adds numbers of two types one by one: 35 ms for 256 x 28,672 where converting a few rows at a
    time, which stay in the cache, takes 8.
    """
    if part.dtype == total.dtype or part.device.type != "cpu":
        total += part
        return
    step = max(1, _IN_CACHE // max(1, part.shape[1]))
    for into, rows in zip(torch.split(total, step), torch.split(part, step), strict=True):
        into += rows.double()


def add_exactly(high: torch.Tensor, low: torch.Tensor, part: torch.Tensor) -> None:
    """Add a float64 matrix to ``high`` and what rounding takes from it to ``low``, in place: sums in any order agree.

    Knuth's TwoSum (The Art of Computer Programming 2, 4.2.2), a few rows at a time as in :func:`add_to`.
    """
    step = max(1, _IN_CACHE // max(1, part.shape[1])) if part.device.type == "cpu" else len(part)
    for total, lost, rows in zip(*(torch.split(matrix, step) for matrix in (high, low, part)), strict=True):
        new = total + rows
        taken = new - total  # of the rows
        lost += (rows - taken) + total.sub_(new - taken)
        total.copy_(new)


def _is_numpy_faster(B: torch.Tensor) -> bool:
    """Whether NumPy multiplies A by a large B as it lies in memory faster.

    On a processor with AVX2 alone 10 x 576 by 576 x 28,672 takes 18 ms instead of 32 in float32, for which oneDNN has
    no good kernel there, and 29 instead of 84 in float64. Where there is AVX512 torch is faster in both: in float64
    10 x 73 by 73 x 28,672, the block of a certificate, takes 0.7 ms instead of 2.3.
    """
    return B.numel() >= _LARGE and min(B.shape) > 1 and torch.backends.cpu.get_cpu_capability() != "AVX512"


def _by_numpy(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B``, (M, N), each of torch's threads multiplying some of the columns.

    NumPy's own threads go on spinning when they are done, and slow torch's down up to tenfold.
    """
    left, right, out = A.numpy(), B.numpy(), np.empty((len(A), B.shape[1]), A.numpy().dtype)
    threads = torch.get_num_threads() if A.shape[0] * B.numel() >= _SHARED_PRODUCTS else 1
    # as many tiles for any number of threads: columns at the edges of one are added up in another order
    tiles = max(1, min(_TILES, B.shape[1] // _NARROWEST))
    bounds = [B.shape[1] * k // tiles for k in range(tiles + 1)]

    def multiply(columns: slice) -> None:
        np.matmul(left, right[:, columns], out=out[:, columns])

    parts = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    with _pools().select(internal_api="openblas").limit(limits=1):
        if threads == 1:
            for part in parts:
                multiply(part)
        else:
            with ThreadPoolExecutor(threads) as pool:  # made anew: its threads would not outlive a fork
                list(pool.map(multiply, parts))
    return torch.from_numpy(out)
