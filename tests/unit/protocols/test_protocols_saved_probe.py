"""The classifier that is kept: it predicts what NumPy predicts from its tensors, and belongs to one record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dcgan_eval.baselines.knn import KnnClassifier
from dcgan_eval.errors import DcganEvalError, ProtocolError, WeightsError
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import GivenFeatures, PixelFeatures
from dcgan_eval.protocols.verify import Check, verify
from dcgan_eval.records import Record, load_record

DRAW = np.random.default_rng(3)
MEANS = DRAW.normal(size=(4, 8))
Y = {"train": np.arange(200) % 4, "test": np.arange(80) % 4}
X = {split: (MEANS[y] + DRAW.normal(size=(len(y), 8))).astype(np.float32) for split, y in Y.items()}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    for split in X:
        np.savez(f"{split}.npz", X=X[split], y=Y[split])
    return [Path("train.npz"), Path("test.npz")]


def run(files: list[Path], seed: int = 0, name: str = "p.safetensors") -> Record:
    place = Place(cache_dir=Path("cache"), probe=Path(name))
    made = evaluate("own", GivenFeatures(*files), Settings(seed=seed), place)
    return load_record(made.write(Path(f"{name}.json")))


def checked(record: Record, files: list[Path], probe: str = "p.safetensors") -> dict[str, Check]:
    return {check.name: check for check in verify(record, features=files, cache_dir="cache", probe=Path(probe))}


def test_the_tensors_predict_what_the_record_says(files: list[Path]) -> None:
    record, tensors = run(files), load_file("p.safetensors")
    predicted = (X["test"].astype(np.float64) @ tensors["W"].T + tensors["intercepts"]).argmax(axis=1)
    assert record.score == np.mean(predicted == Y["test"])
    found = checked(record, files)
    assert {check.passed for check in found.values()} == {True}
    assert "+0.00 points" in found["score of the probe"].detail


def test_a_probe_belongs_to_one_record(files: list[Path]) -> None:
    record = run(files)
    run(files, seed=1, name="other.safetensors")
    assert checked(record, files, "other.safetensors")["record of the probe"].passed is False
    altered = replace(record, notes=["a"])
    assert checked(altered, files)["record of the probe"].passed is False


def test_weights_that_were_altered_are_found(files: list[Path]) -> None:
    record = run(files)
    with safe_open("p.safetensors", "numpy") as file:
        header = file.metadata()
    tensors = load_file("p.safetensors")
    tensors["W"][0, 0] += 1e-9
    save_file(tensors, "p.safetensors", header)
    found = checked(record, files)["probe"]
    assert found.passed is False
    assert "do not match their digest" in found.detail


@pytest.mark.parametrize("name", ["train.npz", "missing.safetensors", "p.safetensors.json"])
def test_what_holds_no_probe_differs(name: str, files: list[Path]) -> None:
    assert checked(run(files), files, name)["probe"].passed is False


def test_without_the_features_a_probe_is_not_checked(files: list[Path]) -> None:
    record = run(files)
    assert {c.name: c.passed for c in verify(record, probe=Path("p.safetensors"))}["data"] is None
    pixels = evaluate("digits", PixelFeatures(), place=Place(cache_dir=Path("c"), probe=Path("d.safetensors")))
    found = {c.name: c for c in verify(pixels, cache_dir="c", probe=Path("d.safetensors"))}
    assert found["score of the probe"].passed is True
    assert found["protocol"].passed is True  # of a record that was never a file


def test_it_is_refused_before_the_work(files: list[Path]) -> None:
    Path("held.safetensors").write_text('{"a": 1}')
    cases: list[tuple[str, type[DcganEvalError], str]] = [
        ("p.npz", WeightsError, ".safetensors"),
        ("held.safetensors", WeightsError, "another kind"),
    ]
    for name, error, words in cases:
        with pytest.raises(error, match=words):
            run(files, name=name)
    draws, place = get_protocol("digits").with_draws(5, 3), Place(cache_dir=Path("c"), probe=Path("q.safetensors"))
    with pytest.raises(ProtocolError, match="--draws 1"):
        evaluate(draws, PixelFeatures(), place=place)
    with pytest.raises(ProtocolError, match="L2-SVM"):
        evaluate("digits", PixelFeatures(), Settings(classifier=KnnClassifier()), place)
    assert not Path("c").exists()
    assert not Path("cache").exists()
    one = evaluate(get_protocol("digits").with_draws(5, 1), PixelFeatures(), place=place)
    assert {c.passed for c in verify(one, cache_dir="c", probe=Path("q.safetensors")) if "probe" in c.name} == {True}
