"""Labels to integer targets, and weights of classes and rows to costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from . import decide
from .problems import HingeProblem


def encode(
    y: Any, num_rows: int, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None
) -> tuple[np.ndarray, torch.Tensor]:
    """Turn labels into class numbers.

    Parameters
    ----------
    y : array_like
        Labels of any sortable kind, (N,).
    num_rows : int
        Rows of X.
    device : torch.device or str
        Where the numbers should live.
    group : torch.distributed.ProcessGroup, optional
        Processes that hold the other rows, and perhaps other classes.

    Returns
    -------
    tuple
        Sorted classes, and the place of each row's class among them, int64 (N,).

    Raises
    ------
    ValueError
        When y does not fit X or holds fewer than two classes.
    """
    labels = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if labels.shape != (num_rows,):
        raise ValueError(f"y must have one label per row of X: shape ({num_rows},); got shape {labels.shape}.")
    classes = _join(np.unique(labels), group)
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes; got {len(classes)} class.")
    return classes, torch.from_numpy(np.searchsorted(classes, labels).astype(np.int64)).to(device)


def _join(classes: np.ndarray, group: dist.ProcessGroup | None) -> np.ndarray:
    """Return the sorted classes of all processes."""
    if group is None:
        return classes
    found: list[Any] = [None] * group.size()
    dist.all_gather_object(found, classes, group=group)
    return np.unique(np.concatenate(found))


def hinge_problem(
    index: torch.Tensor,
    classes: np.ndarray,
    class_weight: dict[Any, float] | None = None,
    sample_weight: Any | None = None,
) -> HingeProblem:
    """Return the one-vs-rest problems at C = 1: a single one for two classes (the second is +1), else one for each.

    Parameters
    ----------
    index : torch.Tensor
        Class numbers (N,).
    classes : numpy.ndarray
        Class labels.
    class_weight : dict, optional
        Factor per class; a class not named has 1. As in LIBLINEAR, with more than two classes the factor of a class
        applies to its own rows in its own problem only.
    sample_weight : array_like, optional
        Factor per row, (N,), >= 0.

    Raises
    ------
    ValueError
        When a weight is negative or not finite, or has the wrong shape.
    """
    device, two = index.device, len(classes) == 2
    named = torch.ones(len(classes), dtype=torch.float64, device=device)
    if class_weight is not None:
        factors = [float(class_weight.get(c, 1.0)) for c in classes.tolist()]
        named = torch.tensor(factors, dtype=torch.float64, device=device)
    positive, negative = (named[1:], named[:1]) if two else (named, torch.ones_like(named))
    row = None
    if sample_weight is not None:
        row = torch.as_tensor(np.asarray(sample_weight, dtype=np.float64), device=device)[:, None]
        if row.shape != (len(index), 1):
            raise ValueError(f"sample_weight must have shape ({len(index)},); got {tuple(row.shape[:1])}.")
    for weights in (named, row):
        if weights is not None and not decide.holds(torch.isfinite(weights) & (weights >= 0)):
            raise ValueError("Weights must be finite and not negative.")
    targets = torch.arange(int(two), len(classes), device=device)
    return HingeProblem(index, targets, positive, negative, row, even=class_weight is None)
