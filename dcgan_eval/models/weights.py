"""Weights on disk: safetensors with the preset in the header, checked on reading, never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import seeded
from ..errors import WeightsError
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
