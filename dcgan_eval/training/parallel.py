"""Training over several processes, as ``torchrun`` starts them: equal shares of a minibatch, averaged gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import DcganEvalError, TrainingError

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long the others wait while the process that leads measures; NCCL alone would give up after ten minutes."""


@dataclass(frozen=True)
class Team:
    """This process among those of a run.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's rows of a minibatch, or of what belongs to one."""
        return batch if self.size == 1 else batch.chunk(self.size)[self.rank]

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients over the processes, in place, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def follow_leader(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, in place, by those of the process that leads."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def decided(self, decide: Callable[[], T]) -> T:
        """Return what the process that leads decides, or raise in all processes what it raises."""
        if self.size == 1:
            return decide()
        said: list[Any] = [None, None]
        if self.leads:
            try:
                said[0] = decide()
            except DcganEvalError as error:
                said[1] = error
        dist.broadcast_object_list(said, 0)
        if said[1] is not None:
            raise said[1]
        return said[0]

    def agree(self, value: int, device: torch.device) -> int:
        """Return the largest value that any process has: if one must stop, all do."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def check_batch(self, batch_size: int) -> None:
        """Raise unless a minibatch can be shared equally.

        Raises
        ------
        TrainingError
            The batch size is no multiple of the number of processes, or leaves one image to each.
        """
        if batch_size % self.size or batch_size // self.size < 2:
            raise TrainingError(
                f"A minibatch cannot be shared by {self.size} processes",
                got=f"--batch-size {batch_size}",
                expected=f"a multiple of {self.size}, at least {2 * self.size}",
                remedy="change --batch-size or torchrun's --nproc-per-node",
            )


ALONE = Team()


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Join the processes that ``torchrun`` started: NCCL on GPUs, gloo on CPUs; alone without ``torchrun``.

    Parameters
    ----------
    device : torch.device
        Where this process trains.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class _Mean(torch.autograd.Function):
    """Mean over the processes; so is the gradient, as every process's loss counts for its share."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        """Average a value."""
        return _averaged(value)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Average the gradients."""
        return _averaged(gradient)


def _averaged(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    total = value.contiguous().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class SyncedBatchNorm(nn.Module):
    """Batch norm over the minibatches of all processes; torch's own needs a GPU.

    Parameters
    ----------
    norm : nn.BatchNorm1d or nn.BatchNorm2d
        The layer to take over; parameters and running statistics keep their names.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d):
        super().__init__()
        self.weight, self.bias, self.eps, self.momentum = norm.weight, norm.bias, norm.eps, float(norm.momentum or 0.0)
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, h: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, H, W) by the mean and biased variance over all processes."""
        dims = [d for d in range(h.dim()) if d != 1]
        shape = [1, -1] + [1] * (h.dim() - 2)
        x = h.float()
        mean: Tensor = _Mean.apply(x.mean(dims))
        centred = x - mean.view(shape)
        var: Tensor = _Mean.apply(centred.square().mean(dims))
        with torch.no_grad():
            count = dist.get_world_size() * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / max(1, count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(h.dtype)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Replace every batch norm of a network by one over all processes, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(network, name, SyncedBatchNorm(child))
        else:
            synchronise_batch_norm(child)
