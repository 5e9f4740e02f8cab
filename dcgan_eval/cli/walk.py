"""``dcgan-eval walk``: between random latent vectors, as the paper's figure 4."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..files import check_target
from ..insight.finding import Finding
from ..report.panels import write_animation, write_rows
from .findings import (
    Pictures,
    checked,
    discriminator_option,
    features_of,
    from_prior,
    opened,
    pair_options,
    report_finding,
)
from .options import Number, example


@click.command(epilog=example("dcgan-eval walk --rows 4 --out walk.png"))
@click.option(
    "--points", type=Number(int, 2, 1_000), default=9, show_default=True, help="Random z that a walk goes through."
)
@click.option("--rows", type=Number(int, 1, 1_000), default=10, show_default=True, help="Walks, a row each.")
@click.option(
    "--steps", type=Number(int, 1, 1_000), default=16, show_default=True, help="Steps from one z to the next."
)
@click.option(
    "--every", type=Number(int, 1, 1_000), default=8, show_default=True, help="Show one image out of so many."
)
@click.option("--path", "shape", type=click.Choice(["linear", "great-circle"]), default="linear", show_default=True)
@click.option("--animate", type=click.Path(path_type=Path, dir_okay=False), help="The first walk as .gif or .png too.")
@discriminator_option
@pair_options("walk.png")
def walk(
    points: int,
    rows: int,
    steps: int,
    every: int,
    shape: str,
    animate: Path | None,
    weights: str | None,
    discriminator: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Walk between random z and measure how evenly the image changes: jumps suggest stored images.

    Sharpness is a walk's largest step over its median step; the jump is its largest step over the step between the same
    images in shuffled order. A walk is called sharp above 5 and 0.5.
    """
    from ..insight import walk as walking

    finding_path = checked(path)
    if animate is not None:
        check_target(animate, "--animate", suffixes=(".gif", ".png"))
    pair, still, place = opened(weights, discriminator, device, seed, "walk")
    z_NZ = from_prior(pair, rows * points, seed, "walk")
    found = walking.walk(
        still.images,
        z_NZ.unflatten(0, (rows, points)),
        steps=steps,
        path=shape,
        features=features_of(pair, still.images, seed, place),
        seed=seed,
        device=place,
    )
    caption = f"{rows} walks through {points} random z each, {shape}, one image in {every} of {steps} steps a leg"
    pictures = _pictures(found.images[:, ::every], path, caption) | _animation(found.images[0], animate)
    settings = {"points": points, "rows": rows, "steps": steps, "path": shape, "preset": pair.preset.name}
    measured = found.measured()
    finding = Finding("walk", "sharpness_pixels", measured, settings, seed, pair.hashes)
    sentence = (
        f"sharpness {finding.value:.2f} in pixels (shuffled {measured['sharpness_shuffled_pixels']:.2f}), "
        f"jump {measured['jump_pixels']:.2f}; {measured['sharp_walks_pixels']} of {rows} walks are sharp"
    )
    report_finding(finding, finding_path, pictures, sentence, as_json)


def _pictures(images_RTHWC: np.ndarray, path: Path, caption: str) -> Pictures:
    """Write the walks, a row each."""
    write_rows([("", images) for images in images_RTHWC], path, enlarge=1)
    return {path: ("Rows of generated images that change gradually from left to right", caption)}


def _animation(images_THWC: np.ndarray, path: Path | None) -> Pictures:
    """Write one walk as an animation, if it is asked for."""
    if path is None:
        return {}
    write_animation(images_THWC.repeat(4, 1).repeat(4, 2), path)
    return {path: ("Animation of one walk", "The first of these walks")}
