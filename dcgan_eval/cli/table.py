"""``dcgan-eval table``."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import RecordError
from ..files import check_target, write_file
from .console import out
from .options import example, json_option, to_option
from .records import find_records, written

_FORMATS = ("rich", "markdown", "csv", "latex", "json")


@click.command(epilog=example("dcgan-eval table svhn --format markdown"))
@click.argument("name", type=click.Choice(("cifar10", "svhn")))
@click.argument("records", nargs=-1, type=click.Path(path_type=Path), metavar="[RECORD|FOLDER]...")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="rich", show_default=True)
@to_option("path", help="Write a file in UTF-8 instead of printing.")
@json_option
def table(name: str, records: tuple[Path, ...], form: str, path: Path | None, as_json: bool) -> None:
    """Set a published table beside our records [default: those in benchmarks/results, else in records]."""
    form = "json" if as_json else form
    if path is not None and form == "rich":
        raise RecordError("A file needs a format", remedy=f"give --format {', '.join(_FORMATS[1:])} with --out")
    if path is not None:
        check_target(path, "--out", RecordError)
    usual = [folder for folder in (Path("benchmarks") / "results", Path("records")) if folder.is_dir()][:1]
    found = find_records(records or usual) if records or usual else []
    from ..report import paper_tables
    from ..report.paper_numbers import TABLES
    from ..report.tables import INTERVALS

    rows = paper_tables.table_rows(TABLES[name], found)
    if form == "rich":
        for view in paper_tables.rich_tables(TABLES[name], rows):
            out.print(view, "")
        out.print(INTERVALS)
        return
    text: str = getattr(paper_tables, f"to_{form}")(TABLES[name], rows)
    if path is None:
        print(text)  # not click.echo, which takes an ASCII terminal for one of UTF-8
        return
    with written("--out"):
        write_file(path, text)
    click.echo(str(path))
