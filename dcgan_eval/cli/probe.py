"""``dcgan-eval probe``: other classifiers on the same features."""

from __future__ import annotations

from typing import Any

import click

from .encoder import encoder_options, layer_option
from .options import (
    draws_options,
    example,
    fit_device_option,
    given_option,
    making_options,
    near_option,
    probe_options,
    stack,
    tol_option,
    unconverged_option,
)
from .running import protocol_argument, run_and_show, take_features


@click.group(epilog=example("dcgan-eval probe logistic cifar10-small --data-dir ~/data"))
def probe() -> None:
    """Run a protocol with another classifier than the L2-SVM; each gives a record under an id of its own."""


_on_features = stack(
    protocol_argument,
    encoder_options,
    layer_option,
    making_options,
    given_option,
    draws_options,
    near_option,
    probe_options,
)


@probe.command(epilog=example("dcgan-eval probe knn cifar10-small --data-dir ~/data"))
@_on_features
@fit_device_option
def knn(protocol: str, **options: Any) -> None:
    """k nearest neighbours by cosine, weighted; k is chosen on validation rows."""
    _run(protocol, "knn_cosine", options)


@probe.command(epilog=example("dcgan-eval probe logistic cifar10-small --data-dir ~/data"))
@_on_features
@tol_option
@unconverged_option
@fit_device_option
def logistic(protocol: str, **options: Any) -> None:
    """Multinomial logistic regression, certified by its duality gap; C is chosen on validation rows."""
    _run(protocol, "logistic", options)


@probe.command(epilog=example("dcgan-eval probe ridge cifar10-small --data-dir ~/data"))
@_on_features
@fit_device_option
def ridge(protocol: str, **options: Any) -> None:
    """Ridge classification, solved exactly in float64; alpha is chosen on validation rows."""
    _run(protocol, "ridge", options)


@probe.command(epilog=example("dcgan-eval probe mlp cifar10-small --data-dir ~/data"))
@_on_features
def mlp(protocol: str, **options: Any) -> None:
    """A perceptron with one hidden layer of 256 units; its weight decay is chosen on validation rows."""
    _run(protocol, "mlp", options)


def _run(protocol: str, name: str, options: dict[str, Any]) -> None:
    """Run a classifier on an encoder's features, or on given ones."""
    from ..protocols.classifiers import PROBES
    from ..protocols.settings import DEFAULTS

    classifier = PROBES[name](options.get("tol", DEFAULTS.tol), options["seed"], {})
    run_and_show(protocol, take_features(protocol, options), options, classifier)
