"""Which layers carry the score: each alone, all up to each depth, all but each, from one feature cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..features.extract import EncoderFeatures
from ..progress import Progress, no_progress
from ..records import Record
from .catalog import load_protocol_images
from .runner import run_protocol
from .settings import DEFAULTS, Place, Settings
from .spec import Protocol, SealedTest


def ablation_subsets(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name the subsets of layers to measure: ``all``, ``alone-X``, ``upto-X``, ``without-X``, no subset twice.

    Parameters
    ----------
    layers : sequence of str
        In the encoder's order.
    """
    layers = tuple(layers)
    named = {"all": layers}
    named |= {f"alone-{layer}": (layer,) for layer in layers}
    named |= {f"upto-{layer}": layers[: i + 1] for i, layer in enumerate(layers)}
    named |= {f"without-{layer}": tuple(other for other in layers if other != layer) for layer in layers}
    first: dict[tuple[str, ...], str] = {}
    for name, subset in named.items():
        first.setdefault(subset, name)
    return {name: subset for subset, name in first.items() if subset}


def ablate(
    protocol: Protocol,
    source: EncoderFeatures,
    settings: Settings = DEFAULTS,
    place: Place | None = None,
    progress: Progress = no_progress,
    on_record: Callable[[str, Record], object] = lambda *_: None,
) -> dict[str, Record]:
    """Run a protocol on every subset of layers; each run chooses its own C and uses the test labels once.

    Parameters
    ----------
    protocol : Protocol
        What to run.
    source : EncoderFeatures
        Whose layers; all subsets are read from one store.
    settings, place, progress
        As for :func:`~dcgan_eval.protocols.runner.run_protocol`.
    on_record : callable
        Called with each subset's name and record as soon as it is there.

    Returns
    -------
    dict
        Name of the subset (see :func:`ablation_subsets`) -> record.
    """
    place = place or Place()
    train, test = load_protocol_images(protocol, place.data_dir, download=place.download)
    records = {}
    for name, subset in ablation_subsets(source.layers).items():
        records[name] = run_protocol(
            protocol,
            train,
            SealedTest(test),
            EncoderFeatures(source.encoder, replace(source.options, layers=subset)),
            settings,
            place,
            lambda what, done, total, name=name: progress(f"{name}: {what}", done, total),
        )
        on_record(name, records[name])
    return records
