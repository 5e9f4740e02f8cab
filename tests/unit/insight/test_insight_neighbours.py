"""A generator that returns noisy training images is flagged, held-out real images are not; scores of digits by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.insight.digits import nearest_error, score
from dcgan_eval.insight.finding import load_finding
from dcgan_eval.insight.neighbours import Copying, copying, find, mann_whitney_z, pixel_regions

CPU = torch.device("cpu")
IMAGES = (load_digits().images * 15.9).astype(np.uint8)[..., None]  # 1,797 real digits, 8x8
LABELS = load_digits().target
TRAIN, HELD_OUT, OTHERS = slice(0, 900), slice(900, 1_350), slice(1_350, 1_797)


def flat(images: np.ndarray) -> Tensor:
    """Return pixels (N, D)."""
    return torch.from_numpy(images).flatten(1)


def verdict_on(sampled: np.ndarray) -> Copying:
    """Test samples against the training digits."""
    train, held_out, samples = flat(IMAGES[TRAIN]), flat(IMAGES[HELD_OUT]), flat(sampled)
    distances = [find(x, train, CPU, 1)[0][:, 0] for x in (samples, held_out)]
    return copying(*distances, pixel_regions(train, samples, held_out, seed=0))


def noisy_copies(count: int) -> np.ndarray:
    """Return training images with a little noise."""
    draw = np.random.default_rng(0)
    copies = IMAGES[TRAIN][draw.integers(0, 900, count)].astype(int)
    return np.clip(copies + draw.integers(-12, 13, copies.shape), 0, 255).astype(np.uint8)


def test_copies_are_flagged_and_real_images_are_not() -> None:
    copies, real = verdict_on(noisy_copies(400)), verdict_on(IMAGES[OTHERS])
    assert copies.copied
    assert copies.score < -5
    assert not real.copied
    assert abs(real.overall) < 3
    assert (
        verdict_on(np.random.default_rng(0).integers(0, 256, (400, 8, 8, 1), dtype=np.uint8)).overall > 10
    )  # no digits


def test_copies_of_a_single_digit_are_found_in_its_region() -> None:
    copies, draw = IMAGES[TRAIN][LABELS[TRAIN] == 0], np.random.default_rng(0)
    noisy = np.clip(copies + draw.integers(-12, 13, copies.shape), 0, 255).astype(np.uint8)
    real = IMAGES[OTHERS][LABELS[OTHERS] != 0]
    z = sorted(region["z"] for region in verdict_on(np.concatenate([real, noisy])).regions)
    assert z[0] < -5
    assert z[1] > -4  # only there


def test_z_is_scipys() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=80), draw.normal(0.5, size=50)
    U = mannwhitneyu(a, b).statistic
    assert mann_whitney_z(a, b) == pytest.approx((U - 2000) / np.sqrt(80 * 50 * 131 / 12))
    assert mann_whitney_z(a, b) < 0
    assert mann_whitney_z(a, a) == pytest.approx(0)


def test_nearest_is_exact_across_blocks() -> None:
    draw = np.random.default_rng(2)
    rows, queries = (draw.integers(0, 256, (n, 30), dtype=np.uint8) for n in (9_000, 1_100))
    distances, found = find(torch.from_numpy(queries), torch.from_numpy(rows), CPU, 3)
    expected = (
        NearestNeighbors(n_neighbors=3, algorithm="brute").fit(rows.astype(float)).kneighbors(queries.astype(float))
    )
    np.testing.assert_allclose(distances, expected[0], rtol=1e-12)
    picked = np.linalg.norm(queries[:, None].astype(float) - rows[found].astype(float), axis=2)
    np.testing.assert_allclose(picked, expected[0], rtol=1e-12)  # rows, up to ties
    shifted = torch.from_numpy(rows).double() + 1e7  # far from 0 the squares cancel: still the same rows
    moved = torch.from_numpy(queries).double() + 1e7
    assert np.array_equal(find(moved, shifted, CPU, 1)[0][:, 0], distances[:, 0])


def digits(rows: slice) -> ImageSet:
    """Return labelled digits."""
    return ImageSet(IMAGES[rows], LABELS[rows], tuple("0123456789"))


def test_the_error_is_scikit_learns() -> None:
    knn = KNeighborsClassifier(1).fit(IMAGES[TRAIN].reshape(900, -1).astype(float), LABELS[TRAIN])
    wrong = (knn.predict(IMAGES[HELD_OUT].reshape(450, -1).astype(float)) != LABELS[HELD_OUT]).sum()
    assert nearest_error(digits(TRAIN), digits(HELD_OUT)).wrong == wrong


def test_a_generator_that_ignores_the_class_is_caught() -> None:
    draw = np.random.default_rng(3)

    def faithful(count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = draw.integers(0, 900, count)
        return IMAGES[rows], LABELS[rows]

    def deaf(count: int) -> tuple[np.ndarray, np.ndarray]:
        return faithful(count)[0], draw.integers(0, 10, count)

    small, large = score(faithful, (300, 3_000), digits(HELD_OUT))
    assert (small.count, large.count) == (300, 3_000)
    assert large.error < small.error < 0.2
    assert score(deaf, (3_000,), digits(HELD_OUT))[0].error > 0.8
    low, high = large.measured()["ci95"]
    assert low < large.error < high


@pytest.fixture
def svhn_like(tmp_path: Path) -> Path:
    """Two hundred RGB images in two splits."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        images = draw.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
        for label in (0, 1):
            folder = tmp_path / "own" / split / str(label)
            folder.mkdir(parents=True)
            from PIL import Image

            for i, image in enumerate(images[label::2]):
                Image.fromarray(image).save(folder / f"{i}.png")
    return tmp_path / "own"


def test_the_command_shows_and_tests(run, pair: Path, svhn_like: Path) -> None:  # type: ignore[no-untyped-def]
    line = ["neighbours", "--weights", pair, "--data", svhn_like, "--count", 60, "--out", "n.png"]
    result = run(*line, "--held-out", "test")
    assert result.exit_code == 0, result.output
    finding = load_finding(Path("n.json"))
    assert finding.number == "copying_pixels"
    assert finding.hashes.keys() == {"generator", "discriminator", "train", "held out"}
    assert finding.measured["distance_held_out_pixels"] > 0
    result = run(*line, "--json")
    assert result.exit_code == 0, result.output
    assert "nothing is tested" in result.stderr
    assert load_finding(Path("n.json")).number == "distance_pixels"


def test_bad_input_is_a_sentence(run, pair: Path, conditional: Path, svhn_like: Path) -> None:  # type: ignore[no-untyped-def]
    np.savez("grey.npz", images=np.zeros((30, 28, 28, 1), np.uint8))
    for words, message in (
        (("neighbours", "--weights", pair, "--data", "grey.npz"), "not of the shape"),
        (("neighbours", "--weights", pair, "--data", "nowhere"), "nowhere"),
        (("neighbours", "--weights", pair, "--data", svhn_like, "--held-out", "valid"), "valid"),
        (("score-digits", "--weights", pair, "--data", svhn_like), "not told which digit"),
        (("score-digits", "--weights", conditional, "--data", svhn_like), "not of the shape"),
    ):
        result = run(*words, "--out", "x.png")
        assert result.exit_code == 2, (words, result.output)
        assert message in " ".join(result.stderr.split()), (words, result.stderr)
        assert not Path("x.png").exists()
