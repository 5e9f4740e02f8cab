"""Many data sets by many encoders: a record for each pair, and what is there already is not run again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.imageset import ImageSet
from ..errors import DcganEvalError
from ..features.extract import EncoderFeatures
from ..progress import Progress, no_progress
from ..records import Record, load_record
from .catalog import get_protocol, load_protocol_images
from .rebuild import record_protocol
from .runner import run_protocol
from .settings import DEFAULTS, Place, Settings
from .spec import Protocol, SealedTest


@dataclass(frozen=True)
class Pair:
    """One data set and one encoder.

    Attributes
    ----------
    data, encoder : str
        As they were named.
    path : Path
        Of the record.
    record : Record or None
        None where the run failed.
    reused : bool
        Whether the record was there before.
    error : str
        Why it failed.
    """

    data: str
    encoder: str
    path: Path
    record: Record | None = None
    reused: bool = False
    error: str = ""


def run_pairs(
    data: Sequence[str],
    sources: dict[str, EncoderFeatures],
    folder: Path,
    settings: Settings = DEFAULTS,
    place: Place | None = None,
    progress: Progress = no_progress,
) -> Iterator[Pair]:
    """Run every encoder on every data set, and yield each pair as soon as it is known.

    A record in the folder stands for its run if it is of the same data, encoder, protocol and settings. A pair that
    fails does not keep the others from being run.

    Parameters
    ----------
    data : sequence of str
        Names of protocols, or paths of one's own data.
    sources : dict of str to EncoderFeatures
        What to measure, by the name it is called.
    folder : Path
        Where records are found and written.
    settings, place, progress
        As for :func:`~dcgan_eval.protocols.runner.run_protocol`.
    """
    place = place or Place()
    for name in data:
        try:
            protocol = get_protocol(name)
            train, test = load_protocol_images(protocol, place.data_dir, download=place.download)
        except DcganEvalError as error:
            yield from (Pair(name, encoder, _path(folder, name, encoder), error=str(error)) for encoder in sources)
            continue
        for encoder, source in sources.items():
            path = _path(folder, name, encoder)
            try:
                record = _current(path, protocol, settings, source, train, test, place)
                reused = record is not None
                if record is None:
                    record = run_protocol(protocol, train, SealedTest(test), source, settings, place, progress)
                    record.write(path)
                yield Pair(name, encoder, path, record, reused)
            except DcganEvalError as error:
                yield Pair(name, encoder, path, error=str(error))


def _path(folder: Path, data: str, encoder: str) -> Path:
    """Return the name of a pair's record."""
    parts = (re.sub(r"[^\w.=-]+", "-", part).strip("-.") for part in (data, encoder))
    return folder / f"{'--'.join(parts)}.json"


def _current(
    path: Path,
    protocol: Protocol,
    settings: Settings,
    source: EncoderFeatures,
    train: ImageSet,
    test: ImageSet,
    place: Place,
) -> Record | None:
    """Return the record in a file if it is what a run would give now."""
    if not path.is_file():
        return None
    record = load_record(path)
    source.learn(train, place.cache_dir, no_progress)
    source.identity(train)  # what a record says of the features comes from it
    wanted = {key: value for key, value in source.describe().items() if key != "device"}
    fingerprints = {part: record.data[part].get("fingerprint") for part in ("train", "test") if part in record.data}
    is_same = (
        record.intact
        and record_protocol(record) == protocol
        and record.settings == settings.as_dict()
        and wanted.items() <= record.features.items()
        and fingerprints == {"train": train.fingerprint, "test": test.fingerprint}
    )
    return record if is_same else None
