"""The probe during training: the validation score that the runner would find, without the test set."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dcgan_eval.data.catalog import load_data
from dcgan_eval.errors import ProtocolError
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network
from dcgan_eval.protocols import catalog, classifiers
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.spec import SealedTest
from dcgan_eval.protocols.validation_score import ValidationScore


def test_it_finds_the_runners_validation_score_and_leaves_the_seal(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    D, _ = build(get_preset("svhn32", 8), 0)
    save_network(D, tmp_path / "narrow.safetensors")
    record = evaluate("digits", load_encoder(tmp_path / "narrow.safetensors"), place=Place(cache_dir=tmp_path))
    seals: list[SealedTest] = []
    original = catalog.SealedTest

    def sealed(images) -> SealedTest:  # type: ignore[no-untyped-def]
        seals.append(original(images))
        return seals[-1]

    monkeypatch.setattr(catalog, "SealedTest", sealed)
    found = ValidationScore("digits")(D)
    # fits to a looser gap, features before rounding to the store's rows: one validation image of 300 may differ
    assert found["score"] == pytest.approx(max(row["score"] for row in record.selection), abs=1.5 / 300)
    assert len(seals) == 1
    seals[0].score([np.zeros(500, np.int64)])  # still closed, or this would raise


def test_on_own_images_the_grid_is_as_open_and_as_relative_as_a_runs(tmp_path: Path) -> None:
    D, _ = build(get_preset("svhn32", 8), 0)
    for parameter in D.parameters():
        parameter.data *= 3  # features of a scale that no published grid was made for
    save_network(D, tmp_path / "narrow.safetensors")
    digits = load_data("digits", "train")
    images, labels = digits.images[:400], digits.labels[:400]  # type: ignore[index]
    own = str(tmp_path / "own.npz")
    np.savez(own, x_train=images[:300], y_train=labels[:300], x_test=images[300:], y_test=labels[300:])
    record = evaluate(own, load_encoder(tmp_path / "narrow.safetensors"), place=Place(cache_dir=tmp_path))
    found = ValidationScore(own)(D)
    assert (found["score"], found["C"]) == (max(row["score"] for row in record.selection), record.C)


def test_a_fit_that_does_not_converge_costs_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan_eval.protocols.validation_score._TOL", 1e-300)
    monkeypatch.setattr(classifiers, "fit_path", partial(classifiers.fit_path, max_iter=1))
    assert ValidationScore("digits")(build(get_preset("svhn32", 8), 0)[0])["score"] > 0.5


def test_protocols_of_draws_are_refused() -> None:
    with pytest.raises(ProtocolError, match="--probe svhn"):
        ValidationScore("svhn")
