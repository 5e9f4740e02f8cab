"""``dcgan-eval weights list|show|import``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..errors import WeightsError
from ..files import check_target, sha256_of
from ..models.bundled import bundled_networks, read_manifest, resolve
from .console import out
from .options import example, json_option, to_option

network_option = click.option(
    "--network", type=click.Choice(["discriminator", "generator"]), default="discriminator", show_default=True
)


@click.group(epilog=example("dcgan-eval weights list"))
def weights() -> None:
    """Look at the bundled weights or at a weights file, or import released ones."""


@weights.command("list", epilog=example("dcgan-eval weights list"))
@json_option
def list_weights(as_json: bool) -> None:
    """List the bundled weights."""
    manifest = read_manifest()
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
        return
    table = Table(title="Bundled weights", title_justify="left")
    for heading in ("name", "preset", "size MB", "summary"):
        table.add_column(heading)
    for name, entry in manifest["weights"].items():
        size = sum(entry[kind]["size_bytes"] for kind in bundled_networks(name)) / 1e6
        mark = " (default)" if name == manifest["default"] else ""
        table.add_row(name + mark, entry["preset"], f"{size:.1f}", entry["summary"])
    out.print(table)


@weights.command("show", epilog=example("dcgan-eval weights show --json"))
@click.argument("name", required=False)
@network_option
@json_option
def show_weights(name: str | None, network: str, as_json: bool) -> None:
    """Show the card of bundled weights or of a weights file [default: the bundled default]."""
    from ..models.weights import read_card

    path = resolve(name, network)
    card = {"file": path.name, "sha256": sha256_of(path), "size_bytes": path.stat().st_size, **read_card(path)}
    if as_json:
        click.echo(json.dumps(card, indent=1))
        return
    table = Table(title=path.name, title_justify="left", show_header=False)
    for key, value in _flatten(card):
        table.add_row(key, value)
    out.print(table)


@weights.command(
    "import", epilog=example("dcgan-eval weights import dcgan-code svhn/200_discrim_params.jl --out svhn.safetensors")
)
@click.argument("form", type=click.Choice(["dcgan-code"]))
@click.argument("path", type=click.Path(path_type=Path))
@to_option("target", required=True, help="The safetensors file to write.")
@click.option("--preset", metavar="svhn32|imagenet32", help="What it must be [default: inferred from the shapes].")
@network_option
@click.option("--allow-partial", is_flag=True, help="Keep the leading layers of an incomplete discriminator.")
def import_weights(form: str, path: Path, target: Path, preset: str | None, network: str, allow_partial: bool) -> None:
    """Import what the paper's authors released in 2016 (FORM dcgan-code); PATH is the .jl file or its folder.

    Only the plain .npy arrays beside the .jl file are read; nothing is unpickled.
    """
    from ..models.dcgan import Discriminator
    from ..models.release import RELEASE_CARD, import_release
    from ..models.weights import save_network

    check_target(target, "--out", WeightsError, suffixes=(".safetensors",))
    module = import_release(path, network, preset=preset, allow_partial=allow_partial)
    save_network(module, target, card=RELEASE_CARD)
    layers = f", layers {', '.join(module.layer_names)}" if isinstance(module, Discriminator) else ""
    out.print(f"{target}: {module.preset.name} {network}{layers}", highlight=False)


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as (dotted name, text) rows."""
    rows = []
    for key, value in values.items():
        rows += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
    return rows
