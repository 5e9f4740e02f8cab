"""Sums over rows that are the same bits for any number of processes that hold the rows and of threads that add up.

What a library adds up in one go is cut to suit the threads, and processes cut it where their rows end. Rounded in
another order, the last bits of a sum differ, and every step of a fit may multiply that by ten.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

PIECE = 1 << 20
"""Scores looked at together: they stay in the processor's cache, and what is made of them is small."""

_IN_CACHE = 1 << 15  # numbers that are converted at once
_ON_ONE_THREAD = 1 << 15  # numbers below which torch wakes no other thread


def cut(run: slice, length: int, first: int = 0) -> list[slice]:
    """Cut a run of rows where their numbers, which begin with ``first`` at row 0, are multiples of ``length``."""
    if run.start == run.stop:
        return []
    begin = run.start - (first + run.start) % length
    starts = [run.start, *range(begin + length, run.stop, length)]
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, run.stop])]


def in_pairs(values: torch.Tensor) -> torch.Tensor:
    """Add up the rows of values (..., n, K), one half to the other until a single one is left: (..., K).

    What torch adds up on a single thread, always in the same order, is left to it.
    """
    if values.dim() == 2 and values.numel() < _ON_ONE_THREAD:
        return values.sum(0)
    while (count := values.shape[-2]) > 1:
        half = count // 2
        added = values[..., :half, :] + values[..., half : 2 * half, :]
        values = torch.cat([added, values[..., 2 * half :, :]], -2) if count % 2 else added
    return values.sum(-2)  # of one, or none


def inner(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Return the inner products of the rows of U and V, (K,)."""
    products = U * V
    # a single sum is the only one that torch shares out among threads
    return products.sum(1) if len(products) > 1 else in_pairs(products.T)


def by_runs(values: torch.Tensor, length: int, first: int) -> torch.Tensor:
    """Add up the rows of values (..., n, K), numbered from ``first``, between multiples of ``length``: (..., B, K)."""
    *outer, count, width = values.shape
    head = min(count, -first % length)
    whole = (count - head) // length * length
    found = [in_pairs(values[..., head : head + whole, :].reshape(*outer, -1, length, width))] if whole else []
    if head:
        found.insert(0, in_pairs(values[..., :head, :])[..., None, :])
    if head + whole < count:
        found.append(in_pairs(values[..., head + whole :, :])[..., None, :])
    return torch.cat(found, -2)


def pieces(num_rows: int, num_columns: int, first: int = 0) -> list[slice]:
    """Cut rows into runs whose scores are few enough to be looked at together; ``first`` as for :func:`cut`."""
    return cut(slice(0, num_rows), _rows_together(num_columns), first)


def _rows_together(num_columns: int) -> int:
    """Return how many rows are looked at together, a power of two."""
    return 1 << (max(1, PIECE // max(1, num_columns)).bit_length() - 1)


def by_blocks(
    of: Callable[[slice], torch.Tensor], num_rows: int, num_columns: int, step: int = PIECE, first: int = 0
) -> torch.Tensor:
    """Add up what rows give, block by block of ``step`` rows, without having it of all of them at once.

    Parameters
    ----------
    of : callable
        Returns numbers (..., n, M) of a run of n rows, a few times ``num_columns`` for each.
    num_rows, num_columns : int
        Rows, one at least, and scores of each.
    step : int
        Rows of a block, a power of two.
    first : int
        Number of the first row among all that are counted.

    Returns
    -------
    torch.Tensor
        Shape (..., B, M), in the order of the rows.
    """
    run = min(step, _rows_together(num_columns))
    sums = [by_runs(of(part), run, first + part.start) for part in pieces(num_rows, num_columns, first)]
    return by_runs(torch.cat(sums, -2), step // run, first // run)


def add_up(of: Callable[[slice], torch.Tensor], num_rows: int, num_columns: int) -> torch.Tensor:
    """Add up what the rows of a single process give, (..., M); parameters as for :func:`by_blocks`."""
    return in_pairs(by_blocks(of, num_rows, num_columns))


@dataclass
class Sum:
    """A matrix as it is added up: over whole blocks of rows in float64, within one as products are.

    Attributes
    ----------
    high : torch.Tensor
        The sum over whole blocks; its last column is that of the constant feature, if that is among them.
    low : torch.Tensor or None
        What rounding has taken from it; None where it takes nothing.
    place : int
        Which block of all rows is being added up.
    block : torch.Tensor or None
        Its sum so far.
    constants : list of torch.Tensor or None
        What each run of rows adds to the last column, (K,); None where there is no such column.
    """

    high: torch.Tensor
    constants: list[torch.Tensor] | None = None
    low: torch.Tensor | None = None
    place: int = -1
    block: torch.Tensor | None = None

    def add(self, place: int, product: torch.Tensor) -> None:
        """Add some rows of a block."""
        if self.block is not None and place == self.place:
            self.block += product
        else:
            self.close()
            self.place, self.block = place, product

    def close(self) -> None:
        """Add the block to those before it."""
        if self.block is not None:
            self.add_block(self.block, np.s_[:, : self.block.shape[1]])
            self.block = None

    def add_block(self, part: torch.Tensor, at: Any) -> None:
        """Add what all rows of a block give at some places."""
        if part.dtype != torch.float64:  # 24 bits leave float64 nothing to round, unless 2^29 times smaller than it
            add_to(self.high[at], part)
            return
        if self.low is None:
            self.low = torch.zeros_like(self.high)
        add_exactly(self.high[at], self.low[at], part)


def add_to(total: torch.Tensor, part: torch.Tensor) -> None:
    """Add a float32 or float64 matrix to a float64 one, in place.

    On a processor torch adds numbers of two types one by one: 35 ms for 256 x 28,672 where converting a few rows at a
    time, which stay in the cache, takes 8.
    """
    if part.dtype == total.dtype or part.device.type != "cpu":
        total += part
        return
    step = max(1, _IN_CACHE // max(1, part.shape[1]))
    for into, rows in zip(torch.split(total, step), torch.split(part, step), strict=True):
        into += rows.double()


def add_exactly(high: torch.Tensor, low: torch.Tensor, part: torch.Tensor) -> None:
    """Add a float64 matrix to ``high`` and what rounding takes from it to ``low``, in place: sums in any order agree.

    Knuth's TwoSum (The Art of Computer Programming 2, 4.2.2), a few rows at a time as in :func:`add_to`.
    """
    step = max(1, _IN_CACHE // max(1, part.shape[1])) if part.device.type == "cpu" else len(part)
    for total, lost, rows in zip(*(torch.split(matrix, step) for matrix in (high, low, part)), strict=True):
        new = total + rows
        taken = new - total  # of the rows
        lost += (rows - taken) + total.sub_(new - taken)
        total.copy_(new)
