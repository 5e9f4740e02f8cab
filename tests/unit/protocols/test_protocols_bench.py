"""Many sets by many encoders: what is there is used, what changed is run again, what fails keeps nothing else back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

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


CODE = """
import torch
from torch import nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
"""


@pytest.fixture
def photos(place: Path, request: pytest.FixtureRequest) -> str:
    """Write images of many sizes as class folders, and a module; return its name."""
    draw = np.random.default_rng(0)
    for i in range(40):
        folder = place / "photos" / ("train" if i < 28 else "test") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 100 + 100 * (i % 2), (10 + i % 5, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    name = f"code_{request.node.name}".partition("[")[0]
    Path(f"{name}.py").write_text(CODE)
    return f"{name}:net"


def of_record(path: str) -> tuple[list[str], dict[str, object]]:
    features = json.loads(Path(path).read_text())["features"]
    return features["layers"], {k: v for k, v in features["rules"].items() if v not in (None, "paper")}


def test_encoders_take_the_options_that_svm_takes(photos: str) -> None:
    rules = ["--layer", "1", "--image-size", "8", "--pool", "avg1", "--normalise", "0.5/0.5"]
    result = bench_on("--data", "photos", "--encoder", photos, *rules)
    assert result.exit_code == 0, result.output
    (pair,) = json.loads(result.stdout)["pairs"]
    expected = (["1"], {"normalise": "0.5/0.5", "image_size": 8, "pooling": "avg1"})
    assert of_record(pair["file"]) == expected
    single = CliRunner().invoke(
        main, ["svm", "photos", "--encoder", photos, *rules, "--cache-dir", "c", "--record", "r.json", "--json"]
    )
    assert json.loads(single.stdout)["score"] == pair["score"]


def test_encoders_of_a_suite_have_options_of_their_own(photos: str, place: Path) -> None:
    (place / "mine.toml").write_text(
        f"""data = ["photos"]
image-size = 8
layer = ["1"]
encoder = ["{photos}", {{name = "{photos}", image_size = 9}}, {{name = "{photos}", layer = ["0", "2"], pool = "avg1"}}]
"""
    )
    result = bench_on("--suite", "mine.toml")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["pairs"]
    assert [of_record(pair["file"]) for pair in found] == [
        (["1"], {"image_size": 8}),
        (["1"], {"image_size": 9}),
        (["0", "2"], {"image_size": 8, "pooling": "avg1"}),
    ]
    assert len({pair["encoder"] for pair in found}) == len(json.loads(result.stdout)["mean_ranks"]) == 3
    wider = json.loads(bench_on("--suite", "mine.toml", "--image-size", "10").stdout)["pairs"]
    assert [of_record(pair["file"])[1]["image_size"] for pair in wider] == [10, 9, 10]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('encoder = [{name = "a", poool = "avg1"}]', "pool"),
        ('encoder = [{name = "a", image-size = "8"}]', "image-size"),
        ('encoder = [{name = "a", image-size = 8, image_size = 9}]', "twice"),
        ('encoder = [{pool = "avg1"}]', "no list of names"),
        ("encoder = 3", "no list of names"),
        ("image-size = 0", "image-size"),
        ("seed = 1", "seed"),
    ],
)
def test_options_of_a_suite_that_are_none_are_refused(place: Path, content: str, words: str) -> None:
    (place / "mine.toml").write_text(f'data = ["set1.npz"]\n{content}\n')
    result = bench_on("--suite", "mine.toml", "--encoder", "net1.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "mine.toml" in result.stderr
    assert "--" not in result.stderr


def test_the_table_shows_ranks(place: Path) -> None:
    words = ["bench", "--data", "set1.npz", "--encoder", "net1.safetensors", "--encoder", "net2.safetensors"]
    result = CliRunner().invoke(main, [*words, "--cache-dir", "cache", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert "mean rank" in result.output.replace("\n", " ")
