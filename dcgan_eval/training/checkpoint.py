"""Checkpoints: one atomic safetensors file with both networks, Adam's moments, the configuration and the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.weights import read_tensors, save_tensors

FORMAT = "dcgan-eval-checkpoint-1"
KEEP = 2

Parts = dict[str, nn.Module | torch.optim.Optimizer]


def save_checkpoint(folder: Path, rounds_done: int, parts: Parts, state: dict[str, Any]) -> Path:
    """Write a checkpoint and delete all but the newest two.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    rounds_done : int
        Rounds of one D and one G update that the parts have behind them.
    parts : dict
        Name -> module or optimiser.
    state : dict
        JSON-able rest: configuration, log.

    Returns
    -------
    Path
        The file written.
    """
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in _tensors_of(part).items()}
    path = folder / f"round-{rounds_done:08d}.safetensors"
    save_tensors(tensors, path, {"format": FORMAT, "state": json.dumps({**state, "rounds_done": rounds_done})})
    for old in find_checkpoints(folder)[:-KEEP]:
        old.unlink()
    return path


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("round-*.safetensors"))


def load_checkpoint(path: Path, parts: Parts) -> dict[str, Any]:
    """Load the parts in place and return the state.

    Raises
    ------
    TrainingError
        No checkpoint of this toolkit.
    WeightsError
        Truncated or foreign file.
    """
    state = read_state(path)
    tensors, _ = read_tensors(path)
    for name, part in parts.items():
        _load_part(part, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    return state


def read_state(path: Path) -> dict[str, Any]:
    """Return the configuration, log and position of a checkpoint.

    Raises
    ------
    TrainingError
        No checkpoint of this toolkit.
    """
    _, header = read_tensors(path)
    if header.get("format") != FORMAT:
        raise TrainingError("The file is no training checkpoint", got=str(path), expected=f"format {FORMAT!r}")
    return json.loads(header["state"])


def _tensors_of(part: nn.Module | torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return a part's state as named tensors."""
    if isinstance(part, nn.Module):
        return {key: value.detach().cpu().contiguous().clone() for key, value in part.state_dict().items()}
    state = part.state_dict()["state"]
    return {f"{i}.{key}": value.cpu().contiguous() for i, slots in state.items() for key, value in slots.items()}


def _load_part(part: nn.Module | torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put named tensors back into a module or an optimiser."""
    if isinstance(part, nn.Module):
        part.load_state_dict(tensors)
        return
    parameters = part.param_groups[0]["params"]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, slot = key.partition(".")
        like = parameters[int(index)]
        # Fused Adam walks parameter and moments side by side in memory, so both must have one layout.
        slots.setdefault(int(index), {})[slot] = torch.empty_like(like).copy_(value) if value.dim() else value
    part.load_state_dict({"state": slots, "param_groups": part.state_dict()["param_groups"]})
