"""``dcgan-eval data list|check|pack|dedup``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..data.catalog import DATASETS, default_data_dir, find, load_data
from ..data.check import check_data
from ..data.pack import pack
from ..errors import counted
from .console import err, out, progress_view
from .options import (
    SEED,
    SIDE,
    Number,
    data_dir_option,
    device_option,
    download_option,
    example,
    json_option,
    to_option,
)


@click.group(epilog=example("dcgan-eval data list --data-dir ~/data"))
def data() -> None:
    """Find data sets and check what is in them."""


label_column_option = click.option(
    "--label-column", metavar="NAME", help="Column, field or array of the labels, where several could be meant."
)


processes_option = click.option(
    "--processes", type=Number(int, 1, 1_024), help="Processes that decode; one for each core by default."
)


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
    for heading in ("name", "title", "images", "found"):
        table.add_column(heading, overflow="fold")
    for name, place in places.items():
        images = ", ".join(f"{split} {count:,}" for split, count in DATASETS[name].counts.items())
        fetched = "–" if DATASETS[name].torchvision_class is None else "– (--download fetches it)"
        table.add_row(name, DATASETS[name].title, images, str(place) if place else fetched)
    out.print(table)


@data.command(epilog=example("dcgan-eval data check digits"))
@click.argument("name")
@data_dir_option
@download_option
@label_column_option
@json_option
def check(name: str, data_dir: Path | None, download: bool, label_column: str | None, as_json: bool) -> None:
    """Count images and classes, look for duplicates between train and test, and print the fingerprint.

    NAME is a known data set or a place of your own: a folder, a tar archive, a list, Parquet, .npz or a pack.
    """
    if download and name in DATASETS:
        for split in DATASETS[name].splits:
            if split != "extra":
                load_data(name, split, data_dir, download=True)
    report = check_data(name, data_dir, label_column)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    for split, found in report["splits"].items():
        out.print(f"{split}: {_in_words(found)}")
    for pair, shared in report["duplicates_between"].items():
        out.print(f"in both {pair.replace('/', ' and ')}: {counted(shared, 'images')}")
    for note in [*(f"Not used: {phrase}" for phrase in report["not_used"]), *report["problems"]]:
        err.print(f"Note: {note}")


@data.command("pack", epilog=example("dcgan-eval data pack ~/imagenet/train --size 32 --out imagenet32.h5"))
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--size", type=SIDE, default=32, show_default=True, help="Shorter side, and square cut from the centre, in pixels."
)
@click.option(
    "-o", "--out", "out_file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="HDF5 to write."
)
@click.option("--split", help="Split to pack [default: all there are, one behind the other].")
@label_column_option
@processes_option
@json_option
def pack_data(
    source: Path,
    size: int,
    out_file: Path,
    split: str | None,
    label_column: str | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Shrink the images of a place to one file for training.

    SOURCE is a folder of images (classes by folder), a tar archive or a folder of them (ILSVRC2012's archive of
    archives, WebDataset shards), a list of paths and labels, Parquet files or a saved data set. After an interruption
    the same command goes on. Damaged images, and those with more than 8 bits a channel, are left out and listed.
    """
    with progress_view() as progress:
        packed = pack(
            source,
            out_file,
            size,
            split=split,
            label_column=label_column,
            num_processes=processes,
            on_progress=progress,
        )
    summary = {"path": str(packed.path), "num_images": packed.num_images, "num_classes": len(packed.class_names)}
    summary |= {"splits": packed.splits, "fingerprint": packed.fingerprint, "skipped": dict(packed.skipped)}
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    splits = ", ".join(f"{split} {count:,}" for split, count in packed.splits.items())
    classes = counted(len(packed.class_names), "classes")
    out.print(f"{packed.path}: {counted(packed.num_images, 'images')} ({splits}), {classes}")
    for name, why in packed.skipped[:20]:
        err.print(f"Skipped {name}: {why}")
    if len(packed.skipped) > 20:
        err.print(f"... and {len(packed.skipped) - 20} more, all listed in the file under 'skipped'")


@data.command(epilog=example("dcgan-eval data dedup ~/imagenet/train --out imagenet32-clean.h5"))
@click.argument("source", type=click.Path(path_type=Path))
@to_option("path", required=True, help="HDF5 to write; finding (JSON) and examples (HTML) go beside it.")
@click.option(
    "--size", type=Number(int, 32, 4_096), default=32, show_default=True, help="Pixels of a side, as for `data pack`."
)
@click.option("--split", help="Split to take [default: all there are, one behind the other].")
@processes_option
@click.option("--seed", type=SEED, default=0, show_default=True, help="Root seed of everything random.")
@device_option
@json_option
def dedup(source: Path, path: Path, **settings: Any) -> None:
    """Pack the images of a place without near-duplicates; the first of each group is kept.

    SOURCE is what `data pack` takes, or a pack, which is taken whole and at its size. An autoencoder turns images into
    128 bits, and those that share their bits are the same. After an interruption the same command goes on. Beside the
    pack: a finding with all groups by name, and a page of examples with the closest pairs that are both kept.
    """
    from .dedup import write_without_duplicates  # here: the other commands of this group need no torch

    write_without_duplicates(source, path, **settings)


def _in_words(found: dict[str, Any]) -> str:
    """Describe a split in a line or two."""
    shape = "x".join(str(side) for side in found["image_shape"] or ()) or "of many sizes"
    counts = found["class_counts"]
    classes = "no labels"
    if counts:
        least, most = min(counts.values()), max(counts.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        names = ", ".join(list(counts)[:10]) + (", ..." if len(counts) > 10 else "")
        classes = f"{counted(len(counts), 'classes')} of {each}: {names}"
    return f"{counted(found['num_images'], 'images')} {shape}, {classes}\n  {found['source']}\n  {found['fingerprint']}"
