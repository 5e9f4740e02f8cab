"""``dcgan-eval table``."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import RecordError
from ..records import load_record
from ..report.paper_numbers import TABLES
from ..report.paper_tables import NamedRecord, rich_tables, table_rows, to_csv, to_json, to_latex, to_markdown
from .console import out
from .options import example

_FORMATS = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex, "json": to_json}


@click.command(epilog=example("dcgan-eval table svhn --format markdown"))
@click.argument("name", type=click.Choice(tuple(TABLES)))
@click.argument("records", nargs=-1, type=click.Path(path_type=Path), metavar="[RECORD...]")
@click.option("--format", "form", type=click.Choice(("rich", *_FORMATS)), default="rich", show_default=True)
def table(name: str, records: tuple[Path, ...], form: str) -> None:
    """Set a published table beside our records [default: those in benchmarks/results, else in records]."""
    published = TABLES[name]
    rows = table_rows(published, [(path, load_record(path)) for path in records] or _found_records())
    if form == "rich":
        for view in rich_tables(published, rows):
            out.print(view)
    else:
        click.echo(_FORMATS[form](published, rows))


def _found_records() -> list[NamedRecord]:
    """Return the records of the checkout or of the working directory, passing over files that are none."""
    committed = Path("benchmarks") / "results"
    folder = committed if committed.is_dir() else Path("records")
    found: list[NamedRecord] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append((path, load_record(path)))
        except RecordError:
            continue
    return found
