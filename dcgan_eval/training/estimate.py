"""What a run will cost: parameters, arithmetic, memory and time, before it is started."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..models.presets import get_preset
from .config import TrainingConfig
from .trainer import Trainer

_FLOP_BATCH = 4
_FLOAT32_BYTES = 4
_COPIES = 4  # parameter, gradient and Adam's two moments


def flops_per_round(config: TrainingConfig) -> float:
    """Count the floating-point operations of a round, matrix products and convolutions alone.

    Parameters
    ----------
    config : TrainingConfig
        Preset and batch size decide.

    Returns
    -------
    float
        Multiplications and additions, forward and backward, of both updates, counted on a small minibatch and scaled.
    """
    small = TrainingConfig(preset=config.preset, batch_size=_FLOP_BATCH, rotation=config.rotation)
    images = np.zeros((_FLOP_BATCH, *get_preset(config.preset).image_shape), np.uint8)
    trainer = Trainer(small, images, labels_N=np.zeros(_FLOP_BATCH, np.int64))
    with FlopCounterMode(display=False) as counter:
        trainer.step()
    return counter.get_total_flops() * config.batch_size / _FLOP_BATCH


def estimate(trainer: Trainer, rounds: int = 3) -> dict[str, Any]:
    """Measure some rounds and say what the whole run costs; the trainer is not to be used afterwards.

    Parameters
    ----------
    trainer : Trainer
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
    per_image = flops_per_round(config) / (2 * config.batch_size)
    float(trainer.step()["g_loss"])
    started = time.perf_counter()
    for _ in range(rounds):
        losses = trainer.step()
    float(losses["g_loss"])  # waits for the device
    images_per_s = 2 * config.batch_size * rounds / (time.perf_counter() - started)
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
