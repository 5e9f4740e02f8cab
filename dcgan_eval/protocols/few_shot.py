"""How the score grows with the labels: a protocol with 1, 2, 5, ... labels of each class, from one feature cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..progress import Progress, no_progress
from ..records import Record
from .given import load_sets
from .runner import run_protocol
from .settings import DEFAULTS, Place, Settings
from .sources import Filler
from .spec import Protocol, SealedTest


def learning_curve(
    protocol: Protocol,
    source: Filler,
    per_class: Sequence[int],
    num_draws: int | None = None,
    settings: Settings = DEFAULTS,
    place: Place | None = None,
    progress: Progress = no_progress,
    on_record: Callable[[int, Record], object] = lambda *_: None,
) -> dict[int, Record]:
    """Run a protocol with several numbers of labels, each with its own choice of C and its own draws.

    Parameters
    ----------
    protocol : Protocol
        What to run.
    source : Filler
        What to measure.
    per_class : sequence of int
        Labels of each class in a draw.
    num_draws : int or None
        Fresh draws on the test set for each; None is 10, or the protocol's own.
    settings, place, progress
        As for :func:`~dcgan_eval.protocols.runner.run_protocol`.
    on_record : callable
        Called with each number of labels and its record as soon as it is there.

    Returns
    -------
    dict
        Labels per class -> record, ascending.

    Raises
    ------
    DataError
        A class has too few images; the largest number is run first, so that this is known before the work.
    """
    place = place or Place()
    train, test = load_sets(protocol, source, place)
    found = {}
    for labels in sorted(set(per_class), reverse=True):
        found[labels] = run_protocol(
            protocol.with_draws(labels, num_draws),
            train,
            SealedTest(test),
            source,
            settings,
            place,
            lambda what, done, total, labels=labels: progress(f"{labels} per class: {what}", done, total),
        )
        on_record(labels, found[labels])
    return dict(sorted(found.items()))
