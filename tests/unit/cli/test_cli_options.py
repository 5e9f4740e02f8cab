"""What holds of the options of every command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dcgan_eval.cli.main import main
from dcgan_eval.data import decoding, mixed
from dcgan_eval.features.store import FeatureStore

WITHOUT_JSON = {"completion", "export", "quickstart", "report", "samples", "weights import"}  # they write files


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


ALL = dict(commands(main))


@pytest.mark.parametrize("name", ALL)
def test_what_is_read_can_be_read_as_json_and_what_is_written_named_with_o(name: str) -> None:
    options = [set(parameter.opts) for parameter in ALL[name].params]
    assert any("--json" in names for names in options) or name in WITHOUT_JSON
    assert all("-o" in names for names in options if "--out" in names)


def test_as_many_threads_decode_as_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decoding, "_num_threads", decoding._num_threads)  # as it was, afterwards
    draw, used = np.random.default_rng(0), set()
    for number in range(300):
        Path("images", str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(f"images/{number % 2}/{number}.png")
    decode = decoding.decode

    def noted(item: object, where: str) -> np.ndarray:
        used.add(threading.current_thread().name)
        return decode(item, where)

    monkeypatch.setattr(mixed, "decode", noted)
    stores = []
    for count in ("1", "3"):
        used.clear()
        words = [
            "features",
            "--data",
            "images",
            "--encoder",
            "untrained:svhn32:0",
            "--image-size",
            "32",
            "--layer",
            "conv1",
        ]
        result = CliRunner().invoke(main, [*words, "--num-workers", count, "--cache-dir", count])
        assert result.exit_code == 0, result.output
        stores.append(Path(result.stdout.splitlines()[-1]).read_bytes())
        assert max(int(name.rpartition("_")[2]) for name in used if "_" in name) < int(count)
    assert len(used) > 1
    assert stores[0] == stores[1]
    assert CliRunner().invoke(main, [*words, "--num-workers", "0"]).exit_code == 2


def test_the_batch_size_changes_no_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", images=np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8))
    read = []
    for size in ("1", "7", "30"):
        words = ["features", "--data", "x.npz", "--weights", "untrained:svhn32:0", "--layer", "conv2", "--store-dtype"]
        result = CliRunner().invoke(main, [*words, "float32", "--batch-size", size, "-o", f"{size}.h5"])
        assert result.exit_code == 0, result.output
        read.append(FeatureStore(Path(f"{size}.h5")).read())
    assert np.abs(read[0]).max() > 0
    for X in read[1:]:
        np.testing.assert_allclose(X, read[0], rtol=1e-4, atol=1e-5)
    assert CliRunner().invoke(main, [*words, "float32", "--batch-size", "0", "-o", "0.h5"]).exit_code == 2
