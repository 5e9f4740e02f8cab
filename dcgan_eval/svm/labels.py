"""Labels to signs: classes, one-vs-rest sign columns, and per-row costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def encode(
    y: Any, num_rows: int, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None
) -> tuple[np.ndarray, torch.Tensor]:
    """Turn labels into one-vs-rest signs.

    Parameters
    ----------
    y : array_like
        Labels of any sortable kind, (N,).
    num_rows : int
        Rows of X.
    device : torch.device or str
        Where the signs should live.
    group : torch.distributed.ProcessGroup, optional
        Processes that hold the other rows, and perhaps other classes.

    Returns
    -------
    tuple
        Sorted classes, and signs (N, K) in float64; K is 1 for two classes (the second is +1), else their number.

    Raises
    ------
    ValueError
        When y does not fit X or holds fewer than two classes.
    """
    labels = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if labels.shape != (num_rows,):
        raise ValueError(f"y must have one label per row of X: shape ({num_rows},); got shape {labels.shape}.")
    classes = _join(np.unique(labels), group)
    index = np.searchsorted(classes, labels)
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes; got {len(classes)} class.")
    columns = np.arange(1, 2) if len(classes) == 2 else np.arange(len(classes))
    signs = np.where(index[:, None] == columns, 1.0, -1.0)
    return classes, torch.from_numpy(signs).to(device)


def _join(classes: np.ndarray, group: dist.ProcessGroup | None) -> np.ndarray:
    """Return the sorted classes of all processes."""
    if group is None:
        return classes
    found: list[Any] = [None] * group.size()
    dist.all_gather_object(found, classes, group=group)
    return np.unique(np.concatenate(found))


def weights(
    Y: torch.Tensor, classes: np.ndarray, class_weight: dict[Any, float] | None, sample_weight: Any | None
) -> torch.Tensor:
    """Return the factor of C of each row and problem, broadcastable to Y (N, K).

    Parameters
    ----------
    Y : torch.Tensor
        Signs (N, K).
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
    factor = torch.ones(1, Y.shape[1], dtype=torch.float64, device=Y.device)
    if class_weight is not None:
        named = torch.tensor([float(class_weight.get(c, 1.0)) for c in classes.tolist()], device=Y.device).double()
        negative, positive = (named[:1], named[1:]) if len(classes) == 2 else (torch.ones_like(named), named)
        factor = torch.where(Y > 0, positive, negative)
    if sample_weight is not None:
        row = torch.as_tensor(np.asarray(sample_weight, dtype=np.float64), device=Y.device)
        if row.shape != (Y.shape[0],):
            raise ValueError(f"sample_weight must have shape ({Y.shape[0]},); got {tuple(row.shape)}.")
        factor = factor * row[:, None]
    if not bool(torch.isfinite(factor).all()) or bool((factor < 0).any()):
        raise ValueError("Weights must be finite and not negative.")
    return factor
