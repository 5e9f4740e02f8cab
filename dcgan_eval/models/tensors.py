"""Files of named tensors: safetensors that carry a digest of all that they hold, checked on reading, never a pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import WeightsError
from ..files import check_regular, write_file

_DIGEST = "sha256"


def save_tensors(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """Write tensors and a header of strings as safetensors, with a digest of both.

    Raises
    ------
    WeightsError
        The file cannot be written; what was there before is left as it was.
    """
    metadata = {**header, _DIGEST: _digest(tensors, header)}
    try:
        write_file(path, safetensors.torch.save(tensors, metadata))
    except OSError as error:
        raise WeightsError(
            "A weights file cannot be written",
            got=f"{path}: {error}",
            remedy="free some space or choose another folder",
        ) from error


def read_tensors(path: Path, *, sealed: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the header of a file that :func:`save_tensors` wrote.

    Parameters
    ----------
    path : Path
        A safetensors file.
    sealed : str or None
        A file whose header has this ``format`` must have a digest; others, made before there was one, may lack it.

    Raises
    ------
    WeightsError
        No safetensors file (a pickle, say), truncated, unreadable, or changed since it was written.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    said = header.pop(_DIGEST, None)
    if said is None and (sealed is None or header.get("format") != sealed):
        return tensors, header
    if said != _digest(tensors, header):
        raise WeightsError(
            "The file has changed since it was written: it does not match the digest in its header",
            got=f"{path}, " + ("no digest" if said is None else f"digest {said[:16]}..."),
            remedy="copy or create the file again",
        )
    return tensors, header


def _digest(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """Return the SHA-256 of a header and of tensors with their names, types and shapes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        digest.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """Say what a file is that is no safetensors file, without unpickling it."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError:
        start = b""
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return WeightsError(
            "The weights file is a pickle, which could run any code and is never opened",
            got=str(path),
            expected="a safetensors file",
            remedy="in a place you trust, load the tensors and save them with safetensors.torch.save_file",
        )
    return WeightsError(
        "The weights file is no complete safetensors file",
        got=f"{path} ({error})",
        remedy="copy or create the file again",
    )
