"""``dcgan-eval list``, ``export`` and ``verify``: what can be done with records besides looking at one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from ..errors import RecordError
from ..records import Record, load_record
from ..report.export import export_records
from ..report.tables import percent
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options
from .options import cache_dir_option, data_dir_option, default_cache_dir, example, json_option

_paths = click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[RECORD|FOLDER]...")


def find_records(paths: Sequence[Path]) -> list[tuple[Path, Record]]:
    """Read the records named, and those in the folders named; without any, those in ``records/``.

    Raises
    ------
    RecordError
        There are none, or a file that was named is no record.
    """
    files: list[Path] = []
    for path in paths or [Path("records")]:
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or (not paths and not Path("records").is_dir()):
        raise RecordError(
            "There are no records",
            got=", ".join(map(str, paths)) or "no folder records/ here",
            remedy="name records or a folder of them, or make one with `dcgan-eval svm digits`",
        )
    return [(path, load_record(path)) for path in files]


@click.command("list", epilog=example("dcgan-eval list records/"))
@_paths
@json_option
def list_records(paths: tuple[Path, ...], as_json: bool) -> None:
    """List records, one line each [default: those in records/]."""
    found = find_records(paths)
    if as_json:
        fields = ("protocol", "score", "status", "created", "command")
        rows = [{"file": str(path), **{name: getattr(r, name) for name in fields}} for path, r in found]
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table(title=f"{len(found)} records", title_justify="left")
    for heading in ("file", "protocol", "features", "accuracy %", "made"):
        table.add_column(heading, justify="right" if "%" in heading else "left")
    for path, r in found:
        table.add_row(path.name, r.protocol, r.features["name"], percent(r.score), r.created[:16].replace("T", " "))
    out.print(table)


@click.command(epilog=example("dcgan-eval export records/ --out results.csv"))
@_paths
@click.option("--out", "path", required=True, type=click.Path(path_type=Path), help="A .csv, .parquet or .tex file.")
def export(paths: tuple[Path, ...], path: Path) -> None:
    """Write records as one table: CSV and Parquet with every value, or LaTeX to print."""
    found = find_records(paths)
    click.echo(str(export_records(found, path)))
    err.print(f"{len(found)} records", highlight=False)


@click.command(epilog=example("dcgan-eval verify records/digits.json --rerun"))
@click.argument("path", type=click.Path(path_type=Path), metavar="RECORD")
@encoder_options
@click.option("--rerun", is_flag=True, help="Run the protocol again and compare the number.")
@data_dir_option
@cache_dir_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    path: Path,
    encoder: EncoderChoice,
    rerun: bool,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Check a record against the data and weights it names; exit code 1 when something differs."""
    from ..protocols.verify import verify as check_record

    record = load_record(path)
    model = encoder.load() if encoder.weights or encoder.encoder or encoder.list_layers else None
    with progress_view() as progress:
        checks = check_record(
            record,
            encoder=model,
            data_dir=data_dir,
            cache_dir=cache_dir or default_cache_dir(),
            rerun=rerun,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        table = Table(title=str(path), title_justify="left", show_header=False)
        for check in checks:
            mark = {True: "same", False: "DIFFERS", None: "not checked"}[check.passed]
            table.add_row(check.name, mark, check.detail)
        out.print(table)
    ctx.exit(1 if any(check.passed is False for check in checks) else 0)
