"""What a run will cost: parameters, arithmetic, memory and time, before it is started."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .config import TrainingConfig
from .trainer import BaseTrainer, Trainer

_SMALL = 8  # images of the minibatch that is counted and, on a CPU, whose speed hardly depends on it, timed
_FLOAT32_BYTES = 4
_COPIES = 4  # parameter, gradient and Adam's two moments


def flops_per_round(config: TrainingConfig, kind: type[BaseTrainer] = Trainer) -> float:
    """Count the floating-point operations of a round, matrix products and convolutions alone.

    Parameters
    ----------
    config : TrainingConfig
        Preset, objective and batch size decide.
    kind : type
        Of the trainer.

    Returns
    -------
    float
        Multiplications and additions, forward and backward, of all updates, counted on a small minibatch and scaled;
        the mean of a cycle's rounds.
    """
    return _count(_small(config, kind)) * config.batch_size / _SMALL


def estimate(trainer: BaseTrainer) -> dict[str, Any]:
    """Measure some rounds and say what the whole run costs; the trainer is not to be used afterwards.

    Parameters
    ----------
    trainer : BaseTrainer
        As it would start; its images are not looked at on a CPU.

    Returns
    -------
    dict
        ``parameters`` (of D and G), ``flops_per_image``, ``state_bytes`` (parameters, gradients and Adam's moments),
        ``data_bytes``, ``images_per_s``, ``flops_per_s``, ``expected_hours``, and on a GPU ``peak_device_bytes``.
    """
    config, on_gpu = trainer.config, trainer.device.type == "cuda"
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in (("D", trainer.D), ("G", trainer.G))}
    small = _small(config, type(trainer))
    per_image = _count(small) / (config.minibatches_per_round * _SMALL)
    images_per_s = _images_per_s(trainer) if on_gpu else _images_per_s(small) * trainer.team.size
    found = {
        "parameters": parameters,
        "flops_per_image": per_image,
        "state_bytes": _COPIES * _FLOAT32_BYTES * sum(parameters.values()),
        "data_bytes": trainer.feed.num_bytes,
        "images_per_s": images_per_s,
        "flops_per_s": per_image * images_per_s,
        "expected_hours": config.total_images / images_per_s / 3600,
    }
    return found | ({"peak_device_bytes": torch.cuda.max_memory_allocated(trainer.device)} if on_gpu else {})


def _small(config: TrainingConfig, kind: type[BaseTrainer]) -> BaseTrainer:
    """Return a trainer of black images with a small minibatch; Adam's steps take the same time with any."""
    few = replace(config, batch_size=_SMALL, total_images=2 * _SMALL, held_out=0, start="", decay_images=0)
    images = np.zeros((_SMALL, *config.architecture.image_shape), np.uint8)
    return kind(few, images, labels_N=np.zeros(_SMALL, np.int64), moves=False)


def _count(trainer: BaseTrainer) -> float:
    """Count the operations of a round, as the mean of a cycle's."""
    with _Operations() as counted:
        for _ in range(trainer.cycle):
            trainer.step()
    return counted.total / trainer.cycle


class _Operations(TorchDispatchMode):
    """Counts as torch's ``FlopCounterMode`` does, by its formulas, but without the compiler that this imports."""

    total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        return out


def _images_per_s(trainer: BaseTrainer) -> float:
    """Measure a cycle of rounds; on a GPU after one to warm up."""
    if trainer.device.type == "cuda":
        _wait(trainer.step())
    started = time.perf_counter()
    for _ in range(trainer.cycle):
        losses = trainer.step()
    _wait(losses)
    images = trainer.cycle * trainer.config.minibatches_per_round * trainer.config.batch_size
    return images / (time.perf_counter() - started)


def _wait(losses: dict[str, Tensor]) -> None:
    """Wait until the device has done a round."""
    for value in losses.values():
        float(value)
