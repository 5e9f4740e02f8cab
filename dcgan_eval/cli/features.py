"""``dcgan-eval features``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.catalog import load_data
from ..data.imageset import ImageSet
from ..features.export import FORMATS, check_export, export
from . import console
from .console import err, progress_view
from .encoder import EncoderChoice, encoder_options, layer_option
from .options import example, json_option, making_options, place_options, to_option
from .running import take_making, take_place

if TYPE_CHECKING:
    from ..features.store import FeatureStore


@click.command(epilog=example("dcgan-eval features --data cifar10 --layer all"))
@click.option("--data", "data_name", required=True, metavar="NAME|PATH", help="Data set, or a folder, .npz or Parquet.")
@click.option(
    "--split", default=None, metavar="NAME", help="train, test or all [default: train, or all if that is all]."
)
@click.option("--calibrate-on", default=None, metavar="SPLIT", help="Split behind the batch-norm statistics [train].")
@encoder_options
@layer_option
@making_options
@click.option(
    "--format",
    "form",
    type=click.Choice(tuple(FORMATS)),
    default="hdf5",
    show_default=True,
    help="HDF5 is the store itself; the others are written beside it, from it.",
)
@to_option("out", help="Write this very file instead of one in the cache.")
@place_options
@json_option
def features(
    data_name: str,
    split: str | None,
    calibrate_on: str | None,
    encoder: EncoderChoice,
    layers: tuple[str, ...],
    form: str,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Cache the features of a data set in HDF5; interrupted, it continues where it stopped."""
    from ..features.extract import EncoderFeatures
    from ..features.fill import fill
    from ..ranks import joined

    place, making = take_place(options), take_making(options, layers)
    if out is not None:
        check_export(out, form)
    source = EncoderFeatures(encoder.load(), making)
    split = split or ("all" if data_name == "digits" else "train")
    calibration_split = calibrate_on or ("all" if split == "all" else "train")

    def load(which: str, download: bool = False) -> ImageSet:
        return load_data(data_name, which, place.data_dir, download=download, mixed=True)

    with joined() as source.team:
        with progress_view() as progress:
            if place.download:  # one process fetches what is missing, then all read it
                source.team.decided(lambda: bool(load(split, download=True)))
            images = load(split)
            calibration = images if split == calibration_split else load(calibration_split)
            source.learn(calibration, place.cache_dir, progress)
            target = out if form == "hdf5" else None
            store = fill(source, images, place.cache_dir, out=target, wait=place.wait, progress=progress)
            source.team.alone()
            path = store.path
            if form != "hdf5":
                path = export(store, form, out or path.with_suffix(FORMATS[form][0]), progress)
        _report(store, path, as_json)


def _report(store: FeatureStore, path: Path, as_json: bool) -> None:
    """Say what is in a store or in what was written from it, where that is, and whether the store was there before."""
    identity, size_bytes = store.identity, path.stat().st_size
    if as_json:
        summary = {
            "path": str(path),
            "reused": store.reused,
            "num_rows": identity.num_rows,
            "num_features": store.shape[1],
            "layers": list(store.layers),
            "size_bytes": size_bytes,
            "weights_sha256": identity.weights_sha256,
            "data_fingerprint": identity.data_fingerprint,
            "compute": identity.compute,
            "store_dtype": identity.store_dtype,
        }
        click.echo(json.dumps(summary))
        return
    err.print("Found in the cache; nothing was computed." if store.reused else "Computed and complete.")
    what = (
        f"{identity.num_rows:,} x {store.shape[1]:,} features ({', '.join(store.layers)}), {size_bytes / 1e6:,.0f} MB"
    )
    console.out.print(what, highlight=False)
    click.echo(str(path))
