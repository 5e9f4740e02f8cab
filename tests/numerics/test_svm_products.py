"""Products of few rows with a large matrix as it lies in memory: by NumPy on torch's threads, or by torch."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dcgan_eval.svm import products
from dcgan_eval.svm.rows import Rows


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """A number of torch's threads, for the time of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["AVX2", "AVX512"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What torch says of the processor."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return str(request.param)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("few", [1, 2, 17])
def test_a_large_matrix_is_multiplied_as_it_lies(
    threads: int, instructions: str, few: int, dtype: torch.dtype, error: float
) -> None:
    draw = np.random.default_rng(few)
    A, B = draw.normal(size=(few, 150)), draw.normal(size=(150, 10_007))
    A, B = (torch.from_numpy(each).to(dtype) for each in (A, B))
    found = products.product_nt(A, B.T)
    expected = np.einsum("mk,kn->mn", A.double().numpy(), B.double().numpy())
    assert (found.dtype, found.shape) == (dtype, (few, 10_007))
    assert np.abs(found.numpy() - expected).max() < error * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_numpy_that_multiplies_where_torch_is_slow(
    instructions: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, multiply = [], np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out: shapes.append((a.shape, b.shape)) or multiply(a, b, out=out))
    A, B = torch.ones(10, 150, dtype=dtype), torch.ones(150, 10_007, dtype=dtype)
    assert torch.equal(products.product_nt(A, B.T), torch.full((10, 10_007), 150.0, dtype=dtype))
    assert sum(right[1] for _, right in shapes) == (10_007 if instructions == "AVX2" else 0)
    products.product_nt(A[:, :9], B[:9].T)  # too small to prepare
    assert sum(right[1] for _, right in shapes) == (10_007 if instructions == "AVX2" else 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_multiplies_too(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    A, B = torch.ones(16, 150, dtype=torch.float64), torch.ones(150, 10_007, dtype=torch.float64)
    products.product_nt(A, B.T)
    child = os.fork()
    if child == 0:  # where torch's own threads are gone
        os._exit(0 if (products.product_nt(A, B.T).numpy() == 150).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("rows", "length", "columns", "dtype"),
    [
        (146, 28_672, 10, np.float32),
        (256, 28_673, 10, np.float32),
        (10, 146, 28_672, np.float32),
        (40, 1024, 2048, np.float32),
        (73, 28_672, 10, np.float64),
        (3, 256, 24_001, np.float64),
        (3, 24_001, 256, np.float64),
        (61, 701, 512, np.float64),
        (128, 10, 1025, np.float64),
        (700, 300, 601, np.float64),
        (1, 73, 60_001, np.float64),
    ],
)
def test_any_number_of_threads_multiplies_to_the_same_bits(
    instructions: str, rows: int, length: int, columns: int, dtype: type
) -> None:
    draw = np.random.default_rng(2)
    A, B = (draw.normal(size=(size, length)).astype(dtype) for size in (rows, columns))
    B_nt = torch.from_numpy(np.ascontiguousarray(B.T)).T if columns > length else torch.from_numpy(B)
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3, 5, 8, 11) if dtype == np.float64 else (1, 2, 3, 5):
        torch.set_num_threads(count)
        found.append(products.product_nt(torch.from_numpy(A), B_nt).numpy().tobytes())
        assert torch.get_num_threads() == count
    torch.set_num_threads(before)
    assert len(set(found)) == 1
    result = np.frombuffer(found[0], dtype).reshape(rows, columns)
    atol = 1e-4 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(result, A.astype(np.float64) @ B.astype(np.float64).T, atol=atol * length**0.5)


def test_rows_without_features_have_no_scores_but_the_constant() -> None:
    rows = Rows(np.zeros((5, 0), np.float16), 2.0)
    assert rows.scores(torch.full((3, 1), 1.5, dtype=torch.float64)).tolist() == [[3.0] * 3] * 5
