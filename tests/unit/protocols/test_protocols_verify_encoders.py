"""Verification of an encoder's records: the record's rules are the defaults, and a rule that differs is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torchvision.models import WeightsEnum, squeezenet1_1

from dcgan_eval.cli.main import main
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import EncoderFeatures
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.rebuild import record_source
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.records import Record, load_record

CODE = """
import torch
from torch import nn
from dcgan_eval import Encoder
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
def made():
    return Encoder(net(), ["1"], name="{name}:made", pooling="{pooling}", image_size=12)
"""
CLASSES = ["a class with a long name", "another one, longer still than that"]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Write a data set, a module and the record of a run with every rule of the encoder's given; return its name."""
    monkeypatch.chdir(tmp_path)
    name = f"tiny_{request.node.name}"  # a module of that name is imported once
    Path(f"{name}.py").write_text(CODE.replace("{name}", name).replace("{pooling}", "avg1"))
    labels = np.arange(60) % 2
    images = (np.random.default_rng(0).integers(0, 160, (60, 8, 8, 3)) + 60 * labels[:, None, None, None]).astype("u1")
    parts = {"x_train": images[:40], "y_train": labels[:40], "x_test": images[40:], "y_test": labels[40:]}
    np.savez("own.npz", class_names=np.array(CLASSES), **parts)
    return name


def run(*words: str) -> tuple[int, dict[str, tuple[bool | None, str]]]:
    result = CliRunner().invoke(main, [*words, "--json", "--cache-dir", "cache"])
    assert result.exit_code in (0, 1, 3), result.output
    found = json.loads(result.stdout)
    if isinstance(found, dict):
        return result.exit_code, {}
    return result.exit_code, {check["name"]: (check["passed"], check["detail"]) for check in found}


def test_what_is_not_said_is_as_recorded_and_what_differs_is_named(record: str) -> None:
    spec = f"{record}:net"
    rules = ("--image-size", "12", "--pool", "avg1", "--normalise", "0.5/0.25", "--layout", "nchw")
    run("svm", "own.npz", "--encoder", spec, "--layer", "1", *rules, "--record", "r.json")
    code, checks = run("verify", "r.json", "--encoder", spec, "--rerun")
    assert {name for name, (passed, _) in checks.items() if not passed} == set()
    assert "+0.00 points" in checks["number again"][1]
    assert code == 0
    code, checks = run("verify", "r.json", "--encoder", spec, "--pool", "max4", "--image-size", "16")
    assert code == 1
    assert {name for name, (passed, _) in checks.items() if not passed} == {"pooling", "preprocessing"}
    assert checks["pooling"][1] == "max4-adaptive-nchw, recorded avg1-nchw"
    assert checks["preprocessing"][1].startswith("bicubic to 16")


def test_rules_of_an_encoder_of_ones_own_that_changed_are_named(record: str) -> None:
    run("svm", "own.npz", "--encoder", f"{record}:made", "--record", "r.json")
    assert run("verify", "r.json", "--encoder", f"{record}:made", "--rerun")[0] == 0
    other = f"{record}_later"
    Path(f"{other}.py").write_text(CODE.replace("{name}", record).replace("{pooling}", "max4"))
    code, checks = run("verify", "r.json", "--encoder", f"{other}:made")
    assert (code, checks["pooling"]) == (1, (False, "max4-adaptive, recorded avg1"))


def test_rules_without_a_name_are_the_recorded_encoders(record: str) -> None:
    run(
        "svm",
        "own.npz",
        "--weights",
        "untrained:svhn32:1",
        "--layer",
        "conv1",
        "--image-size",
        "32",
        "--record",
        "r.json",
    )
    code, checks = run("verify", "r.json", "--image-size", "64")
    assert (code, checks["weights"][0], checks["preprocessing"][0]) == (1, True, False)
    assert run("verify", "r.json")[0] == 0


def test_encoders_that_no_record_is_of_are_refused(record: str) -> None:
    evaluate("own.npz", PixelFeatures(), place=Place(cache_dir=Path("cache"))).write(Path("r.json"))
    code, checks = run("verify", "r.json", "--weights", "untrained:imagenet32:1")
    assert (code, checks["weights"][0]) == (3, None)
    assert "no encoder" in checks["weights"][1]


def test_details_are_whole(record: str) -> None:
    evaluate("own.npz", PixelFeatures(), place=Place(cache_dir=Path("cache"))).write(Path("r.json"))
    expected = load_record(Path("r.json")).class_names
    checks = run("verify", "r.json")[1]
    assert checks["class names"][1] == ", ".join(expected)
    assert checks["images of each class"][1] == "10, 10"
    assert not [detail for _, detail in checks.values() if detail.count("[") != detail.count("]")]
    narrow = CliRunner().invoke(main, ["verify", "r.json", "--cache-dir", "cache"], env={"COLUMNS": "40"})
    assert all(word in narrow.output for name in expected for word in name.split())


def test_weights_with_preprocessing_of_their_own_are_rebuilt_with_it(
    monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    tensors = squeezenet1_1().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: tensors)
    source = EncoderFeatures(load_encoder("torchvision:squeezenet1_1:DEFAULT"))
    base = evaluate("own.npz", PixelFeatures(), place=Place(cache_dir=Path("cache")))
    made = replace(base, features=described(source, base))
    x_NHWC = torch.randint(0, 256, (2, 40, 30, 3), dtype=torch.uint8)
    again = record_source(made)
    assert isinstance(again, EncoderFeatures)
    assert torch.equal(again.encoder.preprocess(x_NHWC), source.encoder.preprocess(x_NHWC))


def described(source: EncoderFeatures, record: Record) -> dict[str, object]:
    """Describe a source as its record would, without running it."""
    encoder = source.encoder
    made = {"kind": "encoder", "name": encoder.name, "layers": list(encoder.layers), "rules": encoder.rules}
    made |= {"preprocessing": encoder.preprocessing_of((8, 8, 3)), "pooling": encoder.pooling.identity}
    return {**record.features, **made, "batch_norm": "running", "compute": "float32", "store_dtype": "float16"}
