"""Options that name an encoder, shared by every command that takes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Table

from ..errors import DcganEvalError, EncoderError
from ..features.libraries import forms
from .console import err, out
from .options import SIDE, offering, stack

if TYPE_CHECKING:
    from ..features.taps import Encoder
    from ..records import Record

F = TypeVar("F", bound=Callable[..., Any])
_DEFAULT_SHAPE = (32, 32, 3)


@dataclass(frozen=True)
class EncoderChoice:
    """What the user said about the encoder.

    Attributes
    ----------
    weights, encoder, arch : str or None
        Three names of one option.
    checkpoint : str or None
        A file of tensors for it.
    image_size, normalise, pool, layout
        As for :func:`~dcgan_eval.features.encoders.load_encoder`.
    list_layers : bool
        Print the layers instead of running.
    """

    weights: str | None = None
    encoder: str | None = None
    arch: str | None = None
    checkpoint: str | None = None
    image_size: int | None = None
    normalise: str | None = None
    pool: str | None = None
    layout: str | None = None
    list_layers: bool = False

    def load(self, image_shape: tuple[int, int, int] = _DEFAULT_SHAPE, record: Record | None = None) -> Encoder:
        """Build the encoder; with ``--list-layers`` print its layers for images of a shape and end the command.

        What was not said about it is taken from a record where one is given.
        """
        from ..features.encoders import load_encoder
        from ..protocols.rebuild import load_recorded

        named = {key: spec for key in ("weights", "encoder", "arch") if (spec := getattr(self, key)) is not None}
        if len(named) > 1 or "" in named.values():
            raise EncoderError(
                "An encoder has one name, which is not empty",
                got=" ".join(f"--{key} {spec!r}" for key, spec in named.items()),
                remedy="give one of --weights, --encoder and --arch",
            )
        encoder = (load_encoder if record is None else functools.partial(load_recorded, record))(
            next(iter(named.values()), None),
            checkpoint=self.checkpoint,
            normalise=self.normalise,
            image_size=self.image_size,
            pooling=self.pool,
            layout=self.layout,
        )
        for note in encoder.notes:
            err.print(f"Note: {note}", style="yellow", markup=False, highlight=False)
        if self.list_layers:
            _print_layers(encoder, encoder.image_shape or image_shape)
            click.get_current_context().exit()
        return encoder


def _print_layers(encoder: Encoder, image_shape: tuple[int, int, int]) -> None:
    """Print the table of layers."""
    from ..features.layers import list_layers

    table = Table(title=f"Layers of {encoder.name} for images of {image_shape}", title_justify="left")
    for heading in ("--layer", "module", "output", f"features ({encoder.pooling.identity})", "in all"):
        table.add_column(heading, justify="right" if "features" in heading else "left", no_wrap=heading == "--layer")
    for layer in list_layers(encoder, image_shape):
        width = "–" if layer.width is None else f"{layer.width:,}"
        shape = " x ".join(map(str, layer.shape))
        table.add_row(layer.name, layer.kind, shape, width, "yes" if layer.name in encoder.layers else "")
    out.print(table)


def _bundled() -> list[str]:
    """Return names of weights: bundled ones, and presets without training."""
    from ..models.bundled import read_manifest
    from ..models.presets import PRESETS

    return [*read_manifest()["weights"], *(f"untrained:{name}" for name in PRESETS)]


def _networks() -> list[str]:
    """Return the names of torchvision's models."""
    from torchvision import models

    return [f"torchvision:{name}" for name in models.list_models(models)]


def layer_names(options: dict[str, Any]) -> list[str]:
    """Return the layers of the encoder that options name: of what neither runs the user's code nor fetches weights."""
    from ..features.encoders import load_encoder

    spec = next((spec for key in ("weights", "encoder", "arch") if (spec := options.get(key))), None)
    kind, _, rest = str(spec or "").partition(":")
    try:
        if kind in ("torchvision", "timm"):
            encoder = load_encoder(f"{kind}:{rest.partition(':')[0]}")
        elif spec is None or spec in _bundled():
            encoder = load_encoder(spec)
        else:
            return []
    except DcganEvalError:
        return []
    if encoder.is_discriminator:
        return list(encoder.layers)
    return [name for name, _ in encoder.module.named_modules() if name]


layer_option = click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    shell_complete=offering(lambda ctx: layer_names(ctx.params)),
    help="Layer to use, repeated or comma-separated; * stands for any part between dots [default: all].",
)
rule_options = stack(
    click.option(
        "--image-size",
        type=SIDE,
        metavar="N",
        help="Resize images to this side [default: as the weights' makers, else as they are].",
    ),
    click.option(
        "--normalise",
        "--normalize",
        metavar="paper|imagenet|MEAN/STD",
        help="How pixels are scaled [default: as the weights' makers, else paper, to -1...1].",
    ),
    click.option(
        "--pool",
        metavar="max4|avg4|avg1|gem|cls|cls+avg1|none",
        help="How a layer's map or tokens become a vector [default: max4].",
    ),
    click.option(
        "--layout",
        metavar="auto|nchw|nhwc",
        help="Axes of the layers' maps [default: auto, found by running the encoder].",
    ),
)
RULES = ("image_size", "normalise", "pool", "layout")
_options = stack(
    click.option(
        "--weights",
        metavar="NAME|FILE",
        shell_complete=offering(lambda ctx: _bundled()),
        help="Bundled name, safetensors file, or untrained[:PRESET[:SEED]] [default: the bundled default].",
    ),
    click.option(
        "--encoder",
        metavar="SPEC",
        shell_complete=offering(lambda ctx: [*_bundled(), *_networks()]),
        help=f"What --weights takes, {forms()}, or package.module:factory. Names without weights get random ones.",
    ),
    click.option(
        "--arch",
        metavar="SPEC",
        shell_complete=offering(lambda ctx: _networks()),
        help="The same, for the network of a --checkpoint.",
    ),
    click.option(
        "--checkpoint",
        metavar="FILE",
        help="Tensors of --arch (.safetensors, .pth); prefixes are stripped, no code runs.",
    ),
    rule_options,
    click.option("--list-layers", is_flag=True, help="Print the names and shapes of all layers, and stop."),
)


def encoder_options(function: F) -> F:
    """Add the options of an encoder to a command, which gets them as one argument ``encoder``."""

    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        choice = EncoderChoice(**{field.name: arguments.pop(field.name) for field in fields(EncoderChoice)})
        return function(encoder=choice, **arguments)

    return _options(command)  # type: ignore[return-value]
