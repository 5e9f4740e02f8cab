"""``dcgan-eval svm`` and ``dcgan-eval baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..data.catalog import dataset_info
from ..features.encoders import load_encoder
from ..features.extract import ExtractOptions
from ..protocols.catalog import PROTOCOLS, get_protocol
from ..protocols.evaluate import evaluate
from ..protocols.sources import EncoderFeatures, FeatureSource, PixelFeatures
from ..records import Record
from ..report.tables import result_panel
from ..svm.path import Solver
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options
from .options import default_cache_dir, example, layer_option, making_options, run_options

_BASELINES = ("pixels", "random")


@click.command(epilog=example("dcgan-eval svm cifar10 --data-dir ~/data"))
@click.argument("protocol", metavar="|".join(PROTOCOLS))
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
    """Run a protocol end to end: features, choice of C, certified L2-SVM, record."""
    image_shape = dataset_info(get_protocol(protocol).dataset).image_shape
    making = _take_making(options, layers)
    source = EncoderFeatures(encoder.load(image_shape), making, cache_dir or default_cache_dir())
    _run(protocol, source, **options)


@click.command(epilog=example("dcgan-eval baseline pixels cifar10-small --data-dir ~/data"))
@click.argument("kind", type=click.Choice(_BASELINES))
@click.argument("protocol", metavar="|".join(PROTOCOLS))
@click.option("--preset", default="imagenet32", show_default=True, help="Architecture of the random baseline.")
@making_options
@run_options
def baseline(
    kind: str,
    protocol: str,
    preset: str,
    cache_dir: Path | None,
    **options: Any,
) -> None:
    """Run a baseline through a protocol: raw pixels, or the discriminator with random weights."""
    get_protocol(protocol)
    making = _take_making(options, ())
    source: FeatureSource = PixelFeatures()
    if kind == "random":
        source = EncoderFeatures(load_encoder(f"untrained:{preset}:0"), making, cache_dir or default_cache_dir())
    _run(protocol, source, **options)


def _take_making(options: dict[str, Any], layers: tuple[str, ...]) -> ExtractOptions:
    """Take the options that say how features are made out of a command's options."""
    names = ("batch_norm", "compute", "store_dtype", "device")
    return ExtractOptions(layers or None, **{name: options.pop(name) for name in names})


def _run(
    name: str,
    source: FeatureSource,
    *,
    data_dir: Path | None,
    download: bool,
    seed: int,
    tol: float,
    solver: Solver,
    explain: bool,
    allow_unconverged: bool,
    record: Path | None,
    as_json: bool,
) -> None:
    """Run a protocol on a source of features, write the record and show it."""
    with progress_view() as progress:
        result = evaluate(
            name,
            source,
            data_dir=data_dir,
            download=download,
            seed=seed,
            tol=tol,
            solver=solver,
            allow_unconverged=allow_unconverged,
            progress=progress,
        )
    path = result.write(record or default_record_path(result))
    if as_json:
        click.echo(result.to_json())
    else:
        out.print(result_panel(result, get_protocol(name).title))
    if explain:
        for draw in result.draws:
            err.print(_explanation(draw), highlight=False)
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
