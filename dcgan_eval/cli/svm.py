"""``dcgan-eval svm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..features.extract import ExtractOptions
from ..protocols.catalog import PROTOCOLS, get_protocol
from ..protocols.classifiers import Classifier
from ..protocols.evaluate import evaluate
from ..protocols.sources import EncoderFeatures, FeatureSource
from ..records import Record
from ..report.tables import result_panel
from ..svm.path import Solver
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options
from .options import default_cache_dir, example, layer_option, making_options, run_options

protocol_argument = click.argument("protocol", metavar="|".join(PROTOCOLS))


@click.command(epilog=example("dcgan-eval svm cifar10 --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@run_options
def svm(
    protocol: str,
    encoder: EncoderChoice,
    layers: tuple[str, ...],
    cache_dir: Path | None,
    **options: Any,
) -> None:
    """Run a protocol end to end: features, choice of C, certified L2-SVM, record.

    Instead of a protocol, the path of own data that have a training and a test split.
    """
    get_protocol(protocol)
    making = take_making(options, layers)
    source = EncoderFeatures(encoder.load(), making, cache_dir or default_cache_dir())
    run_and_show(protocol, source, **options)


def take_making(options: dict[str, Any], layers: tuple[str, ...]) -> ExtractOptions:
    """Take the options that say how features are made out of a command's options."""
    names = ("batch_norm", "compute", "store_dtype", "device")
    return ExtractOptions(layers or None, **{name: options.pop(name) for name in names})


def run_and_show(
    name: str,
    source: FeatureSource,
    *,
    data_dir: Path | None,
    download: bool,
    per_class: int | None,
    num_draws: int | None,
    seed: int,
    record: Path | None,
    as_json: bool,
    classifier: Classifier | None = None,
    tol: float = 1e-4,
    solver: Solver = "auto",
    explain: bool = False,
    allow_unconverged: bool = False,
) -> None:
    """Run a protocol on a source of features, write the record and show it."""
    protocol = get_protocol(name).with_draws(per_class, num_draws)
    with progress_view() as progress:
        result = evaluate(
            protocol,
            source,
            data_dir=data_dir,
            download=download,
            classifier=classifier,
            seed=seed,
            tol=tol,
            solver=solver,
            allow_unconverged=allow_unconverged,
            progress=progress,
        )
    show_and_keep(result, protocol.title, record, as_json)
    if explain:
        for draw in result.draws:
            err.print(_explanation(draw), highlight=False)


def show_and_keep(result: Record, title: str, path: Path | None, as_json: bool) -> None:
    """Write a record and show it."""
    path = result.write(path or default_record_path(result))
    if as_json:
        click.echo(result.to_json())
    else:
        out.print(result_panel(result, title))
    err.print(f"Record: {path}", highlight=False)


def _explanation(draw: dict[str, Any]) -> str:
    """Say how a fit was made."""
    return (
        f"Fit of {draw['num_rows']:,} rows at C = {draw['C']:g}: solver {draw['solver']} ({draw['solver_reason']}); "
        f"{draw['newton_iterations']} Newton iterations, {draw['passes']} passes over X, {draw['time_s']:.1f} s, "
        f"relative duality gap {draw['duality_gap']:.1e}"
    )


def default_record_path(record: Record) -> Path:
    """Return a new name under ``records/``, so that no earlier record is replaced."""
    stamp = record.created.replace("-", "").replace(":", "").split("+")[0]
    return Path("records") / f"{record.name}-{stamp}.json"
