"""Where numbers on the device decide what is done next: each call waits for the device, and there are no others."""

from __future__ import annotations

import numpy as np
import torch


def holds(condition: torch.Tensor) -> bool:
    """Whether a condition holds for every element."""
    return bool(condition.all())


def number(value: torch.Tensor) -> float:
    """Return a single element."""
    return float(value)


def numbers(*values: torch.Tensor) -> list[float]:
    """Return single elements, for one wait."""
    return [float(value) for value in torch.stack(values).tolist()]


def values(several: torch.Tensor) -> np.ndarray:
    """Return what a tensor holds."""
    return several.cpu().numpy()


def where(condition: torch.Tensor) -> torch.Tensor:
    """Return the indices at which a condition, (K,), holds."""
    return torch.nonzero(condition).flatten()
