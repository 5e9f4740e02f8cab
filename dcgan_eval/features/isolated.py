"""A module's copy to run, so that the user's own is left as it was found: mode, hooks, grads, type, device, buffers."""

from __future__ import annotations

import copy
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EncoderError

COMPILED = "_orig_mod."  # what `torch.compile` puts in front of the names inside a module


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module behind ``torch.compile`` or data-parallel wrappers, which compute what it computes."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif inner := dict(module.named_children()).get(COMPILED[:-1]):
            module = inner
        else:
            return module


def isolated(
    module: nn.Module, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a copy in evaluation mode that shares nothing with the module: its own hooks, no grads, nothing compiled.

    Parameters
    ----------
    module : nn.Module
        Left as it is.
    device, dtype : optional
        Where the copy computes and in which floating type; None keeps the module's.

    Raises
    ------
    EncoderError
        It holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    try:
        for part in reversed(list(module.modules())):  # the inner ones first, so that a wrapper finds its copy made
            # A tensor with a history (weight norm makes one in each pass) is not copied by `deepcopy`.
            memo |= {id(v): v.detach().clone() for v in vars(part).values() if isinstance(v, Tensor) and v.grad_fn}
            if unwrapped(part) is not part:
                memo[id(part)] = copy.deepcopy(unwrapped(part), memo)
        with torch.no_grad():  # else the copy of a scripted module's parameters has a history, and is no leaf
            module = copy.deepcopy(module, memo)
    except Exception as error:  # whatever an attribute of the user's module raises
        raise EncoderError(
            "The encoder cannot be copied, and it is never run itself",
            got=f"{type(error).__name__}: {error}",
            remedy="keep open files, locks and tensors with a gradient's history out of the module",
        ) from error
    for part in module.modules():
        for key, value in list(vars(part).items()):
            if isinstance(value, Tensor) and device is not None:
                setattr(part, key, value.to(device))  # `Module.to` moves parameters and buffers alone
            elif key == "forward" and isinstance(value, FunctionType):
                part.forward = _rebound(value, memo)
    return module.eval().to(device=device, dtype=dtype)


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """Return a ``forward`` set on an instance with what it closes over replaced by the copies."""
    cells = tuple(CellType(copy.deepcopy(cell.cell_contents, memo)) for cell in function.__closure__ or ())
    new = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    return new
