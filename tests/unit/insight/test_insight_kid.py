"""KID is unbiased and torch-fidelity's; FID is that of normal distributions; the command needs no download."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dcgan_eval.errors import WeightsError
from dcgan_eval.insight.finding import load_finding
from dcgan_eval.insight.kid import fid, inception_features, kid, load_inception

NO_FIDELITY = "torch-fidelity is not installed: pip install 'dcgan-eval[generate]'"


def rows(count: int, seed: int, mean: float = 0, width: int = 20) -> np.ndarray:
    """Return normal features, float32."""
    return np.random.default_rng(seed).normal(mean, 1, (count, width)).astype(np.float32)


def by_pairs(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased squared MMD, pair by pair."""
    k = lambda a, b: (float(a.astype(float) @ b.astype(float)) / len(a) + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_is_the_mean_over_pairs() -> None:
    x, y = rows(14, 0), rows(14, 1, 0.3)
    found = kid(x, y, subsets=3, size=14)
    assert found.value == pytest.approx(by_pairs(x, y), rel=1e-12)
    assert found.high - found.low < 1e-12  # one subset, three times
    wide = rows(14, 0, width=5_000)  # more columns than are multiplied at once
    assert kid(wide, wide[::-1] + 1, subsets=1, size=14).value == pytest.approx(by_pairs(wide, wide + 1), rel=1e-9)


def test_kid_of_two_halves_has_zero_inside_its_interval_and_of_others_has_not() -> None:
    same = kid(rows(400, 0), rows(400, 1))
    assert same.low < 0 < same.high
    assert (same.subsets, same.size) == (100, 200)
    other = kid(rows(400, 0), rows(400, 1, 0.3))
    assert other.low > 0
    assert other.value > 3 * same.high


def test_torch_fidelity_agrees() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid", reason=NO_FIDELITY)
    x, y = rows(150, 0, width=64), rows(150, 1, 0.1, width=64)
    theirs = metric.kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=2, kid_subset_size=150, verbose=False
    )
    ours = kid(x, y, subsets=2, size=150)
    assert ours.value == pytest.approx(theirs[metric.KEY_METRIC_KID_MEAN], abs=1e-6)


def test_fid_is_the_distance_of_normal_distributions() -> None:
    pytest.importorskip("torch_fidelity", reason=NO_FIDELITY)
    x = rows(500, 0, width=4)
    x = ((x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T).astype(np.float32)  # mean 0, covariance 1
    assert fid(x, x) == pytest.approx(0, abs=1e-4)
    moved = 2 * x + np.array([3, 0, 0, 0], np.float32)  # |mean|^2 = 9; each deviation 2 - 1 = 1, squared
    assert fid(x, moved) == pytest.approx(9 + 4, rel=1e-4)


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_inception_is_read_from_a_file_and_never_runs_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason=NO_FIDELITY)
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "code.pth")
    for name in ("text.pth", "other.pth", "code.pth", "none.pth"):
        with pytest.raises(WeightsError, match="cannot be read"):
            load_inception(tmp_path / name, torch.device("cpu"))
    assert not (tmp_path / "sprung").exists()

    class Small(nn.Module):
        """Keeps torch-fidelity's reading of the file, without the network."""

        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str):
            super().__init__()
            assert features == ["2048"]
            self.shift = torch.load(feature_extractor_weights_path, weights_only=True)["shift"]

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)) + self.shift,)

    torch.save({"shift": torch.tensor(2.0)}, tmp_path / "small.pth")
    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", Small)
    network = load_inception(tmp_path / "small.pth", torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5, 1), dtype=np.uint8)
    found = inception_features(network, images, torch.device("cpu"))
    assert found == pytest.approx(images.mean((1, 2)).repeat(3, 1) + 2, rel=1e-6)


def test_the_command_scores_and_records(run, pair: Path) -> None:  # type: ignore[no-untyped-def]
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez("own.npz", images=images)
    words = ["score-samples", "--data", "own.npz", "--weights", pair, "--count", 40, "--out", "s.png"]
    encoder = ("--encoder", pair.with_name("discriminator.safetensors"))
    result = run(*words, *encoder, "--json")
    assert result.exit_code == 0, result.output
    finding = load_finding(Path("s.json"))
    assert json.loads(result.stdout)["measured"] == finding.measured
    assert finding.measured["kid_ci95"][0] > 0  # an untrained generator draws no noise
    low, high = finding.measured["kid_real_halves_ci95"]
    assert low < 0 < high
    assert (finding.measured["kid_subsets"], finding.measured["kid_subset_size"]) == (100, 20)
    assert set(finding.hashes) == {"generator", "data", "encoder"}
    assert Image.open("s.png").width > 16 * 64
    np.savez("few.npz", images=images[:39])
    np.savez("grey.npz", images=np.zeros((50, 28, 28, 1), np.uint8))
    for more, message in (
        (("--encoder", "untrained:nothing"), "nothing"),
        ((*encoder, "--data", "grey.npz"), "not of the shape"),
        ((*encoder, "--data", "few.npz"), "too few images"),
        (
            (*encoder, "--inception", "none.pth"),
            "Inception" if find_spec("torch_fidelity") else "torch_fidelity is not installed",
        ),
        (("--count", 39), "out of range"),
    ):
        result = run(*words, *more)
        assert result.exit_code == 2, (more, result.output)
        assert message in " ".join(result.stderr.split()), (more, result.stderr)
