"""Rows of a data matrix and the skinny products that the solvers live on, block by block."""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
import torch.distributed as dist

from ..devices import memory_share, to_device
from . import decide
from .products import columns_at_once, product_nt
from .sums import Sum, by_blocks, cut, in_pairs

BLOCK_BYTES = 128 << 20
"""Bytes read at once: large enough for full GEMM speed, small enough to stay bounded."""

CONVERTED_BYTES = 16 << 20
"""Bytes converted at once: small enough to be still in the processor's cache when they are multiplied.

Measured on two cores of a Zen 5 with 50,000 x 28,672 float32: the float64 certificate took 8.3 s by blocks of 48 MiB,
each freshly allocated; by these, through one buffer, 1.2 s (four times the time of 12,500 rows).

On a GPU as much as is read at once: there a block costs the start of a dozen kernels, which is as long as its memory
takes for 100 MiB.
"""

_RUN_ROWS = 128  # sampled rows that lie beside one another: long enough to multiply, short enough to spread
_SHORTEST, _FEWEST = 64, 8  # rows of a block, and blocks of all rows if these are long enough


class Rows:
    """A data matrix X with an implicit constant last column, read block by block and never copied whole.

    Parameters
    ----------
    X : numpy.ndarray, torch.Tensor, or anything with ``shape``, ``dtype`` and slices of rows, such as an HDF5 data set
        Shape (N, D). float32 and float64 are used as they are; other dtypes are converted, one block at a time. What is
        not in the device's memory is brought there whole if it fits, and otherwise read from where it lies at every
        pass.
    intercept_scaling : float
        Value s of the constant column; 0 means no intercept (the column is then all zeros and its weight stays 0).
    group : torch.distributed.ProcessGroup, optional
        Processes that hold the other rows, in order of rank; sums over rows then go over all of them.
    device : torch.device or str, optional
        Where to multiply; None: where X is, the processor for what is no tensor.
    memory_bytes : int, optional
        Most that a copy of X on the device may take; None: a share of the machine.
    block_bytes : int
        Upper bound, about, of the memory of one block.

    Attributes
    ----------
    num_rows, total_rows, first_row : int
        Rows held here, rows of all processes together, and the number of the first one held here among these.
    step : int
        Rows of a block, a power of two. Blocks begin at its multiples, counted among all rows, so that processes which
        hold whole blocks (:func:`shares`) make the float32 sums that one process makes, bit for bit.
    rows_read : int
        How many rows have been read so far, here.
    """

    def __init__(
        self,
        X: Any,
        intercept_scaling: float = 1.0,
        *,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str | None = None,
        memory_bytes: int | None = None,
        block_bytes: int = BLOCK_BYTES,
    ):
        X = X if isinstance(X, torch.Tensor) or _lies_elsewhere(X) else np.asarray(X)
        if len(X.shape) != 2:
            raise ValueError(f"X must have two dimensions (rows, features); got shape {tuple(X.shape)}.")
        self.scale, self.group = float(intercept_scaling), group
        self.dtype = _working_dtype(X.dtype)
        self.num_rows, self.num_features = int(X.shape[0]), int(X.shape[1])
        if group is not None and self.num_rows == 0:
            raise ValueError("Every process needs at least one row.")
        self.device = device_of(X, device)
        counts = self.of_all(self.num_rows)
        self.total_rows = sum(counts)
        self.first_row = 0 if group is None else sum(counts[: group.rank()])
        self.block_bytes = block_bytes
        self.step = block_rows(self.total_rows, self._row_bytes(self.dtype), self.device, block_bytes)
        self.rows_read = 0
        self._memory_bytes = memory_bytes
        self.X = self._brought(X)

    @functools.cached_property
    def _room(self) -> int:
        """Bytes that a copy of X may take; only asked for where there may be one."""
        return memory_share(self.device) if self._memory_bytes is None else self._memory_bytes

    @property
    def fit_whole(self) -> bool:
        """Whether the rows of all processes would be brought into the device's memory if a single one had them."""
        return self.total_rows * self.num_features * _kept_dtype(self.X.dtype).itemsize <= self._room

    def in_double(self) -> Rows:
        """Return the same rows, converted to float64 block by block for every product."""
        rows = copy.copy(self)
        rows.dtype = torch.float64
        return rows

    def _brought(self, X: Any) -> Any:
        """Return X where it is to be multiplied if it is there or fits there, else X as it is, to be streamed."""
        in_memory = isinstance(X, np.ndarray | torch.Tensor)
        if in_memory and self.device.type == "cpu":
            return _wrap(X) if _is_plain(X) else X
        if isinstance(X, torch.Tensor) and X.device == self.device:
            return X
        kept = _kept_dtype(X.dtype)
        if self.num_rows * self.num_features * kept.itemsize > self._room:
            return X
        brought = torch.empty(self.num_rows, self.num_features, dtype=kept, device=self.device)
        step = max(_SHORTEST, self.block_bytes // self._row_bytes(kept))
        for start in range(0, self.num_rows, step):  # never twice in the host's memory
            rows = slice(start, min(start + step, self.num_rows))
            brought[rows] = self._converted(X[rows])
        return brought

    def _converted(self, part: Any) -> torch.Tensor:
        """Return rows as they were read, as a tensor on the device; float types are kept, integers become floats."""
        if isinstance(part, torch.Tensor):
            return to_device(part if part.is_floating_point() else part.to(self.dtype), self.device)
        return to_device(_wrap(_readable(part)), self.device)

    def _row_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of a row of a type."""
        return max(1, self.num_features * dtype.itemsize)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of X, (N, D)."""
        return self.num_rows, self.num_features

    @property
    def passes(self) -> int:
        """How many times X has been read from end to end, parts of it counted as parts, rounded up."""
        return -(-self.rows_read // max(1, self.num_rows))

    def blocks(
        self, dtype: torch.dtype | None = None, within: Sequence[slice] | None = None
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield (rows, block), converted to ``dtype`` (None: the working dtype), of all rows or of some runs of them.

        A converted block lies in a buffer that the next one overwrites.
        """
        for rows, _, block in self._pieces(dtype or self.dtype, within, [slice(0, self.num_features)]):
            yield rows, block

    def _pieces(
        self, dtype: torch.dtype, within: Sequence[slice] | None, cuts: Sequence[slice]
    ) -> Iterator[tuple[slice, int, torch.Tensor]]:
        """Yield (rows, place of the columns in ``cuts``, block); rows that need no conversion whole, at place -1."""
        at_once = CONVERTED_BYTES if self.device.type == "cpu" else self.block_bytes
        widest = max(columns.stop - columns.start for columns in cuts)
        step = max(32, at_once // max(1, widest * dtype.itemsize))
        buffer: torch.Tensor | None = None
        for rows, read in self.reads(within):
            if read.dtype == dtype:
                yield rows, -1, read
                continue
            if buffer is None:
                buffer = torch.empty(min(step, self.num_rows) * widest, dtype=dtype, device=self.device)
            for start in range(0, len(read), step):
                here = slice(rows.start + start, rows.start + min(start + step, len(read)))
                for place, columns in enumerate(cuts):
                    part = read[start : start + step, columns]
                    yield here, place, buffer[: part.numel()].view(part.shape).copy_(part)

    def reads(self, within: Sequence[slice] | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield (rows, rows of X as they are), block by block."""
        for part in self.parts(within):
            yield part, self.read(part)

    def parts(self, within: Sequence[slice] | None = None) -> list[slice]:
        """Return the places of the blocks of all rows held here or of some runs of them."""
        runs = (slice(0, self.num_rows),) if within is None else within
        return [part for run in runs for part in cut(run, self.step, self.first_row)]

    def read(self, rows: slice) -> torch.Tensor:
        """Return a few rows as they are."""
        self.rows_read += len(range(*rows.indices(self.num_rows)))
        return self._converted(self.X[rows])

    def spread(self, count: int) -> list[slice]:
        """Return the runs held here of ``count`` rows spread evenly over all: the same rows however they are held."""
        count = max(1, min(self.total_rows, count))
        runs = -(-count // _RUN_ROWS)
        length, gap = count / runs, self.total_rows / runs
        starts = [round(k * gap) for k in range(runs)]
        stops = [*starts[1:], self.total_rows]
        chosen = [
            (start, min(stop, start + round((k + 1) * length) - round(k * length)))
            for k, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]
        here = [(max(0, a - self.first_row), min(self.num_rows, b - self.first_row)) for a, b in chosen]
        return [slice(start, stop) for start, stop in here if start < stop]

    def take(self, runs: Sequence[slice]) -> torch.Tensor:
        """Return runs of rows, of all processes, as one matrix (M, D), in the working dtype."""
        # a process may hold none of them
        none = torch.empty(0, self.num_features, dtype=self.dtype, device=self.device)
        return self.gather(torch.cat([none, *(block.clone() for _, block in self.blocks(within=runs))]))

    def split(self, V: torch.Tensor, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what :meth:`forward` needs of V (K, D + 1): features in ``dtype``, and constants."""
        return V[:, :-1].to(dtype or self.dtype).contiguous(), self.scale * V[:, -1].double()

    def forward(self, block: torch.Tensor, V: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return ``[block, s] @ V.T`` (B, K) in float64; V comes from :meth:`split`."""
        return product_nt(block, V[0]).double() + V[1]

    def backward(self, rows: slice, block: torch.Tensor, R: torch.Tensor, out: Sum) -> None:
        """Add ``R.T @ [block, s]`` to ``out``; R is (B, K) float64, ``rows`` the place of the block."""
        product = product_nt(R.T.to(block.dtype).contiguous(), block.T)
        out.add((self.first_row + rows.start) // self.step, product)
        assert out.constants is not None, "a sum of products with X"
        out.constants.append(in_pairs(R))

    def zeros(self, num_problems: int) -> torch.Tensor:
        """Return a float64 zero of shape (num_problems, D + 1) beside X."""
        return torch.zeros(num_problems, self.num_features + 1, dtype=torch.float64, device=self.device)

    def no_sum(self, num_problems: int) -> Sum:
        """Return the sum of no blocks."""
        return Sum(self.zeros(num_problems), [])

    def no_scores(self, num_problems: int) -> torch.Tensor:
        """Return a float64 zero of shape (N, num_problems) beside X."""
        return torch.zeros(self.num_rows, num_problems, dtype=torch.float64, device=self.device)

    def scores(self, V: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return ``[X, s] @ V.T`` (N, K) in float64, one pass."""
        out, (features, constants) = self.no_scores(len(V)), self.split(V, dtype)
        cuts = columns_at_once(self.num_features)
        cut = [*(features[:, columns].contiguous() for columns in cuts), features]
        for rows, place, block in self._pieces(features.dtype, None, cuts):
            out[rows] += product_nt(block, cut[place])
        return out.add_(constants)

    def adjoint(self, R: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return ``R.T @ [X, s]`` (K, D + 1) in float64, one pass."""
        out = self.no_sum(R.shape[1])
        for rows, block in self.blocks(dtype):
            self.backward(rows, block, R[rows], out)
        return self.whole(out)

    def whole(self, part: Sum) -> torch.Tensor:
        """Return a sum over all processes, the same bits however many there are."""
        part.close()
        total = self._joined(part.high, part.low)
        if part.constants is not None:
            none = total.new_empty(0, len(total))  # a process may hold none of the rows
            total[:, -1] = self.scale * self.in_order(torch.cat([none, *(c[None] for c in part.constants)]))
        return total

    def _joined(self, high: torch.Tensor, low: torch.Tensor | None) -> torch.Tensor:
        """Add up over the processes what :class:`~dcgan_eval.svm.sums.Sum` keeps in two parts."""
        if self.group is None:
            return high if low is None else high + low
        # Demmel and Nguyen 2015, reproducible summation: multiples of one unit, so few that their sum is exact, and
        # the rest, whose rounding is far below the last bit. Adding and taking away a large number rounds to the unit.
        most = high.abs().amax(-1, keepdim=True)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group)
        exponent = torch.frexp(most).exponent + self.group.size().bit_length()
        large = torch.ldexp(torch.full_like(most, 1.5), exponent)
        units = high + large - large
        rest = high - units
        return self.reduce(units) + self.reduce(rest if low is None else rest + low)

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes, in place; every process gets the same bits."""
        if self.group is not None:
            dist.all_reduce(partial, group=self.group)
        return partial

    def total(self, of: Callable[[slice], torch.Tensor], num_columns: int) -> torch.Tensor:
        """Add up what the rows of all processes give, (..., M), the same bits however many there are.

        Parameters are those of :func:`~dcgan_eval.svm.sums.by_blocks`; ``of`` is asked for runs of the rows held here.
        """
        sums = by_blocks(of, self.num_rows, num_columns, self.step, self.first_row)
        return self.in_order(sums.movedim(-2, 0))

    def in_order(self, sums: torch.Tensor) -> torch.Tensor:
        """Add up sums over runs of rows, (B, ...), of all processes, in the order of the rows."""
        return in_pairs(self.gather(sums).flatten(1)).view(sums.shape[1:])

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """Join the parts (M_p, ...) of all processes in order of rank; a single process keeps its own."""
        if self.group is None:
            return part
        sizes = [torch.zeros(1, dtype=torch.int64, device=part.device) for _ in range(self.group.size())]
        dist.all_gather(sizes, torch.tensor([len(part)], device=part.device), group=self.group)
        longest = max(int(size) for size in sizes)
        padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])])
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([p[: int(size)] for p, size in zip(parts, sizes, strict=True)])

    def of_all(self, number: int) -> list[int]:
        """Return the numbers that the processes have, in order of rank."""
        return [number] if self.group is None else self.gather(torch.tensor([number], device=self.device)).tolist()

    def all_finite(self) -> bool:
        """Whether X holds no NaN and no infinity (one pass, no copy)."""
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for _, block in self.blocks():
            finite &= torch.isfinite(block.sum(dtype=torch.float64))
        return decide.holds(finite)


def block_rows(num_rows: int, row_bytes: int, device: torch.device, block_bytes: int = BLOCK_BYTES) -> int:
    """Return how many rows are multiplied at once, a power of two: the same for any number of processes."""
    most = block_bytes // row_bytes
    if device.type == "cpu":  # on a GPU a block costs the start of its kernels
        most = min(most, num_rows // _FEWEST)
    return 1 << (max(most, _SHORTEST).bit_length() - 1)


def shares(X: Any, num_rows: int, device: torch.device | str | None, num_processes: int) -> list[slice]:
    """Return the runs of ``num_rows`` rows like those of X that processes take: whole blocks, if there are enough."""
    row_bytes = max(1, int(X.shape[1]) * _working_dtype(X.dtype).itemsize)
    step = block_rows(num_rows, row_bytes, device_of(X, device))
    if num_rows <= step * (num_processes - 1):
        step = 1
    count = -(-num_rows // step)
    ends = [min(num_rows, step * (rank * count // num_processes)) for rank in range(num_processes + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def device_of(X: Any, device: torch.device | str | None = None) -> torch.device:
    """Return where X is multiplied: on the device asked for, or (None) where it is, on the processor if no tensor."""
    there = X.device if isinstance(X, torch.Tensor) else torch.device("cpu")
    wanted = torch.device(device or there)
    is_there = wanted.index is None and wanted.type == there.type  # "cuda" is whichever GPU X is on
    return there if is_there else wanted


def _lies_elsewhere(X: Any) -> bool:
    """Whether X is no array but can be read like one, slice by slice."""
    if scipy.sparse.issparse(X):
        raise TypeError("X is a sparse matrix; the L2-SVM needs a dense one: X.toarray().")
    shaped = hasattr(X, "shape") and hasattr(X, "dtype") and hasattr(X, "__getitem__")
    return shaped and not isinstance(X, np.ndarray | np.generic) and not hasattr(X, "__array_interface__")


def _working_dtype(dtype: Any) -> torch.dtype:
    """Return float64 for what float32 cannot hold, else float32."""
    if isinstance(dtype, torch.dtype):
        if dtype.is_complex:
            raise TypeError(f"X must hold real numbers of at most 64 bits; got dtype {dtype}.")
        narrow = dtype.itemsize <= (4 if dtype.is_floating_point else 2)
        return torch.float32 if narrow else torch.float64
    kind = np.dtype(dtype)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise TypeError(f"X must hold real numbers of at most 64 bits; got dtype {kind}.")
    narrow = kind.itemsize <= 2 or (kind.kind == "f" and kind.itemsize <= 4)
    return torch.float32 if narrow else torch.float64


def _kept_dtype(dtype: Any) -> torch.dtype:
    """Return the type in which numbers lie on the device: floats as they are, integers as they are multiplied."""
    if isinstance(dtype, torch.dtype):
        return dtype if dtype.is_floating_point else _working_dtype(dtype)
    kind, working = np.dtype(dtype), _working_dtype(dtype)
    return torch.float16 if kind.kind == "f" and kind.itemsize == 2 else working


def _is_plain(X: Any) -> bool:
    """Whether torch can multiply the array where it lies: real floats, native, no odd strides."""
    if isinstance(X, torch.Tensor):
        return True
    awkward = not X.dtype.isnative or any(stride < 0 or stride % X.itemsize for stride in X.strides)
    return X.dtype.kind == "f" and not awkward


def _readable(X: Any) -> np.ndarray:
    """Return an array that torch can wrap without copying float data."""
    array = np.asarray(X)
    if array.dtype.kind in "biu":
        return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"X must hold real numbers of at most 64 bits; got dtype {array.dtype}.")
    return array if _is_plain(array) else np.array(array, dtype=array.dtype.newbyteorder("="))


def _wrap(array: Any) -> torch.Tensor:
    """Share an array's memory with torch, read-only ones (memory maps) too: nothing here writes to X."""
    if isinstance(array, torch.Tensor):
        return array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def mean_squared_norm(X: Any, group: dist.ProcessGroup | None = None) -> float:
    """Return the mean over the rows of the squared length of a row, to 12 digits; 1 where all features are zero.

    More would tell how many threads and processes have added up.

    Parameters
    ----------
    X : numpy.ndarray, torch.Tensor, or anything with ``blocks()`` of (rows, features)
        Shape (N, D).
    group : torch.distributed.ProcessGroup, optional
        Processes that hold the other rows.
    """
    if isinstance(X, torch.Tensor):
        squares = torch.zeros((), dtype=torch.float64, device=X.device)
        for _, block in Rows(X, 0.0).blocks():
            squares += torch.linalg.vector_norm(block, dtype=torch.float64) ** 2
        total = decide.number(squares)
    else:
        blocks = X.blocks() if hasattr(X, "blocks") else [(slice(None), X)]
        total = sum(float(np.einsum("nd,nd->n", block, block, dtype=np.float64).sum()) for _, block in blocks)
    return float(f"{sum_of_all(total, group) / sum_of_all(len(X), group):.12g}") or 1.0


def sum_of_all(number: float, group: dist.ProcessGroup | None) -> float:
    """Return the sum of the numbers that the processes have; that of a single one without a group."""
    if group is None:
        return number
    total = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(total, group=group)
    return float(total)
