"""The discriminator's architecture trained end to end with labels, by a seeded random search.

Source: arXiv:1511.06434, section 5.2 (the ladder, 64 trials, validation error). Deviations: the paper does not
name the ranges of the search; ours are those of :func:`draw_trial`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.imageset import ImageSet
from ..data.splits import by_label
from ..devices import COMPUTE_TYPES, arithmetic, computing
from ..errors import DcganEvalError, TrainingError
from ..files import check_regular, locked, write_file
from ..models.dcgan import Discriminator, LadderDiscriminator, initialise, to_unit_range
from ..models.presets import GRID, get_ladder
from ..progress import Progress
from ..provenance import digest
from ..seeding import derive, rng

_FORMAT = "dcgan-eval-search-2"  # 2 adds a digest
_WAITING = "waiting for another process that searches the same"
_EVALUATED_AT_ONCE = 250


@dataclass(frozen=True)
class SearchOptions:
    """What is searched and for how long.

    Attributes
    ----------
    preset : str
        Architecture: the discriminator's ladder with one output per class.
    trials : int
        Draws of the hyperparameters; the paper's number is 64.
    epochs : int
        Of each trial.
    batch_size : int
        Images per minibatch.
    seed : int
        Of hyperparameters, weights, order and dropout.
    """

    preset: str = "imagenet32"
    trials: int = 64
    epochs: int = 20
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        get_ladder(self.preset)
        for flag, value, least in (("--trials", self.trials, 1), ("--epochs", self.epochs, 1)):
            if value < least:
                raise DcganEvalError(
                    f"The value of {flag} cannot be used",
                    got=str(value),
                    expected=f"at least {least}",
                    remedy=f"raise {flag}",
                )


def draw_trial(seed: int, trial: int) -> dict[str, float]:
    """Return the hyperparameters of a trial: the same for a number of trials of any size.

    Learning rate of Adam log-uniform in 1e-4 to 3e-3, dropout before the last layer uniform in 0 to 0.7, decoupled
    weight decay log-uniform in 1e-6 to 1e-1.
    """
    draw = rng(seed, "supervised search", trial=trial)
    return {
        "learning_rate": float(10 ** draw.uniform(-4, np.log10(3e-3))),
        "dropout": float(draw.uniform(0, 0.7)),
        "weight_decay": float(10 ** draw.uniform(-6, -1)),
    }


def build_network(preset: str, num_classes: int, dropout: float) -> Discriminator:
    """Return an untrained discriminator with one logit per class; torch's global generator is used."""
    D = LadderDiscriminator(get_ladder(preset))
    head = nn.Linear(D.trunk_width, num_classes)
    nn.init.zeros_(head.bias)
    initialise(head)
    D.linear = nn.Sequential(nn.Dropout(dropout), head)  # type: ignore[assignment]
    return D


class SupervisedSearch:
    """Random search; finished trials are kept in a file, so that a stopped search goes on.

    Parameters
    ----------
    options : SearchOptions
        What to search.
    cache_dir : Path
        Folder of that file.
    device : torch.device
        Where to train.
    max_minutes : float or None
        No epoch is begun after this time; the trial under way is given up.
    """

    def __init__(
        self,
        options: SearchOptions,
        cache_dir: Path,
        device: torch.device | str = "cpu",
        max_minutes: float | None = None,
    ):
        self.options, self.cache_dir, self.device = options, cache_dir, torch.device(device)
        self.max_minutes = max_minutes
        self.compute = arithmetic("auto", self.device)[0]
        self.name = f"supervised:{options.preset}"
        self.num_features = get_ladder(options.preset).rungs[-1].channels * GRID * GRID

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers."""
        return {"name": self.name, "weights_sha256": None, **asdict(self.options), "compute": self.compute}

    def run(self, train: ImageSet, validation: ImageSet, progress: Progress) -> list[dict[str, Any]]:
        """Train every trial that is not yet finished.

        Parameters
        ----------
        train, validation : ImageSet
            With labels.
        progress : callable
            Called after each epoch.

        Returns
        -------
        list of dict
            One for each finished trial: ``trial``, its hyperparameters, ``score`` (best validation accuracy over its
            epochs), ``epoch``, ``curve`` (all epochs), ``confusion`` at the best, ``time_s``.

        Raises
        ------
        TrainingError
            Images that do not fit the preset, or not one trial finished in time.
        """
        self._check(train)
        path = self._path(train, validation)
        deadline = np.inf if self.max_minutes is None else time.monotonic() + 60 * self.max_minutes
        with _alone(path, progress):
            finished = _read(path)
            for trial in range(len(finished), self.options.trials):
                found = self._trial(trial, train, validation, deadline, progress)
                if found is None:
                    break
                finished.append(found)
                _write(path, finished)
        if not finished:
            raise TrainingError(
                "No trial was finished in time",
                got=f"--max-minutes {self.max_minutes:g}",
                remedy="raise --max-minutes, or lower --epochs",
            )
        return finished[: self.options.trials]

    def _check(self, train: ImageSet) -> None:
        """Raise unless the images fit the ladder."""
        ladder = get_ladder(self.options.preset)
        wanted = (ladder.image_size, ladder.image_size, ladder.image_channels)
        if train.image_shape != wanted:
            raise TrainingError(
                f"The images of {train.name} do not fit the preset {ladder.name!r}",
                got=f"shape {train.image_shape}",
                expected=f"shape {wanted}",
                remedy="choose another --preset",
            )

    def _path(self, train: ImageSet, validation: ImageSet) -> Path:
        """Return the file of finished trials: its name is a hash of all that decides them but their number."""
        options = {key: value for key, value in asdict(self.options).items() if key != "trials"}
        identity = [_FORMAT, options, self.compute, train.fingerprint, validation.fingerprint]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return self.cache_dir / f"supervised-{key}.json"

    def _trial(
        self, trial: int, train: ImageSet, validation: ImageSet, deadline: float, progress: Progress
    ) -> dict[str, Any] | None:
        """Train one trial; return None when the time is over."""
        began, drawn = time.perf_counter(), draw_trial(self.options.seed, trial)
        curve: list[float] = []
        best: dict[str, Any] = {"score": -1.0}
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive(self.options.seed, "supervised weights and dropout", trial=trial))
            epochs = self._epochs(trial, drawn, train)
            while len(curve) < self.options.epochs:
                if time.monotonic() > deadline:
                    return None
                network = next(epochs)
                confusion = self._confusion(network, validation)
                curve.append(float(np.trace(confusion) / confusion.sum()))
                if curve[-1] > best["score"]:
                    best = {"score": curve[-1], "epoch": len(curve), "confusion": confusion.tolist()}
                done = trial * self.options.epochs + len(curve)
                what = f"trial {trial + 1} of {self.options.trials}: validation {max(curve):.1%}"
                progress(what, done, self.options.trials * self.options.epochs)
        return {"trial": trial, **drawn, **best, "curve": curve, "time_s": time.perf_counter() - began}

    def _epochs(self, trial: int, drawn: dict[str, float], train: ImageSet) -> Iterator[nn.Module]:
        """Yield the network after every epoch."""
        network = build_network(self.options.preset, train.num_classes, drawn["dropout"])
        network.to(self.device).to(memory_format=torch.channels_last)
        adam = torch.optim.AdamW(
            network.parameters(), drawn["learning_rate"], weight_decay=drawn["weight_decay"], fused=True
        )
        grouped = by_label(train, train.canonical_order)
        images = torch.from_numpy(train.images[grouped])
        labels = torch.from_numpy(train.labels[grouped])  # type: ignore[index]
        for epoch in range(self.options.epochs):
            network.train()
            order = rng(self.options.seed, "supervised order", trial=trial, epoch=epoch).permutation(len(images))
            for rows in torch.from_numpy(order).split(self.options.batch_size):
                loss = F.cross_entropy(self._logits(network, images[rows]), labels[rows].to(self.device))
                adam.zero_grad()
                loss.backward()
                adam.step()
            yield network

    def _logits(self, network: nn.Module, images_NHWC: Tensor) -> Tensor:
        """Return float32 logits (N, classes) of uint8 images."""
        with computing(COMPUTE_TYPES[self.compute], self.device):
            logits: Tensor = network(to_unit_range(images_NHWC.to(self.device)))
        return logits.float()

    def _confusion(self, network: nn.Module, images: ImageSet) -> np.ndarray:
        """Return the counts (labels, predictions) of a set of images, batch norm by its running averages."""
        network.eval()
        with torch.no_grad():
            batches = torch.from_numpy(images.images).split(_EVALUATED_AT_ONCE)
            predicted = torch.cat([self._logits(network, batch).argmax(1) for batch in batches]).cpu().numpy()
        assert images.labels is not None, "the protocol gives labelled images"
        pairs = images.labels * images.num_classes + predicted
        return np.bincount(pairs, minlength=images.num_classes**2).reshape(images.num_classes, -1)


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a search, after waiting for another process that makes the same one."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, on_wait=lambda: progress(_WAITING, 0, 1)))
        except OSError as error:
            raise _unkept(path, error) from error
        yield


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the finished trials that a file holds, none where there is no file yet."""
    try:
        check_regular(path)
        values = json.loads(path.read_bytes())
        if values["sha256"] != _digest(values["trials"]):
            raise ValueError("it has changed since it was written")
        return list(values["trials"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(
            "Finished trials cannot be read", got=f"{path}: {error}", remedy=f"delete {path} to search from the start"
        ) from error


def _write(path: Path, trials: list[dict[str, Any]]) -> None:
    """Keep the finished trials."""
    try:
        write_file(path, json.dumps({"format": _FORMAT, "trials": trials, "sha256": _digest(trials)}))
    except OSError as error:
        raise _unkept(path, error) from error


def _unkept(path: Path, error: OSError) -> TrainingError:
    """Build the error for a file that cannot be written (not raised here)."""
    return TrainingError("Finished trials cannot be kept", got=f"{path}: {error}", remedy="give another --cache-dir")


def _digest(trials: list[dict[str, Any]]) -> str:
    """Return the SHA-256 of trials in one spelling."""
    return digest(json.dumps(trials, sort_keys=True))
