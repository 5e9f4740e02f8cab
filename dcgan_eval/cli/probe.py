"""``dcgan-eval probe``: other classifiers on the same features."""

from __future__ import annotations

from typing import Any

import click

from ..baselines.knn import KnnClassifier
from ..baselines.logistic import LogisticClassifier
from ..protocols.catalog import get_protocol
from ..protocols.classifiers import Classifier
from ..protocols.sources import EncoderFeatures
from .encoder import EncoderChoice, encoder_options
from .options import (
    draws_options,
    example,
    layer_option,
    making_options,
    probe_options,
    tol_option,
    unconverged_option,
)
from .running import protocol_argument, run_and_show, take_making


@click.group(epilog=example("dcgan-eval probe logistic cifar10-small --data-dir ~/data"))
def probe() -> None:
    """Run a protocol with another classifier than the L2-SVM; each gives a record under an id of its own."""


@probe.command(epilog=example("dcgan-eval probe knn cifar10-small --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@draws_options
@probe_options
def knn(protocol: str, **options: Any) -> None:
    """k nearest neighbours by cosine, weighted; k is chosen on validation rows."""
    _run(protocol, KnnClassifier(cosine=True), **options)


@probe.command(epilog=example("dcgan-eval probe logistic cifar10-small --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@tol_option
@unconverged_option
@draws_options
@probe_options
def logistic(protocol: str, tol: float, **options: Any) -> None:
    """Multinomial logistic regression, certified by its duality gap; C is chosen on validation rows."""
    _run(protocol, LogisticClassifier(tol), tol=tol, **options)


def _run(
    protocol: str, classifier: Classifier, encoder: EncoderChoice, layers: tuple[str, ...], **options: Any
) -> None:
    """Run a classifier on an encoder's features."""
    get_protocol(protocol)
    making = take_making(options, layers)
    run_and_show(protocol, EncoderFeatures(encoder.load(), making), options, classifier)
