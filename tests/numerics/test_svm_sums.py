"""Sums over rows against exact ones, and their bits for any number of processes and threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from dcgan_eval.svm import sums
from dcgan_eval.svm.problems import HingeProblem, SoftmaxProblem, loss_of, slopes
from dcgan_eval.svm.rows import Rows, mean_squared_norm, shares


class Held(Rows):
    """Some of the rows of several processes, with what the others hold at hand in place of being asked for."""

    def __init__(self, X: np.ndarray, part: slice):
        super().__init__(X)
        self.X, self.num_rows, self.first_row = self.X[part], part.stop - part.start, part.start
        self.sums = list[torch.Tensor]()

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """Write down what this process gives."""
        self.sums.append(part)
        return part


def over_processes(X: np.ndarray, parts: Sequence[slice], of: Callable, num_columns: int) -> torch.Tensor:
    """Return a total over the rows that processes hold: what each gives is joined in their order."""
    each = [Held(X, part) for part in parts]
    for rows, part in zip(each, parts, strict=True):
        rows.total(lambda run, at=part.start: of(slice(at + run.start, at + run.stop)), num_columns)
    joined = torch.cat([rows.sums[0] for rows in each])
    return Rows(X).in_order(joined)


def problems_of(kind: str, num_rows: int, num_columns: int) -> tuple:
    """Return a problem, scores and a step, float64, of wide spread: their sums cancel."""
    draw = torch.Generator().manual_seed(3)
    F, step = (
        torch.randn(num_rows, num_columns, dtype=torch.float64, generator=draw)
        * 10.0 ** torch.randint(-6, 3, (num_rows, 1), generator=draw)
        for _ in range(2)
    )
    index = torch.randint(num_columns, (num_rows,), generator=draw)
    if kind == "softmax":
        return SoftmaxProblem(index, num_columns, 0.7), F, step
    cost = torch.rand(num_columns, dtype=torch.float64, generator=draw)
    return HingeProblem(index, torch.arange(num_columns), cost, cost), F, step


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(1000, 10), (40_000, 7), (5003, 300), (301, 2)])
def test_losses_and_slopes_are_the_same_bits_on_any_processes_and_threads(
    kind: str, num_rows: int, num_columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "PIECE", 1 << 16)  # several pieces to a block, and several blocks to a piece
    problem, F, step = problems_of(kind, num_rows, num_columns)
    X = np.zeros((num_rows, 30), np.float32)
    t = torch.full((num_columns,), 0.3, dtype=torch.float64)
    found = {"losses": set[bytes](), "slopes": set[bytes]()}
    before = torch.get_num_threads()
    for size, threads in ((1, 1), (1, 2), (1, 3), (1, 8), (2, 1), (3, 2), (4, 1)):
        torch.set_num_threads(threads)
        parts = shares(X, num_rows, None, size)

        def total(of: Callable, parts: list[slice] = parts) -> torch.Tensor:
            return over_processes(X, parts, of, num_columns)

        found["losses"].add(total(loss_of(problem, F)).numpy().tobytes())
        found["slopes"].add(slopes(problem, F, step, total)(t).numpy().tobytes())
    torch.set_num_threads(before)
    assert {name: len(bits) for name, bits in found.items()} == {"losses": 1, "slopes": 1}
    losses = np.frombuffer(found["losses"].pop())
    exact = [math.fsum(column) for column in problem.losses(F).T.tolist()]
    np.testing.assert_allclose(losses, exact, rtol=1e-14)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 63, 64, 65, 127, 1000])
@pytest.mark.parametrize("first", [0, 1, 63, 64, 200])
@pytest.mark.parametrize("step", [1, 64, 256])
def test_blocks_of_rows_begin_at_multiples_of_their_length(
    num_rows: int, first: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "PIECE", 400)  # 128 rows of three columns
    values = torch.from_numpy(np.random.default_rng(4).integers(-99, 99, (2, num_rows, 3)).astype(np.float64))
    found = sums.by_blocks(lambda run: values[:, run], num_rows, 3, step, first).numpy()
    numbers = first + np.arange(num_rows)
    expected = [values.numpy()[:, numbers // step == block].sum(1) for block in np.unique(numbers // step)]
    assert np.array_equal(found, np.stack(expected, 1))  # whole numbers: no rounding
    everything = sums.add_up(lambda run: values[:, run], num_rows, 3).numpy()
    assert np.array_equal(everything, values.numpy().sum(1))


@pytest.mark.parametrize("num_columns", [1, 2, 7])
def test_inner_products_are_the_same_bits_on_any_threads(num_columns: int) -> None:
    draw = np.random.default_rng(5)
    U, V = (draw.normal(size=(num_columns, 60_001)) for _ in range(2))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        found.append(sums.inner(torch.from_numpy(U), torch.from_numpy(V)).tolist())
    torch.set_num_threads(before)
    assert found[1:] == found[:1] * 3
    np.testing.assert_allclose(found[0], [math.fsum(row) for row in U * V], rtol=1e-12)


def test_the_mean_squared_length_of_a_row_does_not_tell_who_has_added_up() -> None:
    X = np.random.default_rng(6).normal(size=(3000, 400)).astype(np.float32)
    before, found = torch.get_num_threads(), set[float]()
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        found |= {mean_squared_norm(torch.from_numpy(X)), mean_squared_norm(torch.from_numpy(X[::-1].copy()))}
    torch.set_num_threads(before)
    assert len(found) == 1
    assert found.pop() == pytest.approx((X.astype(np.float64) ** 2).sum() / 3000, rel=1e-11)


def test_no_rows_add_up_to_zero() -> None:
    assert sums.in_pairs(torch.empty(2, 0, 3)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 70_001), (1500, 40), (2, 0)])
def test_what_is_added_in_float64_loses_nothing(shape: tuple[int, int], dtype: type) -> None:
    draw = np.random.default_rng(0)
    total, part = draw.normal(size=(shape[0], shape[1] + 1)), draw.normal(size=shape).astype(dtype)
    expected = total.copy()
    expected[:, :-1] += part
    found = torch.from_numpy(total)
    sums.add_to(found[:, :-1], torch.from_numpy(part))
    assert found.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("columns", [3, 40_000])
def test_sums_in_any_order_are_the_exact_one_rounded(columns: int) -> None:
    draw = np.random.default_rng(1)
    parts = draw.normal(size=(50, 2, columns)) * 10.0 ** draw.integers(-9, 9, (50, 1, 1))  # cancels much
    exact = [math.fsum(parts[:, 1, k]) for k in range(3)]
    for order in (range(50), draw.permutation(50)):
        high, low = (torch.zeros(2, columns + 1, dtype=torch.float64)[:, 1:] for _ in range(2))
        for k in order:
            sums.add_exactly(high, low, torch.from_numpy(parts[k]))
        assert (high + low)[1, :3].tolist() == exact
