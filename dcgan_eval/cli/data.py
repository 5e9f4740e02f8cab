"""``dcgan-eval data list|check``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from ..data.catalog import DATASETS, check_data, default_data_dir, find
from .console import err, out
from .options import data_dir_option, example, json_option


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
