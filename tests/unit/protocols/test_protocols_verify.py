"""Verification: a record is rebuilt and run again from itself alone, and an alteration of any field is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_eval.baselines.kmeans import KMeansFeatures, KMeansOptions
from dcgan_eval.baselines.knn import KnnClassifier
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import EncoderFeatures, ExtractOptions
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.classifiers import SvmClassifier
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.verify import Check, verify
from dcgan_eval.records import Record, load_record, pack_counts, unpack_counts

DRAWS = get_protocol("digits").with_draws(10, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    made = evaluate(DRAWS, PixelFeatures(), place=Place(cache_dir=folder))
    return load_record(made.write(folder / "record.json"))


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.passed is False}


def own_folder(folder: Path) -> Path:
    """Two classes of 8x8 images as class folders."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 10)):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(90 * label, 90 * label + 160, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


RUNS: dict[str, Callable[[], tuple[Any, Any, Settings]]] = {
    "layers of an encoder": lambda: (
        DRAWS,
        EncoderFeatures(load_encoder("untrained:svhn32:0"), ExtractOptions(("conv1",))),
        Settings(seed=3),
    ),
    "draws and another tolerance": lambda: (DRAWS, PixelFeatures(), Settings(tol=1e-3, solver="gram")),
    "k nearest neighbours": lambda: ("digits", PixelFeatures(), Settings(classifier=KnnClassifier(cosine=True))),
    "logistic regression": lambda: (DRAWS, PixelFeatures(), Settings(classifier=LogisticClassifier())),
    "K-means at the published C": lambda: (
        "digits",
        KMeansFeatures(KMeansOptions(num_centroids=8, num_patches=2_000, iterations=3)),
        Settings(classifier=SvmClassifier((100.0,), mean_loss=True)),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_made_again_from_its_record_alone(name: str, tmp_path: Path) -> None:
    protocol, source, settings = RUNS[name]()
    made = evaluate(protocol, source, settings, Place(cache_dir=tmp_path / "a"))
    read = load_record(made.write(tmp_path / "r.json"))
    checks = verify(read, rerun=True, cache_dir=tmp_path / "b")
    assert failed(checks) == set()
    again = next(check for check in checks if check.name == "number again")
    assert again.passed is True
    assert "+0.00 points" in again.detail


def test_a_record_of_own_data_is_made_again(tmp_path: Path) -> None:
    data = own_folder(tmp_path / "own")
    made = evaluate(str(data), PixelFeatures(), place=Place(cache_dir=tmp_path / "a"))
    checks = verify(load_record(made.write(tmp_path / "r.json")), rerun=True, cache_dir=tmp_path / "b")
    assert {check.name: check.passed for check in checks if check.passed is not True} == {}
    assert "number again" in {check.name for check in checks}


def test_a_good_record_passes_every_check(record: Record, folder: Path) -> None:
    assert [check for check in verify(record, cache_dir=folder) if check.passed is not True] == []


def _one_more_right(values: dict[str, Any]) -> None:
    counts = unpack_counts(values["right"])
    counts[int(counts.argmin())] += 1
    values["right"] = pack_counts(counts)


def _other_images_right(values: dict[str, Any]) -> None:
    values["right"] = pack_counts(np.roll(unpack_counts(values["right"]), 1))


def _moved_in_the_confusion(values: dict[str, Any]) -> None:
    values["confusion"][3][3] -= 1
    values["confusion"][4][4] += 1


ALTERATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], set[str]]] = {
    "score": (lambda v: v.update(score=v["score"] + 1e-9), {"score", "confusion"}),
    "spread": (lambda v: v.update(spread=0.001), {"spread"}),
    "interval": (lambda v: v.update(ci95=[0.9, 0.99]), {"interval"}),
    "interval with images": (lambda v: v.update(ci95_with_images=[0.9, 0.99]), {"interval with images"}),
    "number of draws": (lambda v: v.update(num_draws=10), {"number of draws", "images of each class"}),
    "status": (lambda v: v["draws"][1].update(status="max_iterations"), {"status"}),
    "gap": (lambda v: v.update(duality_gap=1e-9), {"certificate"}),
    "chosen": (lambda v: v["classifier"].update(value=0.5), {"chosen C", "C of the fits"}),
    "C of one fit": (lambda v: v["draws"][2].update(C=0.5), {"C of the fits"}),
    "validation curve": (lambda v: v["selection"][0].update(score=0.01), {"validation curve"}),
    "one more right": (_one_more_right, {"right images"}),
    "other images right": (_other_images_right, {"right images of each class"}),
    "confusion": (_moved_in_the_confusion, {"images of each class", "right images of each class"}),
    "rows": (lambda v: v["rows_sha256"].update(test=["0" * 64] * 3), {"rows of the splits"}),
    "class names": (lambda v: v["class_names"].reverse(), {"class names"}),
    "fingerprint": (lambda v: v["data"]["test"].update(fingerprint="0" * 64), {"test data"}),
    "weights": (lambda v: v["features"].update(weights_sha256="0" * 64), {"weights"}),
}


@pytest.mark.parametrize("name", ALTERATIONS)
@pytest.mark.parametrize("with_digest", [True, False])
def test_what_was_altered_is_named(record: Record, folder: Path, name: str, with_digest: bool, tmp_path: Path) -> None:
    """With the old digest, and with the digest of who altered it on purpose."""
    change, expected = ALTERATIONS[name]
    values = json.loads((folder / "record.json").read_text())
    change(values)
    path = tmp_path / "altered.json"
    path.write_text(json.dumps(values))
    altered = load_record(path)
    if not with_digest:
        altered = replace(altered, intact=True)
    found = failed(verify(altered, cache_dir=folder))
    assert expected <= found
    assert ("digest" in found) is with_digest


def test_a_published_value_is_the_catalogues(folder: Path, tmp_path: Path) -> None:
    made = evaluate("digits", PixelFeatures(), place=Place(cache_dir=folder))
    spec = {**made.spec, "paper": {"value": 0.5, "spread": None, "checked": True, "source": "nowhere"}}
    assert failed(verify(replace(made, spec=spec))) == {"protocol"}


def test_what_cannot_be_checked_is_not_called_different(record: Record, folder: Path) -> None:
    elsewhere = replace(record, spec={**record.spec, "dataset": "/nowhere"}, protocol=record.protocol)
    checks = verify(elsewhere, cache_dir=folder)
    assert failed(checks) == set()
    assert {check.name for check in checks if check.passed is None} == {"data"}
