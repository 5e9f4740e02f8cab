"""What a run will cost: parameters, arithmetic, memory and time, before it is started."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .config import TrainingConfig
from .trainer import BaseTrainer, Trainer

_FLOP_BATCH = 4
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
        Multiplications and additions, forward and backward, of all updates, counted on a small minibatch and scaled.
    """
    small = replace(config, batch_size=_FLOP_BATCH, held_out=0, start="", compute="float32")
    images = np.zeros((_FLOP_BATCH, *config.architecture.image_shape), np.uint8)
    trainer = kind(small, images, labels_N=np.zeros(_FLOP_BATCH, np.int64))
    with FlopCounterMode(display=False) as counter:
        trainer.step()
    return counter.get_total_flops() * config.batch_size / _FLOP_BATCH


def estimate(trainer: BaseTrainer, rounds: int = 3) -> dict[str, Any]:
    """Measure some rounds and say what the whole run costs; the trainer is not to be used afterwards.

    Parameters
    ----------
    trainer : BaseTrainer
        As it would start.
    rounds : int
        Rounds to measure, after one to warm up.

    Returns
    -------
    dict
        ``parameters`` (of D and G), ``flops_per_image``, ``state_bytes`` (parameters, gradients and Adam's moments),
        ``data_bytes``, ``images_per_s``, ``flops_per_s``, ``expected_hours``, and on a GPU ``peak_device_bytes``.
    """
    config, on_gpu = trainer.config, trainer.device.type == "cuda"
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in (("D", trainer.D), ("G", trainer.G))}
    images_per_round = config.minibatches_per_round * config.batch_size
    per_image = flops_per_round(config, type(trainer)) / images_per_round
    _wait(trainer.step())
    started = time.perf_counter()
    for _ in range(rounds):
        losses = trainer.step()
    _wait(losses)
    images_per_s = images_per_round * rounds / (time.perf_counter() - started)
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


def _wait(losses: dict[str, Tensor]) -> None:
    """Wait until the device has done a round."""
    for value in losses.values():
        float(value)
