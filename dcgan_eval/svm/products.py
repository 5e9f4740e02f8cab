"""Dense products by the fastest route for the machine, and one thread for what is too small to share out."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


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
    if A.device.type == "cpu" and A.dtype == torch.float32 and min(*A.shape, B.shape[0]) > 1 and _has_onednn():
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(A, B, None, "none", [], "")
        return result
    if A.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        with _full_float32():
            return product_nt(A, B)
    # NumPy's float64 product is faster alone, but its threads go on spinning and slow torch's down up to tenfold
    return A @ B.T if A.shape[0] < B.shape[0] else (B @ A.T).T
