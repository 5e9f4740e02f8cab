"""Exact nearest neighbours by Euclidean distance, in blocks, in double precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK_QUERIES, _BLOCK_ROWS = 1_024, 4_096


@torch.no_grad()
def nearest(queries_QD: Tensor, rows_ND: Tensor, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows nearest to each query.

    Parameters
    ----------
    queries_QD, rows_ND : Tensor
        Of any type and on any device that multiplies doubles; whole numbers such as pixels give exact distances.
    count : int
        How many rows, at most N.

    Returns
    -------
    distances, rows : ndarray
        (Q, count), nearest first.
    """
    found = [_nearest(q_QD.double(), rows_ND, count) for q_QD in queries_QD.split(_BLOCK_QUERIES)]
    squares, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return squares.clamp_min(0).sqrt().cpu().numpy(), rows.cpu().numpy()


def _nearest(q_QD: Tensor, rows_ND: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Search one block of queries; return squared distances and rows."""
    best_QK = q_QD.new_full((len(q_QD), 0), 0)
    rows_QK = torch.zeros((len(q_QD), 0), dtype=torch.int64, device=q_QD.device)
    norms_Q1, start = q_QD.square().sum(1, keepdim=True), 0
    for block_BD in rows_ND.split(_BLOCK_ROWS):
        x_BD = block_BD.double()
        squares_QB = norms_Q1 + x_BD.square().sum(1) - 2 * q_QD @ x_BD.T  # |q - x|^2
        best_QK = torch.cat([best_QK, squares_QB], 1)
        new_QB = torch.arange(start, start + len(x_BD), device=q_QD.device).expand(len(q_QD), -1)
        best_QK, places_QK = best_QK.topk(min(count, best_QK.shape[1]), largest=False)
        rows_QK = torch.cat([rows_QK, new_QB], 1).gather(1, places_QK)
        start += len(x_BD)
    return best_QK, rows_QK
