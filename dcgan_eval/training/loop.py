"""The training loop: rounds, log, measurements and checkpoints, until the end, a time limit or a signal."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from torch import Tensor

from ..errors import TrainingError
from ..files import check_target, locked, write_file
from ..models.weights import NETWORKS, save_network
from ..progress import Progress, no_progress
from ..tracking import Tracker
from .checkpoint import clear_leftovers, find_checkpoints, newest_checkpoint, read_state
from .config import TrainingConfig
from .health import Health
from .log import Row, Table
from .schedule import Measurement
from .trainer import BaseTrainer

LOG_EVERY_ROUNDS = 20
FIXED = ("preset", "width", "objective", "batch_size", "held_out", "rotation", "start", "seed")
"""Fields that cannot change within a run: they decide what its state and its position mean."""

EXTENDED = ("total_images", "decay_images")
"""Fields that may change when a run is continued: how long it goes on, and whether its learning rate decays."""


@dataclass(frozen=True)
class RunOptions:
    """How a run goes on, apart from what it computes.

    Attributes
    ----------
    resume : bool
        Continue from the newest good checkpoint in the folder.
    allow_changes : bool
        Continue although the configuration differs; the change is kept in the checkpoints.
    max_minutes : float or None
        Stop cleanly after this time.
    checkpoint_minutes : float
        Time between checkpoints.
    part_bytes : int or None
        Size at which a checkpoint is cut into files.
    log : str or None
        Tracker that is shown the tables' rows (:data:`~dcgan_eval.tracking.TRACKERS`).
    """

    resume: bool = False
    allow_changes: bool = False
    max_minutes: float | None = None
    checkpoint_minutes: float = 5.0
    part_bytes: int | None = None
    log: str | None = None


def train(
    trainer: BaseTrainer,
    folder: Path,
    options: RunOptions = RunOptions(),
    *,
    measurements: Sequence[Measurement] = (),
    about: dict[str, Any] | None = None,
    on_log: Callable[[Row], None] = lambda row: None,
    on_event: Callable[[str], None] = lambda text: None,
    on_progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train until the configuration's number of images, a time limit, or SIGINT/SIGTERM; then save.

    Parameters
    ----------
    trainer : BaseTrainer
        What is trained.
    folder : Path
        Gets ``round-*/`` (checkpoints), ``log.csv`` and a table for each measurement, ``config.json``,
        ``discriminator.safetensors`` and ``generator.safetensors``, and in ``best/`` those with the best score.
    options : RunOptions
        Resuming, time limit, checkpoints.
    measurements : sequence of Measurement
        What to measure on the way.
    about : dict, optional
        JSON-able facts for the model card. A run is continued only on data with the ``fingerprint`` that ``data``
        has here.
    on_log, on_event : callable
        Called with each row of the log, and with sentences about what happens.
    on_progress : Progress
        Called with what is done before the first round.

    Returns
    -------
    dict
        ``status`` (``"finished"``, ``"time limit"`` or ``"interrupted"``), ``rounds_done``, ``seen_images``,
        ``images_per_s`` of this call, and the paths ``discriminator`` and, if there is one, ``generator``.

    Raises
    ------
    TrainingError
        The folder holds a run and ``resume`` is false, another process trains in it, the configuration or the data
        differ, training diverged or collapsed, or a file cannot be written.
    """
    with _alone_in(folder, trainer):
        return _Run(trainer, folder, options, measurements, about or {}, on_log, on_event, on_progress).go()


class _Run:
    """One call of :func:`train`."""

    def __init__(
        self,
        trainer: BaseTrainer,
        folder: Path,
        options: RunOptions,
        measurements: Sequence[Measurement],
        about: dict[str, Any],
        on_log: Callable[[Row], None],
        on_event: Callable[[str], None],
        on_progress: Progress,
    ):
        self.trainer, self.folder, self.options, self.about = trainer, folder, options, about
        self.measurements, self.on_log, self.on_event = measurements, on_log, on_event
        self.on_progress = on_progress
        self.leads, self.health, self.history = trainer.team.leads, Health(), list[dict[str, Any]]()
        self._begin()
        self.first_round, self.started = trainer.rounds_done, time.monotonic()
        self.saved = self.started

    def go(self) -> dict[str, Any]:
        """Train; return how it ended."""
        status, check_every = "finished", 1 if self.trainer.team.size == 1 else LOG_EVERY_ROUNDS
        with _stop_requests() as stop:
            while self.trainer.rounds_done < self.trainer.config.total_rounds:
                self._round()
                if self.trainer.rounds_done % check_every == 0 and (reason := self._must_stop(bool(stop))):
                    status = reason
                    break
        return self._end(status)

    def _round(self) -> None:
        """Do one round and what is due after it."""
        before = self.trainer.seen_images
        losses = self.trainer.step()
        if not self.leads:
            return
        if self.trainer.rounds_done % LOG_EVERY_ROUNDS == 0:
            self._log(losses)
        for measurement in self.measurements:
            if measurement.is_due(before, self.trainer.seen_images):
                self._measure(measurement)
        if time.monotonic() - self.saved >= 60 * self.options.checkpoint_minutes and not self.health.bad_rows:
            self._save()

    def _must_stop(self, requested: bool) -> str | None:
        """Tell why all processes must stop, if they must."""
        limit = self.options.max_minutes
        late = limit is not None and time.monotonic() - self.started >= 60 * limit
        code = self.trainer.team.agree(2 if requested else int(late), self.trainer.device)
        return (None, "time limit", "interrupted")[code]

    def _begin(self) -> None:
        """Prepare the folder, or continue the run that it holds."""
        newest = self.trainer.team.decided(self._chosen)
        if newest:
            self._continue(newest)
        else:
            self.trainer.initialise(self.on_progress)
        if not self.leads:
            return
        write_file(self.folder / "config.json", json.dumps(self.trainer.config.as_dict(), indent=2) + "\n")
        names = ("log", *(measurement.name for measurement in self.measurements))
        self.tables = {name: Table(self.folder / f"{name}.csv", self.trainer.rounds_done) for name in names}
        config = self.trainer.config.as_dict()
        self.tracker = Tracker(self.options.log, self.folder.name, config, self.folder / "tensorboard", self.on_event)

    def _chosen(self) -> Path | None:
        """Choose the checkpoint to continue from, if any; see first that all that is written at the end can be."""
        if find_checkpoints(self.folder) and not self.options.resume:
            raise TrainingError(
                "The folder already holds a run",
                got=str(self.folder),
                remedy="continue with --resume or choose another --out",
            )
        names = ["config.json", "log.csv", *(f"{measurement.name}.csv" for measurement in self.measurements)]
        for name in (*names, *(f"{part}{kind}.safetensors" for kind in NETWORKS for part in ("", "best/"))):
            check_target(self.folder / name, "--out", TrainingError)
        clear_leftovers(self.folder)
        self.trainer.networks()  # what is exported
        return newest_checkpoint(self.folder)

    def _continue(self, path: Path) -> None:
        """Take up a checkpoint, if its configuration allows."""
        state = read_state(path)
        self.history = state.get("history", [])
        changed = self._changes(state)
        fixed = [key for key in changed if key in FIXED]
        if fixed or (changed.keys() - {*EXTENDED} and not self.options.allow_changes):
            raise TrainingError(
                "The run was started with another configuration",
                got=", ".join(f"{key}={new}" for key, (_, new) in changed.items()),
                expected=", ".join(f"{key}={old}" for key, (old, _) in changed.items()),
                remedy="start a new run with another --out: " + ", ".join(fixed) + " cannot change within one"
                if fixed
                else "resume with the same options, or with --allow-changes, or start a new run with another --out",
            )
        if changed:
            self.history.append({"rounds_done": state["rounds_done"], "changed": changed})
            self.on_event("Changed: " + ", ".join(f"{key} from {old} to {new}" for key, (old, new) in changed.items()))
        self.trainer.load(path)
        if path != find_checkpoints(self.folder)[-1]:
            self.on_event(f"The newest checkpoint is damaged; continuing from {path.name}")

    def _changes(self, state: dict[str, Any]) -> dict[str, list[Any]]:
        """Return what differs from a checkpoint's configuration and data: name -> before, now."""
        config = self.trainer.config.as_dict()
        earlier = TrainingConfig().as_dict() | state["config"]  # a checkpoint of before may lack newer fields
        changed = {key: [earlier[key], value] for key, value in config.items() if earlier[key] != value}
        data = [_fingerprint(about) for about in (state.get("about", {}), self.about)]
        return changed | ({"data": data} if None not in data and data[0] != data[1] else {})

    def _log(self, losses: dict[str, Tensor]) -> None:
        """Tabulate the losses; stop when training has failed."""
        row = self._position() | {key: float(value) for key, value in losses.items()}
        self.health.check(row, next(iter(find_checkpoints(self.folder)[::-1]), None))
        self.tables["log"].append(row)
        self._show("training", row)
        self.on_log(row)

    def _measure(self, measurement: Measurement) -> None:
        """Tabulate a measurement; keep the networks if their score is the best so far."""
        row = self._position() | measurement.measure(self.trainer)
        table = self.tables[measurement.name]
        if "score" in row and row["score"] > max((old["score"] for old in table.rows), default=-math.inf):
            self._export(self.folder / "best", {measurement.name: row})
        table.append(row)
        self._show(measurement.name, row)
        shown = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in self._position())
        self.on_event(f"{self.trainer.seen_images:>12,} images  {measurement.name}" + (f": {shown}" if shown else ""))

    def _show(self, name: str, row: Row) -> None:
        """Show a row to the tracker, against the images seen."""
        values = {f"{name}/{key}": value for key, value in row.items() if key != "seen_images"}
        self.tracker.log(values, int(row["seen_images"]))

    def _measure_end(self) -> None:
        """Measure what a finished run has come to, unless it just was."""
        for measurement in self.measurements:
            rows = self.tables[measurement.name].rows
            if not rows or rows[-1]["round"] < self.trainer.rounds_done:
                self._measure(measurement)

    def _position(self) -> Row:
        """Return the columns that every table begins with."""
        trainer = self.trainer
        return {"round": trainer.rounds_done, "seen_images": trainer.seen_images, "unix_time_s": time.time()}

    def _save(self) -> None:
        """Write a checkpoint."""
        self.trainer.save(self.folder, {"history": self.history, "about": self.about}, self.options.part_bytes)
        self.saved = time.monotonic()

    def _export(self, folder: Path, facts: dict[str, Any]) -> dict[str, str]:
        """Write the networks with their card; return their paths."""
        trainer = self.trainer
        rows = self.tables["log"].rows
        card: dict[str, Any] = {"config": trainer.config.as_dict(), "departures": trainer.config.departures()}
        card |= {"seen_images": trainer.seen_images, "last_log": rows[-1] if rows else {}, "history": self.history}
        card |= self.about | facts
        pair = zip(NETWORKS, trainer.networks(), strict=True)
        networks = {name: network for name, network in pair if network is not None}
        for name, network in networks.items():
            save_network(network, folder / f"{name}.safetensors", card=card)
        return {name: str(folder / f"{name}.safetensors") for name in networks}

    def _end(self, status: str) -> dict[str, Any]:
        """Save everything and say where it is."""
        trained_s = time.monotonic() - self.started
        trained = self.trainer.rounds_done - self.first_round
        images_per_round = self.trainer.config.minibatches_per_round * self.trainer.config.batch_size
        paths: dict[str, str] = {}
        if self.leads:
            if status == "finished":
                self._measure_end()
            self._save()
            paths = self._export(self.folder, {})
            self.tracker.finish()
        return {
            "status": status,
            "rounds_done": self.trainer.rounds_done,
            "seen_images": self.trainer.seen_images,
            "images_per_s": trained * images_per_round / trained_s,
            **paths,
        }


def _fingerprint(about: dict[str, Any]) -> str | None:
    """Say which images a run was trained on."""
    data = about.get("data")
    return (
        f"{data.get('name')} ({str(data['fingerprint'])[:16]})"
        if isinstance(data, dict) and "fingerprint" in data
        else None
    )


@contextmanager
def _alone_in(folder: Path, trainer: BaseTrainer) -> Iterator[None]:
    """Hold the folder's lock for the whole run, in the process that leads; all are told if it cannot be had."""
    with ExitStack() as held:

        def take() -> None:
            check_target(folder / "log.csv", "--out", TrainingError)
            try:
                held.enter_context(locked(folder / "run", wait=False))
            except Timeout as busy:
                raise TrainingError(
                    "Another process is training in the folder",
                    got=str(folder),
                    remedy="wait for it to end, or choose another --out",
                ) from busy

        trainer.team.decided(take)
        yield


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that the round in progress is finished first."""
    received: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
