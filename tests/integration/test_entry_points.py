"""A package that offers an encoder, a data set and a metric: installed on the path, then used from the command line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

Run = Callable[..., Result]

CODE = """
import numpy as np
from dcgan_eval import ImageSet
from torch import nn

def net(text):
    return nn.Sequential(nn.Conv2d(3, int(text), 3, stride=2), nn.ReLU())

def stripes(text, split):
    if split not in ("train", "test"):
        return None
    draw = np.random.default_rng(int(text) + (split == "test"))
    y = np.arange(60) % 3
    pixels = draw.integers(0, 90, (60, 16, 16, 3)) + 50 * y[:, None, None, None]
    return ImageSet(pixels.astype(np.uint8), y, ("dark", "grey", "light"))

def worst(confusion):
    return (np.diag(confusion) / confusion.sum(1)).min()

def broken(confusion):
    raise ZeroDivisionError("no")
"""
ENTRY_POINTS = """
[dcgan_eval.encoders]
third = third_party:net
[dcgan_eval.datasets]
stripes = third_party:stripes
[dcgan_eval.metrics]
worst class = third_party:worst
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution in a folder of its own: a module, and what an installer writes beside it."""
    site = tmp_path / "site"
    info = site / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "third_party.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    return info


def test_what_a_package_offers_is_run_shown_and_verified(run: Run, package: Path) -> None:
    made = run("svm", "stripes:7", "--encoder", "third:5", "--layer", "1", "--record", "r.json")
    assert made.exit_code == 0, made.output
    record = json.loads(Path("r.json").read_text())
    assert record["spec"]["dataset"] == "stripes:7"
    assert (record["features"]["name"], record["features"]["num_features"]) == ("third:5", 5 * 16)
    assert record["class_names"] == ["dark", "grey", "light"]
    assert run("verify", "r.json", "--encoder", "third:5", "--rerun").exit_code == 0
    counts = np.array(record["confusion"])
    shown = run("show", "r.json").output
    line = next(line for line in shown.splitlines() if "worst class" in line)
    assert f"{100 * min(np.diag(counts) / counts.sum(1)):.2f}" in line


def test_splits_that_are_not_offered_and_metrics_that_fail_are_told(run: Run, package: Path) -> None:
    missing = run("svm", "stripes:7", "--test-split", "validation", "--encoder", "third:5", "--layer", "1")
    assert missing.exit_code == 2
    assert "stripes:7 has no validation split" in missing.stderr
    unknown = run("svm", "nothing:7")
    assert unknown.exit_code == 2
    assert "nothing:7" in unknown.stderr
    assert run("baseline", "pixels", "stripes:7", "--record", "r.json").exit_code == 0
    (package / "entry_points.txt").write_text("[dcgan_eval.metrics]\nworst class = third_party:broken\n")
    importlib.invalidate_caches()
    failed = run("show", "r.json")
    assert failed.exit_code == 2
    assert "The metric worst class of another package fails" in failed.stderr
