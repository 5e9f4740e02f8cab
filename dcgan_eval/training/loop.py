"""The training loop: rounds of one D and one G update, each on its own minibatch; resumable at any round."""

from __future__ import annotations

import csv
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TrainingError
from ..models.dcgan import build, sample_prior, to_unit_range
from ..models.presets import get_preset
from ..models.weights import save_network
from ..seeding import derive, rng, torch_generator
from .checkpoint import Parts, find_checkpoints, load_checkpoint, read_state, save_checkpoint
from .config import TrainingConfig
from .phases import step_discriminator, step_generator

LOG_EVERY_ROUNDS = 20
CHECKPOINT_EVERY_S = 300.0


class Trainer:
    """A pair in training.

    Every random number derives from (seed, round), so a resumed run equals an uninterrupted one: bit for bit on a CPU
    with the same number of threads.

    Parameters
    ----------
    config : TrainingConfig
        What to do.
    images_NHWC : ndarray
        Real images, uint8, (N, H, W, C), of the preset's size.
    device : str
        Where to train.

    Raises
    ------
    TrainingError
        The images do not fit the preset.
    """

    def __init__(self, config: TrainingConfig, images_NHWC: np.ndarray, device: str = "cpu"):
        self.config, self.device = config, torch.device(device)
        self.ladder = get_preset(config.preset)
        wanted = (self.ladder.image_size, self.ladder.image_size, self.ladder.image_channels)
        if images_NHWC.shape[1:] != wanted or len(images_NHWC) < config.batch_size:
            raise TrainingError(
                f"The images do not fit the preset {config.preset!r}",
                got=f"{len(images_NHWC)} images of shape {images_NHWC.shape[1:]}",
                expected=f"at least {config.batch_size} images of shape {wanted}",
                remedy="choose another preset or resize the images",
            )
        self.images_NHWC = torch.from_numpy(images_NHWC).to(self.device)
        D, G = build(self.ladder, derive(config.seed, "weights"))
        self.D = D.to(self.device).to(memory_format=torch.channels_last)
        self.G = G.to(self.device).to(memory_format=torch.channels_last)
        self.adam_D, self.adam_G = (
            torch.optim.Adam(net.parameters(), config.learning_rate, (config.beta1, config.beta2), fused=True)
            for net in (self.D, self.G)
        )
        self.parts: Parts = {"D": self.D, "G": self.G, "adam_D": self.adam_D, "adam_G": self.adam_G}
        self.rounds_done = 0
        self._order = (-1, torch.empty(0, dtype=torch.long))

    @property
    def seen_images(self) -> int:
        """Real images seen so far, D's and G's minibatches together."""
        return 2 * self.config.batch_size * self.rounds_done

    def step(self) -> dict[str, Tensor]:
        """Do one round; return the losses as tensors on the device (no synchronisation)."""
        latent = torch_generator(self.config.seed, "latent", device=self.device, round=self.rounds_done)
        z_D = sample_prior(self.ladder, self.config.batch_size, latent)
        z_G = sample_prior(self.ladder, self.config.batch_size, latent)
        for optimiser in (self.adam_D, self.adam_G):
            optimiser.param_groups[0]["lr"] = self.config.learning_rate_at(self.seen_images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.compute == "bfloat16"):
            losses = step_discriminator(self.D, self.G, self.adam_D, self._minibatch(), z_D)
            losses |= step_generator(self.D, self.G, self.adam_G, z_G)
        self.rounds_done += 1
        return losses

    def _minibatch(self) -> Tensor:
        """Return D's minibatch of the round; G's own follows it in the order and is only counted."""
        size, num_images = self.config.batch_size, len(self.images_NHWC)
        per_epoch = num_images // size
        epoch, position = divmod(2 * self.rounds_done, per_epoch)
        if self._order[0] != epoch:
            order = rng(self.config.seed, "order", epoch=epoch).permutation(num_images)
            self._order = (epoch, torch.from_numpy(order).to(self.device))
        rows = self._order[1][position * size : (position + 1) * size]
        x_NCHW = to_unit_range(self.images_NHWC[rows])
        return self._flipped(x_NCHW) if self.config.flip else x_NCHW

    def _flipped(self, x_NCHW: Tensor) -> Tensor:
        """Mirror a random half of a minibatch."""
        coin = torch_generator(self.config.seed, "flip", device=self.device, round=self.rounds_done)
        mirrored = torch.rand(len(x_NCHW), 1, 1, 1, generator=coin, device=self.device) < 0.5
        return torch.where(mirrored, x_NCHW.flip(3), x_NCHW).contiguous(memory_format=torch.channels_last)

    def save(self, folder: Path, log: list[dict[str, float]]) -> Path:
        """Write a checkpoint of this moment."""
        return save_checkpoint(folder, self.rounds_done, self.parts, {"config": self.config.as_dict(), "log": log})

    def load(self, path: Path) -> list[dict[str, float]]:
        """Continue from a checkpoint; return its log."""
        state = load_checkpoint(path, self.parts)
        self.rounds_done = state["rounds_done"]
        return state["log"]


def train(
    trainer: Trainer,
    folder: Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, Any]:
    """Train until the configuration's number of images, a time limit, or SIGINT/SIGTERM; then save.

    Parameters
    ----------
    trainer : Trainer
        The pair.
    folder : Path
        Gets ``round-*.safetensors``, ``log.csv``, ``config.json`` and the two exported networks.
    resume : bool
        Continue from the newest checkpoint in ``folder``.
    max_minutes : float or None
        Stop cleanly after this time.
    on_log : callable
        Called with each row of the log.

    Returns
    -------
    dict
        ``status`` (``"finished"``, ``"time limit"`` or ``"interrupted"``), ``rounds_done``, ``seen_images``, the
        paths ``discriminator`` and ``generator``, and the ``log``.

    Raises
    ------
    TrainingError
        The folder holds a run and ``resume`` is false, the configuration differs, or the losses are not finite.
    """
    log = _begin(trainer, folder, resume)
    started = saved = time.monotonic()
    deadline = math.inf if max_minutes is None else started + 60 * max_minutes
    status = "finished"
    with _stop_requests() as stop:
        while trainer.rounds_done < trainer.config.total_rounds:
            losses = trainer.step()
            if trainer.rounds_done % LOG_EVERY_ROUNDS == 0:
                log.append(_log_row(trainer, losses))
                on_log(log[-1])
            if stop or time.monotonic() > deadline:
                status = "interrupted" if stop else "time limit"
                break
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                trainer.save(folder, log)
                saved = time.monotonic()
    return _end(trainer, folder, log, status)


def _begin(trainer: Trainer, folder: Path, resume: bool) -> list[dict[str, float]]:
    """Prepare the folder, or continue the run that it holds; return the log so far."""
    checkpoints = find_checkpoints(folder)
    if checkpoints and not resume:
        raise TrainingError(
            "The folder already holds a run", got=str(folder), remedy="continue with --resume or choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not checkpoints:
        (folder / "config.json").write_text(json.dumps(trainer.config.as_dict(), indent=2) + "\n")
        return []
    saved = read_state(checkpoints[-1])["config"]
    changed = {k: (saved.get(k), v) for k, v in trainer.config.as_dict().items() if saved.get(k) != v}
    if changed:
        raise TrainingError(
            "The run was started with another configuration",
            got=", ".join(f"{k}={new}" for k, (_, new) in changed.items()),
            expected=", ".join(f"{k}={old}" for k, (old, _) in changed.items()),
            remedy="resume with the same flags or start a new run with another --out",
        )
    return trainer.load(checkpoints[-1])


def _log_row(trainer: Trainer, losses: dict[str, Tensor]) -> dict[str, float]:
    """Read the losses; stop when they are not numbers."""
    values = {key: float(value) for key, value in losses.items()}
    if not all(map(math.isfinite, values.values())):
        raise TrainingError(
            f"Training diverged: a loss is not finite after {trainer.seen_images} images",
            got=str(values),
            remedy="resume from the last checkpoint with a lower --learning-rate",
        )
    return {"round": trainer.rounds_done, "seen_images": trainer.seen_images, "unix_time_s": time.time(), **values}


def _end(trainer: Trainer, folder: Path, log: list[dict[str, float]], status: str) -> dict[str, Any]:
    """Save everything and say where it is."""
    trainer.save(folder, log)
    if log:
        with open(folder / "log.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(log[0]))
            writer.writeheader()
            writer.writerows(log)
    card = {"config": trainer.config.as_dict(), "seen_images": trainer.seen_images, "last_log": log[-1] if log else {}}
    paths = {"discriminator": folder / "discriminator.safetensors", "generator": folder / "generator.safetensors"}
    save_network(trainer.D, paths["discriminator"], card=card)
    save_network(trainer.G, paths["generator"], card=card)
    return {
        "status": status,
        "rounds_done": trainer.rounds_done,
        "seen_images": trainer.seen_images,
        "log": log,
        **{key: str(path) for key, path in paths.items()},
    }


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
