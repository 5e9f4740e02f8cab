"""``dcgan-eval score-samples``: KID and FID of a generator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..data.imageset import ImageSet
from ..errors import DataError
from ..files import sha256_of
from ..insight.finding import Finding
from ..report.panels import write_rows
from ..seeding import torch_generator
from .console import progress_view
from .findings import checked, data_option, drawn, from_prior, loaded, opened, pair_options, report_finding
from .options import Number, data_dir_option, example

_FEWEST = 40  # samples and real images
_COLUMNS, _ROWS = 16, 3  # of samples and of real images in the picture
Sets = tuple[np.ndarray, np.ndarray]  # samples and real images, or their features


@click.command(
    "score-samples",
    epilog=example("dcgan-eval score-samples --weights imagenet32-paper --data tiny-imagenet --out score.png"),
)
@data_option(required=True)
@click.option("--split", default="train", show_default=True, help="Of the real images.")
@click.option(
    "--count",
    type=Number(int, _FEWEST, 10_000),
    default=2_000,
    show_default=True,
    help="Samples, and real images, to compare.",
)
@click.option("--subsets", type=Number(int, 1, 10_000), default=100, show_default=True, help="Subsets of the KID.")
@click.option(
    "--encoder", "spec", metavar="SPEC", help="Whose features are compared, as for `features` [default: the bundled]."
)
@click.option(
    "--inception",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Weights of Inception, for its FID and KID too.",
)
@data_dir_option
@pair_options("score.png")
def score_samples(
    name: str,
    split: str,
    count: int,
    subsets: int,
    spec: str | None,
    inception: Path | None,
    data_dir: Path | None,
    weights: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure how far a generator's samples are from real images: KID on the features of an encoder.

    KID is the unbiased kernel distance, averaged over subsets, and stands beside that between two halves of the real
    images, which is 0 up to chance. Nothing is downloaded. --inception adds the usual FID and KID, through
    torch-fidelity (extra `generate`), with InceptionV3's weights from a file.
    """
    from ..devices import resolve_device
    from ..features.encoders import load_encoder
    from ..insight import kid as kernel

    finding_path, place = checked(path), resolve_device(device)
    if inception is not None:
        kernel.check_inception()
    network = None if inception is None else kernel.load_inception(inception, place)
    encoder, (pair, still, _) = load_encoder(spec), opened(weights, None, device, seed)
    real = _enough(loaded(name, split, data_dir, count, pair.preset).without_labels(), name)
    z_NZ = from_prior(pair, count, seed, "score samples")
    images = (drawn(still.images, z_NZ, place), real.images)
    measured = _kids(_features(encoder, images, device), subsets, seed, "kid")
    hashes = {"generator": pair.hashes["generator"], "data": real.fingerprint, "encoder": encoder.weights_sha256}
    if network is not None and inception is not None:
        far = [kernel.inception_features(network, np.asarray(part), place) for part in images]
        measured |= {"fid_inception": kernel.fid(*far)} | _kids((far[0], far[1]), subsets, seed, "kid_inception")
        hashes["inception"] = sha256_of(inception)
    measured |= {"samples": count, "real_images": len(real)}
    settings = {"data": name, "split": split, "encoder": encoder.name, "preset": pair.preset.name}
    finding = Finding("score-samples", "kid", measured, settings, seed, hashes)
    caption = _picture(images, path, name)
    alt = "Rows of samples above rows of real images"
    report_finding(finding, finding_path, {path: (alt, caption)}, _sentence(measured, encoder.name), as_json)


def _enough(real: ImageSet, name: str) -> ImageSet:
    """Return real images, or raise where there are too few."""
    if len(real) < _FEWEST:
        raise DataError(
            f"There are too few images of {name} to compare with",
            got=f"{len(real)}",
            expected=f"{_FEWEST} or more",
            remedy="choose others with --data or --split",
        )
    return real


def _features(encoder: Any, images: Sets, device: str) -> Sets:
    """Return the features of samples and real images; batch norm has the statistics of the real ones."""
    from ..features.extract import ExtractOptions, extract

    samples, real = (ImageSet(np.asarray(part)) for part in images)
    options = ExtractOptions(device=device)
    with tempfile.TemporaryDirectory() as folder, progress_view() as progress:
        stores = [
            extract(encoder, part, calibration=real, options=options, cache_dir=folder, progress=progress)
            for part in (samples, real)
        ]
        return stores[0].read(), stores[1].read()


def _kids(features: Sets, subsets: int, seed: int, name: str) -> dict[str, Any]:
    """Return the KID of samples and real images, and that of two random halves of the real ones."""
    import torch

    from ..insight.kid import kid

    samples, real = features
    order = torch.randperm(len(real), generator=torch_generator(seed, "halves")).numpy()
    halves = real[order[::2]], real[order[1::2]]
    found = {name: kid(samples, real, subsets, seed=seed)}
    found[f"{name}_real_halves"] = kid(*halves, subsets=subsets, seed=seed)
    return {key: value for each, one in found.items() for key, value in one.measured(each).items()}


def _picture(images: Sets, path: Path, name: str) -> str:
    """Write samples above real images; return the caption."""
    rows = []
    for words, part in (("samples", images[0]), (f"images of {name}", images[1])):
        shown = np.asarray(part[: _ROWS * _COLUMNS])
        rows += [(words * (start == 0), shown[start : start + _COLUMNS]) for start in range(0, len(shown), _COLUMNS)]
    write_rows(rows, path)
    return f"Samples above images of {name}"


def _sentence(measured: dict[str, Any], encoder: str) -> str:
    """Say what was found."""
    low, high = measured["kid_ci95"]
    text = f"KID {measured['kid']:.4g} ({low:.4g} to {high:.4g}) on features of {encoder}, "
    text += f"{measured['samples']:,} samples; halves of the real images {measured['kid_real_halves']:.4g}"
    if "fid_inception" in measured:
        text += f"; on Inception's FID {measured['fid_inception']:.2f}, KID {measured['kid_inception']:.4g}"
    return text
