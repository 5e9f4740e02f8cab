"""A file of tensors put into a network of one's own choice: its prefix is found; what is missing or left is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..models.weights import read_tensors

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_ENOUGH = 0.75  # of the network's tensors: classifiers are often left out, and of VGG's they are a fifth


def load_checkpoint(module: nn.Module, path: Path) -> list[str]:
    """Fill a module with a checkpoint's tensors and return, in words, what was missing and what was left over.

    Names are taken without the prefix under which most of them fit: ``module.``, ``backbone.``, ``encoder_q.``,
    ``student.backbone.`` and whatever else a training script puts in front.

    Parameters
    ----------
    module : nn.Module
        Changed in place.
    path : Path
        A safetensors file, or one of ``torch.save`` that holds tensors alone; no code in it is ever run.

    Raises
    ------
    WeightsError
        The file is missing or holds more than tensors, or fewer than three quarters of the network's tensors are in it.
    """
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    best: dict[str, Tensor] = {}
    others: set[str] = set()
    for tensors in _dictionaries(_read(path)):
        for prefix in _prefixes(tensors):
            inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            fits = {k: v for k, v in inside.items() if k in wanted and v.shape == wanted[k].shape}
            if len(fits) > len(best):
                best, others = fits, {key for key in inside if not key.endswith("num_batches_tracked")}
    missing, left = sorted(wanted.keys() - best.keys()), sorted(others - best.keys())
    if len(best) < _ENOUGH * len(wanted):
        raise WeightsError(
            f"The checkpoint does not fit the network: {len(best)} of its {len(wanted)} tensors are in {path}",
            got=f"missing {_listed(missing)}" + (f"; left over {_listed(left)}" if left else ""),
            expected="the network that was trained, under any prefix",
            remedy="name the network of the checkpoint with --arch",
        )
    module.load_state_dict(best, strict=False)
    notes = [f"not in {path.name}, so left random: {_listed(missing)}"] if missing else []
    return notes + ([f"in {path.name} but not used: {_listed(left)}"] if left else [])


def _read(path: Path) -> object:
    """Read a file of tensors."""
    if not path.is_file():
        raise WeightsError(
            "The checkpoint does not exist", got=str(path), remedy="give an existing file to --checkpoint"
        )
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file raises that is no checkpoint, or holds more than tensors
        raise WeightsError(
            "The checkpoint cannot be read without running code in it",
            got=f"{path}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="tensors by name, in a safetensors file or from torch.save",
            remedy="in a place you trust, save its state dict alone with safetensors.torch.save_file",
        ) from error


def _dictionaries(found: object) -> Iterator[dict[str, Tensor]]:
    """Yield every dictionary of tensors inside what was read, at any depth."""
    if isinstance(found, Mapping):
        if tensors := {str(key): value for key, value in found.items() if isinstance(value, Tensor)}:
            yield tensors
        for value in found.values():
            yield from _dictionaries(value)


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return everything up to a dot that names begin with, the shortest first."""
    parts = [key.split(".")[:-1] for key in tensors]
    prefixes = dict.fromkeys("".join(f"{part}." for part in p[:i]) for p in parts for i in range(len(p) + 1))
    return sorted(prefixes, key=lambda prefix: prefix.count("."))


def _listed(keys: list[str]) -> str:
    """Return the first names of a list and how many more there are."""
    shown = ", ".join(keys[:4])
    return shown if len(keys) <= 4 else f"{shown} and {len(keys) - 4} more"
