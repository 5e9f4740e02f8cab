"""Weights on disk: safetensors with the preset in the header, checked on reading, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import WeightsError, unknown_name
from .dcgan import (
    Discriminator,
    Generator,
    LadderDiscriminator,
    drop_running_statistics,
    lacks_running_statistics,
    networks_of,
)
from .presets import Preset, get_ladder, get_preset

FORMAT = "dcgan-eval-weights-1"
NETWORKS: dict[str, type[Discriminator] | type[Generator]] = {
    "discriminator": Discriminator,
    "generator": Generator,
}


def bundled_dir() -> Path:
    """Return the folder of the bundled weights: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "pretrained"
    return inside if inside.is_dir() else package.parent / "pretrained"


def read_manifest() -> dict[str, Any]:
    """Read the manifest of the bundled weights.

    Returns
    -------
    dict
        ``default`` (name of the default weights) and ``weights``: name -> ``discriminator`` and, unless trained without
        one, ``generator`` (each with ``file``, ``sha256``, ``size_bytes``), ``card`` and ``summary``.

    Raises
    ------
    WeightsError
        The manifest is missing or unreadable.
    """
    path = bundled_dir() / "manifest.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            "The manifest of the bundled weights cannot be read", got=f"{path}: {error}", remedy="reinstall dcgan-eval"
        ) from error


def resolve(name_or_path: str | Path | None, network: str = "discriminator") -> Path:
    """Find a weights file.

    Parameters
    ----------
    name_or_path : str, Path or None
        A bundled name (``dcgan-eval weights list``), a path to a safetensors file, or None for the bundled default (for
        the last bundled weights that have the network, if the default has none).
    network : str
        ``"discriminator"`` or ``"generator"``.

    Raises
    ------
    WeightsError
        Neither a file nor a bundled name, or a bundled file that does not match its hash.
    """
    if name_or_path is not None and Path(name_or_path).is_file():
        return Path(name_or_path)
    if os.sep in str(name_or_path) or str(name_or_path).endswith(".safetensors"):
        raise WeightsError(
            "The weights file does not exist", got=str(name_or_path), remedy="give an existing file to --weights"
        )
    manifest = read_manifest()
    name = str(name_or_path or manifest["default"])
    if name not in manifest["weights"]:
        raise unknown_name("bundled weights", name, manifest["weights"], WeightsError)
    if network not in manifest["weights"][name]:
        holding = [other for other, networks in manifest["weights"].items() if network in networks]
        if name_or_path is not None or not holding:
            raise WeightsError(
                f"The bundled weights {name!r} have no {network}: they were trained without one",
                expected=" or ".join(holding),
                remedy="choose others with --weights",
            )
        name = holding[-1]
    entry = manifest["weights"][name][network]
    path = bundled_dir() / entry["file"]
    if not path.is_file() or file_sha256(path) != entry["sha256"]:
        raise WeightsError(
            "A bundled weights file is missing or does not match its hash", got=str(path), remedy="reinstall dcgan-eval"
        )
    return path


def bundled_networks(name: str) -> list[str]:
    """Return which networks the bundled weights of a name consist of."""
    return [kind for kind in NETWORKS if kind in read_manifest()["weights"][name]]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_network(
    network: Discriminator | Generator, path: Path, *, card: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write a network as safetensors, atomically.

    Parameters
    ----------
    network : Discriminator or Generator
        What to save; the preset's name goes into the header.
    path : Path
        Target; replaced only when the new file is complete.
    card : dict, optional
        Model card, JSON-able, kept in the header, which also says when layers or running statistics are missing.
    half : bool
        Store kernels and matrices in float16 (batch-norm vectors stay in float32).

    Raises
    ------
    WeightsError
        The file cannot be written.
    """
    kind = next(kind for kind, cls in NETWORKS.items() if isinstance(network, cls))
    header = {"format": FORMAT, "preset": network.preset.name, "network": kind, "card": json.dumps(card or {})}
    if isinstance(network, Discriminator) and network.linear is None:
        header["num_layers"] = str(len(network.layer_names))
    if lacks_running_statistics(network):
        header["running_statistics"] = "none"
    tensors = {key: _stored(value, half) for key, value in network.state_dict().items() if value.dim() > 0}
    save_tensors(tensors, path, header)


def _stored(value: Tensor, half: bool) -> Tensor:
    """Return a tensor as it goes to disk."""
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.dim() > 1 else value


def save_tensors(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """Write tensors and a header of strings as safetensors under a temporary name, then rename.

    Raises
    ------
    WeightsError
        The file cannot be written; what was there before is left as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata=header)
        os.chmod(partial, 0o644)  # safetensors makes files that only their owner can read
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # the folder may be a file
            partial.unlink(missing_ok=True)
        raise WeightsError(
            "A weights file cannot be written",
            got=f"{path}: {error}",
            remedy="free some space or choose another folder",
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the header of a safetensors file.

    Raises
    ------
    WeightsError
        No safetensors file (a pickle, say), truncated, or unreadable.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """Say what a file is that is no safetensors file, without unpickling it."""
    try:
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


def load_network(path: Path, network: str = "discriminator") -> Discriminator | Generator:
    """Read a network that :func:`save_network` wrote.

    Parameters
    ----------
    path : Path
        A safetensors file.
    network : str
        ``"discriminator"`` or ``"generator"``.

    Returns
    -------
    Discriminator or Generator
        In float32, in evaluation mode.

    Raises
    ------
    WeightsError
        Foreign file, other network, wrong names or shapes, or values that are not finite.
    """
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT or header.get("network") != network:
        raise WeightsError(
            f"The weights file holds no {network} of this toolkit",
            got=f"{path}: format {header.get('format')!r}, network {header.get('network')!r}",
            expected=f"format {FORMAT!r}, network {network!r}",
            remedy="see `dcgan-eval weights list`, or train one with `dcgan-eval train-imagenet`",
        )
    num_layers = int(header["num_layers"]) if header.get("num_layers", "").isdigit() else None
    statistics = header.get("running_statistics") != "none"
    module = blank_network(get_preset(header.get("preset", "")), network, num_layers, running_statistics=statistics)
    _check_tensors(tensors, module, path)
    module.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=False)
    return module


def blank_network(
    preset: Preset, network: str, num_layers: int | None = None, *, running_statistics: bool = True
) -> Discriminator | Generator:
    """Build a network whose weights are to be replaced, in evaluation mode; torch's random state stays as it was.

    Parameters
    ----------
    preset : Preset
        Row of the preset table.
    network : str
        ``"discriminator"`` or ``"generator"``.
    num_layers : int or None
        Leading layers of an incomplete discriminator, which only a ladder's can be.
    running_statistics : bool
        Whether its batch norms keep any.
    """
    D_class, G_class = networks_of(preset)
    with torch.random.fork_rng(devices=[]):
        if network == "generator":
            module: Discriminator | Generator = G_class(preset)
        elif num_layers is None:
            module = D_class(preset)
        else:
            module = LadderDiscriminator(get_ladder(preset.name), num_layers)
    if not running_statistics:
        drop_running_statistics(module)
    return module.eval()


def _check_tensors(tensors: dict[str, Tensor], module: nn.Module, path: Path) -> None:
    """Raise unless names, shapes and values fit the module."""
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items() if value.dim() > 0}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if wanted != found:
        different = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        key = different[0]
        raise WeightsError(
            f"The weights file {path} does not fit its preset: {len(different)} tensors differ, first {key!r}",
            got=f"shape {found.get(key, 'none')}",
            expected=f"shape {wanted.get(key, 'none')}",
            remedy="export the weights again with the preset they were trained with",
        )
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(
            f"The weights file {path} holds values that are not finite, first in {broken[0]!r}",
            remedy="go back to an earlier checkpoint of the training",
        )


def read_card(path: Path) -> dict[str, Any]:
    """Return the header of a weights file: ``preset``, ``network`` and the model ``card``.

    Raises
    ------
    WeightsError
        No readable weights file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return {**header, "card": json.loads(header.get("card", "{}"))}
