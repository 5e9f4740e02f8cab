"""``dcgan-eval baseline``: what a representation must beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..protocols.catalog import get_protocol, load_protocol_data
from .console import progress_view
from .options import (
    COUNT,
    MINUTES,
    Number,
    device_option,
    draws_options,
    example,
    fit_device_option,
    given_option,
    making_options,
    near_option,
    probe_options,
    run_options,
    store_dtype_option,
)
from .running import (
    check_record_target,
    given_source,
    protocol_argument,
    run_and_show,
    show_and_keep,
    show_to,
    take_making,
    take_place,
    take_protocol,
    tracked,
)

if TYPE_CHECKING:
    from ..protocols.sources import Filler


@click.group(epilog=example("dcgan-eval baseline pixels cifar10-small --data-dir ~/data"))
def baseline() -> None:
    """Run a baseline through a protocol; each gives a record like any other."""


@baseline.command(epilog=example("dcgan-eval baseline pixels cifar10-small --data-dir ~/data"))
@protocol_argument
@run_options
def pixels(protocol: str, **options: Any) -> None:
    """Raw pixels and the L2-SVM."""
    from ..protocols.sources import PixelFeatures

    get_protocol(protocol)
    run_and_show(protocol, PixelFeatures(), options)


@baseline.command(epilog=example("dcgan-eval baseline random cifar10-small --data-dir ~/data"))
@protocol_argument
@click.option("--preset", default="imagenet32", show_default=True, help="Architecture.")
@making_options
@run_options
def random(protocol: str, preset: str, **options: Any) -> None:
    """The discriminator with random weights and the L2-SVM."""
    from ..features.encoders import load_encoder
    from ..protocols.sources import EncoderFeatures

    get_protocol(protocol)
    making = take_making(options)
    run_and_show(protocol, EncoderFeatures(load_encoder(f"untrained:{preset}:0"), making), options)


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
@store_dtype_option
@device_option
@run_options
def kmeans(
    protocol: str,
    centroids: int,
    hard: bool,
    patches: int,
    iterations: int,
    published_c: bool,
    store_dtype: str,
    device: str,
    **options: Any,
) -> None:
    """K-means features of whitened patches (Coates, Ng & Lee 2011) and the L2-SVM."""
    from ..baselines.kmeans import PUBLISHED_C, KMeansFeatures, KMeansOptions
    from ..devices import resolve_device
    from ..protocols.classifiers import SvmClassifier

    get_protocol(protocol)
    learning = KMeansOptions(centroids, hard, num_patches=patches, iterations=iterations, seed=options["seed"])
    classifier = None
    if published_c:
        classifier = SvmClassifier((PUBLISHED_C,), tol=options["tol"], solver=options["solver"], mean_loss=True)
    run_and_show(protocol, KMeansFeatures(learning, resolve_device(device), store_dtype), options, classifier)


@baseline.command(epilog=example("dcgan-eval baseline knn cifar10-small --data-dir ~/data"))
@protocol_argument
@given_option
@draws_options
@near_option
@probe_options
@fit_device_option
def knn(protocol: str, given: tuple[Path, Path] | None, **options: Any) -> None:
    """k nearest neighbours on raw pixels, or on --features, by Euclidean distance; k is chosen on validation rows."""
    from ..baselines.knn import KnnClassifier
    from ..protocols.sources import PixelFeatures

    if given:
        source: Filler = given_source(protocol, given, options)
    else:
        get_protocol(protocol)
        source = PixelFeatures()
    run_and_show(protocol, source, options, KnnClassifier())


@baseline.command(epilog=example("dcgan-eval baseline supervised cifar10-small --trials 4 --data-dir ~/data"))
@protocol_argument
@click.option("--preset", default="imagenet32", show_default=True, help="Architecture.")
@click.option(
    "--trials", type=Number(int, 0, 10**6), default=64, show_default=True, help="Trials of the random search."
)
@click.option("--epochs", type=Number(int, 1, 10**6), default=20, show_default=True, help="Epochs of each trial.")
@click.option("--max-minutes", type=MINUTES, help="Stop after this time; the same command goes on.")
@device_option
@probe_options
def supervised(
    protocol: str, preset: str, trials: int, epochs: int, max_minutes: float | None, device: str, **options: Any
) -> None:
    """The discriminator's architecture trained with labels, by random search: validation accuracy, no test score."""
    from ..baselines.supervised import SearchOptions, SupervisedSearch
    from ..devices import resolve_device
    from ..protocols.search import run_search

    options |= {"per_class": None, "num_draws": None}
    spec, place, seed = take_protocol(protocol, options), take_place(options), options.pop("seed")
    check_record_target(options["record"])
    choice = SearchOptions(preset, trials, epochs, seed=seed)
    search = SupervisedSearch(choice, place.cache_dir, resolve_device(device), max_minutes)
    train, _ = load_protocol_data(spec, place.data_dir, download=place.download)
    with tracked(options, spec, f"supervised-{preset}", seed) as tracker:
        with progress_view() as progress:
            result = run_search(spec, train, search, seed=seed, progress=progress)
        show_and_keep(result, spec.title, **options)
        show_to(tracker, result)
