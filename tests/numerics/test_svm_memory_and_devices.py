"""Bounded memory with many classes, and no mixing of devices in a Newton step (without a GPU at hand)."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from svm_problems import Watch, correlated
from torch._subclasses import FakeTensorMode

from dcgan_eval.devices import memory_share
from dcgan_eval.svm import decide, newton, nonlinear_cg, primal, sums
from dcgan_eval.svm import rows as rows_module
from dcgan_eval.svm.gram import GramSpace
from dcgan_eval.svm.objective import Status, certificate
from dcgan_eval.svm.path import FitOptions, Fitter, fit_ovr
from dcgan_eval.svm.primal import PrimalSpace
from dcgan_eval.svm.problems import HingeProblem, SoftmaxProblem
from dcgan_eval.svm.products import product_nt
from dcgan_eval.svm.rows import Rows, mean_squared_norm


def test_a_thousand_classes_are_solved_in_blocks_within_the_memory(monkeypatch):
    monkeypatch.setattr(sums, "PIECE", 1 << 15)
    # 20,000 x 256 x 1,000 with each side scaled down
    X, y = correlated(2000, 24, 100, seed=1)
    X, memory = X.astype(np.float32), 4 << 20
    fitter = Fitter(X, y, FitOptions(tol=1e-4, solver="primal"), memory_bytes=memory)
    blocks = fitter._column_blocks(fitter.problem.num_columns)
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
    first, second = problem.along(F, step)(torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(first.sum(), (gradient * step).sum())
    torch.testing.assert_close(second.sum(), (curved * step).sum())


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer whatever is asked of the device: nothing is solved, everything is active."""
    monkeypatch.setattr(decide, "holds", lambda condition: True)
    monkeypatch.setattr(decide, "number", lambda value: 1.0)
    monkeypatch.setattr(decide, "numbers", lambda *values: [1.0] * len(values))
    monkeypatch.setattr(decide, "where", lambda condition: torch.arange(len(condition), device=condition.device))
    monkeypatch.setattr(newton, "_MAX_CG", 3)
    monkeypatch.setattr(nonlinear_cg, "_STEPS", 2)


def one_step(space: Any, problem: Any, num_columns: int) -> None:
    """Take a Newton step from zero, and one of conjugate gradients."""
    state = newton._begin(space, problem, None, False)
    state = replace(state, gap=state.gap.abs())
    for steps in (newton.NewtonSteps(), nonlinear_cg.ConjugateSteps()):
        steps(space, problem, state, 1e-4)


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
@pytest.mark.parametrize("space", ["primal", "gram"])
def test_a_newton_step_keeps_to_the_gpu(kind, space, decided):
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


def to_plain(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without pinned memory, which fake tensors do not have."""
    return x.to(device)


def on_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Return 60 fake rows that are multiplied on a GPU: resident there, or streamed to it."""
    monkeypatch.setattr(rows_module, "to_device", to_plain)
    dtype = torch.float16 if "float16" in kind else torch.float32
    X = torch.empty(60, 40, dtype=dtype, device="cpu" if "streamed" in kind else "cuda")
    return Rows(X, 1.0, device="cuda", memory_bytes=0)


@pytest.mark.parametrize("kind", ["float16", "streamed float16", "streamed float32"])
def test_float16_rows_stay_so_on_the_gpu_and_are_widened_there(kind, monkeypatch):
    with FakeTensorMode():
        rows = on_device(kind, monkeypatch)
        assert rows.X.device.type == ("cpu" if "streamed" in kind else "cuda")
        assert {(read.dtype, read.device.type) for _, read in rows.reads()} == {(rows.X.dtype, "cuda")}
        for wanted in (torch.float32, torch.float64):
            assert {(b.dtype, b.device.type) for _, b in rows.blocks(wanted)} == {(wanted, "cuda")}


def test_rows_that_fit_go_to_the_gpu_once_in_their_own_type(monkeypatch):
    monkeypatch.setattr(rows_module, "to_device", to_plain)
    with FakeTensorMode():
        for dtype, there in (
            (torch.float16, torch.float16),
            (torch.uint8, torch.float32),
            (torch.int32, torch.float64),
        ):
            size = 60 * 40 * there.itemsize
            X = torch.empty(60, 40, device="cpu").to(dtype)
            brought = Rows(X, device="cuda", memory_bytes=size).X
            assert (brought.device.type, brought.dtype) == ("cuda", there)
            assert Rows(X, device="cuda", memory_bytes=size - 1).X is X
        X = torch.empty(60, 40, device="cuda:0")
        assert Rows(X, device="cuda", memory_bytes=1 << 30).X is X  # it is there already, whatever its number


@pytest.mark.parametrize("solver", ["primal", "gram"])
@pytest.mark.parametrize("kind", ["float16", "streamed float16"])
def test_a_whole_fit_on_a_gpu_asks_nothing_of_it_but_through_decide(kind, solver, monkeypatch, decided):
    """A fake tensor has no numbers: whoever else wants to know one raises."""
    y = np.arange(60) % 3
    with FakeTensorMode():
        X = on_device(kind, monkeypatch).X
        fitter = Fitter(X, y, FitOptions(solver=solver, max_iter=2), device="cuda", memory_bytes=0)
        part = fitter._fit_columns(fitter.problem.at(0.1), slice(0, 3), None)
        assert {t.device.type for t in (part.U, *part.bounds)} == {"cuda"}
        assert fitter.rows.X.dtype == torch.float16


class Elsewhere:
    """Rows that are in no memory; counts how often each is read."""

    def __init__(self, X: np.ndarray):
        self.X, self.shape, self.dtype, self.counts = X, X.shape, X.dtype, np.zeros(len(X), int)

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.counts[rows] += 1
        return self.X[rows]


@pytest.mark.parametrize("solver", ["primal", "gram"])
def test_float16_rows_give_the_certified_fit_whether_they_are_brought_or_streamed(solver, monkeypatch):
    X, y = correlated(300, 500, 4, seed=5)
    half = X.astype(np.float16)
    crossed: list[torch.dtype] = []
    monkeypatch.setattr(rows_module, "to_device", lambda x, device: crossed.append(x.dtype) or x)
    found = {}
    for memory in (1 << 30, 0):
        lazy = Elsewhere(half)
        found[memory] = fit_ovr(lazy, y, 1e-2, tol=1e-5, solver=solver, device="cpu", memory_bytes=memory)
        assert (lazy.counts.max() == 1) == (memory > 0)
    assert set(crossed) == {torch.float16}
    for solution in found.values():
        assert (solution.status, solution.device) == (Status.CONVERGED, "cpu")
        # the certificate that a fit carries is that of the float16 numbers, in float64
        primal, _, gaps = certificate(half.astype(np.float64), y, solution.W, 1e-2, intercepts=solution.intercepts)
        assert gaps.max() <= 1e-5
        np.testing.assert_allclose(solution.primal, primal, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_mean_squared_norm_of_a_tensor_is_that_of_its_numbers(dtype):
    X = correlated(70, 9, 2, seed=3)[0].astype(dtype)
    expected = np.mean([np.dot(row, row) for row in X.astype(np.float64)])
    np.testing.assert_allclose(mean_squared_norm(torch.from_numpy(X)), expected, rtol=1e-6)  # float32 blocks
    assert mean_squared_norm(torch.zeros(4, 3)) == 1.0


def test_memory_that_torch_keeps_for_itself_is_free(monkeypatch):
    for name, value in (("mem_get_info", (10, 100)), ("memory_reserved", 70), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    assert memory_share(torch.device("cuda")) == (10 + 70 - 20) // 2


GROWN = """
import sys
import numpy as np
from dcgan_eval.svm.path import fit_ovr
def status(name): return next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith(name))
n, d, k = 60_000, 600, 64
random = np.random.default_rng(0)
y, means = random.integers(k, size=n), random.standard_normal((k, 64), np.float32)
X = random.standard_normal((n, d), np.float32)
X += (random.standard_normal((n, 64), np.float32) + means[y]) @ random.standard_normal((64, d), np.float32)
X /= np.sqrt(np.square(X[:1000]).sum(1).mean())
fit_ovr(X[:9000], y[:9000], 1.0, tol=0.1)  # libraries take their own memory
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
found = fit_ovr(X, y, 1.0, tol=1e-3, memory_bytes=int(sys.argv[1]))
assert found.status == "converged", found.status
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="how much memory was taken is Linux's to say")
def test_a_fit_of_many_classes_takes_about_the_memory_it_may() -> None:
    memory = 300 << 20
    done = subprocess.run([sys.executable, "-c", GROWN, str(memory)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.2 * memory


def test_hessians_are_right_and_their_products_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    Z = random.standard_normal((3000, 5))
    S = np.where(random.random((3000, 200)) < np.linspace(0, 1, 200), random.random((3000, 200)), 0.0)
    shapes = set()

    def product(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        shapes.add((A.shape, B.shape))
        return product_nt(A, B)

    monkeypatch.setattr(primal, "product_nt", product)
    grams = torch.stack(list(primal._weighted_grams(torch.from_numpy(Z), torch.from_numpy(S))))
    np.testing.assert_allclose(grams, np.einsum("nr,nk,ns->krs", Z, S, Z), atol=1e-9)
    assert len(shapes) <= 18
