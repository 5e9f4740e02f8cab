"""The nearest rows of a matrix, exactly: float32 products with a proved margin, float64 for what they leave open.

Both metrics are one: rows t are used as they are (Euclidean) or scaled to length 1 (cosine: |q - x|^2 = 2 - 2 cos).
Distances stay as they are when the mean of the rows is taken away first, and products then lose far less.

The margin. Let u = 2^-24, let a be t less the mean, rounded to float32, and n = |a|^2.

* Rounding moves a row by at most u |a| (1 + 2u) + e, with e = (D + 8) 2^-53 for what float64 leaves open of a unit
  length, hence the square of a distance by at most 4.1 u (n_q + n_x) + e', e' = 9 e (|a_q| + |a_x|) + 16 e^2.
* A float32 product of B columns errs in any order of summation by at most B u / (1 - B u) of sum_j |a_qj a_xj|
  (Higham 2002, section 3.1), with D / B additions of products (B + D / B) u / (1 - ...); 2 |a_q| |a_x| <= n_q + n_x.
* Norms and sums in float32, the margin's own included, add less than 10 u (n_q + n_x).

With m = B + D / B + 16 and c = m u / (1 - m u), no square found is off by more than c (n_q + n_x) + e'. So at least k
rows have true squares up to the k-th smallest upper bound, and the k nearest have lower bounds up to there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import memory_share
from ..errors import ArgumentError
from ..svm import decide
from ..svm.products import product_nt
from ..svm.rows import Rows, device_of

_COLUMNS = 512  # multiplied at once: enough for full speed, few enough for a small margin
_SPARE = 64  # candidates kept beyond k
_BLOCK_BYTES = 64 << 20  # of rows read at once
_PAIR_BYTES = 16 << 20  # of float64 rows compared at once
_GPU_PAIR_BYTES = 256 << 20  # the same on a GPU, where few large kernels count
_MOST_QUERIES = 8192
_ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@dataclass(frozen=True)
class _Queries:
    """Queries in hand: as they were read (Q, D), and their lengths in float64."""

    raw: Tensor
    norms: Tensor

    def take(self, index: Tensor) -> _Queries:
        """Return some of them."""
        return _Queries(self.raw[index], self.norms[index])


class NearestRows:
    """Finds the k nearest rows of X, reading it block by block.

    Parameters
    ----------
    X : array, tensor, or anything with ``shape``, ``dtype`` and slices of rows
        Shape (N, D).
    cosine : bool
        Neighbours by cosine instead of by Euclidean distance; a row of zeros has cosine 0 with every row.
    device : torch.device or str, optional
        Where to multiply; None: where X is.
    memory_bytes : int, optional
        About the most that a search may take beside an X in memory; None: a share of the machine.

    Raises
    ------
    ArgumentError
        X holds NaN or infinity.
    """

    def __init__(self, X: Any, cosine: bool, device: torch.device | str | None = None, memory_bytes: int | None = None):
        self.cosine = cosine
        self.device = device_of(X, device)
        self.memory_bytes = memory_share(self.device) if memory_bytes is None else memory_bytes
        self.rows = self._rows(X)
        self.norms = torch.empty(self.rows.num_rows, dtype=torch.float64, device=self.device)
        total = torch.zeros(self.rows.num_features, dtype=torch.float64, device=self.device)
        for part, block in self.rows.reads():
            self.norms[part] = _norms(block)
            for at in self._columns():
                total[at] += self._used(block[:, at], self.norms[part]).sum(0)
        _check(self.norms)
        self.mean = total / max(1, self.rows.num_rows)
        longest, centre = decide.numbers(self.norms.max(), self.mean.norm())
        # a power of two, so that scaling is exact and squares neither overflow nor vanish in float32
        self.scale = 2.0 ** -math.ceil(math.log2((1.0 if cosine else longest) + centre + 1e-300))

    def search(self, Q: Any, k: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest rows of each query, nearest first, of equally near ones the first row first.

        Parameters
        ----------
        Q : array, tensor, or anything with ``shape``, ``dtype`` and slices of rows
            Shape (Q, D).
        k : int
            At most N.

        Returns
        -------
        tuple of Tensor
            Numbers of the rows (Q, k) and squared distances (Q, k) in float64, for the cosine 2 - 2 cos.

        Raises
        ------
        ArgumentError
            Q holds NaN or infinity.
        """
        queries = self._rows(Q)
        step = self.memory_bytes // 4 // (12 * max(1, queries.num_features))  # as read, and the chunks in float32
        step = max(64, min(_MOST_QUERIES, step))
        found = []
        for start in range(0, queries.num_rows, step):
            raw = queries.read(slice(start, min(start + step, queries.num_rows)))
            norms = _norms(raw)
            _check(norms)
            found.append(self._nearest(_Queries(raw, norms), k))
        rows, squares = zip(*found, strict=True)
        return torch.cat(rows), torch.cat(squares)

    def _rows(self, X: Any) -> Rows:
        """Return a matrix as rows on the device; a quarter of the memory is for a copy there."""
        return Rows(X, 0.0, device=self.device, memory_bytes=self.memory_bytes // 4, block_bytes=_BLOCK_BYTES)

    def _nearest(self, queries: _Queries, k: int) -> tuple[Tensor, Tensor]:
        """Search for some queries: candidates by float32, those of queries with too many by float64, then compare."""
        pairs, left, dtype = [], torch.arange(len(queries.raw), device=self.device), torch.float32
        kept = min(self.rows.num_rows, k + _SPARE)
        while len(left):
            query, row, full = self._candidates(queries.take(left), k, kept, dtype)
            pairs.append(torch.stack([left[query], row]))
            left = left[decide.where(full)]
            if dtype == torch.float64:
                kept = min(self.rows.num_rows, 4 * kept)
            dtype = torch.float64
        query, row = torch.cat(pairs, 1)
        order = row.argsort()
        query, row = query[order], row[order]
        squares = self._compare(queries, query, row)
        order = squares.argsort(stable=True)
        order = order[query[order].argsort(stable=True)]  # by query, then by distance, then by row
        first = torch.searchsorted(query[order], torch.arange(len(queries.raw), device=self.device))
        place = order[first[:, None] + torch.arange(k, device=self.device)]
        return row[place], squares[place]

    def _candidates(self, queries: _Queries, k: int, kept: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return (query, row) pairs that hold the k nearest, and queries whose candidates may be more than ``kept``."""
        chunks = [self._centred(queries.raw, queries.norms, at, dtype) for at in self._columns()]
        n_Q = _squares(chunks)[:, None]
        margin, rest = self._margin(dtype, n_Q)
        n_N = torch.empty(self.rows.num_rows, dtype=dtype, device=self.device)
        lower = torch.full((len(n_Q), kept), torch.inf, dtype=dtype, device=self.device)
        rows = torch.zeros(len(n_Q), kept, dtype=torch.int64, device=self.device)
        for part, block in self.rows.reads():
            found, others = torch.zeros(len(n_Q), len(block), dtype=dtype, device=self.device), []
            for at, chunk in zip(self._columns(), chunks, strict=True):
                others.append(self._centred(block, self.norms[part], at, dtype))
                found += product_nt(chunk, others[-1])
            n_N[part] = _squares(others) + self._missing(self.norms[part]).to(dtype)
            bound = (1 - margin) * (n_Q + n_N[part]) - 2 * found
            here = torch.arange(part.start, part.stop, device=self.device).expand_as(bound)
            lower, place = torch.cat([lower, bound], 1).topk(kept, largest=False)
            rows = torch.cat([rows, here], 1).gather(1, place)
        upper = lower + 2 * (margin * (n_Q + n_N[rows]) + rest)
        limit = upper.kthvalue(k, dim=1, keepdim=True).values
        near = lower <= limit
        full = near[:, -1] & (kept < self.rows.num_rows)
        pairs = decide.where((near & ~full[:, None]).flatten())
        return pairs // kept, rows.flatten()[pairs], full

    def _margin(self, dtype: torch.dtype, n_Q: Tensor) -> tuple[float, Tensor]:
        """Return c and e' of the module's docstring."""
        u, width = _ROUNDING[dtype], self.rows.num_features
        terms = min(width, _COLUMNS) + -(-width // _COLUMNS) + 16
        e = self.scale * (width + 8) * 2.0**-53 if self.cosine else 0.0
        longest = 2 * self.scale * (1.0 if self.cosine else 0.0)  # of a unit row less the mean
        return terms * u / (1 - terms * u), 9 * e * (n_Q.sqrt() + longest) + 16 * e * e

    def _compare(self, queries: _Queries, query: Tensor, row: Tensor) -> Tensor:
        """Return the squared distances of pairs in float64; the rows ascend, and X is read once."""
        squares = torch.empty(len(row), dtype=torch.float64, device=self.device)
        at_once = _PAIR_BYTES if self.device.type == "cpu" else _GPU_PAIR_BYTES
        step = max(1, at_once // (8 * max(1, self.rows.num_features)))
        ascending = decide.values(row)
        for part, block in self.rows.reads():
            begin, end = np.searchsorted(ascending, [part.start, part.stop]).tolist()
            for start in range(begin, end, step):
                pairs = slice(start, min(start + step, end))
                q, x = query[pairs], row[pairs]
                difference = self._used(block[x - part.start], self.norms[x])
                difference -= self._used(queries.raw[q], queries.norms[q])
                missing = self._missing(self.norms[x]) + self._missing(queries.norms[q])
                squares[pairs] = difference.square_().sum(1) + missing / self.scale**2
        return squares

    def _columns(self) -> Iterator[slice]:
        """Yield the columns that are multiplied at once."""
        for start in range(0, self.rows.num_features, _COLUMNS):
            yield slice(start, start + _COLUMNS)

    def _centred(self, raw: Tensor, norms: Tensor, at: slice, dtype: torch.dtype) -> Tensor:
        """Return some columns of rows, used as the metric uses them, less their mean, scaled."""
        return (self._used(raw[:, at], norms) - self.mean[at]).mul_(self.scale).to(dtype)

    def _used(self, raw: Tensor, norms: Tensor) -> Tensor:
        """Return rows in float64, of length 1 for the cosine, as new memory."""
        rows = raw.to(torch.float64, copy=True)
        return rows.div_(norms.clamp_min(1e-300)[:, None]) if self.cosine else rows

    def _missing(self, norms: Tensor) -> Tensor:
        """Return what rows of zeros lack of length 1: 2 - 2 cos is |q - x|^2 plus that of both; scaled."""
        return (norms == 0) * (self.scale**2 if self.cosine else 0.0)


def _norms(raw: Tensor) -> Tensor:
    """Return the lengths of rows, float64."""
    return torch.linalg.vector_norm(raw, dim=1, dtype=torch.float64)


def _check(norms: Tensor) -> None:
    """Refuse rows that are not finite."""
    if not decide.holds(torch.isfinite(norms)):
        raise ArgumentError(
            "Features hold NaN or infinity, so no row is nearest",
            expected="finite numbers",
            remedy="look at what made them: the encoder, or the images it was given",
        )


def _squares(chunks: list[Tensor]) -> Tensor:
    """Return the squared lengths of rows given by their columns."""
    return sum((chunk.double().square().sum(1) for chunk in chunks), chunks[0].new_zeros(())).to(chunks[0].dtype)
