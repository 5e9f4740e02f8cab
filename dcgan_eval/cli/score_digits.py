"""``dcgan-eval score-digits``: real digits classified by generated ones, as the paper's supplement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ..data.catalog import load_data
from ..data.imageset import ImageSet
from ..errors import DataError, WeightsError
from ..insight.finding import Finding
from ..report.panels import write_rows
from .findings import checked, data_option, drawn, from_prior, opened, pair_options, report_finding
from .options import Number, data_dir_option, example

if TYPE_CHECKING:
    import torch

    from ..insight.drawing import Draw, Pair


@click.command("score-digits", epilog=example("dcgan-eval score-digits --weights mnist28_cond --out digits.png"))
@data_option(default="mnist", show_default=True)
@click.option(
    "--count",
    "counts",
    type=Number(int, 10, 10**8),
    multiple=True,
    default=(10_000, 50_000),
    show_default=True,
    help="Generated digits to compare with; repeated.",
)
@data_dir_option
@pair_options("digits.png")
def score_digits(
    name: str,
    counts: tuple[int, ...],
    data_dir: Path | None,
    weights: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Classify real digits by the nearest generated one, as the paper's supplement does.

    The generator must be one that is told the class. Digits are compared by pixels; the error with generated digits
    stands beside that with the real training digits.
    """
    from ..insight import digits
    from ..insight.neighbours import check_images
    from ..models.dcgan import grid_latents

    finding_path = checked(path)
    pair, still, place = opened(weights, None, device, seed)
    sets = {split: load_data(name, split, data_dir) for split in ("train", "test")}
    for images in sets.values():
        check_images(images.images, pair.preset, name)
    _check_classes(pair, sets["test"])
    draw = still.images
    found = digits.score(lambda n: _labelled(draw, pair, n, seed, place), counts, sets["test"], place)
    real = digits.nearest_error(sets["train"], sets["test"], place)
    rows, columns = 10, pair.preset.num_classes
    grid = drawn(draw, grid_latents(pair.preset, rows * columns, seed, columns), place)
    write_rows([("", row) for row in grid.reshape(rows, columns, *grid.shape[1:])], path)
    measured = {"error": found[-1].error, "generated": [f.measured() for f in found], "real": real.measured()}
    measured["published_percent_unchecked"] = digits.PUBLISHED
    settings = {"data": name, "counts": list(counts), "preset": pair.preset.name}
    hashes = pair.hashes | {split: images.fingerprint for split, images in sets.items()}
    finding = Finding("score-digits", "error", measured, settings, seed, hashes)
    errors = [f"{100 * f.error:.2f} % with {f.count:,} generated" for f in found]
    sentence = (
        f"error on {real.tested:,} digits: {', '.join(errors)}, {100 * real.error:.2f} % with {real.count:,} real"
    )
    words = ("Generated digits, a class in each column", f"Digits of {pair.preset.name}, a class in each column")
    report_finding(finding, finding_path, {path: words}, sentence, as_json)


def _check_classes(pair: Pair, test: ImageSet) -> None:
    """Raise unless the generator is told the classes that the images have."""
    if not pair.preset.num_classes:
        raise WeightsError(
            "The generator is not told which digit to draw, so its digits have no labels",
            got=pair.preset.name,
            expected="a conditional generator, such as one of mnist28_cond",
            remedy="choose another with --weights",
        )
    if test.labels is None or test.num_classes != pair.preset.num_classes:
        raise DataError(
            "The images do not have the generator's classes",
            got=f"{test.num_classes} classes",
            expected=f"{pair.preset.num_classes}",
            remedy="choose others with --data",
        )


def _labelled(draw: Draw, pair: Pair, count: int, seed: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of classes in equal chance; return both."""
    z_NZ = from_prior(pair, count, seed, "score digits")
    return drawn(draw, z_NZ, device), z_NZ[:, pair.preset.z_dim :].argmax(1).numpy()
