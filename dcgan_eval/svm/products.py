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

from .sums import in_pairs

_LARGE = 1_500_000  # entries of a matrix whose products take longer than it takes to prepare them elsewhere
_SHARED_PRODUCTS = 1 << 22  # multiplications from which it pays to wake other threads
_TILES, _NARROWEST = 16, 512  # that NumPy multiplies one by one, and columns of one, at least

_LONGEST = 1 << 14  # rows that oneDNN multiplies in one go
_FEW, _SMALL = 1000, 1 << 16  # rows, and numbers of a product, below which it cuts longer ones to suit the threads
_BATCH, _WIDE, _SQUARE = 32, 512, 128  # products in place of one in float64; columns; rows that MKL cuts evenly
_ALONE, _ALONE_THICK, _THICK = 1 << 22, 1 << 25, 32  # multiplications below which one thread is as fast, by rows


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

    On a processor products are the same bits for any number of threads, but for those of over 65,536 numbers from
    float32 rows longer than 16,384, on six or more, and in float64 on more than six (both matrices of 128 rows or more)
    or 32.

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
    if A.device.type == "cpu" and A.dtype == torch.float64 and min(len(A), len(B)) < _SQUARE:
        return _by_batch(A, B) if len(A) < len(B) else _by_batch(B, A).T
    return A @ B.T if A.shape[0] < B.shape[0] else (B @ A.T).T


def _by_batch(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B.T`` as a batch of smaller products, of which each thread makes whole ones.

    MKL cuts a single one to suit the threads, and adds up in another order at the edges. Measured on two cores of a
    Zen 5 for products of fits: 0.8 to 2.1 times the time of one product.
    """
    (rows, length), columns = A.shape, len(B)
    if rows * columns * length < (_ALONE_THICK if rows >= _THICK else _ALONE):
        return _alone(A, B)
    if columns >= min(length // 8, _WIDE):
        each, out = columns // _BATCH, A.new_empty(rows, columns)
        evenly = each * _BATCH
        whole = torch.bmm(A.expand(_BATCH, *A.shape), _cut(B, each).mT)
        out[:, :evenly].view(rows, _BATCH, each).copy_(whole.transpose(0, 1))
        out[:, evenly:] = _alone(A, B[evenly:])
        return out
    each = length // _BATCH
    whole = in_pairs(torch.bmm(_cut(A.T, each).mT, _cut(B.T, each)).flatten(1)).view(rows, columns)
    return whole.add_(_alone(A[:, each * _BATCH :], B[:, each * _BATCH :]))


def _cut(B: torch.Tensor, each: int) -> torch.Tensor:
    """Return a view of the first rows as a batch of ``each``, (batch, each, L)."""
    return B[: each * _BATCH].view(_BATCH, each, B.shape[1])


def _alone(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B.T`` on one thread."""
    threads = torch.get_num_threads()
    if threads == 1:
        return A @ B.T
    with _Serial.lock:
        torch.set_num_threads(1)
        try:
            return A @ B.T
        finally:
            torch.set_num_threads(threads)


def _by_onednn(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return ``A @ B.T``, float32."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(A, B, None, "none", [], "")
    return result


def columns_at_once(num_columns: int) -> list[slice]:
    """Cut rows of so many numbers into even pieces, each multiplied in one go: sums are the same on any threads."""
    count = max(1, -(-num_columns // _LONGEST))
    bounds = [num_columns * k // count for k in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


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
