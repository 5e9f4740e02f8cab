"""``dcgan-eval baseline``: what a representation must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..baselines.kmeans import PUBLISHED_C, KMeansFeatures, KMeansOptions
from ..baselines.knn import KnnClassifier
from ..baselines.supervised import SearchOptions, SupervisedSearch
from ..features.encoders import load_encoder
from ..features.extract import ExtractOptions
from ..protocols.catalog import get_protocol, load_protocol_data
from ..protocols.classifiers import SvmClassifier
from ..protocols.search import run_search
from ..protocols.sources import EncoderFeatures, PixelFeatures
from .console import progress_view
from .options import (
    COUNT,
    MINUTES,
    Number,
    cache_dir_option,
    default_cache_dir,
    device_option,
    draws_options,
    example,
    making_options,
    probe_options,
    run_options,
)
from .svm import protocol_argument, run_and_show, show_and_keep, take_making


@click.group(epilog=example("dcgan-eval baseline pixels cifar10-small --data-dir ~/data"))
def baseline() -> None:
    """Run a baseline through a protocol; each gives a record like any other."""


@baseline.command(epilog=example("dcgan-eval baseline pixels cifar10-small --data-dir ~/data"))
@protocol_argument
@run_options
def pixels(protocol: str, **options: Any) -> None:
    """Raw pixels and the L2-SVM."""
    get_protocol(protocol)
    run_and_show(protocol, PixelFeatures(), **options)


@baseline.command(epilog=example("dcgan-eval baseline random cifar10-small --data-dir ~/data"))
@protocol_argument
@click.option("--preset", default="imagenet32", show_default=True, help="Architecture.")
@making_options
@run_options
def random(protocol: str, preset: str, cache_dir: Path | None, **options: Any) -> None:
    """The discriminator with random weights and the L2-SVM."""
    get_protocol(protocol)
    making = take_making(options, ())
    source = EncoderFeatures(load_encoder(f"untrained:{preset}:0"), making, cache_dir or default_cache_dir())
    run_and_show(protocol, source, **options)


@baseline.command(epilog=example("dcgan-eval baseline kmeans cifar10-small --data-dir ~/data"))
@protocol_argument
@click.option(
    "--centroids",
    type=Number(int, 1, 10**6),
    default=1600,
    show_default=True,
    help="Number of centroids K; an image has 4 K features.",
)
@click.option("--hard", is_flag=True, help="One-hot assignment instead of the triangle activation.")
@click.option("--patches", type=COUNT, default=400_000, show_default=True, help="Patches to learn from.")
@click.option("--iterations", type=Number(int, 1, 10**6), default=50, show_default=True, help="Iterations of K-means.")
@click.option(
    "--published-c", is_flag=True, help="Fix C at the authors' 100 (of the mean loss) instead of choosing it."
)
@device_option
@cache_dir_option
@run_options
def kmeans(
    protocol: str,
    centroids: int,
    hard: bool,
    patches: int,
    iterations: int,
    published_c: bool,
    device: str,
    cache_dir: Path | None,
    **options: Any,
) -> None:
    """K-means features of whitened patches (Coates, Ng & Lee 2011) and the L2-SVM."""
    get_protocol(protocol)
    learning = KMeansOptions(centroids, hard, num_patches=patches, iterations=iterations, seed=options["seed"])
    source = KMeansFeatures(learning, cache_dir or default_cache_dir(), ExtractOptions(device=device).torch_device)
    if published_c:
        options["classifier"] = SvmClassifier(
            (PUBLISHED_C,), tol=options["tol"], solver=options["solver"], mean_loss=True
        )
    run_and_show(protocol, source, **options)


@baseline.command(epilog=example("dcgan-eval baseline knn cifar10-small --data-dir ~/data"))
@protocol_argument
@draws_options
@probe_options
def knn(protocol: str, **options: Any) -> None:
    """k nearest neighbours on raw pixels; k is chosen on validation rows."""
    get_protocol(protocol)
    run_and_show(protocol, PixelFeatures(), classifier=KnnClassifier(), **options)


@baseline.command(epilog=example("dcgan-eval baseline supervised cifar10-small --trials 4 --data-dir ~/data"))
@protocol_argument
@click.option("--preset", default="imagenet32", show_default=True, help="Architecture.")
@click.option(
    "--trials", type=Number(int, 0, 10**6), default=64, show_default=True, help="Trials of the random search."
)
@click.option("--epochs", type=Number(int, 1, 10**6), default=20, show_default=True, help="Epochs of each trial.")
@click.option("--max-minutes", type=MINUTES, help="Stop after this time; the same command goes on.")
@device_option
@cache_dir_option
@probe_options
def supervised(
    protocol: str,
    preset: str,
    trials: int,
    epochs: int,
    max_minutes: float | None,
    device: str,
    cache_dir: Path | None,
    data_dir: Path | None,
    download: bool,
    seed: int,
    record: Path | None,
    as_json: bool,
) -> None:
    """The discriminator's architecture trained with labels, by random search: validation accuracy, no test score."""
    spec, options = get_protocol(protocol), SearchOptions(preset, trials, epochs, seed=seed)
    where = ExtractOptions(device=device).torch_device
    search = SupervisedSearch(options, cache_dir or default_cache_dir(), where, max_minutes)
    train, _ = load_protocol_data(spec, data_dir, download=download)
    with progress_view() as progress:
        result = run_search(spec, train, search, seed=seed, progress=progress)
    show_and_keep(result, spec.title, record, as_json)
