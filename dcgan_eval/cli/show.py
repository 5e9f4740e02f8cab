"""``dcgan-eval show``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import counted
from .console import out
from .options import example, json_option
from .records import read_record


@click.command(epilog=example("dcgan-eval show quickstart/discriminator.json"))
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORD...")
@json_option
def show(records: tuple[Path, ...], as_json: bool) -> None:
    """Show a record, or several beside each other."""
    loaded = [read_record(path) for path in records]
    if as_json:
        values = [json.loads(path.read_bytes()) for path in records]  # as they stand, digest included
        click.echo(json.dumps(values if len(values) > 1 else values[0], indent=1))
        return
    from ..report.tables import class_table, comparison_table, figures_table, result_panel

    if len(loaded) > 1:
        out.print(comparison_table(loaded, counted(len(loaded), "records")))
        return
    out.print(result_panel(loaded[0], loaded[0].name), "", class_table(loaded))
    if loaded[0].is_tested:
        out.print("", figures_table(loaded[0]))
    out.print(f"\nMade by: {loaded[0].command} ({loaded[0].created})")
