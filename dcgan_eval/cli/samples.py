"""``dcgan-eval samples``."""

from __future__ import annotations

from pathlib import Path

import click

from ..models.dcgan import Generator, draw_samples
from ..models.weights import load_network, resolve
from ..report.figures import write_image_grid
from .console import out
from .options import example


@click.command(epilog=example("dcgan-eval samples --weights imagenet32-paper --out grid.png"))
@click.option("--weights", metavar="NAME|FILE", help="Bundled name or generator file [default: the newest bundled].")
@click.option("--out", "path", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True)
@click.option("--rows", type=click.IntRange(1), default=8, show_default=True)
@click.option("--columns", type=click.IntRange(1), default=16, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Root seed of z.")
def samples(weights: str | None, path: Path, rows: int, columns: int, seed: int) -> None:
    """Draw a grid of samples from a generator, with the statistics of their minibatch as the 2016 release does.

    The columns of a conditional generator's grid show its classes in turn.
    """
    G = load_network(resolve(weights, "generator"), "generator")
    assert isinstance(G, Generator), "load_network checks the header"
    out.print(str(write_image_grid(draw_samples(G, rows * columns, seed, columns), columns, path)), highlight=False)
