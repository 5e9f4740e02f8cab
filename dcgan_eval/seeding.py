"""One root seed, any number of named independent streams."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str, **indices: int | str) -> int:
    """Derive the seed of a named stream, e.g. ``derive(0, "svhn", draw=17)``.

    Parameters
    ----------
    seed : int
        Root seed of the run.
    *names : str
        What the stream is for.
    **indices : int or str
        Which one of several.

    Returns
    -------
    int
        63-bit seed; the same arguments give the same seed on every machine and in every version of Python.
    """
    key = json.dumps([int(seed), list(names), sorted(indices.items())])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *names: str, **indices: int | str) -> np.random.Generator:
    """Return NumPy's generator for a named stream (see :func:`derive`)."""
    return np.random.default_rng(derive(seed, *names, **indices))


def torch_generator(
    seed: int, *names: str, device: torch.device | str = "cpu", **indices: int | str
) -> torch.Generator:
    """Return torch's generator for a named stream on ``device`` (see :func:`derive`)."""
    import torch  # here, because what reads records has no use for it

    return torch.Generator(device=device).manual_seed(derive(seed, *names, **indices))
