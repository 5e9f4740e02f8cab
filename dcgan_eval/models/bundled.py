"""The weights that come with the package: which there are, where they lie, whether they are whole. Needs no PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WeightsError, unknown_name
from ..files import sha256_of
from ..provenance import digest

KINDS = ("discriminator", "generator")


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
        and, unless trained without one, ``generator`` (each with ``file``, ``sha256``, ``size_bytes``), ``card``,
        ``summary``, and ``checkout_only`` where the wheel leaves them out.

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
            for kind in entry.keys() & set(KINDS):
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
        the first bundled weights that have the network, if the default has none).
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
        name = holding[0]
    entry = manifest["weights"][name][network]
    path = bundled_dir() / entry["file"]
    if not path.is_file() and manifest["weights"][name].get("checkout_only"):
        raise WeightsError(
            f"The weights {name!r} do not come with the installed package",
            got=f"no {path.name} in {path.parent}",
            remedy=f"give --weights the file pretrained/{path.name} of a checkout",
        )
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise WeightsError(
            "A bundled weights file is missing or does not match its hash", got=str(path), remedy="reinstall dcgan-eval"
        )
    return path


def bundled_networks(name: str) -> list[str]:
    """Return which networks the bundled weights of a name consist of."""
    return [kind for kind in KINDS if kind in read_manifest()["weights"][name]]
