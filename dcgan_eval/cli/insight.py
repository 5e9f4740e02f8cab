"""What the paper shows besides its tables: ``dcgan-eval walk``, ``arithmetic``, ``turn`` and their like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from ..devices import resolve_device
from ..files import check_target
from ..insight import walk as walking
from ..insight.drawing import Features, Pair, feature_maker, in_batches, load_pair, settled
from ..insight.finding import Finding
from ..models.dcgan import sample_prior, to_uint8
from ..report.panels import write_animation, write_rows
from ..seeding import torch_generator
from .console import err, out
from .options import SEED, Number, device_option, example, json_option, stack

_CALIBRATION_SAMPLES = 1_024

weights_option = click.option(
    "--weights", metavar="NAME|FILE", help="Bundled name or generator file [default: the last bundled]."
)
discriminator_option = click.option(
    "--discriminator", metavar="NAME|FILE", help="For features [default: the one that belongs to the generator]."
)
seed_option = click.option("--seed", type=SEED, default=0, show_default=True, help="Root seed of everything random.")
samples_option = click.option(
    "--samples", type=Number(int, 2, 10**6), default=128, show_default=True, help="Size of the grid that indices name."
)


def _out_option(default: str) -> Any:
    """Return the option for the picture; the finding goes beside it."""
    kind = click.Path(path_type=Path, dir_okay=False)
    what = "Picture to write, PNG; the finding goes beside it as JSON."
    return click.option("--out", "path", type=kind, default=Path(default), show_default=True, help=what)


def _pair_options(out_file: str) -> Any:
    """Return the options of every command that draws from a generator."""
    return stack(weights_option, discriminator_option, _out_option(out_file), seed_option, device_option, json_option)


def _checked(path: Path) -> Path:
    """Raise unless picture and finding can be written; return the finding's name."""
    finding = path.with_suffix(".json")
    check_target(path, "--out", suffixes=(".png",))
    check_target(finding, "--out")
    return finding


def _report(
    finding: Finding, path: Path, pictures: Mapping[Path, tuple[str, str]], sentence: str, as_json: bool
) -> None:
    """Write the finding and say what it found."""
    finding = finding.write(path, pictures)
    for note in finding.notes:
        err.print(f"Note: {note}", highlight=False)
    if as_json:
        click.echo(finding.to_json())
        return
    out.print(sentence, highlight=False)
    for file in (*pictures, path):
        out.print(str(file), highlight=False, markup=False, soft_wrap=True)


def _features(pair: Pair, draw: Any, seed: int, device: torch.device) -> Features | None:
    """Return the features of the pair's discriminator, settled on samples; None without a discriminator."""
    if pair.D is None:
        return None
    z_NZ = sample_prior(pair.preset, _CALIBRATION_SAMPLES, torch_generator(seed, "settle the discriminator"))
    return feature_maker(pair.D, to_uint8(in_batches(draw, z_NZ, device)))


@click.command(epilog=example("dcgan-eval walk --rows 4 --out walk.png"))
@click.option(
    "--points", type=Number(int, 2, 10**6), default=9, show_default=True, help="Random z that a walk goes through."
)
@click.option("--rows", type=Number(int, 1, 10**6), default=10, show_default=True, help="Walks, a row each.")
@click.option(
    "--steps", type=Number(int, 1, 10**6), default=16, show_default=True, help="Steps from one z to the next."
)
@click.option(
    "--every", type=Number(int, 1, 10**6), default=8, show_default=True, help="Show one image out of so many."
)
@click.option("--path", "shape", type=click.Choice(walking.PATHS), default="linear", show_default=True)
@click.option("--animate", type=click.Path(path_type=Path, dir_okay=False), help="The first walk as .gif or .png too.")
@_pair_options("walk.png")
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
    finding_path = _checked(path)
    if animate is not None:
        check_target(animate, "--animate", suffixes=(".gif", ".png"))
    place = resolve_device(device)
    pair = load_pair(weights, discriminator, place).unconditional("walk")
    draw = settled(pair.G, seed)
    z_NZ = sample_prior(pair.preset, rows * points, torch_generator(seed, "walk"))
    found = walking.walk(
        draw,
        z_NZ.unflatten(0, (rows, points)),
        steps=steps,
        path=shape,
        features=_features(pair, draw, seed, place),
        seed=seed,
        device=place,
    )
    write_rows([("", images[::every]) for images in found.images], path, enlarge=1)
    caption = f"{rows} walks through {points} random z each, {shape}, one image in {every} of {steps} steps a leg"
    pictures = {path: ("Rows of generated images that change gradually from left to right", caption)}
    if animate is not None:
        write_animation(found.images[0].repeat(4, 1).repeat(4, 2), animate)
        pictures[animate] = ("Animation of one walk", "The first of these walks")
    settings = {"points": points, "rows": rows, "steps": steps, "path": shape, "preset": pair.preset.name}
    measured = found.measured()
    finding = Finding("walk", "sharpness_pixels", measured, settings, seed, pair.hashes)
    sentence = (
        f"sharpness {finding.value:.2f} in pixels (shuffled {measured['sharpness_shuffled_pixels']:.2f}), "
        f"jump {measured['jump_pixels']:.2f}; {measured['sharp_walks_pixels']} of {rows} walks are sharp"
    )
    _report(finding, finding_path, pictures, sentence, as_json)
