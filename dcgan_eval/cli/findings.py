"""What the commands of the experiments share: options, loading, and reporting a finding with its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..data.catalog import load_data
from ..data.imageset import ImageSet
from ..files import check_target
from .console import err, out
from .options import SEED, Number, device_option, json_option, stack

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..insight.drawing import Draw, Features, Pair
    from ..insight.finding import Finding
    from ..models.dcgan import Generator
    from ..models.presets import Preset

CALIBRATION_SAMPLES = 1_024
Pictures = dict[Path, tuple[str, str]]  # file -> what is said instead of it, and below it

weights_option = click.option(
    "--weights", metavar="NAME|FILE", help="Bundled name or generator file [default: the bundled default]."
)
discriminator_option = click.option(
    "--discriminator", metavar="NAME|FILE", help="For features [default: the one that belongs to the generator]."
)
seed_option = click.option("--seed", type=SEED, default=0, show_default=True, help="Root seed of everything random.")


def samples_option(default: int) -> Any:
    """Return the option for the size of the grid whose indices name samples."""
    kind, what = Number(int, 2, 100_000), "Size of the grid that indices name."
    return click.option("--samples", type=kind, default=default, show_default=True, help=what)


def out_option(default: str) -> Any:
    """Return the option for the picture; the finding goes beside it."""
    kind = click.Path(path_type=Path, dir_okay=False)
    what = "Picture to write, PNG; the finding goes beside it as JSON."
    return click.option("-o", "--out", "path", type=kind, default=Path(default), show_default=True, help=what)


def data_option(**settings: Any) -> Any:
    """Return the option that names the real images."""
    return click.option("--data", "name", metavar="NAME|PATH", help="Real images.", **settings)


def pair_options(out_file: str) -> Any:
    """Return the options of every command that draws from a generator."""
    return stack(weights_option, out_option(out_file), seed_option, device_option, json_option)


def opened(
    weights: str | None, discriminator: str | None, device: str, seed: int, experiment: str = ""
) -> tuple[Pair, Generator, torch.device]:
    """Load a generator and its discriminator; return both, one that draws each image by itself, and the device.

    An ``experiment`` that is named needs a generator that is told no classes.
    """
    from ..devices import resolve_device
    from ..insight.drawing import load_pair, settled_generator

    place = resolve_device(device)
    pair = load_pair(weights, discriminator, place)
    if experiment:
        pair = pair.unconditional(experiment)
    return pair, settled_generator(pair.G, seed), place


def from_prior(pair: Pair, count: int, seed: int, stream: str) -> Tensor:
    """Return random latent vectors (count, Z) of a named stream."""
    from ..models.dcgan import sample_prior
    from ..seeding import torch_generator

    return sample_prior(pair.preset, count, torch_generator(seed, stream))


def drawn(draw: Draw, z_NZ: Tensor, device: torch.device) -> np.ndarray:
    """Return images uint8 (N, H, W, C) of latent vectors."""
    from ..insight.drawing import in_batches
    from ..models.dcgan import to_uint8

    return to_uint8(in_batches(draw, z_NZ, device))


def checked(path: Path) -> Path:
    """Raise unless picture and finding can be written; return the finding's name."""
    finding = path.with_suffix(".json")
    check_target(path, "--out", suffixes=(".png",))
    check_target(finding, "--out")
    return finding


def loaded(name: str, split: str, data_dir: Path | None, limit: int, preset: Preset) -> ImageSet:
    """Load images of the networks' shape, the first ``limit`` of them."""
    from ..insight.neighbours import check_images

    images = load_data(name, split, data_dir)
    check_images(images.images, preset, name)
    return images if len(images) <= limit else images.take(np.arange(limit))


def report_finding(finding: Finding, path: Path, pictures: Pictures, sentence: str, as_json: bool) -> None:
    """Write the finding and say what it found."""
    finding = finding.write(path, pictures)
    for note in finding.notes:
        err.print(f"Note: {note}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(finding.to_json())
        return
    out.print(sentence, highlight=False, soft_wrap=True)
    for file in (*pictures, path):
        out.print(str(file), highlight=False, markup=False, soft_wrap=True)


def features_of(pair: Pair, draw: Draw, seed: int, device: torch.device) -> Features | None:
    """Return the features of the pair's discriminator, settled on samples; None without a discriminator."""
    from ..insight.drawing import feature_maker

    if pair.D is None:
        return None
    z_NZ = from_prior(pair, CALIBRATION_SAMPLES, seed, "settle the discriminator")
    return feature_maker(pair.D, drawn(draw, z_NZ, device))
