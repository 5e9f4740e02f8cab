"""The command line in a folder of its own, without data or caches of the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dcgan_eval.cli.main import main
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line as a user would; standard output and error are kept apart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCGAN_EVAL_DATA", raising=False)
    monkeypatch.setenv("DCGAN_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def small_weights(tmp_path: Path) -> Path:
    """A discriminator of an eighth of svhn32's width, which runs in milliseconds: 8 + 16 + 32 maps, 896 features."""
    path = tmp_path / "svhn32.safetensors"
    save_network(build(get_preset("svhn32", 8), seed=0)[0], path)
    return path


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Sixty labelled images of noise."""
    draw = np.random.default_rng(0)
    path = tmp_path / "noise.npz"
    np.savez(path, images=draw.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), labels=np.arange(60) % 3)
    return path
