"""Starting from networks that were trained before, rather than from random ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..models.dcgan import Discriminator, Generator
from ..models.weights import file_sha256, load_network, read_card, resolve


@dataclass(frozen=True)
class Start:
    """A pair to start from.

    Attributes
    ----------
    D, G : Discriminator, Generator
        The networks; their optimisers start without moments.
    sha256 : str
        Hash of both files.
    about : dict
        For the card: what they were called and how many images they had seen.
    """

    D: Discriminator
    G: Generator
    sha256: str
    about: dict[str, Any]


def load_start(name_or_folder: str, preset: str) -> Start:
    """Load a pair.

    Parameters
    ----------
    name_or_folder : str
        Bundled weights, or a folder with ``discriminator.safetensors`` and ``generator.safetensors``, such as a run's.
    preset : str
        What they must be.

    Raises
    ------
    TrainingError
        They are of another preset.
    WeightsError
        They are not there, or unusable.
    """
    kinds = ("discriminator", "generator")
    folder = Path(name_or_folder)
    is_folder = folder.is_dir()
    paths = [folder / f"{kind}.safetensors" if is_folder else resolve(name_or_folder, kind) for kind in kinds]
    D, G = (load_network(path, kind) for path, kind in zip(paths, kinds, strict=True))
    assert isinstance(D, Discriminator), "load_network checks the header"
    assert isinstance(G, Generator), "load_network checks the header"
    if {D.preset.name, G.preset.name} != {preset}:
        raise TrainingError(
            "The networks to start from are of another preset",
            got=f"{D.preset.name} in {name_or_folder}",
            expected=preset,
            remedy="choose another --start",
        )
    digest = hashlib.sha256("".join(map(file_sha256, paths)).encode()).hexdigest()
    seen = read_card(paths[0])["card"].get("seen_images")
    return Start(D, G, digest, {"started_from": {"name": folder.name, "seen_images": seen}})
