"""Starting from networks that were trained before, rather than from random ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..files import sha256_of
from ..models.bundled import bundled_networks, resolve
from ..models.dcgan import Discriminator, Generator, lacks_running_statistics
from ..models.presets import Ladder, Preset
from ..models.weights import NETWORKS, blank_network, load_network, read_card


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
        run's, or the file of a discriminator.
    preset : Preset
        What they must be, width included.

    Raises
    ------
    TrainingError
        They are of another preset or width.
    WeightsError
        They are not there, or unusable.

    Networks without running batch-norm statistics, such as those released in 2016, begin new ones.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        paths = {kind: folder / f"{kind}.safetensors" for kind in NETWORKS}
        paths = {kind: path for kind, path in paths.items() if kind == "discriminator" or path.exists()}
    elif (found := resolve(name_or_folder)) == folder:  # a file; an unknown name is an error
        paths = {"discriminator": found}
    else:
        paths = {kind: resolve(name_or_folder, kind) for kind in bundled_networks(name_or_folder)}
    networks = {kind: _trainable(load_network(path, kind), path) for kind, path in paths.items()}
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
    seen = all_seen(read_card(paths["discriminator"])["card"])
    return Start(D, G, digest, {"started_from": {"name": folder.name, "seen_images": seen}})


def all_seen(card: dict[str, Any]) -> int | None:
    """Return how many images a network has seen, those of the runs before its own too; None where nobody knows."""
    seen, before = card.get("seen_images"), card.get("started_from")
    if not isinstance(before, dict):
        return seen if isinstance(seen, int) else None
    counts = (seen, before.get("seen_images"))
    return sum(counts) if all(isinstance(count, int) for count in counts) else None  # type: ignore[arg-type]


def _trainable(network: Discriminator | Generator, path: Path) -> Discriminator | Generator:
    """Return a network that can be trained and exported: whole, and with running statistics."""
    if isinstance(network, Discriminator) and network.linear is None:
        raise TrainingError(
            "The discriminator to start from is incomplete",
            got=f"{path}: layers {', '.join(network.layer_names)} and no linear unit",
            remedy="choose another --start",
        )
    if not lacks_running_statistics(network):
        return network
    kind = "discriminator" if isinstance(network, Discriminator) else "generator"
    whole = blank_network(network.preset, kind)
    whole.load_state_dict(network.state_dict(), strict=False)
    return whole


def _named(preset: Preset) -> str:
    """Name a preset, with its width if it can have another."""
    return f"{preset.name}, width {preset.width}" if isinstance(preset, Ladder) else preset.name
