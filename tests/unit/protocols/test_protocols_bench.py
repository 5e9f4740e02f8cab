"""Many sets by many encoders: what is there is used, what changed is run again, what fails keeps nothing else back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dcgan_eval.cli.main import main
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network
from dcgan_eval.protocols import bench


def write_images(path: Path, seed: int) -> None:
    """Two classes of noise around a colour, 32x32, as a training and a test split."""
    draw, labels = np.random.default_rng(seed), np.arange(60) % 2
    images = (draw.integers(0, 200, (60, 32, 32, 3)) + 30 * labels[:, None, None, None]).astype(np.uint8)
    parts = {"x_train": images[:40], "y_train": labels[:40], "x_test": images[40:], "y_test": labels[40:]}
    np.savez(path, **parts)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        write_images(tmp_path / f"set{number}.npz", number)
        save_network(build(get_preset("svhn32"), number)[0], tmp_path / f"net{number}.safetensors")
    return tmp_path


def run(*more: str) -> Result:
    return bench_on("--data", "set1.npz", "--data", "set2.npz", "--encoder", "net1.safetensors", *more)


def bench_on(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", *words, "--cache-dir", "cache", "--out", "out", "--json"])


def pairs(result: Result) -> dict[tuple[str, str], float | None]:
    return {(p["data"], p["encoder"]): p["score"] for p in json.loads(result.stdout)["pairs"]}


def test_what_is_there_is_not_run_again_and_what_changed_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("--encoder", "net2.safetensors")
    assert first.exit_code == 0, first.output
    assert len(pairs(first)) == len(list(Path("out").glob("*.json"))) == 4
    runs = []
    real = bench.run_protocol
    monkeypatch.setattr(bench, "run_protocol", lambda *a, **k: runs.append(a[3].name) or real(*a, **k))
    again = run("--encoder", "net2.safetensors")
    assert (pairs(again), runs) == (pairs(first), [])
    save_network(build(get_preset("svhn32"), 3)[0], place / "net2.safetensors")  # another network of that name
    write_images(place / "set1.npz", 9)
    assert run("--encoder", "net2.safetensors").exit_code == 0
    assert sorted(runs) == ["net1", "net2", "net2"]  # set1 by both, set2 by the new one
    runs.clear()
    assert run("--encoder", "net2.safetensors", "--seed", "1").exit_code == 0
    assert len(runs) == 4


def test_a_failure_keeps_nothing_else_back(place: Path) -> None:
    np.savez(place / "small.npz", images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.arange(9) % 2)
    result = run("--data", "small.npz", "--encoder", "nothere.safetensors")
    assert result.exit_code == 1
    found = pairs(result)
    assert {pair for pair, score in found.items() if score is None} == {
        ("small.npz", "net1.safetensors"),
        *((data, "nothere.safetensors") for data in ("set1.npz", "set2.npz", "small.npz")),
    }
    assert found["set1.npz", "net1.safetensors"] is not None
    assert "nothere.safetensors" in result.stderr


def test_a_suite_names_what_is_run(place: Path) -> None:
    (place / "mine.toml").write_text('data = ["set1.npz", "set2.npz"]\nencoder = ["net1.safetensors"]\n')
    listed = pairs(bench_on("--suite", "mine.toml", "--data", "set1.npz"))
    assert listed == pairs(run())
    assert list(listed) == [("set1.npz", "net1.safetensors"), ("set2.npz", "net1.safetensors")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "Missing option '--data'"),
        ('data = ["set1.npz"]', "Missing option '--encoder'"),
        ('data = "set1.npz"', "no list of names"),
        ("data = [1]", "no list of names"),
        ('encoder = [""]', "no list of names"),
        ('encoders = ["a"]', "encoder"),
        ("data = [", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_suite_that_says_nothing_is_refused(place: Path, content: str, words: str) -> None:
    (place / "mine.toml").write_bytes(content.encode(errors="surrogateescape"))
    result = bench_on("--suite", "mine.toml")
    assert result.exit_code == 2
    assert words in result.stderr


def test_the_table_shows_ranks(place: Path) -> None:
    words = ["bench", "--data", "set1.npz", "--encoder", "net1.safetensors", "--encoder", "net2.safetensors"]
    result = CliRunner().invoke(main, [*words, "--cache-dir", "cache", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert "mean rank" in result.output.replace("\n", " ")
