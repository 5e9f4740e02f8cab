"""Near-duplicates of test images within the training set: planted ones are found, and no score depends on the count."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_eval.cli.main import main
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.data.repeats import count_near_duplicates, count_repeats
from dcgan_eval.errors import DcganEvalError
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.protocols.verify import verify
from dcgan_eval.records import load_record

pytest.importorskip("imagehash", reason="ImageHash is not installed")


def scenes(count: int, seed: int) -> np.ndarray:
    """Images of 32x32 of a few blobs each, as different from each other as photographs."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BICUBIC)) for x in small])


def compressed(image: np.ndarray) -> np.ndarray:
    """The image as a JPEG of poor quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file).convert("RGB"))


def planted() -> tuple[ImageSet, ImageSet]:
    """Forty test images: three compressed, two brighter, one a copy of training images, the others their own."""
    train, test = scenes(60, 0), scenes(40, 1)
    test[:3] = [compressed(image) for image in train[10:13]]
    test[3:5] = np.clip(train[20:22].astype(int) + 12, 0, 255)
    test[6] = train[30]  # of the same label
    return ImageSet(train, np.arange(60) % 2), ImageSet(test, np.arange(40) % 2)


def test_planted_near_duplicates_are_counted_and_nothing_else() -> None:
    train, test = planted()
    assert count_near_duplicates(train, test) == 6
    assert count_repeats(train, test)["num_images"] == 1
    assert count_near_duplicates(train, ImageSet(scenes(40, 2), np.arange(40) % 2)) == 0
    grey = [ImageSet(s.images[..., :1], s.labels) for s in (train, test)]
    assert count_near_duplicates(*grey) >= 4


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The planted images as class folders."""
    for split, images in zip(("train", "test"), planted(), strict=True):
        for i, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            folder = tmp_path / "own" / split / "ab"[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "own"


def test_the_count_stands_in_the_record_and_is_verified(own: Path, tmp_path: Path, monkeypatch) -> None:
    plain, counted = (
        evaluate(str(own), PixelFeatures(), Settings(near_duplicates=near), Place(cache_dir=tmp_path / "cache"))
        for near in (False, True)
    )
    assert (plain.score, plain.settings, plain.protocol) == (counted.score, counted.settings, counted.protocol)
    assert plain.data["test"]["in_train"] == {"num_images": 1, "other_label": 0}
    assert counted.data["test"]["in_train"] == {"num_images": 1, "other_label": 0, "near": 6}
    assert any("6 of 40 test images look like" in note for note in counted.notes)
    record = load_record(counted.write(tmp_path / "r.json"))
    checks = {check.name: check.passed for check in verify(record)}
    assert checks["near-duplicates"] is checks["test images in train"] is True
    record.data["test"]["in_train"]["near"] = 5
    assert {check.name: check.passed for check in verify(record)}["near-duplicates"] is False
    without_the_package(monkeypatch)
    assert {check.name: check.passed for check in verify(record)}["near-duplicates"] is None


def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "imagehash", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "imagehash" else find(name, *a))


def test_what_cannot_be_looked_for_is_told_before_the_work(tmp_path: Path, monkeypatch) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DCGAN_EVAL_CACHE", str(tmp_path / "cache"))
    np.savez("f.npz", X=np.eye(6), y=np.arange(6) % 2)
    np.savez("g.npz", X=np.eye(6) + 1, y=np.arange(6) % 2)
    refused = CliRunner().invoke(main, ["svm", "own", "--features", "f.npz", "g.npz", "--near-duplicates"])
    assert refused.exit_code == 2
    assert "no near-duplicates" in refused.stderr
    without_the_package(monkeypatch)
    with pytest.raises(DcganEvalError, match="pip install ImageHash"):
        evaluate(get_protocol("digits"), PixelFeatures(), Settings(near_duplicates=True), Place(cache_dir=tmp_path))
    assert not list(tmp_path.rglob("*.h5"))
