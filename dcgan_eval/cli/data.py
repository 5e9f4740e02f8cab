"""``dcgan-eval data list|check|pack``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from ..data.catalog import DATASETS, check_data, default_data_dir, find
from ..data.pack import pack
from .console import err, out, progress_view
from .options import SIDE, Number, data_dir_option, example, json_option


@click.group(epilog=example("dcgan-eval data list --data-dir ~/data"))
def data() -> None:
    """Find data sets and check what is in them."""


@data.command("list", epilog=example("dcgan-eval data list"))
@data_dir_option
@json_option
def list_data(data_dir: Path | None, as_json: bool) -> None:
    """List the known data sets and where they were found."""
    places = {name: find(name, data_dir) for name in DATASETS}
    if as_json:
        click.echo(json.dumps({name: str(place) if place else None for name, place in places.items()}, indent=1))
        return
    table = Table(title=f"Data sets under {data_dir or default_data_dir()}", title_justify="left")
    for heading in ("name", "title", "found"):
        table.add_column(heading)
    for name, place in places.items():
        table.add_row(name, DATASETS[name].title, str(place) if place else "–")
    out.print(table)


@data.command(epilog=example("dcgan-eval data check digits"))
@click.argument("name")
@data_dir_option
@json_option
def check(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Count images and classes, look for duplicates between train and test, and print the fingerprint."""
    report = check_data(name, data_dir)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    out.print_json(data=report)
    for problem in report["problems"]:
        err.print(f"Note: {problem}", highlight=False)


@data.command("pack", epilog=example("dcgan-eval data pack ~/imagenet/train --size 32 --out imagenet32.h5"))
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--size", type=SIDE, default=32, show_default=True, help="Shorter side, and square cut from the centre, in pixels."
)
@click.option(
    "--out", "out_file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="HDF5 to write."
)
@click.option("--processes", type=Number(int, 1, 1_024), help="Processes that decode; one for each core by default.")
@json_option
def pack_data(source: Path, size: int, out_file: Path, processes: int | None, as_json: bool) -> None:
    """Shrink a folder, tar archive or Parquet files of images to one file for training.

    SOURCE is a folder of images (classes by folder), ILSVRC2012's archive of archives, tar shards or Parquet files of
    one split. After an interruption the same command goes on. Damaged, CMYK and one-pixel-high images are left out and
    listed.
    """
    with progress_view() as progress:
        packed = pack(source, out_file, size, num_processes=processes, on_progress=progress)
    summary = {"path": str(packed.path), "num_images": packed.num_images, "num_classes": len(packed.class_names)}
    summary |= {"fingerprint": packed.fingerprint, "skipped": dict(packed.skipped)}
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    out.print(f"{packed.path}: {packed.num_images:,} images, {len(packed.class_names)} classes", highlight=False)
    for name, why in packed.skipped[:20]:
        err.print(f"Skipped {name}: {why}", highlight=False)
    if len(packed.skipped) > 20:
        err.print(f"... and {len(packed.skipped) - 20} more, all listed in the file under 'skipped'", highlight=False)
