"""Memory that is freed is kept for the next array: on the processor networks allocate the same maps again and again."""

from __future__ import annotations

import ctypes
import os

_KEPT_BYTES = 256 << 20  # a float32 map of the contrastive recipe's minibatch, the largest there is, has 134 MB
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc's ``malloc`` keep up to 256 MiB that were freed, and take arrays below that from what it keeps.

    By its defaults each map of over 32 MiB comes from the system and goes back to it, so that every forward pass asks
    for the same pages again, each of which the kernel clears: a quarter of the time of batch-norm statistics on two
    processors. For the whole process, so the command line alone does it; no number depends on it.

    Returns
    -------
    bool
        False where nothing was changed: another C library, or the user says how (``MALLOC_TRIM_THRESHOLD_``,
        ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``).

    Source: mallopt(3).
    """
    told = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
    if any(name in os.environ for name in told) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, not Linux, Windows
        return False
    most = _KEPT_BYTES >> 3  # 32 MiB, where an older glibc takes no more
    kept = mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(kept and (mallopt(_MMAP_THRESHOLD, _KEPT_BYTES) or mallopt(_MMAP_THRESHOLD, most)))
