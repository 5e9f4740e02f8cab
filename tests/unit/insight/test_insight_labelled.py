"""Retrieval and clusters against labels: hand calculations, scikit-learn's, and where the value is known."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, average_precision_score, normalized_mutual_info_score

from dcgan_eval.insight import geometry


def test_retrieval_of_four_rows_by_hand() -> None:
    """Angles 0, 10, 30 and 70 degrees, labels a b a b.

    Row 1 ranks 2, 3, 4: its a is second, 1/2. Row 2 (10 degrees) ranks 1, 3, 4: its b is third, 1/3. Row 3 (30) ranks
    2, 1, 4: its a is second, 1/2. Row 4 (70) ranks 3, 2, 1: its b is second, 1/2.
    """
    angles = np.deg2rad([0, 10, 30, 70])
    X = np.column_stack([np.cos(angles), np.sin(angles)]) * [[1], [5], [0.2], [3]]  # lengths do not matter
    y = np.array([0, 1, 0, 1])
    assert geometry.retrieval_map(X, y) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


@pytest.mark.parametrize("repeated", [False, True])
def test_retrieval_is_scikit_learns_average_precision(repeated: bool) -> None:
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(90, 6)), draw.integers(0, 4, 90)
    y[0] = 9  # the only one of its label: it asks nothing
    if repeated:  # rows of equal cosine, of different labels
        X[30:60] = X[:30]
        X[70:75] = 0
    unit = X / np.linalg.norm(X, axis=1, keepdims=True).clip(1e-300)
    precisions = []
    for i in range(1, 90):
        others = np.arange(90) != i
        scores = np.round(unit[others] @ unit[i], 12)
        precisions.append(average_precision_score(y[others] == y[i], scores))
    assert geometry.retrieval_map(X, y) == pytest.approx(np.mean(precisions), abs=1e-12)


def test_separate_classes_are_found_whole_and_noise_is_not() -> None:
    draw = np.random.default_rng(1)
    y = np.arange(120) % 4
    X = 50 * np.eye(4, 300)[y] + draw.normal(size=(120, 300)) / 10
    assert geometry.retrieval_map(X, y) == 1
    found = geometry.cluster_agreement(X, y)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx({"cluster_nmi": 1, "cluster_ari": 1})
    shuffled = draw.permutation(y)
    assert abs(geometry.cluster_agreement(X, shuffled)["cluster_ari"].value) < 0.05  # adjusted for chance: 0
    # of N rows the right ones are a share of 29 / 119, and early ones weigh more
    assert 0.2 < geometry.retrieval_map(X, shuffled) < 0.35


def test_clusters_are_those_of_the_rows_themselves() -> None:
    """Wide rows are turned to fewer numbers first: K-means of scikit-learn on the rows gives as good clusters."""
    draw = np.random.default_rng(2)
    y = np.arange(100) % 3
    X = 2.5 * np.eye(3, 400)[y] + draw.normal(size=(100, 400)) / 8 + 7
    clusters = KMeans(3, n_init=30, random_state=5).fit_predict(X)
    found = geometry.cluster_agreement(X.astype(np.float32), y, seed=3)
    assert found["cluster_nmi"].value == pytest.approx(normalized_mutual_info_score(y, clusters), abs=1e-9)
    assert found["cluster_ari"].value == pytest.approx(adjusted_rand_score(y, clusters), abs=1e-9)
    noise = draw.normal(size=(100, 5))
    one, same = (geometry.cluster_agreement(noise, y, seed=1)["cluster_nmi"] for _ in range(2))
    assert one == same
    assert one.ci95[0] < one.value < one.ci95[1]  # starts differ


@pytest.fixture
def labelled(run, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    pixels = np.random.default_rng(1).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    y = np.arange(60) % 3
    pixels[y == 1] //= 4  # dark
    path = tmp_path / "images.npz"
    np.savez(path, images=pixels, labels=y)
    how = ("--weights", "untrained:svhn32:0", "--layer", "conv3", "--batch-norm", "running", "--cache-dir", "cache")
    made = run("features", "--data", path, *how, "-o", "s.h5")
    assert made.exit_code == 0, made.output
    return Path("s.h5")


def test_describe_says_how_a_store_agrees_with_its_labels(run, labelled: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("describe", labelled, labelled, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["measured"]
    for name in ("retrieval_map", "cluster_nmi", "cluster_ari"):
        assert measured[name] == measured[f"{name}_other"]
        assert measured[f"{name}_ci95"][0] <= measured[name] <= measured[f"{name}_ci95"][1]
    assert measured["retrieval_map"] > 0.5
    assert "ten clusterings" in result.stderr


def test_a_map_by_umap_needs_its_package_before_the_work(run, labelled: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "umap" else find(name, *a))
    refused = run("describe", labelled, "--map", "m.png", "--map-by", "umap")
    assert refused.exit_code == 2
    assert "pip install umap-learn" in refused.stderr
    assert not Path("describe.png").exists()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: find("json") if name == "umap" else find(name, *a)
    )
    seeds = []

    class Fake:
        def __init__(self, random_state: int):
            seeds.append(random_state)

        def fit_transform(self, X: np.ndarray) -> np.ndarray:
            return X[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Fake))
    drawn = run("describe", labelled, "--map", "m.png", "--map-by", "umap", "--json")
    assert drawn.exit_code == 0, drawn.output
    captions = {p["file"]: p["caption"] for p in json.loads(drawn.stdout)["pictures"]}
    assert captions["m.png"] == "UMAP of the sampled rows"
    assert len(seeds) == 1
