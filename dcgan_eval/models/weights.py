"""Weights on disk: safetensors with the preset in the header, checked on reading, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import seeded
from ..errors import WeightsError, unknown_name
from ..files import sha256_of
from ..provenance import digest
from .dcgan import (
    Discriminator,
    Generator,
    LadderDiscriminator,
    drop_running_statistics,
    lacks_running_statistics,
    networks_of,
)
from .presets import Ladder, Preset, get_ladder, get_preset
from .tensors import read_tensors, save_tensors

FORMAT = "dcgan-eval-weights-2"
UNSEALED = "dcgan-eval-weights-1"
"""Format of the weights made before files carried a digest of their content."""

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
        ``sha256`` (of all else), ``default`` (name of the default weights) and ``weights``: name -> ``discriminator``
        and, unless trained without one, ``generator`` (each with ``file``, ``sha256``, ``size_bytes``), ``card`` and
        ``summary``.

    Raises
    ------
    WeightsError
        The manifest is missing or unreadable.
    """
    path = bundled_dir() / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        names = manifest["weights"]
        for entry in names.values():
            for kind in NETWORKS.keys() & entry.keys():
                size = entry[kind]["size_bytes"]
                _require(isinstance(size, int) and all(isinstance(entry[kind][key], str) for key in ("file", "sha256")))
            _require("discriminator" in entry and all(isinstance(entry[key], str) for key in ("preset", "summary")))
        _require(manifest["default"] in names)
        if manifest["sha256"] != manifest_digest(manifest):
            raise ValueError("it has changed since it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            "The manifest of the bundled weights cannot be read",
            got=f"{path}: {type(error).__name__}: {error}",
            remedy="reinstall dcgan-eval",
        ) from error
    return manifest


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values in one spelling, its own digest left out."""
    return digest(json.dumps({key: value for key, value in manifest.items() if key != "sha256"}, sort_keys=True))


def _require(holds: bool) -> None:
    """Raise unless a value of the manifest is what it should be."""
    if not holds:
        raise ValueError("a value of another type")


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
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise WeightsError(
            "A bundled weights file is missing or does not match its hash", got=str(path), remedy="reinstall dcgan-eval"
        )
    return path


def bundled_networks(name: str) -> list[str]:
    """Return which networks the bundled weights of a name consist of."""
    return [kind for kind in NETWORKS if kind in read_manifest()["weights"][name]]


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
    preset = network.preset
    header = {"format": FORMAT, "preset": preset.name, "network": kind, "card": json.dumps(card or {})}
    if isinstance(preset, Ladder) and preset.width != get_ladder(preset.name).width:
        header["width"] = str(preset.width)
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
    tensors, header = read_tensors(path, sealed=FORMAT)
    if header.get("format") not in (FORMAT, UNSEALED) or header.get("network") != network:
        raise WeightsError(
            f"The weights file holds no {network} of this toolkit",
            got=f"{path}: format {header.get('format')!r}, network {header.get('network')!r}",
            expected=f"format {FORMAT!r}, network {network!r}",
            remedy="see `dcgan-eval weights list`, or train one with `dcgan-eval train-imagenet`",
        )
    preset = get_preset(header.get("preset", ""), _number(header, "width", path) or 0)
    statistics = header.get("running_statistics") != "none"
    module = blank_network(preset, network, _number(header, "num_layers", path), running_statistics=statistics)
    _check_tensors(tensors, module, path)
    module.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=False)
    return module


def _number(header: dict[str, str], name: str, path: Path) -> int | None:
    """Return a positive number of the header, or None where it is not said."""
    text = header.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text[:9]) == 0:
        raise WeightsError(
            f"The header of the weights file is damaged: {name} is no number",
            got=f"{path}: {text[:40]!r}",
            remedy="copy or create the file again",
        )
    return int(text[:9])


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
    with seeded(0):
        if network == "generator":
            module: Discriminator | Generator = G_class(preset)
        elif num_layers is None:
            module = D_class(preset)
        else:
            module = LadderDiscriminator(preset if isinstance(preset, Ladder) else get_ladder(preset.name), num_layers)
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
    """Return the header of a weights file: ``preset``, ``network`` and the model ``card``, a dict.

    Raises
    ------
    WeightsError
        No readable weights file, or a damaged one.
    """
    header: dict[str, Any] = read_tensors(path, sealed=FORMAT)[1]
    try:
        card = json.loads(header.get("card", "{}"))
    except (ValueError, RecursionError) as error:
        card = f"{type(error).__name__}: {error}"
    if not isinstance(card, dict):
        raise WeightsError(
            "The card in the weights file is damaged",
            got=f"{path}: {str(card)[:80]}",
            expected="a JSON object",
            remedy="copy or create the file again",
        )
    return {**header, "card": card}
