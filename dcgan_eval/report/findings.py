"""Findings of experiments for the page: their numbers in words and their pictures. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..insight.finding import Finding, Shown
from .page import Picture, encoded_picture

_LONGEST = 8  # entries of a list that are shown


@dataclass(frozen=True)
class ShownFinding:
    """What the page shows of a finding.

    Attributes
    ----------
    path : Path
        Its file.
    finding : Finding
        All that it holds.
    headline : str
        Its number.
    numbers, settings : list of (str, str)
        What was measured and chosen, in words.
    pictures : list of Picture
        With captions.
    """

    path: Path
    finding: Finding
    headline: str
    numbers: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    pictures: list[Picture]


def shown_finding(path: Path, finding: Finding) -> ShownFinding:
    """Return what the page shows of a finding; its pictures lie in the folder of its file.

    Raises
    ------
    RecordError
        A picture is missing, or is not the one that was drawn.
    """
    settings = {**finding.settings, "seed": finding.seed, **finding.hashes, "made": finding.created}
    headline = f"{finding.number.replace('_', ' ')} {_in_words(finding.value)}"
    pictures = [_picture(path, shown) for shown in finding.pictures]
    return ShownFinding(path, finding, headline, list(_flat(finding.measured)), list(_flat(settings)), pictures)


def _picture(path: Path, shown: Shown) -> Picture:
    """Read a picture beside a finding."""
    file = path.with_name(Path(shown.file).name)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RecordError(
            f"A picture of {path.name} cannot be read",
            got=str(error),
            remedy="put it beside its finding, or make both again",
        ) from error
    if hashlib.sha256(data).hexdigest() != shown.sha256:
        raise RecordError(f"The picture {file} is not the one that {path.name} is about", remedy="make both again")
    form = "gif" if file.suffix.lower() == ".gif" else "png"
    return encoded_picture(data, shown.alt, shown.caption, form)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values in words, those of dictionaries inside under joined names."""
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, _in_words(value)


def _in_words(value: Any) -> str:
    """Return a value as text; of long lists the number of entries."""
    if isinstance(value, list | tuple):
        simple = len(value) <= _LONGEST and not any(isinstance(entry, dict | list | tuple) for entry in value)
        return ", ".join(map(_in_words, value)) if simple else f"{len(value):,} entries, in the file"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
