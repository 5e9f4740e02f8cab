"""``dcgan-eval svm``."""

from __future__ import annotations

from typing import Any

import click

from ..protocols.catalog import get_protocol
from ..protocols.sources import EncoderFeatures
from .encoder import EncoderChoice, encoder_options
from .options import example, layer_option, making_options, run_options
from .running import protocol_argument, run_and_show, take_making


@click.command(epilog=example("dcgan-eval svm cifar10 --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@run_options
def svm(protocol: str, encoder: EncoderChoice, layers: tuple[str, ...], **options: Any) -> None:
    """Run a protocol end to end: features, choice of C, certified L2-SVM, record.

    Instead of a protocol, the path of own data that have a training and a test split, or a set of `data list`.
    """
    get_protocol(protocol)
    making = take_making(options, layers)
    run_and_show(protocol, EncoderFeatures(encoder.load(), making), options)
