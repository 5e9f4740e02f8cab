"""``dcgan-eval regress``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..errors import RecordError
from ..protocols.regress import SUITES, Measure, baseline_path, judge, load_baseline, run_suite
from ..report.gate import junit, markdown, short
from .console import err, out, progress_view
from .options import data_dir_option, example

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=example("dcgan-eval regress --suite smoke --junit regress.xml"))
@click.option("--suite", type=click.Choice(list(SUITES)), default="smoke", show_default=True)
@click.option("--baseline", "path", type=_FILE, help="Baseline to compare with [default: the one that comes with it].")
@click.option("--update", is_flag=True, help="Write what was found as the new baseline.")
@click.option("--junit", "junit_path", type=_FILE, help="Write JUnit XML.")
@click.option("--json", "json_path", type=_FILE, help="Write everything that was found as JSON.")
@click.option("--markdown", "markdown_path", type=_FILE, help="Append a table for the summary of a CI run.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Folder of feature stores [default: a new one, then deleted]."
)
@data_dir_option
@click.pass_context
def regress(
    ctx: click.Context,
    suite: str,
    path: Path | None,
    update: bool,
    junit_path: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
    cache_dir: Path | None,
    data_dir: Path | None,
) -> None:
    """Run a suite and compare each number with its baseline; exit code 1 when one has moved."""
    path = path or baseline_path(suite)
    baseline = None if update else load_baseline(path, suite)
    with tempfile.TemporaryDirectory() as fresh, progress_view() as progress:
        found = run_suite(suite, data_dir=data_dir, cache_dir=cache_dir or fresh, progress=progress)
    if baseline is None:
        ctx.exit(_update(found, path))
    measures = judge(found, baseline)
    out.print(_table(measures, suite))
    values = {**found, "measures": [asdict(m) for m in measures], "passed": all(m.passed for m in measures)}
    _write(junit_path, junit(measures, suite))
    _write(json_path, json.dumps(values, indent=1) + "\n")
    _write(markdown_path, markdown(measures, suite), append=True)
    ctx.exit(0 if values["passed"] else 1)


def _update(found: dict[str, Any], path: Path) -> int:
    """Write a new baseline, unless a case failed; return the exit code."""
    errors = [case["error"] for case in found["cases"].values() if "error" in case]
    for error in errors:
        err.print(f"Error: {error}", highlight=False)
    if errors:
        return 1
    _write(path, json.dumps(found, indent=1) + "\n")
    err.print(f"Baseline: {path}", highlight=False)
    return 0


def _table(measures: Sequence[Measure], suite: str) -> Table:
    """Show every measure."""
    failed = sum(not m.passed for m in measures)
    table = Table(title=f"{suite}: {f'{failed} regressions' if failed else 'no regression'}", title_justify="left")
    for heading in ("", "run", "number", "found", "baseline", "band"):
        table.add_column(heading, justify="right" if heading in ("found", "baseline") else "left")
    for m in measures:
        table.add_row("ok" if m.passed else "FAILS", m.case, m.name, short(m.value), short(m.expected), m.band)
    return table


def _write(path: Path | None, text: str, append: bool = False) -> None:
    """Write or append to a file, if one was asked for."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a" if append else "w") as file:
            file.write(text)
    except OSError as error:
        raise RecordError("A file cannot be written", got=f"{path}: {error}", remedy="give another place") from error
