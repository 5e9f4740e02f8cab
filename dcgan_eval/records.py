"""The run record: one JSON per run that holds all of it, carries its own digest, and is read back whatever its age."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RecordError
from .files import write_file

PER_CLASS = "mean per-class accuracy"
SCHEMA = 3  # 2 adds shown_as, rows_sha256, right and classifier; 3 the protocol, settings, parts and a digest
CERTIFIED = ("converged", "exact", "trained")  # statuses of fits that may be scored without being asked for
_MOST_BYTES = 1 << 26  # a record of a million test images has less
_MOST_TEST_IMAGES = 1 << 26


def _part(part: str, key: str, default: Any = None) -> Any:
    """Return a property that reads a key of a part."""

    def get(record: Record) -> Any:
        return getattr(record, part).get(key, default)

    return property(get, doc=f"``{key}`` of :attr:`{part}`.")


@dataclass(frozen=True)
class Record:
    """What a run measured, how sure it is, and everything that it takes to run it again.

    Attributes
    ----------
    protocol : str
        Id of the protocol that was run.
    spec : dict
        The whole protocol: every field of :class:`~dcgan_eval.protocols.spec.Protocol`. Older records have ``id``,
        ``version``, ``shown_as`` and ``paper`` alone.
    settings : dict
        ``seed``, ``tol``, ``solver``, ``allow_unconverged``.
    features : dict
        What was measured: ``kind``, ``name``, ``num_features``, ``weights_sha256`` and what else decided the numbers.
    classifier : dict
        ``name``, the ``parameter`` that was chosen and its ``value``, and what else decided the predictions.
    data : dict
        The two sets, ``train`` and ``test``: name, split, count, fingerprint. ``in_train`` of the test set, where it
        was counted: ``num_images`` that are in the training set too, pixel for pixel, and of these ``other_label``;
        ``near`` counts those that look like a training image, where that was asked for.
    metric : str
        ``"accuracy"`` or ``"mean per-class accuracy"``, a fraction; ``"validation accuracy"`` of a search.
    score : float
        Mean of the metric on the test set over the draws.
    spread : float or None
        1.96 standard deviations of the draws, None for a single one.
    ci95 : list of float
        95 % confidence interval: of the mean over draws on this test set (t), or of a single run's proportion (Wilson).
    ci95_with_images : list of float or None
        95 % confidence interval over other draws and other test images; None in older records.
    num_draws : int
        Number of test scores behind ``score``.
    status : str
        ``"converged"`` when every fit behind the score is, ``"exact"`` where none has to, ``"trained"`` for a fixed
        number of epochs; else the worst status.
    duality_gap : float or None
        Largest relative duality gap of the fits behind the score; None where nothing is minimised.
    selection : list of dict
        The validation curve: C (or what else is chosen), mean score, scores of the draws, largest gap.
    draws : list of dict
        Every fit behind the score: test score, C, status, gap, iterations, number of training rows.
    confusion : list of list of int
        Test images by (label, prediction), summed over the draws.
    class_names : list of str
        In label order.
    rows_sha256 : dict
        Stream name -> digests of rows (:func:`~dcgan_eval.data.splits.rows_digest`): of the validation split, and of
        each draw. The rows follow from the seed, the stream's name and the images.
    right : str or None
        In how many draws each test image was classified right, packed (:func:`unpack_counts`), in the order of the
        images' pixel hashes; records of schema 2 have the order (label, hash).
    figures : dict
        Of a classifier with scores, each with ``score``, ``ci95`` over test images and what they follow from: ``top5``
        accuracy (of more than five classes), and ``ece``, the expected calibration error (of probabilities).
    notes : list of str
        What a reader of the score should know.
    made : dict
        ``time_s``, ``timings_s``, ``peak_memory_bytes``, ``environment``, ``command``, ``created``, ``git``.
    schema : int
        Of the file that it was read from.
    intact : bool or None
        Whether the file that it was read from matched its own digest; None where it has none.
    """

    protocol: str
    spec: dict[str, Any]
    settings: dict[str, Any]
    features: dict[str, Any]
    classifier: dict[str, Any]
    data: dict[str, Any]
    metric: str
    score: float
    spread: float | None
    ci95: list[float]
    num_draws: int
    status: str
    duality_gap: float | None
    selection: list[dict[str, Any]]
    draws: list[dict[str, Any]]
    confusion: list[list[int]]
    class_names: list[str]
    made: dict[str, Any]
    ci95_with_images: list[float] | None = None
    rows_sha256: dict[str, list[str]] = field(default_factory=dict)
    right: str | None = None
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    schema: int = SCHEMA
    intact: bool | None = None

    protocol_version = _part("spec", "version", 0)
    paper = _part("spec", "paper")
    shown_as = _part("spec", "shown_as", "accuracy")
    seed = _part("settings", "seed", 0)
    num_features = _part("features", "num_features", 0)
    weights_sha256 = _part("features", "weights_sha256")
    time_s = _part("made", "time_s", 0.0)
    timings_s = _part("made", "timings_s", {})
    peak_memory_bytes = _part("made", "peak_memory_bytes", 0)
    environment = _part("made", "environment", {})
    command = _part("made", "command", "")
    created = _part("made", "created", "")
    git = _part("made", "git")

    @property
    def name(self) -> str:
        """Name for files: protocol, whose data where they are one's own, and features."""
        own = [self.data["train"]["name"]] if self.protocol.startswith("own_") else []
        parts = (self.protocol, *own, self.features["name"])
        return "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)

    @property
    def is_tested(self) -> bool:
        """Whether the score is one on test images."""
        return self.metric != "validation accuracy"

    @property
    def C(self) -> float | None:
        """The chosen penalty; None for a classifier without one."""
        value = self.classifier.get("value")
        return float(value) if self.classifier["parameter"] == "C" and value is not None else None

    @property
    def dataset_fingerprint(self) -> str:
        """Hash of the fingerprints of the sets."""
        prints = "\n".join(part["fingerprint"] for part in self.data.values())
        return hashlib.sha256(prints.encode()).hexdigest()

    @property
    def class_accuracies(self) -> dict[str, float]:
        """Share of each class's test images that were classified right, over all draws; NaN without images."""
        counts = np.asarray(self.confusion, dtype=float)
        totals = np.where(counts.sum(1) > 0, counts.sum(1), np.nan)
        return dict(zip(self.class_names, (np.diag(counts) / totals).tolist(), strict=True))

    @property
    def chosen(self) -> tuple[str, Any]:
        """Name and value of what was chosen on validation rows."""
        return self.classifier["parameter"], self.classifier.get("value")

    def to_json(self) -> str:
        """Return the record as indented JSON, with its digest."""
        return json.dumps(self._values() | {"digest": self.digest}, indent=1)

    @property
    def digest(self) -> str:
        """SHA-256 of all that it holds, as its file carries it."""
        return _digest(self._values())

    def _values(self) -> dict[str, Any]:
        """Return the values as a reader will see them: lists for tuples."""
        values = {key: value for key, value in asdict(self).items() if key != "intact"} | {"schema": SCHEMA}
        read: dict[str, Any] = json.loads(json.dumps(values))
        return read

    def write(self, path: Path) -> Path:
        """Write the record, replacing the file only when complete.

        Raises
        ------
        RecordError
            The file cannot be written.
        """
        try:
            return write_file(path, self.to_json() + "\n")
        except OSError as error:
            raise RecordError(
                "The record cannot be written", got=f"{path}: {error}", remedy="give another place with --record"
            ) from error


def _digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's values in one spelling, its own digest left out."""
    kept = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def pack_counts(counts: Any) -> str | None:
    """Pack an array of small counts into text: zlib and base64 of 16-bit integers; None stays None."""
    if counts is None:
        return None
    return base64.b64encode(zlib.compress(np.asarray(counts, dtype="<u2").tobytes(), 9)).decode()


def unpack_counts(text: str) -> np.ndarray:
    """Return what :func:`pack_counts` packed, as int64 (N,).

    Raises
    ------
    RecordError
        The text is damaged, or unpacks to more than any test set has.
    """
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), 2 * _MOST_TEST_IMAGES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("too long" if unpacker.unconsumed_tail else "cut off")
        return np.frombuffer(data, dtype="<u2").astype(np.int64)
    except (ValueError, zlib.error) as error:
        raise RecordError(
            "The record's list of test images that were right cannot be read", got=str(error), remedy="run it again"
        ) from error


def load_record(path: Path | str) -> Record:
    """Read a record of any schema so far.

    Raises
    ------
    RecordError
        Missing, unreadable or foreign file, a newer schema, or fields that are missing or of another type.
    """
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES >> 20} MiB")
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(
            "The record cannot be read", got=f"{path}: {error}", remedy="give a JSON file that `svm` wrote"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("schema"), int) or values["schema"] < 1:
        raise RecordError("The file is no record", got=str(path), expected="a JSON object with a schema")
    if values["schema"] > SCHEMA:
        raise RecordError(
            f"The record {path} is newer than this version",
            got=f"schema {values['schema']}",
            expected=f"schema {SCHEMA} or older",
            remedy="upgrade dcgan-eval",
        )
    intact = values.get("digest") == _digest(values) if values["schema"] >= 3 else None
    try:
        values = values if values["schema"] >= 3 else _from_flat(values)
        known = {f.name for f in fields(Record)} - {"intact"}
        record = Record(**{key: value for key, value in values.items() if key in known}, intact=intact)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"The record {path} lacks fields", got=str(error), remedy="run the protocol again") from error
    if record.schema < 3 and _is_true(lambda: values["dataset_fingerprint"] != record.dataset_fingerprint):
        raise RecordError(f"The record {path} is damaged", got="a fingerprint that is not that of its sets")
    wrong = next((what for what, holds in _expectations(record) if not _is_true(holds)), None)
    if wrong:
        raise RecordError(f"The record {path} is damaged", got=f"{wrong} has another form", remedy="run it again")
    return record


def _from_flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a record of schema 1 or 2 in parts."""
    chosen = {"value": values.get("C")} | values.get("classifier", {"name": "l2svm", "parameter": "C"})
    kind = "pixels" if values["features"]["name"] == "pixels" else "encoder"
    kind = "kmeans" if "num_centroids" in values["features"] else kind
    parts = {
        "spec": {
            "id": values["protocol"],
            "version": values["protocol_version"],
            "shown_as": values.get("shown_as", "accuracy"),
            "paper": values["paper"],
        },
        "settings": {"seed": values["seed"]},
        "features": {
            "kind": kind,
            **values["features"],
            "num_features": values["num_features"],
            "weights_sha256": values["weights_sha256"],
        },
        "classifier": chosen,
        "made": {
            key: values[key]
            for key in ("time_s", "timings_s", "peak_memory_bytes", "environment", "command", "created", "git")
            if key in values
        },
    }
    return values | parts


_FEATURE_TEXTS = ("kind", "preset", "objective", "preprocessing", "pooling", "batch_norm", "compute", "store_dtype")
_Expectations = list[tuple[str, Callable[[], bool]]]


def _expectations(record: Record) -> _Expectations:
    """Return what must hold of a record's types before anything reads it, each with its name."""
    return _of_the_run(record) + _of_the_result(record) + _of_the_making(record.made)


def _of_the_run(record: Record) -> _Expectations:
    """Return what must hold of what was asked for."""
    text, spec, features = _is_text, record.spec, record.features
    return [
        ("protocol", lambda: all(map(text, (record.protocol, record.metric, record.status)))),
        ("spec", lambda: isinstance(spec, dict) and text(spec.get("id")) and _is_whole(spec.get("version"))),
        ("spec.shown_as", lambda: spec.get("shown_as") in ("accuracy", "error")),
        ("spec.paper", lambda: _is_published(spec.get("paper"))),
        ("settings", lambda: isinstance(record.settings, dict) and _is_whole(record.seed)),
        ("features", lambda: isinstance(features, dict) and text(features.get("name")) and text(features["kind"])),
        ("features.files", lambda: features["kind"] != "given" or _are_files(features["files"])),
        ("features.num_features", lambda: _is_whole(record.num_features)),
        ("features.layers", lambda: all(map(text, features.get("layers") or []))),
        ("features.weights_sha256", lambda: record.weights_sha256 is None or text(record.weights_sha256)),
        ("features", lambda: all(isinstance(features.get(key, ""), str | None) for key in _FEATURE_TEXTS)),
        ("classifier", lambda: isinstance(record.classifier, dict) and text(record.classifier.get("name"))),
        ("classifier.value", lambda: text(record.classifier.get("parameter")) and _is_optional(record.chosen[1])),
        (
            "classifier.values",
            lambda: "values" not in record.classifier or _are_candidates(record.classifier["values"]),
        ),
        ("classifier.patience", lambda: _is_whole(record.classifier.get("patience", 1))),
        ("data", lambda: all(map(_is_entry, record.data.values()))),
        ("data", lambda: {"train", "test" if record.is_tested else "validation"} <= record.data.keys()),
    ]


def _of_the_result(record: Record) -> _Expectations:
    """Return what must hold of what was found."""
    number, text = _is_number, _is_text

    def interval(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and all(map(number, value))

    def rows(value: Any, holds: Callable[[Any], bool]) -> bool:
        parameter = record.classifier["parameter"]
        return isinstance(value, list) and all(_is_row(row) and holds(row.get(parameter)) for row in value)

    return [
        ("score", lambda: _is_share(record.score) and _is_optional(record.spread) and _is_gap(record.duality_gap)),
        ("ci95", lambda: interval(record.ci95)),
        ("ci95_with_images", lambda: record.ci95_with_images is None or interval(record.ci95_with_images)),
        ("num_draws", lambda: _is_whole(record.num_draws)),
        ("selection", lambda: rows(record.selection, number) and len(record.selection) > 0),
        ("draws", lambda: rows(record.draws, _is_optional) and (len(record.draws) > 0 or not record.is_tested)),
        ("class_names", lambda: isinstance(record.class_names, list) and all(map(text, record.class_names))),
        ("confusion", lambda: _is_square(record.confusion, len(record.class_names))),
        ("rows_sha256", lambda: all(isinstance(v, list) and all(map(text, v)) for v in record.rows_sha256.values())),
        ("right", lambda: record.right is None or text(record.right)),
        ("figures", lambda: all(number(f["score"]) and interval(f["ci95"]) for f in record.figures.values())),
        ("figures.top5", lambda: "top5" not in record.figures or _is_ranking(record.figures["top5"])),
        ("figures.ece", lambda: "ece" not in record.figures or _is_binned(record.figures["ece"]["bins"])),
        ("notes", lambda: isinstance(record.notes, list) and all(map(text, record.notes))),
    ]


def _of_the_making(made: dict[str, Any]) -> _Expectations:
    """Return what must hold of how and where the record was made."""
    number, text = _is_number, _is_text
    return [
        ("made", lambda: isinstance(made, dict) and number(made.get("time_s")) and text(made.get("created"))),
        ("made.timings_s", lambda: all(map(number, made.get("timings_s", {}).values()))),
        ("made.command", lambda: text(made.get("command"))),
        ("made.environment", lambda: isinstance(made["environment"].get("packages", {}), dict)),
        ("made.peak_memory_bytes", lambda: number(made.get("peak_memory_bytes"))),
        ("made.git", lambda: made.get("git") is None or isinstance(made["git"], dict)),
    ]


def _is_true(holds: Callable[[], bool]) -> bool:
    """Ask, where values of any type may be."""
    try:
        return holds()
    except (TypeError, AttributeError, ValueError, KeyError):
        return False


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number that arithmetic can take."""
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_share(value: Any) -> bool:
    """Tell whether a value is a fraction."""
    return _is_number(value) and 0 <= value <= 1


def _is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64


def _is_row(row: Any) -> bool:
    """Tell whether a value is a row of a validation curve or of the draws."""
    return (
        isinstance(row, dict)
        and _is_share(row.get("score"))
        and _is_gap(row.get("duality_gap"))
        and isinstance(row.get("scores", []), list)
        and all(map(_is_share, row.get("scores", [])))
        and isinstance(row.get("status", ""), str)
    )


def _is_text(value: Any) -> bool:
    """Tell whether a value is text."""
    return isinstance(value, str)


def _are_candidates(values: Any) -> bool:
    """Tell whether a value is what a classifier's hyperparameter is chosen from."""
    return isinstance(values, list) and len(values) > 0 and all(map(_is_number, values))


def _is_optional(value: Any) -> bool:
    """Tell whether a value is a number or missing."""
    return value is None or _is_number(value)


def _is_gap(value: Any) -> bool:
    """Tell whether a value is a duality gap, which knows no bound where a fit went wrong, or missing."""
    return value is None or isinstance(value, float) or _is_whole(value)


def _is_published(value: Any) -> bool:
    """Tell whether a value is a published one, or missing."""
    return value is None or (
        isinstance(value, dict)
        and _is_number(value.get("value"))
        and _is_optional(value.get("spread"))
        and isinstance(value.get("source"), str)
    )


def _is_entry(value: Any) -> bool:
    """Tell whether a value describes a set of images."""
    strings = ("name", "split", "fingerprint")
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in strings)
        and value["fingerprint"].isascii()
        and _is_whole(value.get("num_images"))
        and isinstance(value.get("in_train"), dict | None)
        and all(_is_whole(count) for count in (value.get("in_train") or {}).values())
    )


def _are_files(files: dict[str, Any]) -> bool:
    """Tell whether a value says which files of features were given."""
    return all(_is_text(files[split]["name"]) and _is_text(files[split]["sha256"]) for split in ("train", "test"))


def _is_ranking(figure: Any) -> bool:
    """Tell whether a figure says what it follows from: scores of draws, and packed counts."""
    return isinstance(figure["scores"], list) and all(map(_is_number, figure["scores"])) and _is_text(figure["right"])


def _is_binned(bins: Any) -> bool:
    """Tell whether a value is rows of four numbers: count, confidence, right, squares."""
    return isinstance(bins, list) and len(bins) > 0 and all(len(row) == 4 and all(map(_is_number, row)) for row in bins)


def _is_square(value: Any, size: int) -> bool:
    """Tell whether a value is a square table of counts."""
    return (
        isinstance(value, list)
        and len(value) == size
        and all(isinstance(row, list) and len(row) == size and all(map(_is_whole, row)) for row in value)
    )
