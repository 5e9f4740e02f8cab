"""Scores and curves for experiment trackers: a table of adapters behind ``--log``; their failure costs no run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DcganEvalError, check_installed

PROJECT = "dcgan-eval"
Calls = tuple[Callable[..., Any], Callable[..., Any]]  # log(values, step=n), and the end


@dataclass(frozen=True)
class Adapter:
    """A row of the table.

    Attributes
    ----------
    package : str
        What must be importable; also what pip installs it as, and our extra.
    start : callable
        From a run's name, its settings and a folder to what logs and what ends it.
    """

    package: str
    start: Callable[[str, Mapping[str, Any], Path], Calls]


def _wandb(name: str, config: Mapping[str, Any], folder: Path) -> Calls:
    """Start a run of Weights & Biases."""
    import wandb

    run = wandb.init(project=PROJECT, name=name, config=dict(config))
    return run.log, run.finish


def _mlflow(name: str, config: Mapping[str, Any], folder: Path) -> Calls:
    """Start a run of MLflow, where its own settings say."""
    import mlflow

    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=name)
    mlflow.log_params(dict(config))
    return mlflow.log_metrics, mlflow.end_run


def _trackio(name: str, config: Mapping[str, Any], folder: Path) -> Calls:
    """Start a run of Trackio."""
    import trackio

    trackio.init(project=PROJECT, name=name, config=dict(config))
    return trackio.log, trackio.finish


def _tensorboard(name: str, config: Mapping[str, Any], folder: Path) -> Calls:
    """Write TensorBoard's events to a folder."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder))
    writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return log, writer.close


TRACKERS = {
    "wandb": Adapter("wandb", _wandb),
    "mlflow": Adapter("mlflow", _mlflow),
    "trackio": Adapter("trackio", _trackio),
    "tensorboard": Adapter("tensorboard", _tensorboard),
}


def check_tracker(kind: str) -> None:
    """Raise unless a tracker is installed.

    Raises
    ------
    DcganEvalError
        It is not.
    """
    check_installed(TRACKERS[kind].package, f"--log {kind}", extra=kind)


class Tracker:
    """A run that a tracker shows; once it has failed, nothing is sent any more, and nothing is raised.

    Parameters
    ----------
    kind : str or None
        A name of ``TRACKERS``; None shows nothing.
    name : str
        Of the run.
    config : mapping
        Its settings.
    folder : Path
        For TensorBoard's events.
    on_note : callable
        Called with a sentence when the tracker fails.

    Raises
    ------
    DcganEvalError
        The tracker is not installed, or cannot start: nothing is lost yet.
    """

    def __init__(
        self,
        kind: str | None,
        name: str = "",
        config: Mapping[str, Any] | None = None,
        folder: Path = Path("tensorboard"),
        on_note: Callable[[str], None] = lambda text: None,
    ):
        self.kind, self._on_note = kind, on_note
        self._calls: Calls | None = None
        if kind is None:
            return
        check_tracker(kind)
        try:
            with redirect_stdout(sys.stderr):  # standard output belongs to the command
                self._calls = TRACKERS[kind].start(name, config or {}, folder)
        except Exception as error:  # a tracker may raise anything
            raise DcganEvalError(
                f"{kind} cannot start", got=f"{type(error).__name__}: {error}", remedy="set it up, or leave out --log"
            ) from error

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Show the numbers among some values at a step."""
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self._call(0, numbers, step=step)

    def finish(self) -> None:
        """End the run."""
        self._call(1)
        self._calls = None

    def _call(self, which: int, *arguments: Any, **named: Any) -> None:
        """Call the tracker, for the last time if that fails."""
        if self._calls is None:
            return
        try:
            with redirect_stdout(sys.stderr):
                self._calls[which](*arguments, **named)
        except Exception as error:  # a tracker may raise anything, and no result is worth less for it
            self._calls = None
            self._on_note(f"{self.kind} failed and is shown nothing more ({type(error).__name__}: {error})")


@contextmanager
def tracking(*arguments: Any) -> Iterator[Tracker]:
    """Open a :class:`Tracker`, and end its run however the work ends."""
    tracker = Tracker(*arguments)
    try:
        yield tracker
    finally:
        tracker.finish()
