"""Label-free figures, each where its value is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import ortho_group

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DcganEvalError
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.insight import geometry

DRAW = np.random.default_rng(0)


def with_singular_values(values: np.ndarray, num_rows: int, width: int) -> np.ndarray:
    """Return a matrix of given singular values."""
    U = np.linalg.qr(DRAW.standard_normal((num_rows, len(values))))[0]
    V = np.linalg.qr(DRAW.standard_normal((width, len(values))))[0]
    return (U * values) @ V.T


@pytest.mark.parametrize("width", [30, 400])
def test_rank_me_of_equal_and_of_geometric_singular_values(width: int) -> None:
    assert geometry.rank_me(with_singular_values(np.ones(17), 100, width)) == pytest.approx(17, rel=1e-5)
    values = 0.5 ** np.arange(20.0)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert geometry.rank_me(with_singular_values(values, 100, width)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_is_the_exponent_of_the_spectrum(alpha: float) -> None:
    width = 200
    eigenvalues = np.arange(1, width + 1.0) ** -alpha
    X = with_singular_values(np.sqrt(eigenvalues), 2 * width, width)
    X = np.concatenate([X, -X])  # centred exactly
    assert geometry.alpha_req(X) == pytest.approx(alpha, abs=1e-6)
    assert np.allclose(geometry.spectrum(X)[:width], 2 * eigenvalues / len(X))


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_finds_the_dimension_of_a_flat_sheet(dimension: int) -> None:
    turn = ortho_group.rvs(20, random_state=1)[:dimension]
    found = geometry.with_interval(geometry.two_nn, DRAW.random((2_000, dimension)) @ turn)
    assert found.value == pytest.approx(dimension, rel=0.12)
    assert found.ci95[0] < found.value < found.ci95[1]


def test_two_nn_leaves_repeated_rows_out() -> None:
    X = DRAW.random((500, 2))
    assert geometry.two_nn(np.concatenate([X, X])) == geometry.two_nn(X[np.argsort(X[:, 0])])


def test_uniformity_of_known_arrangements() -> None:
    assert geometry.uniformity(np.ones((60, 3)) * DRAW.random((60, 1))) == pytest.approx(0, abs=1e-12)
    poles = np.array([[1.0, 0], [-1, 0]])  # |x - y|^2 = 4
    assert geometry.uniformity(poles) == pytest.approx(-8)
    # On the unit circle the mean of exp(-2 (2 - 2 cos a)) is exp(-4) I0(4).
    angles = np.linspace(0, 2 * np.pi, 4_000, endpoint=False)
    assert geometry.uniformity(np.stack([np.cos(angles), np.sin(angles)], 1)) == pytest.approx(
        np.log(np.exp(-4) * np.i0(4)), abs=1e-2
    )


def test_alignment_is_the_squared_distance_of_directions() -> None:
    X = DRAW.standard_normal((70, 9))
    assert geometry.alignment(X, 5 * X) == pytest.approx(0, abs=1e-12)
    assert geometry.alignment(X, -X) == pytest.approx(4)
    right = np.array([[1.0, 0], [0, 2]])
    assert geometry.alignment(right, right[::-1]) == pytest.approx(2)


def test_cka_ignores_turns_and_scales_and_is_zero_for_strangers() -> None:
    X = DRAW.standard_normal((300, 40)) * np.linspace(0.1, 2, 40)
    turned = 3 * X @ ortho_group.rvs(40, random_state=2) + 7
    assert geometry.linear_cka(X, turned) == pytest.approx(1)
    strangers = [
        geometry.linear_cka(DRAW.standard_normal((60, 2_000)), DRAW.standard_normal((60, 2_000))) for _ in range(40)
    ]
    assert abs(np.mean(strangers)) < 4 * np.std(strangers) / np.sqrt(40)  # the biased one is 0.97 here


def test_cka_is_a_squared_correlation_for_single_features() -> None:
    x = DRAW.standard_normal(20_000)
    y = 0.6 * x + 0.8 * DRAW.standard_normal(20_000)
    some = slice(0, 3_000)
    assert geometry.linear_cka(x[some, None], y[some, None]) == pytest.approx(0.36, abs=0.05)


def test_rsa_of_a_representation_with_itself_and_with_noise() -> None:
    X = DRAW.standard_normal((80, 30))
    assert geometry.rsa(X, 2 * X + 1) == pytest.approx(1)
    assert abs(geometry.rsa(X, DRAW.standard_normal((80, 30)))) < 0.1


def test_the_interval_is_that_of_a_mean() -> None:
    X = DRAW.standard_normal((1_000, 1)) + 3
    found = geometry.with_interval(lambda rows: float(rows.mean()), X)
    groups = np.array([X[g::10].mean() for g in range(10)])
    half = 2.2622 * groups.std(ddof=1) / np.sqrt(10)  # t of 9 degrees of freedom
    assert found.ci95 == pytest.approx((X.mean() - half, X.mean() + half), abs=1e-4)


def store_of(folder: Path, seed: int, images: ImageSet, name: str) -> Path:
    options = ExtractOptions(layers=("conv1",), device="cpu")
    return extract(load_encoder(f"untrained:svhn32:{seed}"), images, options=options, out=folder / name).path


def test_the_command_describes_and_compares(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pixels = np.random.default_rng(1).integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(80) % 3)
    one = store_of(tmp_path, 0, images, "one.h5")
    other = store_of(tmp_path, 1, images.take(np.random.default_rng(2).permutation(80)), "other.h5")
    result = run("describe", one, one, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["measured"]
    assert measured["linear_cka"] == pytest.approx(1)
    assert measured["rsa"] == pytest.approx(1)
    assert measured["alignment"] == pytest.approx(0)
    result = run("describe", one, other, "--map", "map.png", "--out", "d.png", "--rows", 60)
    assert result.exit_code == 0, result.output
    assert "rank me" in result.output
    finding = json.loads(Path("d.json").read_text())
    assert finding["settings"]["rows"] == 60
    assert -1 < finding["measured"]["linear_cka"] < 0.999
    assert {picture["file"] for picture in finding["pictures"]} == {"d.png", "map.png"}


def test_what_cannot_be_described(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(3)
    sets = [ImageSet(draw.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)) for n in (60, 60, 20)]
    one, other, few = (store_of(tmp_path, 0, images, f"{i}.h5") for i, images in enumerate(sets))
    assert "not of the same images" in run("describe", one, other).output
    assert "too few rows" in run("describe", few).output
    with pytest.raises(DcganEvalError, match="the same"):
        geometry.check_rows(np.ones((60, 4)), "x")
    with pytest.raises(DcganEvalError, match="not finite"):
        geometry.check_rows(np.full((60, 4), np.nan), "x")


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
def test_distances_do_not_depend_on_where_the_rows_lie(offset: float) -> None:
    X = np.random.default_rng(3).normal(size=(60, 5)) + offset
    near = np.sort(squareform(pdist(X)), axis=1)  # differences first, pair by pair
    log_mu = np.sort(np.log(near[:, 2] / near[:, 1]))[:54]
    y = -np.log1p(-np.arange(1, 55) / 61)
    assert geometry.two_nn(X) == pytest.approx(log_mu @ y / (log_mu @ log_mu), rel=1e-6)


def test_directions_that_hardly_differ_are_told_apart() -> None:
    X = np.array([1.0, 0.0]) + 1e-7 * np.random.default_rng(4).normal(size=(60, 2))
    squares = geometry._squares(geometry._unit(X))
    np.testing.assert_allclose(squares, squareform(pdist(geometry._unit(X), "sqeuclidean")), rtol=1e-5, atol=1e-19)
