"""Where classifiers are fitted: what --svm-device and --device say, with and without a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from dcgan_eval.cli.main import main
from dcgan_eval.errors import DcganEvalError
from dcgan_eval.ranks import ALONE


@pytest.fixture
def place_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function from a command's words to where it would fit."""
    monkeypatch.chdir(tmp_path)
    found: list[Any] = []

    def stop(protocol: Any, source: Any, settings: Any, place: Any, progress: Any) -> None:
        found.append(place.device)
        raise DcganEvalError("enough")

    monkeypatch.setattr("dcgan_eval.protocols.evaluate.evaluate", stop)

    def ask(*words: str) -> Any:
        result = CliRunner().invoke(main, list(words))
        assert "enough" in result.output, result.output
        return found[-1]

    return ask


@pytest.mark.parametrize("with_gpu", [False, True])
def test_fits_are_where_the_encoder_is_unless_the_command_says_otherwise(
    with_gpu: bool, place_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: with_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if with_gpu else 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    automatic = "cuda" if with_gpu else "cpu"
    svm = ("svm", "digits", "--encoder", "untrained")
    assert str(place_of(*svm)) == automatic
    assert str(place_of(*svm, "--device", "cpu")) == "cpu"
    assert str(place_of(*svm, "--device", "mps")) == "cpu"  # no float64 there
    assert str(place_of(*svm, "--device", "cpu", "--svm-device", "auto")) == automatic
    assert str(place_of("baseline", "pixels", "digits")) == automatic  # no encoder, so no --device
    assert str(place_of("baseline", "knn", "digits", "--svm-device", "cpu")) == "cpu"
    if with_gpu:
        assert str(place_of("probe", "logistic", "digits", "--device", "cuda:1")) == "cuda:1"
        assert str(place_of("probe", "ridge", "digits", "--svm-device", "cuda:1")) == "cuda:1"


def test_processes_that_fit_on_gpus_meet_on_them(place_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    met: list[Any] = []
    monkeypatch.setattr("dcgan_eval.ranks.joined", lambda device: met.append(device) or nullcontext(ALONE))
    assert place_of("baseline", "pixels", "digits", "--svm-device", "cuda:1") == torch.device("cuda:1")
    assert met == [torch.device("cuda:1")]


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_or_cannot_fit_is_refused_by_name(device: str, tmp_path: Path) -> None:
    words = ["baseline", "pixels", "digits", "--svm-device", device, "--cache-dir", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert ("tpu" if device == "tpu" else f"--svm-device {device}") in result.output
    assert not list(tmp_path.iterdir())


def test_a_perceptron_has_no_device_of_fits() -> None:
    result = CliRunner().invoke(main, ["probe", "mlp", "digits", "--svm-device", "cpu"])
    assert result.exit_code == 2
    assert "No such option" in result.output
