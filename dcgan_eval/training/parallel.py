"""Batch norm over the minibatches of several processes that train one network."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
