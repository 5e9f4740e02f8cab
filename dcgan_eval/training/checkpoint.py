"""Checkpoints: a folder that appears whole, its state in one file or in parts, each verified by its hash.

``round-00001234/`` holds ``checkpoint.json`` (configuration, position, size and SHA-256 of each part, digest) and
``state.safetensors`` (networks and Adam's moments), which may be cut into ``state.safetensors.000``, ``.001``, ... so
that every file stays below a given size. Random numbers need no state: they derive from the seed and the round.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..files import PARTIAL, check_regular, flush, write_file

FORMAT = "dcgan-eval-checkpoint-3"
UNSEALED = "dcgan-eval-checkpoint-2"
"""Format of the checkpoints made before their headers carried a digest."""

KEEP = 2
STATE = "state.safetensors"
_NAME = re.compile(r"round-\d{8}(-\d+)?")
_PART = re.compile(re.escape(STATE) + r"(\.\d{3,})?")

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
    same_round = find_checkpoints(folder, rounds_done)
    path = folder / f"round-{rounds_done:08d}"
    if same_round:  # one more of the same round stands beside it until it is complete
        path = folder / f"round-{rounds_done:08d}-{_revision(same_round[-1]) + 1}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=folder))
        try:
            _fill(partial, rounds_done, parts, state, part_bytes)
            partial.chmod(0o755)  # mkdtemp makes folders that only their owner can read
            flush(partial)
            os.replace(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(folder)
    except OSError as error:
        raise TrainingError(
            "A checkpoint cannot be written",
            got=f"{path}: {error}",
            remedy="free some space, then continue with --resume from the last checkpoint",
        ) from error
    for old in same_round:
        shutil.rmtree(old, ignore_errors=True)
    for old in find_checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def clear_leftovers(folder: Path) -> None:
    """Delete what killed processes left of checkpoints; only for the one that holds the folder's lock."""
    for partial in folder.glob(f".round-*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def _fill(partial: Path, rounds_done: int, parts: Parts, state: dict[str, Any], part_bytes: int | None) -> None:
    """Write a checkpoint's files, the one that makes it complete last."""
    data = safetensors.torch.save(_tensors_of_all(parts))
    entries = [_write_part(partial / name, piece) for name, piece in _cut(data, part_bytes)]
    header = {**state, "format": FORMAT, "rounds_done": rounds_done, "parts": entries}
    write_file(partial / "checkpoint.json", json.dumps(header | {"sha256": _digest(header)}, indent=1))


def find_checkpoints(folder: Path, rounds_done: int | None = None) -> list[Path]:
    """Return the complete checkpoints of a run, perhaps of one round alone, oldest first."""
    wanted = "????????" if rounds_done is None else f"{rounds_done:08d}"
    found = [
        path.parent for path in folder.glob(f"round-{wanted}*/checkpoint.json") if _NAME.fullmatch(path.parent.name)
    ]
    return sorted(found, key=lambda path: (path.name[:14], _revision(path)))


def _revision(path: Path) -> int:
    """Return which checkpoint of its round a folder holds."""
    return int(path.name[15:] or 0)


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
    try:
        for name, part in parts.items():
            _load_part(part, {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise TrainingError("The checkpoint does not fit the networks", got=f"{path}: {str(error)[:200]}") from error
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """Return the configuration and position of a checkpoint.

    Raises
    ------
    TrainingError
        No checkpoint of this toolkit, or a damaged one.
    """
    remedy = f"delete {path} to go back to the checkpoint before it"
    try:
        check_regular(path / "checkpoint.json")
        state: dict[str, Any] = json.loads((path / "checkpoint.json").read_text())
        if not isinstance(state, dict) or state.get("format") not in (FORMAT, UNSEALED):
            raise ValueError(f"no format {FORMAT!r}")
        said = state.pop("sha256", None)
        if said != _digest(state) and not (said is None and state["format"] == UNSEALED):
            raise ValueError("it has changed since it was written")
        if not _is_sound(state):
            raise ValueError("a field is missing or of another type")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise TrainingError("The folder is no training checkpoint", got=f"{path} ({error})", remedy=remedy) from error
    return state


def _digest(header: dict[str, Any]) -> str:
    """Return the SHA-256 of a header, however it is laid out."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _is_sound(state: dict[str, Any]) -> bool:
    """Tell whether a header's fields have the types that they must have."""
    types = {"rounds_done": int, "config": dict, "parts": list}
    if not all(isinstance(state.get(name), kind) for name, kind in types.items()):
        return False
    entries = state["parts"]
    return (
        state["rounds_done"] >= 0
        and isinstance(state.get("history", []), list)
        and isinstance(state.get("about", {}), dict)
        and all(isinstance(e, dict) and isinstance(e.get("size_bytes"), int) for e in entries)
        and all(isinstance(e.get("sha256"), str) and _PART.fullmatch(str(e.get("file"))) for e in entries)
    )


def _read(path: Path) -> bytes:
    """Read and verify the bytes of the state."""
    pieces = []
    for entry in read_state(path)["parts"]:
        part = path / entry["file"]
        try:
            check_regular(part)
            data = part.read_bytes()
        except OSError:
            data = b""
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
    write_file(path, data)
    return {"file": path.name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


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
