"""Starting from networks that were trained before, rather than from random ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..files import sha256_of
from ..models.dcgan import Discriminator, Generator
from ..models.presets import Ladder, Preset
from ..models.weights import NETWORKS, bundled_networks, load_network, read_card, resolve


@dataclass(frozen=True)
class Start:
    """Networks to start from.

    Attributes
    ----------
    D, G : Discriminator, Generator
        The networks; their optimisers start without moments. G is None where D was trained without one.
    sha256 : str
        Hash of the files.
    about : dict
        For the card: what they were called and how many images they had seen.
    """

    D: Discriminator
    G: Generator | None
    sha256: str
    about: dict[str, Any]


def load_start(name_or_folder: str, preset: Preset) -> Start:
    """Load a pair, or a discriminator that has no generator.

    Parameters
    ----------
    name_or_folder : str
        Bundled weights, or a folder with ``discriminator.safetensors`` and perhaps ``generator.safetensors``, such as a
        run's.
    preset : Preset
        What they must be, width included.

    Raises
    ------
    TrainingError
        They are of another preset or width.
    WeightsError
        They are not there, or unusable.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        paths = {kind: folder / f"{kind}.safetensors" for kind in NETWORKS}
        paths = {kind: path for kind, path in paths.items() if kind == "discriminator" or path.exists()}
    else:
        resolve(name_or_folder)  # an unknown name is an error
        paths = {kind: resolve(name_or_folder, kind) for kind in bundled_networks(name_or_folder)}
    networks = {kind: load_network(path, kind) for kind, path in paths.items()}
    D, G = networks["discriminator"], networks.get("generator")
    assert isinstance(D, Discriminator), "load_network checks the header"
    assert G is None or isinstance(G, Generator), "load_network checks the header"
    if any(network.preset != preset for network in networks.values()):
        raise TrainingError(
            "The networks to start from are of another preset or width",
            got=f"{_named(D.preset)} in {name_or_folder}",
            expected=_named(preset),
            remedy="choose another --start, or the --width of these networks",
        )
    digest = hashlib.sha256("".join(map(sha256_of, paths.values())).encode()).hexdigest()
    seen = read_card(paths["discriminator"])["card"].get("seen_images")
    return Start(D, G, digest, {"started_from": {"name": folder.name, "seen_images": seen}})


def _named(preset: Preset) -> str:
    """Name a preset, with its width if it can have another."""
    return f"{preset.name}, width {preset.width}" if isinstance(preset, Ladder) else preset.name
