"""Neighbours, K-means, logistic regression and ridge on a GPU, without one: fake tensors know their device.

They have no numbers, so whoever asks for one, other than through ``decide``, raises.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dcgan_eval.baselines import kmeans, ridge
from dcgan_eval.baselines.kmeans import Codebook, KMeansFeatures, KMeansOptions, run_kmeans
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.baselines.nearest import NearestRows
from dcgan_eval.baselines.ridge import RidgeClassifier
from dcgan_eval.svm import decide, newton, rows, streamed

GPU = "cuda"


@pytest.fixture(autouse=True)
def _decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer whatever is asked of the device, and copy without pinned memory, which fake tensors do not have."""
    monkeypatch.setattr(rows, "to_device", lambda x, device: x.to(device))
    monkeypatch.setattr(decide, "holds", lambda condition: True)
    monkeypatch.setattr(decide, "number", lambda value: 1.0)
    monkeypatch.setattr(decide, "numbers", lambda *values: [1.0] * len(values))
    monkeypatch.setattr(decide, "where", lambda condition: torch.arange(len(condition), device=condition.device))
    monkeypatch.setattr(decide, "values", lambda several: np.zeros(several.shape))
    monkeypatch.setattr(newton, "_MAX_CG", 2)


def features(where: str) -> Tensor:
    """Return 30 rows that lie on a GPU, or beside it."""
    return torch.empty(30, 600, dtype=torch.float16, device=where)  # more columns than are multiplied at once


@pytest.mark.parametrize("where", ["cuda", "cpu"])
@pytest.mark.parametrize("cosine", [False, True])
def test_neighbours(where: str, cosine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False])  # every pair is a candidate; no query has more than are kept

    def some(condition: Tensor) -> Tensor:
        return torch.arange(len(condition) if next(answers) else 0, device=condition.device)

    monkeypatch.setattr(decide, "where", some)
    with FakeTensorMode():
        search = NearestRows(features(where), cosine, GPU, memory_bytes=0)
        assert search.rows.X.device.type == where
        found = search.search(features("cpu")[:7], 5)
        assert [(t.device.type, t.dtype, tuple(t.shape)) for t in found] == [
            ("cuda", torch.int64, (7, 5)),
            ("cuda", torch.float64, (7, 5)),
        ]


@pytest.mark.parametrize("where", ["cuda", "cpu"])
@pytest.mark.parametrize("num_rows", [30, 700])  # through the Gram matrix, through the weights
def test_logistic_regression(where: str, num_rows: int) -> None:
    with FakeTensorMode():
        X = torch.empty(num_rows, 600, dtype=torch.float16, device=where)
        fit = LogisticClassifier(device=GPU, max_iter=2, memory_bytes=1 << 20).fit(X, np.arange(num_rows) % 3, 0.1)
        assert (fit.W.device.type, fit.W.dtype, tuple(fit.W.shape)) == ("cuda", torch.float64, (3, 601))
        assert fit.device.startswith("cuda")
        assert fit.solver == ("primal" if num_rows == 700 else "gram+primal")


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_logistic_regression_that_keeps_no_scores(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "_SMALL_BYTES", 0)
    with FakeTensorMode():
        fit = LogisticClassifier(device=GPU, max_iter=2, memory_bytes=4).fit(features(where).T, np.arange(600) % 3, 0.1)
        assert (fit.W.device.type, tuple(fit.W.shape)) == ("cuda", (3, 31))


@pytest.mark.parametrize("where", ["cuda", "cpu"])
@pytest.mark.parametrize("num_rows", [30, 700])
def test_the_equations_of_ridge(where: str, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "memory_share", lambda device: 1 << 30)
    solved = np.zeros((min(num_rows, 600), 3))
    monkeypatch.setattr(ridge._Equations, "_solve", lambda self, alpha: solved)
    with FakeTensorMode():
        X = torch.empty(num_rows, 600, dtype=torch.float16, device=where)
        fit = RidgeClassifier(1 << 30, device=GPU).fit(X, np.arange(num_rows) % 3, 0.1)
        assert fit.device.startswith("cuda")
        assert fit.W.shape == (3, 601)


def test_a_run_of_k_means() -> None:
    with FakeTensorMode():
        generator = torch.Generator().manual_seed(0)
        centroids, _ = run_kmeans(torch.empty(50, 12, device=GPU), 7, 2, generator)
        assert (centroids.device.type, tuple(centroids.shape)) == ("cuda", (7, 12))


@pytest.mark.parametrize("hard", [False, True])
def test_k_means_features(hard: bool) -> None:
    with FakeTensorMode():
        source = KMeansFeatures(KMeansOptions(num_centroids=7, side=3, hard=hard), GPU)
        source.codebook = Codebook(*(torch.empty(shape, device=GPU) for shape in ((27,), (27, 27), (7, 27))), 0)
        f_ND = source._encoded(torch.zeros(5, 9, 8, 3, dtype=torch.uint8, device=GPU))
        assert (f_ND.device.type, tuple(f_ND.shape)) == ("cuda", (5, 28))


def test_images_that_are_encoded_together_have_the_features_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, 9, 8, 3), dtype=torch.uint8, generator=draw)
    tensors = [torch.randn(shape, generator=draw) for shape in ((27,), (27, 27), (7, 27))]
    source = KMeansFeatures(KMeansOptions(num_centroids=7, side=3))
    source.codebook = Codebook(*tensors, 0)
    alone = source._encoded(images)
    assert np.array_equal(alone.numpy(), source.extract(images.numpy()))
    for count in (2, 3, 5):
        monkeypatch.setattr(kmeans, "_images_at_once", lambda device, num_patches, count=count: count)
        torch.testing.assert_close(source._encoded(images), alone)
