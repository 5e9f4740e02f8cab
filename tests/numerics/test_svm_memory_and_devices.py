"""Bounded memory with many classes, and no mixing of devices in a Newton step (without a GPU at hand)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from svm_problems import correlated
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dcgan_eval.svm import decide, newton
from dcgan_eval.svm.gram import GramSpace
from dcgan_eval.svm.objective import Status
from dcgan_eval.svm.path import FitOptions, Fitter, fit_ovr
from dcgan_eval.svm.primal import PrimalSpace
from dcgan_eval.svm.problems import HingeProblem, SoftmaxProblem
from dcgan_eval.svm.products import product_nt
from dcgan_eval.svm.rows import Rows


class Watch(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that an operation returned, and the precision of products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.precisions = 0, set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel() * result.element_size())
        if "mm" in str(function):
            self.precisions.add(torch.get_float32_matmul_precision())
        return result


def test_a_thousand_classes_are_solved_in_blocks_within_the_memory():
    # 20,000 x 256 x 1,000 with each side scaled down
    X, y = correlated(2000, 24, 100, seed=1)
    X, memory = X.astype(np.float32), 20 << 20
    fitter = Fitter(X, y, FitOptions(tol=1e-4, solver="primal"), memory_bytes=memory)
    blocks = fitter._column_blocks()
    assert len(blocks) > 2
    assert np.concatenate([np.arange(100)[block] for block in blocks]).tolist() == list(range(100))
    with Watch() as watch:
        solution = fitter.fit(1e-2)
    assert watch.largest <= memory // 8
    assert watch.largest <= 2000 * 100 * 8 / 2  # half a matrix of all rows by all classes
    assert solution.status is Status.CONVERGED
    for k in (0, 37, 99):
        alone = fit_ovr(X, y == k, 1e-2, tol=1e-4, solver="primal")
        np.testing.assert_allclose(solution.primal[k], alone.primal[0], rtol=1e-4)  # each within 1e-4 of the optimum


def test_targets_are_never_a_matrix_of_all_rows_by_all_classes():
    X, y = correlated(600, 8, 200, seed=2)
    fitter = Fitter(X, y, FitOptions(), {3: 2.0}, np.full(600, 0.5))
    stored = [value for value in vars(fitter.problem).values() if isinstance(value, torch.Tensor)]
    assert max(value.numel() for value in stored) == 600
    assert fitter.problem.index.dtype == torch.int64


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
def test_derivatives_are_those_of_the_losses(kind):
    rng = torch.Generator().manual_seed(0)
    F, step = (torch.randn(7, 4, dtype=torch.float64, generator=rng) for _ in range(2))
    index = torch.tensor([0, 1, 2, 3, 3, 1, 0])
    problem: Any = SoftmaxProblem(index, 4, 0.7)
    share = 1 / 4  # of the whole loss: each column carries it
    if kind == "hinge":
        costs = torch.tensor([1.0, 2.0, 0.5, 0.3], dtype=torch.float64)
        problem, share = HingeProblem(index, torch.arange(4), costs, 2 * costs, F.abs()[:, :1] + 1, even=False), 1.0

    def total(f: torch.Tensor) -> torch.Tensor:
        return share * problem.losses(f).sum()

    gradient = torch.autograd.functional.jacobian(total, F)
    torch.testing.assert_close(problem.pull(F), -gradient)
    _, curved = torch.autograd.functional.hvp(total, F, step)
    torch.testing.assert_close(problem.curvature(F).apply(slice(None), step), curved)
    torch.testing.assert_close(
        problem.curvature(F).diagonal.sum(), torch.autograd.functional.hessian(total, F).reshape(28, 28).trace()
    )
    first, second = problem.along(F, step)(torch.zeros(4, dtype=torch.float64)).sum(0) * share
    torch.testing.assert_close(first.sum(), (gradient * step).sum())
    torch.testing.assert_close(second.sum(), (curved * step).sum())


def one_step(space: Any, problem: Any, num_columns: int) -> None:
    """Take a Newton step from zero."""
    state = newton._begin(space, problem, None, False)
    state = replace(state, gap=state.gap.abs())
    newton._advance(space, problem, state, torch.full_like(state.gap, 0.1), 1e-4, True)


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
@pytest.mark.parametrize("space", ["primal", "gram"])
def test_a_newton_step_keeps_to_the_gpu(kind, space, monkeypatch):
    monkeypatch.setattr(decide, "holds", lambda condition: True)
    monkeypatch.setattr(decide, "number", lambda value: 1.0)
    monkeypatch.setattr(decide, "where", lambda condition: torch.arange(len(condition), device=condition.device))
    with FakeTensorMode():
        X = torch.empty(60, 40, device="cuda")
        index = torch.empty(60, dtype=torch.int64, device="cuda")
        costs = torch.empty(3, dtype=torch.float64, device="cuda")
        problem = (
            SoftmaxProblem(index, 3, 0.5)
            if kind == "softmax"
            else HingeProblem(index, torch.arange(3, device="cuda"), costs, costs)
        )
        rows = Rows(X, 1.0, memory_bytes=1 << 20)
        one_step(PrimalSpace(rows) if space == "primal" else GramSpace(product_nt(X, X)), problem, 3)


def test_float32_products_on_a_gpu_are_float32_whatever_the_process_allows():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with FakeTensorMode(), Watch() as watch:
            product_nt(torch.empty(5, 4, device="cuda"), torch.empty(6, 4, device="cuda"))
        assert watch.precisions == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
