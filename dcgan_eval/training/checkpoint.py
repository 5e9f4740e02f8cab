"""Checkpoints: a folder that appears whole, its state in one file or in parts, each verified by its hash.

``round-00001234/`` holds ``checkpoint.json`` (configuration, position, size and SHA-256 of each part) and
``state.safetensors`` (networks and Adam's moments), which may be cut into ``state.safetensors.000``, ``.001``, ... so
that every file stays below a given size. Random numbers need no state: they derive from the seed and the round.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import TrainingError

FORMAT = "dcgan-eval-checkpoint-2"
KEEP = 2
STATE = "state.safetensors"

Parts = dict[str, nn.Module | torch.optim.Optimizer]


def save_checkpoint(
    folder: Path, rounds_done: int, parts: Parts, state: dict[str, Any], part_bytes: int | None = None
) -> Path:
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
        JSON-able rest, such as the configuration.
    part_bytes : int or None
        Size at which the state is cut into parts; None keeps it in one file.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    TrainingError
        The checkpoint cannot be written; earlier ones are left as they are.
    """
    path = folder / f"round-{rounds_done:08d}"
    partial = path.with_name(path.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        data = safetensors.torch.save(_tensors_of_all(parts))
        entries = [_write_part(partial / name, piece) for name, piece in _cut(data, part_bytes)]
        header = {**state, "format": FORMAT, "rounds_done": rounds_done, "parts": entries}
        _write(partial / "checkpoint.json", json.dumps(header, indent=1).encode())
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            "A checkpoint cannot be written",
            got=f"{path}: {error}",
            remedy="free some space, then continue with --resume from the last checkpoint",
        ) from error
    for old in find_checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(path.parent for path in folder.glob("round-????????/checkpoint.json"))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run whose every part matches its hash; None if the run has none at all.

    Raises
    ------
    TrainingError
        There are checkpoints, and all of them are damaged.
    """
    found = find_checkpoints(folder)[::-1]
    errors = []
    for path in found:
        try:
            _read(path)
        except TrainingError as error:
            errors.append(error)
        else:
            return path
    if errors:
        raise errors[0]
    return None


def load_checkpoint(path: Path, parts: Parts) -> dict[str, Any]:
    """Load the parts in place and return the state.

    Raises
    ------
    TrainingError
        No checkpoint of this toolkit, or a part that is missing or damaged.
    """
    tensors = safetensors.torch.load(_read(path))
    for name, part in parts.items():
        _load_part(part, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return the configuration and position of a checkpoint.

    Raises
    ------
    TrainingError
        No checkpoint of this toolkit.
    """
    try:
        state: dict[str, Any] = json.loads((path / "checkpoint.json").read_text())
    except (OSError, ValueError) as error:
        raise TrainingError("The folder is no training checkpoint", got=f"{path} ({error})") from error
    if state.get("format") != FORMAT:
        raise TrainingError("The folder is no training checkpoint", got=str(path), expected=f"format {FORMAT!r}")
    return state


def _read(path: Path) -> bytes:
    """Read and verify the bytes of the state."""
    pieces = []
    for entry in read_state(path)["parts"]:
        part = path / entry["file"]
        data = part.read_bytes() if part.is_file() else b""
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise TrainingError(
                "A part of a checkpoint is missing or damaged: it does not match its hash",
                got=f"{part}, {len(data):,} bytes",
                expected=f"{entry['size_bytes']:,} bytes with SHA-256 {entry['sha256'][:16]}...",
                remedy=f"restore the file, or delete {path} to go back to the checkpoint before it",
            )
        pieces.append(data)
    return b"".join(pieces)


def _cut(data: bytes, part_bytes: int | None) -> Iterator[tuple[str, bytes]]:
    """Yield the state's files: name and content."""
    if part_bytes is None or len(data) <= part_bytes:
        yield STATE, data
        return
    for number, start in enumerate(range(0, len(data), part_bytes)):
        yield f"{STATE}.{number:03d}", data[start : start + part_bytes]


def _write_part(path: Path, data: bytes) -> dict[str, Any]:
    """Write a part and return its entry."""
    _write(path, data)
    return {"file": path.name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write(path: Path, data: bytes) -> None:
    """Write a file down to the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Write a folder's entries down to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensors_of_all(parts: Parts) -> dict[str, Tensor]:
    """Return the state of all parts as named tensors."""
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in _tensors_of(part).items()}


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


def is_finite(parts: Parts) -> bool:
    """Tell whether every number of the parts is finite."""
    return all(bool(torch.isfinite(value).all()) for value in _tensors_of_all(parts).values())
