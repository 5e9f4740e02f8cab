"""Max-pooling of feature maps to a small grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d

from ..errors import DcganEvalError
from ..models.presets import GRID


def pool_to_grid(h_NCHW: Tensor, grid: int = GRID) -> Tensor:
    """Max-pool feature maps without overlap to a grid and flatten, channel by channel.

    Parameters
    ----------
    h_NCHW : Tensor
        Feature maps (N, C, H, W), any floating type, H and W at least ``grid`` (32 -> windows of 8, 16 -> 4, 8 -> 2,
        4 -> 1).
    grid : int
        Side of the grid.

    Returns
    -------
    Tensor
        (N, C * grid * grid), of the same type.

    Raises
    ------
    DcganEvalError
        No feature maps, or maps smaller than the grid.

    Source: arXiv:1511.06434, section 5.1. Deviations: none where the grid divides H and W; elsewhere (28x28 images) the
    windows, as even as they can be, overlap by a row or column.
    """
    if h_NCHW.dim() != 4 or min(h_NCHW.shape[2:]) < grid:
        raise DcganEvalError(
            "A layer cannot be pooled to the grid",
            got=f"output of shape {tuple(h_NCHW.shape)}",
            expected=f"(N, C, H, W) with H and W at least {grid}",
            remedy="choose another layer with --layer",
        )
    window = (h_NCHW.shape[2] // grid, h_NCHW.shape[3] // grid)
    if h_NCHW.shape[2] % grid or h_NCHW.shape[3] % grid:
        h_NCHW = adaptive_max_pool2d(h_NCHW, grid)  # (N, C, grid, grid)
    elif window != (1, 1):
        h_NCHW = max_pool2d(h_NCHW, window)  # (N, C, grid, grid)
    return torch.flatten(h_NCHW, 1)  # (N, C * grid * grid)
