"""A run whose features lie on a device of fits, as a tensor of the store's type; the GPU itself is faked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dcgan_eval.baselines.mlp import MlpClassifier
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features import extract
from dcgan_eval.features.store import FeatureStore
from dcgan_eval.features.store_file import StoreIdentity
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.progress import Progress, no_progress
from dcgan_eval.protocols import matrix, runner, validation_score
from dcgan_eval.protocols.catalog import get_protocol, load_protocol_data
from dcgan_eval.protocols.classifiers import PROBES, SvmClassifier, on_device
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.settings import Place, Settings
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.records import Record

GPU = torch.device("cuda")
CPU = torch.device("cpu")
FEW = replace(get_protocol("digits").with_draws(6, 1), selection_draws=1)


class HalfPixels(PixelFeatures):
    """Pixels kept as float16, as features of encoders are."""

    def identity(self, images: ImageSet) -> StoreIdentity:
        return replace(super().identity(images), store_dtype="float16", preprocessing="x / 127.5 - 1")

    def ready(self, progress: Progress) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        return lambda images: {"pixels": (images / 127.5 - 1).astype(np.float32).reshape(len(images), -1)}

    def served(self, store: FeatureStore) -> FeatureStore:
        return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Pixels of the digits in a float16 store, some rows in an order that is not the file's."""
    train, test = load_protocol_data(get_protocol("digits"))
    source = HalfPixels()
    source.prepare(train.without_labels(), test.images, no_progress, tmp_path_factory.mktemp("cache"))
    return source.stores[0].take(np.random.default_rng(0).permutation(700)[:500])


def test_a_matrix_goes_to_the_device_as_it_is_stored(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "to_device", lambda x, device: x.to(device))
    size = 500 * store.shape[1] * 2
    monkeypatch.setattr(matrix, "memory_share", lambda device: size)
    with FakeTensorMode():
        X = matrix.load(store, 0, GPU)
        assert isinstance(X, torch.Tensor)
        assert (X.device.type, X.dtype, tuple(X.shape)) == ("cuda", torch.float16, store.shape)
        some = matrix.part(X, np.array([3, 1, 4]))
        assert (some.device.type, tuple(some.shape)) == ("cuda", (3, store.shape[1]))
    monkeypatch.setattr(matrix, "memory_share", lambda device: size - 1)
    held = matrix.load(store, size, GPU)
    assert isinstance(held, np.ndarray)
    assert held.dtype == np.float16
    left = matrix.load(store, size - 1, GPU)
    assert isinstance(left, FeatureStore)
    assert left[:3].dtype == left.dtype == np.float16
    assert matrix.load(store, 10**9, CPU).dtype == np.float32


def test_what_is_brought_is_what_is_read(store: FeatureStore) -> None:
    read = store.read()
    brought = matrix._brought(store.as_stored(), CPU)
    assert brought.dtype == torch.float16
    assert np.array_equal(brought.numpy().astype(np.float32), read)
    assert np.array_equal(store.as_stored().read().astype(np.float32), read)
    rows = np.array([7, 0, 7])
    assert np.array_equal(matrix.part(brought, rows).numpy().astype(np.float32), read[rows])


def test_features_that_are_served_changed_keep_float32(store: FeatureStore) -> None:
    served = store.served_by(lambda block: block / np.float32(3))
    assert served.as_stored().dtype == np.float32
    assert np.array_equal(served.as_stored()[:5], store.read()[:5] / np.float32(3))


@pytest.mark.parametrize("name", ["svm", "logistic", "knn", "ridge"])
def test_a_run_on_a_resident_matrix_finds_what_a_run_in_memory_finds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = None if name == "svm" else PROBES[name](1e-4, 0, {})
    held: set[Any] = set()

    def found() -> Record:
        return evaluate(FEW, HalfPixels(), Settings(classifier=classifier), Place(cache_dir=tmp_path, device=CPU))

    plain = found()

    def resident_on_the_cpu(store: FeatureStore, memory_bytes: int, device: torch.device) -> torch.Tensor:
        X = matrix._brought(store.as_stored(), device)
        held.add(X.dtype)
        return X

    monkeypatch.setattr(runner, "load", resident_on_the_cpu)
    resident = found()
    assert (resident.score, resident.right, resident.chosen) == (plain.score, plain.right, plain.chosen)
    assert {draw["device"] for draw in resident.draws} == {"cpu"}
    assert held == {torch.float16}


def test_a_place_says_where_classifiers_are_fitted_and_leaves_alone_those_that_cannot_be() -> None:
    svm = SvmClassifier((1.0,), device="cuda:1")
    assert matrix.place_of(on_device(svm, None)) == torch.device("cuda:1")
    assert matrix.place_of(on_device(svm, GPU)) == GPU
    assert svm.device == "cuda:1"
    perceptron = MlpClassifier()
    assert on_device(perceptron, GPU) is perceptron
    assert matrix.place_of(perceptron) == CPU
    assert matrix.place_of(SvmClassifier((1.0,))) == CPU


@pytest.mark.parametrize(("encoder", "fits"), [("cuda", "cuda"), ("mps", "cpu"), ("cpu", "cpu")])
def test_the_probe_of_a_training_is_fitted_beside_it(encoder: str, fits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(extract.ExtractOptions, "torch_device", torch.device(encoder))
    monkeypatch.setattr(validation_score.ValidationScore, "_features", lambda self, D: np.zeros((1, 1), np.float32))
    curve = [{"C": 1.0, "score": 0.5}]
    monkeypatch.setattr(validation_score, "validation_curve", lambda *args: asked.append(args[-1]) or curve)
    probe = validation_score.ValidationScore("digits", device="cpu")
    assert probe(build(get_preset("svhn32", 8), 0)[0]) == {"score": 0.5, "C": 1.0}
    assert asked == [torch.device(fits)]
