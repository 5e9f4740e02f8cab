"""Small trained-looking pairs on disk and the command line in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dcgan_eval.cli.main import main
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line as a user would, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCGAN_EVAL_DATA", raising=False)
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained svhn32 pair; the path of the generator, with the discriminator beside it."""
    folder = tmp_path_factory.mktemp("pair")
    for network, kind in zip(build(get_preset("svhn32"), seed=0), ("discriminator", "generator"), strict=True):
        save_network(network, folder / f"{kind}.safetensors")
    return folder / "generator.safetensors"


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained generator that has to be told the class."""
    path = tmp_path_factory.mktemp("conditional") / "generator.safetensors"
    save_network(build(get_preset("mnist28_cond"), seed=0)[1], path)
    return path
