"""``dcgan-eval ablate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..files import check_target
from ..protocols.catalog import get_protocol
from ..records import Record
from ..report.tables import comparison_table
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options, layer_option
from .options import (
    example,
    fit_device_option,
    json_option,
    making_options,
    place_options,
    seed_option,
    to_option,
    tol_option,
)
from .running import protocol_argument, take_making, take_place, take_settings


@click.command(epilog=example("dcgan-eval ablate cifar10-small --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@place_options
@seed_option
@tol_option
@fit_device_option
@to_option("folder", help="[default: records/ablate-PROTOCOL-WEIGHTS].")
@json_option
def ablate(
    protocol: str, encoder: EncoderChoice, layers: tuple[str, ...], folder: Path | None, as_json: bool, **options: Any
) -> None:
    """Run a protocol on each layer alone, on all layers up to each, and on all but each; a record for every one."""
    from ..protocols.ablation import ablate as run_ablation
    from ..protocols.sources import EncoderFeatures
    from ..report.figures import ablation_figure

    spec, place, settings = get_protocol(protocol), take_place(options), take_settings(options)
    source = EncoderFeatures(encoder.load(), take_making(options, layers))
    folder = folder or Path("records") / f"ablate-{spec.command}-{source.name}".replace(":", "-")
    check_target(folder / "all.json", "--out")

    def keep(name: str, record: Record) -> None:
        record.write(folder / f"{name}.json")

    with progress_view() as progress:
        records = run_ablation(spec, source, settings, place, progress, keep)
    figure = ablation_figure(records, source.layers, folder / "ablation.png", spec.title)
    if as_json:
        click.echo(json.dumps({str(name): json.loads(r.to_json()) for name, r in records.items()}, indent=1))
    else:
        out.print(comparison_table(list(records.values()), spec.title))
    err.print(f"Records: {folder}/*.json\nFigure:  {figure}", highlight=False)
