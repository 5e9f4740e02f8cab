"""``dcgan-eval ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..features.extract import ExtractOptions
from ..protocols.ablation import ablate as run_ablation
from ..protocols.catalog import PROTOCOLS, get_protocol
from ..report.figures import ablation_figure
from ..report.tables import comparison_table
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options
from .options import (
    data_dir_option,
    default_cache_dir,
    download_option,
    example,
    layer_option,
    making_options,
    seed_option,
    tol_option,
)


@click.command(epilog=example("dcgan-eval ablate cifar10-small --data-dir ~/data"))
@click.argument("protocol", metavar="|".join(PROTOCOLS))
@encoder_options
@layer_option
@making_options
@data_dir_option
@download_option
@seed_option
@tol_option
@click.option("--out", "folder", type=click.Path(path_type=Path), help="[default: records/ablate-PROTOCOL-WEIGHTS].")
def ablate(
    protocol: str,
    encoder: EncoderChoice,
    layers: tuple[str, ...],
    cache_dir: Path | None,
    data_dir: Path | None,
    download: bool,
    seed: int,
    tol: float,
    folder: Path | None,
    **making: Any,
) -> None:
    """Run a protocol on each layer alone, on all layers up to each, and on all but each; a record for every one."""
    spec, chosen = get_protocol(protocol), encoder.load()
    options = ExtractOptions(layers or None, **making)
    with progress_view() as progress:
        records = run_ablation(
            spec,
            chosen,
            options=options,
            cache_dir=cache_dir or default_cache_dir(),
            data_dir=data_dir,
            download=download,
            progress=progress,
            seed=seed,
            tol=tol,
        )
    folder = folder or Path("records") / f"ablate-{spec.command}-{chosen.name}".replace(":", "-")
    for name, record in records.items():
        record.write(folder / f"{name}.json")
    figure = ablation_figure(records, chosen.choose(options.layers), folder / "ablation.png", spec.title)
    out.print(comparison_table(list(records.values()), spec.title))
    err.print(f"Records: {folder}/*.json\nFigure:  {figure}", highlight=False)
