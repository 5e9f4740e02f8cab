"""The run record: one JSON per run, written atomically, read back whatever its age."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RecordError

SCHEMA = 2  # 2 adds shown_as, rows_sha256, right and classifier
CERTIFIED = ("converged", "exact")  # statuses of fits that may be scored without being asked for


@dataclass(frozen=True)
class Record:
    """What a run measured, how sure it is, and what produced it.

    Attributes
    ----------
    protocol, protocol_version : str, int
        Which pinned protocol was run.
    metric : str
        ``"accuracy"``, a fraction.
    score : float
        Mean of the metric on the test set over the draws.
    spread : float or None
        1.96 standard deviations of the draws, None for a single one.
    ci95 : list of float
        95 % confidence interval: of the mean over draws (t), or of a single run's proportion (Wilson).
    num_draws : int
        Number of test scores behind ``score``.
    C : float or None
        The chosen penalty; None for a classifier without one.
    status : str
        ``"converged"`` when every fit behind the score is, ``"exact"`` where nothing has to; else the worst status.
    duality_gap : float or None
        Largest relative duality gap of the fits behind the score; None where nothing is minimised.
    num_features : int
        Length of the feature vector.
    seed : int
        Root seed of splits and draws.
    features : dict
        Encoder, layers, weights, how the features were made.
    weights_sha256 : str or None
        Hash of the encoder's weights, None for features without any.
    dataset_fingerprint : str
        Hash of the train and test fingerprints.
    data : dict
        Train and test set: name, split, count, fingerprint.
    selection : list of dict
        The validation curve: C (or what else is chosen), mean score, scores of the draws, largest gap.
    draws : list of dict
        Every fit behind the score: test score, C, status, gap, iterations, number of training rows.
    confusion : list of list of int
        Test images by (label, prediction), summed over the draws.
    class_names : list of str
        In label order.
    paper : dict or None
        The published value that the protocol stands beside, with its source.
    time_s : float
        Wall time of the run.
    timings_s : dict
        Wall time of its stages.
    peak_memory_bytes : int
        Largest resident memory of the process.
    environment, command, git, created : provenance
    notes : list of str
        What a reader of the score should know.
    shown_as : str
        ``"accuracy"`` or ``"error"``: how the protocol's scores are published and shown. The record has accuracies.
    rows_sha256 : dict
        Stream name -> digest of the pixel hashes of the rows in canonical order: of the validation split, and of each
        draw. The rows follow from the seed, the stream's name and the images (see ``data/splits.py``).
    right : str or None
        In how many draws each test image was classified right, packed (:func:`unpack_counts`), in canonical order.
    classifier : dict
        ``name``, the ``parameter`` that was chosen and its ``value``, and what else decided the predictions.
    """

    protocol: str
    protocol_version: int
    metric: str
    score: float
    spread: float | None
    ci95: list[float]
    num_draws: int
    C: float | None
    status: str
    duality_gap: float | None
    num_features: int
    seed: int
    features: dict[str, Any]
    weights_sha256: str | None
    dataset_fingerprint: str
    data: dict[str, Any]
    selection: list[dict[str, Any]]
    draws: list[dict[str, Any]]
    confusion: list[list[int]]
    class_names: list[str]
    paper: dict[str, Any] | None
    time_s: float
    timings_s: dict[str, float]
    peak_memory_bytes: int
    environment: dict[str, Any]
    command: str
    created: str
    git: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    shown_as: str = "accuracy"
    rows_sha256: dict[str, list[str]] = field(default_factory=dict)
    right: str | None = None
    classifier: dict[str, Any] = field(default_factory=lambda: {"name": "l2svm", "parameter": "C"})
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """Name for files and tables: protocol and features."""
        return f"{self.protocol}-{self.features['name']}".replace(":", "-").replace("/", "-")

    @property
    def class_accuracies(self) -> dict[str, float]:
        """Share of each class's test images that were classified right, over all draws; NaN without images."""
        counts = np.asarray(self.confusion, dtype=float)
        totals = np.where(counts.sum(1) > 0, counts.sum(1), np.nan)
        return dict(zip(self.class_names, (np.diag(counts) / totals).tolist(), strict=True))

    @property
    def chosen(self) -> tuple[str, Any]:
        """Name and value of what was chosen on validation rows."""
        return self.classifier["parameter"], self.classifier.get("value", self.C)

    def to_json(self) -> str:
        """Return the record as indented JSON."""
        return json.dumps(asdict(self), indent=1)

    def write(self, path: Path) -> Path:
        """Write the record, replacing the file only when complete.

        Raises
        ------
        RecordError
            The file cannot be written.
        """
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(self.to_json() + "\n")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True) if partial.parent.is_dir() else None
            raise RecordError(
                "The record cannot be written", got=f"{path}: {error}", remedy="give another place with --record"
            ) from error
        return path


def pack_counts(counts: Any) -> str | None:
    """Pack an array of small counts into text: zlib and base64 of 16-bit integers; None stays None."""
    if counts is None:
        return None
    return base64.b64encode(zlib.compress(np.asarray(counts, dtype="<u2").tobytes(), 9)).decode()


def unpack_counts(text: str) -> np.ndarray:
    """Return what :func:`pack_counts` packed, as int64 (N,)."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2").astype(np.int64)


def load_record(path: Path | str) -> Record:
    """Read a record of any schema so far.

    Raises
    ------
    RecordError
        Missing, unreadable or foreign file, a newer schema, or fields that are missing.
    """
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RecordError(
            "The record cannot be read", got=f"{path}: {error}", remedy="give a JSON file that `svm` wrote"
        ) from error
    if not isinstance(values, dict) or "schema" not in values:
        raise RecordError("The file is no record", got=str(path), expected="a JSON object with a schema")
    return _from_values(values, path)


def _from_values(values: Mapping[str, Any], path: Path | str) -> Record:
    """Build a record, refusing what this version cannot understand."""
    if values["schema"] > SCHEMA:
        raise RecordError(
            f"The record {path} is newer than this version",
            got=f"schema {values['schema']}",
            expected=f"schema {SCHEMA} or older",
            remedy="upgrade dcgan-eval",
        )
    known = {f.name for f in fields(Record)}
    try:
        return Record(**{key: value for key, value in values.items() if key in known})
    except TypeError as error:
        raise RecordError(f"The record {path} lacks fields", got=str(error), remedy="run the protocol again") from error
