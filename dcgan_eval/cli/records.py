"""``dcgan-eval list``, ``export`` and ``verify``: what can be done with records besides looking at one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from ..errors import RecordError, counted
from ..files import check_target
from ..insight.finding import Finding, is_finding, load_finding
from ..records import Record, load_record
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options
from .options import cache_dir_option, data_dir_option, default_cache_dir, example, given_option, json_option, to_option

_paths = click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[RECORD|FOLDER]...")


def read_record(path: Path) -> Record:
    """Read a record, and say so if it is not as it was written."""
    record = load_record(path)
    if record.intact is False:
        err.print(f"Note: {path} does not fit its digest: it was altered after it was written")
    return record


def find_records(paths: Sequence[Path]) -> list[tuple[Path, Record]]:
    """Read the records named, and those in the folders named; without any, those in ``records/``.

    What is no record in a folder is passed over with a note.

    Raises
    ------
    RecordError
        There are none, or a file that was named is no record.
    """
    found = _read(paths, [])
    if not found:
        raise _nothing(paths)
    return found


def find_results(paths: Sequence[Path]) -> tuple[list[tuple[Path, Record]], list[tuple[Path, Finding]]]:
    """Read records as :func:`find_records` does, and the findings of experiments that are named or lie beside them.

    Raises
    ------
    RecordError
        There are neither, a finding is damaged, or a file that was named is none of both.
    """
    places = paths or [Path("records")]
    files = [file for path in places for file in (_files_in(path) if path.is_dir() else [path])]
    findings = [file for file in files if _is_finding(file)]
    found = _read(paths, findings)
    if not found and not findings:
        raise _nothing(paths)
    return found, [(file, load_finding(file)) for file in findings]


def _is_finding(file: Path) -> bool:
    """Tell whether a file says that it is a finding."""
    try:
        return is_finding(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return False


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that may be records; whoever opened a pipe there would wait for ever."""
    return sorted(path for path in folder.glob("*.json") if path.is_file())


def _read(paths: Sequence[Path], passed_over: Sequence[Path]) -> list[tuple[Path, Record]]:
    """Read records, some files left out."""
    found: list[tuple[Path, Record]] = []
    for path in paths or [Path("records")]:
        if path.is_dir():
            found += _records_in(path, passed_over)
        elif paths and path not in passed_over:
            found.append((path, read_record(path)))
    return found


def _nothing(paths: Sequence[Path]) -> RecordError:
    """Return the error for places without records."""
    return RecordError(
        "There are no records",
        got=", ".join(map(str, paths)) or "no folder records/ here",
        remedy="name records or a folder of them, or make one with `dcgan-eval svm digits`",
    )


def _records_in(folder: Path, passed_over: Sequence[Path]) -> list[tuple[Path, Record]]:
    """Read the records of a folder, some files left out."""
    found = []
    for path in _files_in(folder):
        if path in passed_over:
            continue
        try:
            found.append((path, read_record(path)))
        except RecordError as error:
            err.print(f"Passed over {path}: {error.what}")
    return found


@click.command("list", epilog=example("dcgan-eval list records/"))
@_paths
@json_option
def list_records(paths: tuple[Path, ...], as_json: bool) -> None:
    """List records, one line each [default: those in records/]."""
    found = find_records(paths)
    if as_json:
        fields = ("protocol", "dataset_fingerprint", "score", "status", "created", "command")
        rows = [
            {"file": str(path), "data": r.data["train"]["name"], **{name: getattr(r, name) for name in fields}}
            for path, r in found
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    from ..report.sheet import Sheet
    from ..report.tables import features_label, run_name, score_cell

    cells = [
        (path.name, run_name(r), features_label(r), score_cell(r), r.created[:16].replace("T", " "))
        for path, r in found
    ]
    headings = ("file", "protocol", "features", "score %", "made")
    out.print(Sheet(counted(len(found), "records"), headings, cells, ("score %",)))


@click.command(epilog=example("dcgan-eval export records/ --out results.csv"))
@_paths
@to_option("path", required=True, help="A .csv, .parquet or .tex file.")
def export(paths: tuple[Path, ...], path: Path) -> None:
    """Write records as one table: CSV and Parquet with every value, or LaTeX to print."""
    check_target(path, "--out", RecordError, suffixes=(".csv", ".parquet", ".tex"))
    found = find_records(paths)
    from ..report.export import export_records

    with written("--out"):
        export_records(found, path)
    click.echo(str(path))
    err.print(counted(len(found), "records"))


@contextmanager
def written(option: str) -> Iterator[None]:
    """Turn a failed write into a sentence that names the option."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            "The result cannot be written", got=str(error), remedy=f"give another place with {option}"
        ) from error


@click.command(epilog=example("dcgan-eval verify records/digits.json --rerun"))
@click.argument("path", type=click.Path(path_type=Path), metavar="RECORD")
@encoder_options
@given_option
@click.option("--probe", type=click.Path(path_type=Path), metavar="FILE", help="What --save-probe wrote beside it.")
@click.option("--rerun", is_flag=True, help="Run the protocol again and compare the number.")
@data_dir_option
@cache_dir_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    path: Path,
    encoder: EncoderChoice,
    given: tuple[Path, Path] | None,
    probe: Path | None,
    rerun: bool,
    data_dir: Path | None,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Check a record against itself and the data and weights it names.

    What is not said of the encoder is taken from the record; what is said and differs is a row of its own.

    Exit code 1 when something differs, 3 when nothing does but something could not be checked.
    """
    from ..protocols.verify import verify as check_record

    record = load_record(path)
    model = encoder.load(record=record) if any(vars(encoder).values()) else None
    with progress_view() as progress:
        checks = check_record(
            record,
            encoder=model,
            features=given or (),
            probe=probe,
            data_dir=data_dir,
            cache_dir=cache_dir or default_cache_dir(),
            rerun=rerun,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        from ..report.sheet import Sheet

        marks = {True: "same", False: "DIFFERS", None: "not checked"}
        out.print(Sheet(str(path), ("", "", ""), [(c.name, marks[c.passed], c.detail) for c in checks]))
    found = {check.passed for check in checks}
    ctx.exit(1 if False in found else 3 if None in found else 0)
