"""What a run will cost: parameters, arithmetic, memory and time, before it is started."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
    per_image, _ = _small_rounds(config, kind)
    return per_image * config.minibatches_per_round * config.batch_size


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
    per_image, images_per_s = _small_rounds(config, type(trainer))
    images_per_s = _images_per_s(trainer) if on_gpu else images_per_s * trainer.team.size
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


def _small_rounds(config: TrainingConfig, kind: type[BaseTrainer]) -> tuple[float, float]:
    """Do a cycle of rounds on black images, in a small minibatch; return operations for each image, and images/s.

    No optimiser is made, since its steps take the same time whatever the minibatch.
    """
    few = replace(config, batch_size=_SMALL, total_images=2 * _SMALL, held_out=0, start="", decay_images=0)
    images = np.zeros((_SMALL, *config.architecture.image_shape), np.uint8)
    trainer = kind(few, images, labels_N=np.zeros(_SMALL, np.int64), moves=False)
    with _Operations() as counted:
        images_per_s = _images_per_s(trainer)
    return counted.total / (trainer.cycle * config.minibatches_per_round * _SMALL), images_per_s


class _Operations(TorchDispatchMode):
    """Counts as torch's ``FlopCounterMode`` does, which imports the compiler and Triton, and takes seconds for that."""

    total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out, name = func(*args, **(kwargs or {})), func._overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.total += 2 * args[0].numel() * args[1].shape[-1]
        elif name in ("addmm", "baddbmm"):
            self.total += 2 * args[1].numel() * args[2].shape[-1]
        elif name == "convolution":
            self.total += _of_convolution(out, *args[:2], transposed=args[6])
        elif name == "convolution_backward":  # as much again for each gradient, of the images and of the weights
            self.total += sum(args[-1][:2]) * _of_convolution(*args[:3], transposed=args[7])
        return out


def _of_convolution(y_NCHW: Tensor, x_NCHW: Tensor, weight: Tensor, *, transposed: bool) -> int:
    """Return the operations of a convolution from x to y: each weight once at every place of the smaller map."""
    return 2 * len(x_NCHW) * (x_NCHW if transposed else y_NCHW)[0, 0].numel() * weight.numel()


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
