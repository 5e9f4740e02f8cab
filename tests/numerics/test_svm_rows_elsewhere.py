"""The same optimum from rows in memory, on disk, in half precision, and spread over processes."""

from __future__ import annotations

import functools
import uuid
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import in_processes
from svm_problems import correlated, dual_gap, features_like, known_optimum, with_constant

from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.protocols.classifiers import SvmClassifier
from dcgan_eval.svm import primal
from dcgan_eval.svm.objective import Status
from dcgan_eval.svm.path import Choice, FitOptions, Fitter, choose_solver, fit_ovr
from dcgan_eval.svm.primal import PrimalSpace
from dcgan_eval.svm.rows import Rows, shares


def on_disk(path: Path, X: np.ndarray) -> h5py.Dataset:
    """Write X and return it as a data set to be read from."""
    with h5py.File(path, "w") as file:
        file["X"] = X
    return h5py.File(path, "r")["X"]


@pytest.mark.parametrize("solver", ["primal", "gram"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("streamed", [0, None], ids=["streamed", "brought into memory"])
def test_an_hdf5_data_set_gives_the_bits_of_the_array(tmp_path, dtype, solver, streamed):
    X, y = correlated(150, 600, 3, seed=1)
    X = X.astype(dtype)
    here = fit_ovr(X, y, 1e-3, solver=solver)
    there = fit_ovr(on_disk(tmp_path / "X.h5", X), y, 1e-3, solver=solver, memory_bytes=streamed)
    assert there.status is Status.CONVERGED
    assert here.W.tobytes() == there.W.tobytes()


def test_streamed_rows_reach_the_constructed_optimum(tmp_path):
    known = known_optimum(200, 700, 1.0, seed=2)
    source = on_disk(tmp_path / "X.h5", known.X)
    solution = fit_ovr(source, known.labels, 1.0, solver="primal", tol=1e-9, intercept_scaling=0.0, memory_bytes=0)
    # ||w - w*|| <= sqrt(2 P gap), 1e-4 of ||w*|| as for rows in memory
    np.testing.assert_allclose(solution.W[0], known.w, atol=1e-4 * np.linalg.norm(known.w))
    assert dual_gap(known.X, known.signs, 1.0, solution.W[0])[1] <= 1.01e-9


def test_streaming_reads_a_block_at_a_time(tmp_path):
    X, _ = correlated(3000, 600, 3, seed=3)

    class Watched:
        """Rows that remember the longest slice asked for."""

        shape, dtype, longest = X.shape, X.dtype, 0

        def __getitem__(self, rows: slice) -> np.ndarray:
            self.longest = max(self.longest, rows.stop - rows.start)
            return X[rows]

    source = Watched()
    rows = Rows(source, 1.0, block_bytes=600 * 8 * 100, memory_bytes=0)
    np.testing.assert_allclose(rows.scores(rows.zeros(2) + 1), with_constant(X) @ np.ones((601, 2)), rtol=1e-10)
    assert source.longest == 64  # the largest power of two among the 100 that fit
    assert rows.passes == 1


@pytest.mark.parametrize("probe", [SvmClassifier, LogisticClassifier])
def test_rows_that_would_take_more_than_a_probe_may_are_not_brought_into_memory(probe, monkeypatch):
    X, y = correlated(4000, 200, 4, seed=9)
    brought: list[int] = []
    empty = torch.empty

    def watched(*shape: Any, **how: Any) -> torch.Tensor:
        made = empty(*shape, **how)
        if made.shape == X.shape and made.dtype == torch.float32:  # in float64 a buffer
            brought.append(made.nbytes)
        return made

    class Elsewhere:
        shape, dtype = X.shape, np.dtype(np.float32)

        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, rows: slice) -> np.ndarray:
            return X[rows].astype(np.float32)

    monkeypatch.setattr(torch, "empty", watched)
    for megabytes, times in ((4, 0), (16, 1)):  # X has 3.2, and may take half
        classifier = probe(values=(1e-3,), memory_bytes=megabytes << 20)
        assert classifier.fit(Elsewhere(), y, 1e-3).status == "converged"
        assert len(brought) == times


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corrections_along_strong_directions_keep_the_optimum_and_save_passes(dtype):
    rng = np.random.default_rng(4)
    y = np.arange(1200) % 4
    # images' features in small: a common mean, a spectrum that falls by powers, classes in its weaker part
    X = (5 + rng.standard_normal((1200, 700)) * 20 / (1 + np.arange(700)) ** 0.7 + np.eye(4, 700, 40)[y]).astype(dtype)
    fitters = [Fitter(X, y, FitOptions(tol=1e-6, solver="primal")) for _ in range(2)]
    fitters[0]._primal = PrimalSpace(fitters[0].rows, sample_rows=400, max_rank=64, top_rank=32)
    fitters[1]._primal = PrimalSpace(fitters[1].rows, sample_rows=40, max_rank=1, top_rank=1)
    strong, weak = (fitter.fit(1e-2) for fitter in fitters)
    assert strong.status is weak.status is Status.CONVERGED
    np.testing.assert_allclose(strong.primal, weak.primal, rtol=2e-6)  # each within 1e-6 of the optimum
    assert strong.passes < 0.7 * weak.passes


def test_spread_runs_are_disjoint_even_and_as_many_as_asked():
    rows = Rows(np.zeros((1000, 3), np.float32))
    for count in (1, 100, 300, 999, 1000, 5000):
        runs = rows.spread(count)
        index = np.concatenate([np.arange(run.start, run.stop) for run in runs])
        assert len(index) == min(count, 1000)
        assert len(np.unique(index)) == len(index)
        assert index.max() < 1000
    assert rows.spread(300)[-1].start > 600
    chosen = [np.arange(run.start, run.stop) for run in rows.spread(300)]
    found = []
    for first, last in ((0, 5), (5, 640), (640, 1000)):  # the first process may hold none of the rows
        rows.first_row, rows.num_rows = first, last - first
        found += [np.arange(run.start, run.stop) + first for run in rows.spread(300)]
    assert np.array_equal(np.concatenate(found), np.concatenate(chosen))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_whole_numbers_in_a_tensor_are_those_of_the_array(dtype):
    draw = np.random.default_rng(4)
    X = draw.integers(0, 2 if dtype is bool else 200, (90, 40)).astype(dtype)
    if dtype is np.int64:
        X += 2**24 + 1  # which float32 rounds
    y = draw.integers(0, 3, 90)
    array, tensor = (fit_ovr(rows, y, 1e-6, tol=1e-6) for rows in (X, torch.from_numpy(X)))
    assert array.W.tobytes() == tensor.W.tobytes()


def test_sparse_and_foreign_rows_are_refused():
    y = np.arange(10) % 2
    with pytest.raises(TypeError, match="sparse"):
        fit_ovr(scipy.sparse.eye(10, format="csr"), y, 1.0)
    with pytest.raises(TypeError, match="real numbers"):
        fit_ovr(np.array([["a"] * 3] * 10), y, 1.0)
    with pytest.raises(TypeError, match="real numbers"):
        fit_ovr(torch.zeros(10, 3, dtype=torch.complex64), y, 1.0)


def test_the_choice_says_why():
    assert "fewer than" in choose_solver(100, 1000).reason
    assert choose_solver(1000, 28672, memory_bytes=5e5).solver == "primal"
    assert "GB" in choose_solver(5000, 28672, memory_bytes=5e5).reason
    X, y = correlated(30, 60, 2, seed=5)
    assert fit_ovr(X, y, 1e-2).reason == choose_solver(30, 60, itemsize=8).reason
    assert Fitter(X, y, FitOptions(solver="primal")).choice == Choice("primal", "asked for")


def many_rows() -> tuple[np.ndarray, np.ndarray]:
    """More rows than the first sample takes, in float32."""
    X, y = correlated(2500, 520, 3, seed=6)
    return X.astype(np.float32), y


def shared_problems() -> dict[str, tuple[np.ndarray, np.ndarray, float, float]]:
    """X, y, C and intercept scaling of fits that processes share: all directions coarse; principal ones only; known."""
    known = known_optimum(301, 700, 1.0, seed=9)
    found = {"known": (known.X, known.labels, 1.0, 0.0)}
    for features in (60, 700):
        X, y = correlated(301, features, 3, seed=6)
        found[f"{features} features"] = (X, np.sort(y), 1e-3, 1.0)  # sorted, so that shards hold different classes
    return found


class Streamed:
    """Rows that are read from elsewhere."""

    def __init__(self, X: np.ndarray):
        self.X, self.shape, self.dtype = X, X.shape, X.dtype

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.X[rows]


_MEGABYTE = 1 << 20
SAME = {  # number of classes, rows (x 700), C, how; what is called hard: rows (x 800), C
    "weights": (40, 2048, 1e-2, {"sample_weight": True, "class_weight": {0: 2.0, 7: 0.5}}),
    "odd rows": (40, 1511, 1e-1, {"dtype": np.float16}),
    "float64": (40, 2048, 1e-1, {"dtype": np.float64}),
    # all rows take 2.9 MB, and may take 2.6: half of them lie in memory, and all are streamed
    "streamed": (40, 2048, 1e-1, {"memory_bytes": 5 * _MEGABYTE, "stream": True, "dtype": np.float16}),
    "few classes": (10, 4096, 1.0, {}),
    "fine": (10, 4096, 1e-1, {"tol": 1e-8}),
    # hundreds of readings of X, in each of which a last bit grows tenfold
    "hard": (2, 2000, 1e-12, {"dtype": np.float64, "scale": 1e6}),
}


@functools.cache
def fit_the_same(name: str, rank: int = 0, size: int = 1) -> np.ndarray:
    """Return the weights of a fit that any number of processes is to find, made by one of them."""
    num_classes, num_rows, C, how = SAME[name]
    primal._FEW_SCORES = 0 if num_classes > 10 else 1 << 21
    if "scale" in how:
        X, y = correlated(num_rows, 800, 5, seed=2)
        X, y = X * how["scale"], y % num_classes
    else:
        X, y = features_like(num_rows, 8, classes=num_classes)
    options = {option: how[option] for option in how.keys() - {"dtype", "scale", "stream", "sample_weight"}}
    X, y = X[:num_rows].astype(how.get("dtype", np.float32)), y[:num_rows]
    here = shares(X, num_rows, None, size)[rank]
    if "sample_weight" in how:
        options["sample_weight"] = np.random.default_rng(0).uniform(0.5, 2, num_rows)[here]
    source = Streamed(X[here]) if "stream" in how else X[here]
    group = dist.group.WORLD if size > 1 else None
    return fit_ovr(source, y[here], C, solver="primal", group=group, **options).W


def fit_here(folder: Path) -> None:
    """Fit in one of several processes, on its rows; keep what it found."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    here = slice(*{2: [0, 200, 301], 3: [0, 20, 190, 301]}[size][rank : rank + 2])
    for name, (X, y, C, scale) in shared_problems().items():
        found = fit_ovr(X[here], y[here], C, tol=1e-8, intercept_scaling=scale, group=dist.group.WORLD)
        values = {name: getattr(found, name) for name in ("W", "primal", "gaps", "reason")}
        np.savez(folder / f"{name} {rank}.npz", status=str(found.status), **values)
    X, y = many_rows()
    here = shares(X, len(X), None, size)[rank]
    np.savez(folder / f"loose {rank}.npz", W=fit_ovr(X[here], y[here], 1e-3, group=dist.group.WORLD).W)
    for name in SAME:
        np.savez(folder / f"{name} {rank}.npz", W=fit_the_same(name, rank, size))
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each of several processes with unequal shards found, problem by problem."""
    folder = tmp_path_factory.mktemp("shared")
    in_processes(request.param, fit_here, folder)
    names = [*shared_problems(), "loose", *SAME]
    return {name: [dict(np.load(folder / f"{name} {rank}.npz")) for rank in range(request.param)] for name in names}


@pytest.mark.parametrize("name", ["60 features", "700 features"])
def test_processes_with_unequal_shards_reach_the_single_optimum(fitted, name):
    X, y, C, _ = shared_problems()[name]
    found = fitted[name]
    alone = fit_ovr(X, y, C, tol=1e-8, solver="primal")
    for result in found:
        assert str(result["status"]) == "converged"
        assert f"{len(found)} processes" in str(result["reason"])
        np.testing.assert_allclose(result["primal"], alone.primal, rtol=1e-6)  # what the single process is held to
        assert result["W"].tobytes() == found[0]["W"].tobytes()


def test_processes_reach_the_constructed_optimum(fitted):
    known, W = known_optimum(301, 700, 1.0, seed=9), fitted["known"][0]["W"]
    # ||w - w*|| <= sqrt(2 P gap), 3e-4 of ||w*|| for a gap of 1e-8
    np.testing.assert_allclose(W[0], known.w, atol=3e-4 * np.linalg.norm(known.w))
    assert dual_gap(known.X, known.signs, 1.0, W[0])[1] <= 1.01e-8
    # At a gap of 1e-4 only who goes the same way from the same sample of rows ends at the same weights: from a sample
    # of each process's own it was 3e-3, with float32 sums of other rows 1e-6.
    alone = fit_ovr(*many_rows(), 1e-3, solver="primal").W
    assert np.linalg.norm(fitted["loose"][0]["W"] - alone) <= 1e-9 * np.linalg.norm(alone)


@pytest.mark.parametrize("name", SAME)
def test_processes_go_the_same_way_to_the_last_digits(fitted, name, monkeypatch):
    monkeypatch.setattr(primal, "_FEW_SCORES", primal._FEW_SCORES)  # put back
    alone = fit_the_same(name)
    # a step multiplies what is left of rounding by ten: the last bits of sums over processes ended up to 2e-3 apart
    assert np.linalg.norm(fitted[name][0]["W"] - alone) <= 1e-9 * np.linalg.norm(alone)


@pytest.mark.parametrize(("seed", "scale"), [(2, 1.0), (3, 1e6), (7, 1.0)])
def test_fits_with_nearly_all_rows_beyond_their_hinges_reach_their_certificates(seed, scale):
    X, y = correlated(2000, 800, 5, seed=seed)
    X, C = X * scale, scale**-2
    solution = fit_ovr(X, y, C, solver="primal")  # 9 of 20 such fits stalled at 4e-4 to 2e-2
    assert solution.status is Status.CONVERGED
    for c, w, b in zip(solution.classes, solution.W, solution.intercepts, strict=True):
        assert dual_gap(with_constant(X), np.where(y == c, 1.0, -1.0), C, np.append(w, b))[1] <= 1.01e-4


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_number_of_threads_finds_the_same_weights(dtype):
    X, y = features_like(1100, 8, classes=3)
    X = np.tile(X, 25).astype(dtype)  # rows of 17,500: long ones are multiplied in pieces
    X += np.random.default_rng(0).standard_normal(X.shape).astype(dtype)
    before, found = torch.get_num_threads(), set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.add(fit_ovr(X, y, 1e-3, solver="primal").W.tobytes())
    torch.set_num_threads(before)
    assert len(found) == 1


def test_processes_take_whole_blocks_of_rows_or_as_many_as_each_other():
    X = np.zeros((1, 520), np.float32)
    for num_rows, size in ((2500, 3), (301, 2), (100, 7), (3, 3), (50_000, 8)):
        parts = shares(X, num_rows, None, size)
        assert [i for part in parts for i in range(num_rows)[part]] == list(range(num_rows))
        assert all(part.stop > part.start for part in parts)
    assert {part.start % 128 for part in shares(X, 2500, None, 3)} == {0}
    assert {part.stop - part.start for part in shares(X, 100, None, 7)} == {14, 15}


def as_float16(X: np.ndarray, folder: Path) -> Any:
    """Return rows in half precision."""
    return X.astype(np.float16)


def as_bfloat16(X: np.ndarray, folder: Path) -> Any:
    """Return rows as torch's bfloat16."""
    return torch.from_numpy(X).to(torch.bfloat16)


def as_float32(X: np.ndarray, folder: Path) -> Any:
    """Return rows in single precision."""
    return X.astype(np.float32)


def as_stream(X: np.ndarray, folder: Path) -> Any:
    """Return rows that are read from disk."""
    return on_disk(folder / f"{uuid.uuid4()}.h5", X.astype(np.float32))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    rows=st.integers(4, 60),
    features=st.one_of(st.integers(1, 80), st.integers(520, 700)),
    classes=st.integers(2, 4),
    log_scale=st.floats(-2, 1),
    log_C=st.floats(-6, 0),
    solver=st.sampled_from(["primal", "gram"]),
    form=st.sampled_from([as_float16, as_bfloat16, as_float32, as_stream]),
)
def test_any_shape_scale_and_form_is_certified(
    tmp_path_factory, rows, features, classes, log_scale, log_C, solver, form
):
    X, y = correlated(rows, features, classes, seed=rows * 100 + features)
    source = form(X * 10**log_scale, tmp_path_factory.getbasetemp())
    solution = fit_ovr(source, y, 10**log_C, solver=solver, tol=1e-3, memory_bytes=0)
    assert solution.status is Status.CONVERGED
    stored = source.double().numpy() if isinstance(source, torch.Tensor) else source[:].astype(np.float64)
    shown = solution.classes[1:] if classes == 2 else solution.classes
    for c, w, b, objective in zip(shown, solution.W, solution.intercepts, solution.primal, strict=True):
        signs = np.where(y == c, 1.0, -1.0)
        found, gap = dual_gap(with_constant(stored), signs, solution.C, np.append(w, b))
        assert gap <= 1e-3 + 1e-9  # the definition cancels to 1e-9 of P at the largest scales
        assert objective == pytest.approx(found, rel=1e-9)  # float64 sums in another order


def test_a_gram_matrix_over_processes_is_refused():
    class Two:
        def size(self) -> int:
            return 2

    fitter = Fitter(np.eye(4), np.arange(4) % 2, FitOptions())
    fitter.options = FitOptions(solver="gram")
    fitter.rows.group = Two()
    with pytest.raises(ValueError, match="all rows in one process"):
        fitter._choose()
