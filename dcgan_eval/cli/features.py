"""``dcgan-eval features``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..data.catalog import load_data
from ..features.extract import ExtractOptions, extract
from ..features.store import FeatureStore
from .console import err, out, progress_view
from .encoder import EncoderChoice, encoder_options
from .options import (
    data_dir_option,
    default_cache_dir,
    download_option,
    example,
    json_option,
    layer_option,
    making_options,
)


@click.command(epilog=example("dcgan-eval features --data cifar10 --layer all"))
@click.option("--data", "data_name", required=True, metavar="NAME|PATH", help="Data set, or a folder, .npz or Parquet.")
@click.option(
    "--split", default=None, metavar="NAME", help="train, test or all [default: train, or all if that is all]."
)
@click.option("--calibrate-on", default=None, metavar="SPLIT", help="Split behind the batch-norm statistics [train].")
@encoder_options
@layer_option
@making_options
@click.option("--out", "out_path", type=click.Path(path_type=Path), help="Write this very file instead of the cache.")
@data_dir_option
@download_option
@json_option
def features(
    data_name: str,
    split: str | None,
    calibrate_on: str | None,
    encoder: EncoderChoice,
    layers: tuple[str, ...],
    cache_dir: Path | None,
    out_path: Path | None,
    data_dir: Path | None,
    download: bool,
    as_json: bool,
    **making: str,
) -> None:
    """Cache the features of a data set in HDF5; interrupted, it continues where it stopped."""
    options = ExtractOptions(layers or None, **making)
    model = encoder.load()
    chosen = model.choose(options.layers)
    split = split or ("all" if data_name == "digits" else "train")
    calibration_split = calibrate_on or ("all" if split == "all" else "train")
    images = load_data(data_name, split, data_dir, download=download)
    calibration = images if split == calibration_split else load_data(data_name, calibration_split, data_dir)
    with progress_view() as progress:
        store = extract(
            model,
            images,
            calibration=calibration,
            options=options,
            cache_dir=cache_dir or default_cache_dir(),
            out=out_path,
            progress=progress,
        )
    _report(store, chosen, as_json)


def _report(store: FeatureStore, layers: tuple[str, ...], as_json: bool) -> None:
    """Say what is in the store, where it is, and whether it was there before."""
    identity, size_bytes = store.identity, store.path.stat().st_size
    if as_json:
        summary = {
            "path": str(store.path),
            "reused": store.reused,
            "num_rows": identity.num_rows,
            "num_features": store.width(layers),
            "layers": list(layers),
            "size_bytes": size_bytes,
            "weights_sha256": identity.weights_sha256,
            "data_fingerprint": identity.data_fingerprint,
            "compute": identity.compute,
            "store_dtype": identity.store_dtype,
        }
        click.echo(json.dumps(summary))
        return
    err.print("Found in the cache; nothing was computed." if store.reused else "Computed and complete.")
    what = f"{identity.num_rows:,} x {store.width(layers):,} features ({', '.join(layers)}), {size_bytes / 1e6:,.0f} MB"
    out.print(what, highlight=False)
    click.echo(str(store.path))
