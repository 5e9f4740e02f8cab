"""Which layers carry the score: each alone, all up to each depth, all but each, from one feature cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..features.extract import ExtractOptions, Progress
from ..features.taps import Encoder
from ..records import Record
from .catalog import load_protocol_images
from .runner import run_protocol
from .sources import EncoderFeatures
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
    encoder: Encoder,
    *,
    options: ExtractOptions,
    cache_dir: Path,
    data_dir: Path | None = None,
    download: bool = False,
    progress: Progress = lambda what, done, total: None,
    **run_options: Any,
) -> dict[str, Record]:
    """Run a protocol on every subset of layers; each run chooses its own C and uses the test labels once.

    Parameters
    ----------
    protocol : Protocol
        What to run.
    encoder : Encoder
        Whose layers.
    options : ExtractOptions
        How features are made; its layers are the ones to ablate.
    cache_dir : Path
        Folder of the one store that all subsets are read from.
    data_dir, download
        As for :func:`~dcgan_eval.protocols.catalog.load_protocol_data`.
    progress : callable
        Shows long work.
    **run_options
        As for :func:`~dcgan_eval.protocols.runner.run_protocol`.

    Returns
    -------
    dict
        Name of the subset (see :func:`ablation_subsets`) -> record.
    """
    train, test = load_protocol_images(protocol, data_dir, download=download)
    records = {}
    for name, subset in ablation_subsets(encoder.choose(options.layers)).items():
        source = EncoderFeatures(encoder, replace(options, layers=subset), cache_dir)
        records[name] = run_protocol(
            protocol,
            train,
            SealedTest(test),
            source,
            progress=lambda what, done, total, name=name: progress(f"{name}: {what}", done, total),
            **run_options,
        )
    return records
