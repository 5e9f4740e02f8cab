"""``dcgan-eval svm``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import ProtocolError
from ..protocols.catalog import get_protocol
from ..protocols.given import given_protocol
from ..protocols.sources import EncoderFeatures, GivenFeatures
from .encoder import EncoderChoice, encoder_options
from .options import example, given_option, layer_option, making_options, run_options
from .running import protocol_argument, run_and_show, take_making

_MAKING = {field.name for field in fields(EncoderChoice)} | {
    "layers",
    "batch_norm",
    "compute",
    "store_dtype",
    "device",
    "batch_size",
}


@click.command(epilog=example("dcgan-eval svm cifar10 --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@given_option
@click.option(
    "--save-probe",
    "probe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the classifier, for `verify --probe`: .safetensors with JSON in its header.",
)
@run_options
def svm(
    protocol: str, encoder: EncoderChoice, layers: tuple[str, ...], given: tuple[Path, Path] | None, **options: Any
) -> None:
    """Run a protocol end to end: features, choice of C, certified L2-SVM, record.

    Instead of a protocol, the path of own data that have a training and a test split, or a set of `data list`; or, with
    --features, "own": features and labels from the two files, without images.
    """
    if given:
        run_and_show(protocol, given_source(protocol, given, options), options)
        return
    get_protocol(protocol)
    making = take_making(options, layers)
    run_and_show(protocol, EncoderFeatures(encoder.load(), making), options)


def given_source(protocol: str, given: tuple[Path, Path], options: dict[str, Any]) -> GivenFeatures:
    """Return features made elsewhere as a source; options that say how features are made are taken out."""
    given_protocol(protocol)
    _refuse_making()
    take_making(options)
    return GivenFeatures(given[0], given[1], options["label_column"])


def _refuse_making() -> None:
    """Refuse options that say how features are made beside features that are there."""
    ctx = click.get_current_context()
    making = [p for p in ctx.command.params if p.name in _MAKING and isinstance(p, click.Option)]
    typed = [p.opts[0] for p in making if ctx.get_parameter_source(p.name or "") == ParameterSource.COMMANDLINE]
    if typed:
        raise ProtocolError(
            "Features that are given are not made",
            got=f"--features beside {', '.join(typed)}",
            remedy="leave out --features, or the options of the encoder",
        )
