"""``dcgan-eval samples``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ..files import check_target
from ..models.bundled import resolve
from .console import out
from .options import SEED, Number, example, to_option


@click.command(epilog=example("dcgan-eval samples --weights imagenet32-paper --out grid.png"))
@click.option("--weights", metavar="NAME|FILE", help="Bundled name or generator file [default: the bundled default].")
@to_option("path", default=Path("samples.png"), show_default=True)
@click.option("--rows", type=Number(int, 1, 1_000), default=8, show_default=True)
@click.option("--columns", type=Number(int, 1, 1_000), default=16, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Root seed of z.")
@click.option(
    "--z", "latents", type=click.Path(path_type=Path), help="Draw these, .npy or .json, all in one minibatch."
)
@click.option("--numbered", is_flag=True, help="Write the index of each sample above it.")
def samples(
    weights: str | None, path: Path, rows: int, columns: int, seed: int, latents: Path | None, numbered: bool
) -> None:
    """Draw a grid of samples from a generator, with the statistics of their minibatch as the 2016 release does.

    The columns of a conditional generator's grid show its classes in turn. Given latent vectors (--z) are drawn each by
    itself, with frozen statistics.
    """
    import torch

    from ..insight.drawing import in_batches, read_latents, settled
    from ..models.dcgan import Generator, draw_samples, to_uint8
    from ..models.weights import load_network
    from ..report.figures import write_image_grid
    from ..report.panels import write_numbered

    check_target(path, "--out", suffixes=(".png",))
    G = load_network(resolve(weights, "generator"), "generator")
    assert isinstance(G, Generator), "load_network checks the header"
    if latents is None:
        images = draw_samples(G, rows * columns, seed, columns)
    else:
        images = to_uint8(in_batches(settled(G, seed), read_latents(latents, G.preset), torch.device("cpu")))
        columns = min(columns, len(images))
        images = np.concatenate([images, np.full_like(images[: -len(images) % columns], 255)])  # fills the last row
    out.print(str((write_numbered if numbered else write_image_grid)(images, columns, path)), highlight=False)
