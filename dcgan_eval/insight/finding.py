"""What an experiment found: one JSON with its number, settings, hashes, pictures and a digest of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..files import sha256_of, write_file
from ..provenance import command_line, environment, git_state

FORMAT = "dcgan-eval-finding-1"
_KINDS = {
    **dict.fromkeys(("experiment", "number", "command", "created"), str),
    **dict.fromkeys(("measured", "settings", "hashes", "environment"), dict),
    **dict.fromkeys(("pictures", "notes"), list),
}


@dataclass(frozen=True)
class Shown:
    """A picture beside the JSON.

    Attributes
    ----------
    file, sha256 : str
        Its name in the same folder, and the hash of its content.
    alt, caption : str
        Text instead of it, and below it.
    """

    file: str
    sha256: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Finding:
    """Result of one experiment.

    Attributes
    ----------
    experiment : str
        Name of the command.
    number : str
        Which entry of ``measured`` stands for the experiment.
    measured : dict
        Everything that was measured: plain values.
    settings : dict
        Everything that was chosen, beside the seed.
    seed : int
        Root seed.
    hashes : dict
        SHA-256 of weights files and fingerprints of data sets, by what they are.
    pictures : list of Shown
        What there is to look at.
    notes : list of str
        What a reader of the number should know.
    command, created, environment, git : provenance
    digest : str
        SHA-256 of everything else; set on writing.
    """

    experiment: str
    number: str
    measured: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    hashes: dict[str, str]
    pictures: list[Shown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str = field(default_factory=command_line)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    environment: dict[str, Any] = field(default_factory=environment)
    git: dict[str, Any] | None = field(default_factory=git_state)
    format: str = FORMAT
    digest: str = ""

    @property
    def value(self) -> Any:
        """The number itself."""
        return self.measured[self.number]

    def to_json(self) -> str:
        """Return the finding as indented JSON, with the digest of everything else."""
        return json.dumps(asdict(self) | {"digest": _digest(asdict(self))}, indent=1, allow_nan=False)

    def write(self, path: Path, pictures: Mapping[Path, tuple[str, str]]) -> Finding:
        """Write the JSON beside its pictures.

        Parameters
        ----------
        path : Path
            JSON file.
        pictures : mapping of Path to (str, str)
            Files in the same folder, with the text instead of each and the caption below it.

        Returns
        -------
        Finding
            With its pictures and its digest.

        Raises
        ------
        RecordError
            The file cannot be written.
        """
        shown = [Shown(file.name, sha256_of(file), *words) for file, words in pictures.items()]
        finding = replace(self, pictures=shown)
        finding = replace(finding, digest=_digest(asdict(finding)))
        try:
            write_file(path, finding.to_json() + "\n")
        except OSError as error:
            raise RecordError("The finding cannot be written", got=str(error), remedy="give another --out") from error
        return finding


def load_finding(path: Path) -> Finding:
    """Read a finding.

    Raises
    ------
    RecordError
        Missing or unreadable file, no finding, one whose digest does not match, or fields of another type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        digest = _digest(values) if isinstance(values, dict) else None
    except (OSError, ValueError, RecursionError) as error:  # NaN has no digest
        raise RecordError("The finding cannot be read", got=f"{path}: {error}", remedy="make it again") from error
    if not is_finding(values) or values.keys() != {f.name for f in fields(Finding)}:
        raise RecordError("The file is no finding", got=str(path), expected=f"JSON of the format {FORMAT}")
    if values["digest"] != digest:
        raise RecordError(f"The finding {path} was changed after it was written", remedy="make it again")
    if wrong := next((name for name, kind in _KINDS.items() if not isinstance(values[name], kind)), None):
        raise RecordError(f"The finding {path} is damaged", got=f"{wrong} has another form", remedy="make it again")
    shown = [s for s in values["pictures"] if isinstance(s, dict) and s.keys() == {f.name for f in fields(Shown)}]
    texts = [*values["notes"], *(text for s in shown for text in s.values())]
    if len(shown) != len(values["pictures"]) or not all(isinstance(text, str) for text in texts):
        raise RecordError(f"The finding {path} is damaged", got="pictures or notes of another form")
    if values["number"] not in values["measured"]:
        raise RecordError(f"The finding {path} is damaged", got=f"no {values['number']} among what was measured")
    return Finding(**values | {"pictures": [Shown(**s) for s in shown]})


def is_finding(values: Any) -> bool:
    """Tell whether parsed JSON is a finding and not a run's record."""
    return isinstance(values, dict) and values.get("format") == FORMAT


def _digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything but the digest."""
    rest = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()
