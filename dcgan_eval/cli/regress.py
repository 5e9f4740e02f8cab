"""``dcgan-eval regress``."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import RecordError
from ..files import check_target, write_file
from .console import err, out, progress_view
from .options import data_dir_option, example
from .records import written

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=example("dcgan-eval regress --suite smoke --junit regress.xml"))
@click.option(
    "--suite",
    "name",
    default="smoke",
    show_default=True,
    metavar="smoke|small|paper|FILE.toml",
    help="A suite of this toolkit, or runs of your own: a [[run]] table for each, whose keys are options of svm.",
)
@click.option(
    "--baseline",
    "path",
    type=_FILE,
    help="Baseline to compare with [default: the one that comes with the suite, FILE.baseline.json beside yours].",
)
@click.option("--update", is_flag=True, help="Write what was found as the new baseline.")
@click.option("--junit", "junit_path", type=_FILE, help="Write JUnit XML.")
@click.option(
    "--json",
    "json_path",
    type=_FILE,
    help="Write everything that was found to a file as JSON; what is printed stays text.",
)
@click.option("--markdown", "markdown_path", type=_FILE, help="Append a table for the summary of a CI run.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Folder of feature stores [default: a new one, then deleted]."
)
@data_dir_option
@click.pass_context
def regress(
    ctx: click.Context,
    name: str,
    path: Path | None,
    update: bool,
    junit_path: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
    cache_dir: Path | None,
    data_dir: Path | None,
) -> None:
    """Run a suite and compare each number with its baseline; exit code 1 when one has moved."""
    from ..protocols.regress import judge, load_baseline, run_suite
    from ..report.gate import junit, lines, markdown
    from .suite import load_suite

    suite = load_suite(name)
    for option, target in (("--junit", junit_path), ("--json", json_path), ("--markdown", markdown_path)):
        if target is not None:
            check_target(target, option, RecordError)
    path = path or suite.path
    if update:
        check_target(path, "--baseline", RecordError, suffixes=(".json",))
    baseline = None if update else load_baseline(path, suite)
    with tempfile.TemporaryDirectory() as fresh, progress_view() as progress:
        found = run_suite(suite, data_dir=data_dir, cache_dir=cache_dir or fresh, progress=progress)
    if baseline is None:
        ctx.exit(_update(found, path))
    measures = judge(found, baseline, suite)
    out.print("\n".join(lines(measures, suite.name)))
    values = {**found, "measures": [asdict(m) for m in measures], "passed": all(m.passed for m in measures)}
    _write(junit_path, "--junit", junit(measures, suite.name))
    _write(json_path, "--json", json.dumps(values, indent=1) + "\n")
    _write(markdown_path, "--markdown", markdown(measures, suite.name), append=True)
    ctx.exit(0 if values["passed"] else 1)


def _update(found: dict[str, Any], path: Path) -> int:
    """Write a new baseline, unless a case failed; return the exit code."""
    from ..protocols.regress import baseline_text

    errors = [case["error"] for case in found["cases"].values() if "error" in case]
    for error in errors:
        err.print(f"Error: {error}")
    if errors:
        return 1
    _write(path, "--baseline", baseline_text(found))
    err.print(f"Baseline: {path}")
    return 0


def _write(path: Path | None, option: str, text: str, append: bool = False) -> None:
    """Write a file, if one was asked for, after what is in it already where that is to stay."""
    if path is None:
        return
    with written(option):
        before = path.read_text(encoding="utf-8") if append and path.is_file() else ""
        write_file(path, before + text)
