"""Where numbers on the device decide what is done next: each call waits for the device, and there are no others."""

from __future__ import annotations

import torch


def holds(condition: torch.Tensor) -> bool:
    """Whether a condition holds for every element."""
    return bool(condition.all())


def number(value: torch.Tensor) -> float:
    """Return a single element."""
    return float(value)


def where(condition: torch.Tensor) -> torch.Tensor:
    """Return the indices at which a condition, (K,), holds."""
    return torch.nonzero(condition).flatten()
