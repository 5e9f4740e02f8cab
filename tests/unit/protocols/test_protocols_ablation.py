"""Ablation of layers: which subsets, one cache, and the same numbers as a run on those layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions
from dcgan_eval.protocols import ablation
from dcgan_eval.protocols.ablation import ablate, ablation_subsets
from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import EncoderFeatures
from dcgan_eval.protocols.spec import Protocol, SealedTest
from dcgan_eval.report.figures import ablation_figure

PROTOCOL = Protocol("toy", 1, "toy", "toy", "toy", num_validation=30, Cs=(1e-4, 1e-3))


def toy(count: int, seed: int) -> ImageSet:
    """Three classes of 32x32 noise around a class's colour."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = draw.integers(0, 200, (count, 32, 32, 3)) + 20 * np.eye(3, dtype=int)[labels][:, None, None]
    return ImageSet(pixels.astype(np.uint8), labels, name="toy", split=f"split{seed}")


def test_subsets() -> None:
    assert ablation_subsets(["a", "b", "c"]) == {
        "all": ("a", "b", "c"),
        "alone-a": ("a",),
        "alone-b": ("b",),
        "alone-c": ("c",),
        "upto-b": ("a", "b"),
        "without-a": ("b", "c"),
        "without-b": ("a", "c"),
    }
    assert len(ablation_subsets([f"conv{i}" for i in range(1, 7)])) == 16
    assert ablation_subsets(["a", "b"]) == {"all": ("a", "b"), "alone-a": ("a",), "alone-b": ("b",)}
    assert ablation_subsets(["a"]) == {"all": ("a",)}


def test_each_row_is_a_run_on_those_layers_from_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = toy(120, 1), toy(60, 2)
    monkeypatch.setattr(ablation, "load_protocol_images", lambda *_, **__: (train, test))
    encoder, options = load_encoder("untrained:svhn32"), ExtractOptions(compute="float32")
    records = ablate(PROTOCOL, EncoderFeatures(encoder, options), place=Place(cache_dir=tmp_path))
    assert len(list(tmp_path.glob("*.h5"))) == 2  # one store for train, one for test
    assert [record.features["cached"] for record in records.values()][1:] == [[True, True]] * 6
    for name, layers in ablation_subsets(encoder.layers).items():
        assert records[name].features["layers"] == list(layers)
        assert records[name].features["all_layers"] == (name == "all")
    source = EncoderFeatures(encoder, replace(options, layers=("conv1", "conv3")))
    alone = run_protocol(PROTOCOL, train, SealedTest(test), source, place=Place(cache_dir=tmp_path / "other"))
    assert alone.num_features == records["without-conv2"].num_features == 5_120
    assert (alone.score, alone.C) == (records["without-conv2"].score, records["without-conv2"].C)
    figure = ablation_figure(records, encoder.layers, tmp_path / "figure.png", "toy")
    assert figure.read_bytes().startswith(b"\x89PNG")
