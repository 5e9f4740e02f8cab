"""``dcgan-eval show``."""

from __future__ import annotations

from pathlib import Path

import click

from ..records import load_record
from ..report.tables import class_table, comparison_table, result_panel
from .console import out
from .options import example, json_option


@click.command(epilog=example("dcgan-eval show quickstart/discriminator.json"))
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORD...")
@json_option
def show(records: tuple[Path, ...], as_json: bool) -> None:
    """Show a record, or several beside each other."""
    loaded = [load_record(path) for path in records]
    if as_json:
        for record in loaded:
            click.echo(record.to_json())
    elif len(loaded) == 1:
        out.print(result_panel(loaded[0], loaded[0].name))
        out.print(class_table(loaded))
        out.print(f"Made by: {loaded[0].command} ({loaded[0].created})", highlight=False)
    else:
        out.print(comparison_table(loaded, ", ".join(sorted({r.protocol for r in loaded}))))
