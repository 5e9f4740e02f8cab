"""``--log``: every tracker is shown the record's numbers, and none of them can cost a result."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from dcgan_eval.tracking import TRACKERS
from dcgan_eval.training.config import TrainingConfig
from dcgan_eval.training.log import read_table
from dcgan_eval.training.loop import RunOptions, train
from dcgan_eval.training.trainer import Trainer

Run = Callable[..., Result]
GIVEN = ("own", "--features", "train.npz", "test.npz", "--record", "r.json")


@pytest.fixture(autouse=True)
def _two_files(run: Run) -> None:
    """Seven classes around a mean each, in the folder where the commands run."""
    draw = np.random.default_rng(0)
    means = 2 * draw.normal(size=(7, 6))
    for split, count in (("train", 140), ("test", 70)):
        y = np.arange(count) % 7
        np.savez(f"{split}.npz", X=means[y] + draw.normal(size=(count, 6)), y=y)


class Fake:
    """What the three packages have in common, seen from outside: how a run begins, what it is sent, that it ends."""

    def __init__(self, kind: str, fails_after: int | None = None):
        self.kind, self.fails_after = kind, fails_after
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended = 0

    def begin(self, **about: Any) -> Any:
        print("a tracker that prints")
        self.begun.append(about)
        return types.SimpleNamespace(log=self.log, finish=self.end)

    def log(self, values: dict[str, float], step: int) -> None:
        print("a tracker that prints")
        if self.fails_after is not None and len(self.rows) >= self.fails_after:
            raise ConnectionError("no route to host")
        assert all(type(value) is float for value in values.values())
        self.rows.append((step, dict(values)))

    def end(self) -> None:
        self.ended += 1

    def module(self) -> types.ModuleType:
        module: Any = types.ModuleType(self.kind)
        if self.kind == "mlflow":
            module.set_experiment = lambda name: None
            module.start_run = lambda run_name: self.begin(name=run_name)
            module.log_params = lambda config: self.begun[-1].update(config=config)
            module.log_metrics, module.end_run = self.log, self.end
        else:
            module.init = self.begin
            module.log, module.finish = self.log, self.end
        return module


@pytest.fixture
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A stand-in under the package's name."""
    kind, fails_after = request.param if isinstance(request.param, tuple) else (request.param, None)
    fake = Fake(kind, fails_after)
    monkeypatch.setitem(sys.modules, kind, fake.module())
    return fake


@pytest.mark.parametrize(
    ("tracker", "command"),
    [
        ("wandb", ("svm",)),
        ("mlflow", ("probe", "logistic")),
        ("trackio", ("baseline", "knn")),
    ],
    indirect=["tracker"],
)
def test_curve_and_score_are_those_of_the_record(run: Run, tracker: Fake, command: tuple[str, ...]) -> None:
    made = run(*command, *GIVEN, "--log", tracker.kind, "--json")
    assert made.exit_code == 0, made.output
    record = json.loads(made.stdout)  # nothing of the tracker's on standard output
    (begun,) = tracker.begun
    assert begun["config"]["protocol"] == record["protocol"]
    assert begun["name"].startswith(record["protocol"])
    *curve, (step, final) = tracker.rows
    parameter = record["classifier"]["parameter"]
    assert [row["validation/score"] for _, row in curve] == [row["score"] for row in record["selection"]]
    assert [row[f"validation/{parameter}"] for _, row in curve] == [row[parameter] for row in record["selection"]]
    assert [step for step, _ in tracker.rows] == list(range(len(record["selection"]) + 1))
    assert step == len(record["selection"])
    assert final["test/score"] == record["score"]
    assert [final["test/ci95_low"], final["test/ci95_high"]] == record["ci95"]
    assert {name: final[f"test/{name}"] for name in record["figures"]} == {
        name: figure["score"] for name, figure in record["figures"].items()
    }
    assert tracker.ended == 1


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_tracker_that_is_not_there_is_told_before_the_work(run: Run, kind: str, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == kind else find(name, *a))
    monkeypatch.delitem(sys.modules, kind, raising=False)
    for command in (("svm", *GIVEN), ("train", "svhn32", "--data", "nowhere", "--out", "runs")):
        refused = run(*command, "--log", kind)
        assert refused.exit_code == 2
        assert f"{kind} is not installed" in refused.stderr
        assert f"pip install -e '.[{kind}]'" in refused.stderr
    assert not Path("r.json").exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize("tracker", [("wandb", 1), ("mlflow", 0), ("trackio", 2)], indirect=True)
def test_a_tracker_that_fails_on_the_way_costs_no_result(run: Run, tracker: Fake) -> None:
    made = run("svm", *GIVEN, "--log", tracker.kind)
    assert made.exit_code == 0, made.output
    assert len(tracker.rows) == tracker.fails_after  # nothing is sent after it failed
    assert made.stderr.count("no route to host") == 1
    assert run("verify", "r.json", "--features", "train.npz", "test.npz").exit_code == 0


@pytest.mark.parametrize("tracker", ["wandb"], indirect=True)
def test_a_tracker_that_cannot_start_ends_the_command(run: Run, tracker: Fake) -> None:
    def refuse(**about: Any) -> None:
        raise PermissionError("no API key")

    sys.modules["wandb"].init = refuse  # type: ignore[attr-defined]
    refused = run("svm", *GIVEN, "--log", "wandb")
    assert refused.exit_code == 2
    assert "no API key" in refused.stderr
    assert "--log" in refused.stderr
    assert not Path("r.json").exists()


@pytest.mark.parametrize("tracker", ["wandb"], indirect=True)
def test_a_run_that_fails_ends_the_trackers_run_too(run: Run, tracker: Fake) -> None:
    assert run("svm", *GIVEN, "--per-class", "1000", "--log", "wandb").exit_code == 2
    assert (tracker.ended, tracker.rows) == (1, [])


@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
def test_training_shows_the_rows_of_its_log(tracker: Fake, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("dcgan_eval.training.loop.LOG_EVERY_ROUNDS", 1)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    config = TrainingConfig(preset="svhn32", total_images=16, batch_size=4, seed=1)
    assert train(Trainer(config, images), tmp_path / "run", RunOptions(log="mlflow"))["status"] == "finished"
    rows = read_table(tmp_path / "run" / "log.csv")
    assert len(rows) == len(tracker.rows) == 2
    for row, (step, values) in zip(rows, tracker.rows, strict=True):
        assert step == row.pop("seen_images")
        assert values == {f"training/{key}": pytest.approx(value) for key, value in row.items()}
    assert tracker.begun[0]["config"]["total_images"] == 16
    assert tracker.ended == 1


def test_tensorboard_reads_what_was_written(run: Run) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    made = run("svm", *GIVEN, "--log", "tensorboard", "--json")
    assert made.exit_code == 0, made.output
    record = json.loads(made.stdout)
    (folder,) = Path("tensorboard").iterdir()  # beside the record
    events = accumulator.EventAccumulator(str(folder)).Reload()
    scores = [event.value for event in events.Scalars("validation/score")]
    assert scores == pytest.approx([row["score"] for row in record["selection"]])  # float32 there
    assert [event.value for event in events.Scalars("test/score")] == pytest.approx([record["score"]])
