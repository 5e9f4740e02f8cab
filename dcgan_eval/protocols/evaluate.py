"""One call from a protocol's name and features to a record."""

from __future__ import annotations

from ..features.taps import Encoder
from ..progress import Progress, no_progress
from ..records import Record
from .catalog import get_protocol
from .given import given_protocol, load_sets
from .runner import run_protocol
from .settings import DEFAULTS, Place, Settings
from .sources import EncoderFeatures, Filler, GivenFeatures
from .spec import Protocol, SealedTest


def evaluate(
    protocol: str | Protocol,
    features: Encoder | Filler,
    settings: Settings = DEFAULTS,
    place: Place | None = None,
    progress: Progress = no_progress,
) -> Record:
    """Load a protocol's data, run it and return the record: what ``dcgan-eval svm`` does.

    Parameters
    ----------
    protocol : str or Protocol
        A name of the catalogue (``"cifar10"``, ``"svhn-small"``), the path of data with a training and a test split, or
        a protocol such as ``get_protocol("cifar10").with_draws(40, 10)``.
    features : Encoder or Filler
        What to measure; an encoder's features are made by the paper's protocol, or as
        ``EncoderFeatures(encoder, ExtractOptions(...))`` says. ``GivenFeatures(train, test)`` takes files of features;
        with it the protocol ``"own"`` has their labels, and needs no images.
    settings : Settings
        What else decides the numbers: seed, tolerance, classifier.
    place : Place or None
        Where data and features lie.
    progress : callable
        Shows long work.

    Raises
    ------
    DcganEvalError
        Unknown protocol, missing data, images that do not fit the encoder, a fit without its certificate.
    """
    source = EncoderFeatures(features) if isinstance(features, Encoder) else features
    place = place or Place()
    find = given_protocol if isinstance(source, GivenFeatures) else get_protocol
    spec = find(protocol) if isinstance(protocol, str) else protocol
    if place.download and place.team.size > 1:  # one fetches what is missing, then all read it
        place.team.decided(lambda: bool(load_sets(spec, source, place)))
    train, test = load_sets(spec, source, place)
    return run_protocol(spec, train, SealedTest(test), source, settings, place, progress)
