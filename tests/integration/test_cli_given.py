"""Features made elsewhere on the command line: run, verified, and refused beside options of an encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from dcgan_eval.protocols.runner import run_protocol
from dcgan_eval.records import Record, load_record

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _two_files(run: Run) -> None:
    """Three classes around a mean each, in the folder where the commands run."""
    draw = np.random.default_rng(0)
    means = 2 * draw.normal(size=(3, 6))
    for split, count in (("train", 120), ("test", 45)):
        y = np.arange(count) % 3
        np.savez(f"{split}.npz", X=means[y] + draw.normal(size=(count, 6)), y=y)


def test_a_run_on_given_features_is_verified(run: Run) -> None:
    made = run("svm", "own", "--features", "train.npz", "test.npz", "--record", "r.json")
    assert made.exit_code == 0, made.output
    assert json.loads(Path("r.json").read_text())["features"]["files"]["train"]["name"] == "train.npz"
    assert run("verify", "r.json").exit_code == 3  # nothing differs, something could not be checked
    assert run("verify", "r.json", "--features", "train.npz", "test.npz", "--rerun").exit_code == 0
    assert run("verify", "r.json", "--features", "test.npz", "train.npz").exit_code == 1
    assert run("show", "r.json").exit_code == 0
    draws = run("svm", "own", "--features", "train.npz", "test.npz", "--per-class", "5", "--draws", "3", "--json")
    assert json.loads(draws.stdout)["num_draws"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "untrained"], "--weights"),
        (["--layer", "conv1", "--compute", "float32"], "--layer, --compute"),
        (["--label-column", "fine"], "--label-column"),
        (["--train-split", "a"], "--train-split"),
    ],
)
def test_options_that_decide_nothing_are_refused(run: Run, options: list[str], words: str) -> None:
    result = run("svm", "own", "--features", "train.npz", "test.npz", *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_own_alone_is_no_protocol(run: Run) -> None:
    result = run("svm", "own")
    assert result.exit_code == 2
    assert "There is no protocol named 'own'" in result.stderr


def test_exported_features_give_the_encoders_number(run: Run, small_weights: Path) -> None:
    """The store, its Parquet export and the encoder itself: one number, one list of right images."""
    encoder = ("--weights", small_weights, "--batch-norm", "running")
    made = run("features", "--data", "digits", *encoder, "--format", "parquet", "-o", "digits.parquet")
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines()[-1] == "digits.parquet"
    beside = run("features", "--data", "digits", *encoder, "--format", "npy").stdout.splitlines()[-1]
    assert np.load(beside).shape[0] == 1797
    store = run("features", "--data", "digits", *encoder, "-o", "digits.h5").stdout.splitlines()[-1]
    for form in ("parquet", "h5"):
        result = run("svm", "digits", "--features", *[f"digits.{form}"] * 2, "--record", f"{form}.json")
        assert result.exit_code == 0, result.output
    assert run("svm", "digits", *encoder, "--record", "encoder.json").exit_code == 0
    found = [json.loads(Path(f"{name}.json").read_text()) for name in ("parquet", "h5", "encoder")]
    assert len({(record["score"], record["right"]) for record in found}) == 1
    assert store == "digits.h5"
    refused = run("features", "--data", "digits", *encoder, "--format", "pt", "-o", "digits.npz")
    assert refused.exit_code == 2
    assert ".pt or .pth" in refused.stderr


@pytest.mark.parametrize("command", [["probe", "knn"], ["probe", "logistic"], ["probe", "ridge"], ["baseline", "knn"]])
def test_whatever_classifies_takes_given_features(run: Run, command: list[str]) -> None:
    """The same numbers as scikit-learn's on the same rows, where it has the classifier at the chosen value."""
    given = ("own", "--features", "train.npz", "test.npz")
    made = run(*command, *given, "--record", "r.json")
    assert made.exit_code == 0, made.output
    record = json.loads(Path("r.json").read_text())
    assert record["features"]["files"]["test"]["name"] == "test.npz"
    train, test = np.load("train.npz"), np.load("test.npz")
    value = record["classifier"]["value"]
    if command == ["baseline", "knn"]:
        peer = KNeighborsClassifier(int(value)).fit(train["X"].astype(np.float32), train["y"])
    elif command == ["probe", "ridge"]:
        unit = np.square(train["X"] - train["X"].mean(0)).sum(1).mean()
        peer = RidgeClassifier(alpha=value * unit).fit(train["X"], train["y"])
    else:
        peer = None
    if peer is not None:
        assert record["score"] == peer.score(test["X"].astype(np.float32), test["y"])
    assert run("verify", "r.json", "--features", "train.npz", "test.npz", "--rerun").exit_code == 0


def test_given_features_beside_an_encoder_are_refused_by_probes_too(run: Run) -> None:
    result = run("probe", "ridge", "own", "--features", "train.npz", "test.npz", "--layer", "conv1")
    assert result.exit_code == 2
    assert "--layer" in result.stderr


def test_a_curve_of_given_features_is_the_protocol_with_few_labels(run: Run) -> None:
    given = ("own", "--features", "train.npz", "test.npz")
    made = run("curve", *given, "--per-class", "2,9", "--draws", "2", "-o", "c", "--json")
    assert made.exit_code == 0, made.output
    curve = json.loads(made.stdout)
    alone = json.loads(run("svm", *given, "--per-class", "9", "--draws", "2", "--json").stdout)
    assert (curve["9"]["score"], curve["9"]["right"]) == (alone["score"], alone["right"])
    assert run("verify", "c/2.json", "--features", "train.npz", "test.npz", "--rerun").exit_code == 0


def test_an_interrupted_curve_keeps_the_records_that_were_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def once(*arguments: Any) -> Record:
        if ended:
            raise KeyboardInterrupt
        ended.append(run_protocol(*arguments))
        return ended[0]

    monkeypatch.setattr("dcgan_eval.protocols.few_shot.run_protocol", once)
    made = run("curve", "own", "--features", "train.npz", "test.npz", "--per-class", "2,9", "--draws", "2", "-o", "c")
    assert made.exit_code != 0
    assert load_record(Path("c/9.json")).score == ended[0].score
