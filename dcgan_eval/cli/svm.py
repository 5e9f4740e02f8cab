"""``dcgan-eval svm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .encoder import encoder_options, layer_option
from .options import example, given_option, making_options, run_options
from .running import protocol_argument, run_and_show, take_features


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
def svm(protocol: str, **options: Any) -> None:
    """Run a protocol end to end: features, choice of C, certified L2-SVM, record.

    Instead of a protocol, the path of own data that have a training and a test split, or a set of `data list`; or, with
    --features, "own": features and labels from the two files, without images.
    """
    run_and_show(protocol, take_features(protocol, options), options)
