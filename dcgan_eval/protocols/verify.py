"""A record checked against itself and what it says it was made from; with ``rerun`` the run is made again from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.imageset import ImageSet
from ..data.repeats import check_near_duplicates, count_near_duplicates, count_repeats
from ..data.splits import draw_per_class, rows_digest, stratified_split
from ..errors import DcganEvalError, RecordError, WeightsError
from ..features.extract import EncoderFeatures
from ..features.fill import Filler
from ..features.taps import Encoder
from ..progress import Progress, no_progress
from ..records import CERTIFIED, PER_CLASS, Record, unpack_counts
from .catalog import PROTOCOLS, load_protocol_images
from .examples import cached_stores
from .given import has_images, load_given_images
from .rebuild import packing_order, record_protocol, record_settings, record_source
from .runner import run_protocol
from .saved_probe import read_probe, score_of
from .selection import best_value
from .settings import Place
from .sources import GivenFeatures, PixelFeatures
from .spec import Protocol, SealedTest
from .statistics import (
    accuracy_in,
    calibration_error,
    equal_images,
    fits_scores,
    interval_over_draws,
    interval_over_images,
    interval_with_images,
    spread_of_draws,
)

# Features in bfloat16 differ in the last bits between processors, so some images near a boundary change sides.
_FLIPPED = 0.02
_HASH = re.compile("[0-9a-f]{64}")
_ROUNDING = 1e-12  # a record's numbers are written with all their digits


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes
    ----------
    name : str
        What was compared.
    passed : bool or None
        None where it could not be compared, for the reason in ``detail``.
    detail : str
        What was found.
    """

    name: str
    passed: bool | None
    detail: str


def score_band(num_test: float) -> float:
    """Return how far a score may move when nothing but rounding changed, as a fraction.

    Three standard deviations of the score's change when 2 % of the predictions flip independently, and one image: 1.0
    points for 2,000 test images, 0.4 for 10,000. Means over classes have fewer images than there are, see
    :func:`~dcgan_eval.protocols.statistics.equal_images`.
    """
    return 3 * math.sqrt(_FLIPPED / num_test) + 1 / num_test


def record_band(record: Record) -> float:
    """Return how far the score of a record may move when nothing but rounding changed, see :func:`score_band`."""
    return score_band(equal_images(np.array(record.confusion), record.metric, record.num_draws))


def verify(
    record: Record,
    *,
    encoder: Encoder | None = None,
    features: Sequence[Path] = (),
    probe: Path | None = None,
    data_dir: Path | None = None,
    cache_dir: Path | str = "cache",
    rerun: bool = False,
    progress: Progress = no_progress,
) -> list[Check]:
    """Check a record; what is missing here is reported, not guessed.

    Parameters
    ----------
    record : Record
        What to check.
    encoder : Encoder or None
        Behind the record; None looks it up by the name in the record.
    features : sequence of Path
        The two files of features that were made elsewhere, for a record of such.
    probe : Path or None
        The classifier that was kept beside the record; its score is computed again from features in the cache.
    data_dir : Path or None
        Where data sets lie; None uses ``DCGAN_EVAL_DATA``.
    cache_dir : Path or str
        Folder of the feature stores, for ``rerun``.
    rerun : bool
        Run the protocol again and compare the score within :func:`score_band`.
    progress : callable
        Shows long work.

    Returns
    -------
    list of Check
    """
    checks = [_digest(record), *_arithmetic(record)]
    try:
        protocol = record_protocol(record)
    except RecordError as error:
        return [*checks, Check("protocol", None, str(error))]
    checks += [_protocol(record, protocol)]
    place = Place(data_dir=data_dir, cache_dir=Path(cache_dir))
    source: Filler | None = None
    try:
        source = _source(record, encoder, features)
        checks += _sources(record, source)
    except DcganEvalError as error:
        checks += [Check("features" if record.features["kind"] == "given" else "weights", None, str(error))]
    try:
        train, test = _images(protocol, source, place)
    except DcganEvalError as error:
        return [*checks, Check("data", None, str(error))]
    checks += list(_data(record, protocol, train, test))
    if rerun and source is not None:
        checks += [_rerun(record, protocol, train, SealedTest(test), source, place, progress)]
    if probe is not None and source is None:
        checks += [Check("probe", None, "its features are not at hand")]
    elif probe is not None and source is not None:
        checks += list(_probe(record, probe, source, train, test, place))
    return checks


def _source(record: Record, encoder: Encoder | None, features: Sequence[Path]) -> Filler:
    """Return the source of features: the files at hand, or what the record says."""
    if not features:
        return record_source(record, encoder)
    if record.features["kind"] != "given":
        raise RecordError(
            "The record's features were not made elsewhere",
            got=f"--features, for features of {record.features['name']}",
            remedy="leave out --features",
        )
    train, test = features
    return GivenFeatures(train, test, record.features.get("label_column"))


def _images(protocol: Protocol, source: Filler | None, place: Place) -> tuple[ImageSet, ImageSet]:
    """Load the labelled sets of a protocol."""
    if isinstance(source, GivenFeatures):
        return load_given_images(protocol, source, place)
    if not has_images(protocol):
        raise RecordError("The record's features have no images", remedy="give their files with --features TRAIN TEST")
    return load_protocol_images(protocol, place.data_dir)


def _same(name: str, recorded: Any, found: Any) -> Check:
    """Compare two values."""
    now, then = _words(found), _words(recorded)
    return Check(name, bool(recorded == found), now if recorded == found else f"{now}, recorded {then}")


def _words(value: Any) -> str:
    """Return a value as text, whole but for hashes."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(part)}" for key, part in value.items())
    if isinstance(value, list | tuple | set):
        return ", ".join(map(_words, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return value[:16] if isinstance(value, str) and _HASH.fullmatch(value) else str(value)


def _near(name: str, recorded: Any, found: Any, what: str) -> Check:
    """Compare numbers, or lists of them, that were computed in the same way."""
    missing = recorded is None or found is None
    agree = recorded is found if missing else np.shape(recorded) == np.shape(found)
    agree = bool(agree and (missing or np.allclose(recorded, found, rtol=0, atol=_ROUNDING)))
    return Check(name, agree, what if agree else f"{what}: {found}, recorded {recorded}")


def _digest(record: Record) -> Check:
    """Compare the file with the digest that it carries."""
    if record.intact is None:
        return Check(
            "digest", None, f"records of schema {record.schema} carry none" if record.schema < 3 else "not read"
        )
    return Check("digest", record.intact, "the file is as it was written" if record.intact else "the file was altered")


def _arithmetic(record: Record) -> Iterator[Check]:
    """Compare the record's numbers with each other: everything that follows from something else in it."""
    if not record.is_tested:  # a search: one validation score, no draws
        yield _near("score", record.score, max(row["score"] for row in record.selection), "the best of the trials")
        return
    scores = [draw["score"] for draw in record.draws]
    confusion = np.array(record.confusion)
    num_test, (parameter, value) = record.data["test"]["num_images"], record.chosen
    gaps = [draw["duality_gap"] for draw in record.draws if draw.get("duality_gap") is not None]
    statuses = [draw.get("status", record.status) for draw in record.draws]
    worst = next((status for status in statuses if status not in CERTIFIED), statuses[0])
    yield _near("score", record.score, float(np.mean(scores)), f"{record.score:.4%}, the mean of its draws")
    yield _same("number of draws", record.num_draws, len(scores))
    yield _same("images in the confusion", int(confusion.sum()), num_test * len(scores))
    yield _near("confusion", accuracy_in(confusion, record.metric), record.score, "it gives the score")
    yield _near("spread", record.spread, spread_of_draws(scores), "1.96 standard deviations of the draws")
    yield _near("interval", record.ci95, interval_over_draws(scores, confusion, record.metric), "computed again")
    yield _same(f"chosen {parameter}", value, best_value(record.selection, parameter))
    yield _same(f"{parameter} of the fits", {draw.get(parameter, value) for draw in record.draws}, {value})
    means = [float(np.mean(row.get("scores") or math.nan)) for row in record.selection]
    yield _near("validation curve", [row["score"] for row in record.selection], means, "means over the draws")
    yield _same("certificate", record.duality_gap, max(gaps, default=None))
    yield _same("status", record.status, worst)
    yield from _right(record, scores, confusion)
    yield from _figures(record, confusion)


def _right(record: Record, scores: list[float], confusion: np.ndarray) -> Iterator[Check]:
    """Compare which images were right with the rest."""
    if record.right is None:
        yield Check("right images", None, f"records of schema {record.schema} do not say which test images were right")
        return
    right_N = unpack_counts(record.right)
    fits = len(right_N) == record.data["test"]["num_images"] and right_N.max(initial=0) <= len(scores)
    agree = bool(fits and right_N.sum() == np.trace(confusion))
    if agree and record.metric != PER_CLASS:
        agree = fits_scores(scores, right_N)
    yield Check(
        "right images", agree, f"{right_N.sum():,} in all, the trace of the confusion is {np.trace(confusion):,}"
    )
    if agree and record.ci95_with_images is not None:
        found = interval_over_images(scores, confusion, right_N, record.metric)
        yield _near("interval with images", record.ci95_with_images, found, "computed again")


def _figures(record: Record, confusion: np.ndarray) -> Iterator[Check]:
    """Compare the figures from a classifier's scores, where the record has them, with what they follow from."""
    num_test, num_right = record.data["test"]["num_images"], int(np.trace(confusion))
    if (top := record.figures.get("top5")) is not None:
        counts = unpack_counts(top["right"])
        fits = len(counts) == num_test and len(top["scores"]) == record.num_draws
        fits = fits and fits_scores(top["scores"], counts)
        if fits and record.right is not None:
            fits = bool(np.all(counts >= unpack_counts(record.right)))  # right is right among five
        yield Check("top-5 images", bool(fits), f"{counts.sum():,} right among five")
        yield _near("top-5 accuracy", top["score"], float(np.mean(top["scores"])), f"{top['score']:.2%}")
        if fits:
            found = interval_with_images(top["scores"], counts)
            yield _near("interval of top-5 accuracy", top["ci95"], found, "computed again")
    if (ece := record.figures.get("ece")) is not None:
        bins = np.array(ece["bins"])
        sums = [int(bins[:, 0].sum()), int(bins[:, 2].sum())]
        yield _same("images in the bins", sums, [num_test * record.num_draws, num_right])
        value, low, high = calibration_error(bins, num_test)
        yield _near("calibration error", [ece["score"], *ece["ci95"]], [value, low, high], "computed again")


def _protocol(record: Record, protocol: Protocol) -> Check:
    """Compare a protocol with the catalogue's of the same id."""
    shown = f"{record.protocol} v{record.protocol_version}"
    name = record.classifier["name"]
    for known in PROTOCOLS.values():
        own = known if name == "l2svm" else known.with_classifier(name)
        if own.id != protocol.id:
            continue
        recorded, known_now = _plain(record.spec), _plain(asdict(own))
        different = [key for key, value in known_now.items() if key in recorded and recorded[key] != value]
        return Check("protocol", not different, shown if not different else f"{shown}: {', '.join(different)} differ")
    return Check("protocol", protocol.id == record.protocol, f"{shown}, no protocol of the catalogue")


def _plain(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol's values as JSON has them; a record that was not read from a file has tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in spec.items()}


def _sources(record: Record, source: Filler) -> list[Check]:
    """Compare what made the features, or the files that hold them."""
    if isinstance(source, EncoderFeatures):
        return [_weights(record, source), *_rules(record, source.encoder)]
    if not isinstance(source, GivenFeatures):
        return [_weights(record, source)]
    recorded = record.features["files"]
    return [
        _same(f"{split} features", recorded[split]["sha256"], file.digest)
        for split, file in zip(("train", "test"), source.files, strict=True)
    ]


def _weights(record: Record, source: Filler) -> Check:
    """Compare the hash of the weights."""
    if isinstance(source, EncoderFeatures):
        return _same("weights", record.weights_sha256, source.encoder.weights_sha256)
    if isinstance(source, PixelFeatures):
        return _same("weights", record.weights_sha256, None)
    return Check("weights", None, "the codebook is learned from the images: see the number again, with --rerun")


def _rules(record: Record, encoder: Encoder) -> Iterator[Check]:
    """Compare how images become the encoder's input, and its output the features."""
    found = {
        "preprocessing": [encoder.preprocessing_of((1, 1, channels)) for channels in (3, 1)],
        "pooling": [encoder.pooling.identity],
    }
    for key, possible in found.items():
        if (recorded := record.features.get(key)) is not None:  # the first records do not say
            yield _same(key, recorded, recorded if recorded in possible else possible[0])


def _data(record: Record, protocol: Protocol, train: ImageSet, test: ImageSet) -> Iterator[Check]:
    """Compare the images, and what follows from them."""
    assert test.labels is not None, "protocols test on labelled images"
    yield _same("train data", record.data["train"]["fingerprint"], train.fingerprint)
    yield _same("class names", record.class_names, list(train.class_names))
    if not record.is_tested:
        return
    yield _same("test data", record.data["test"]["fingerprint"], test.fingerprint)
    if (repeats := record.data["test"].get("in_train")) is not None:
        exact = {key: count for key, count in repeats.items() if key != "near"}
        yield _same("test images in train", exact, count_repeats(train, test))
        yield from _near_duplicates(repeats.get("near"), train, test)
    counts = np.bincount(test.labels, minlength=test.num_classes) * record.num_draws
    yield _same("images of each class", np.sum(record.confusion, axis=1).tolist(), counts.tolist())
    if record.right is not None and len(right_N := unpack_counts(record.right)) == test.num_images:
        by_class = np.bincount(test.labels[packing_order(record, test)], right_N, minlength=test.num_classes)
        yield _same("right images of each class", by_class.astype(int).tolist(), np.diag(record.confusion).tolist())
    if record.rows_sha256:
        yield _same_rows(record.rows_sha256, _rows(record, protocol, train))


def _near_duplicates(near: int | None, train: ImageSet, test: ImageSet) -> Iterator[Check]:
    """Count near-duplicates again, where the record has their count and the package is there."""
    if near is None:
        return
    try:
        check_near_duplicates(train)
    except DcganEvalError as error:
        yield Check("near-duplicates", None, str(error))
        return
    yield _same("near-duplicates", near, count_near_duplicates(train, test))


def _same_rows(recorded: dict[str, list[str]], found: dict[str, list[str]]) -> Check:
    """Compare digests of rows by the stream that they were drawn from."""
    different = [stream for stream in recorded | found if recorded.get(stream) != found.get(stream)]
    detail = f"{', '.join(different)}: other rows" if different else ", ".join(found)
    return Check("rows of the splits", not different, detail)


def _rows(record: Record, protocol: Protocol, train: ImageSet) -> dict[str, list[str]]:
    """Return the digests of the validation rows and the draws, drawn anew."""
    kept, validation = stratified_split(train, protocol.num_held_out(train.num_images), record.seed, "validation")
    found = {"validation": [rows_digest(train, validation)]}
    if protocol.per_class is not None:
        for stream, count in (("selection", protocol.selection_draws), ("test", protocol.num_draws)):
            drawn = (draw_per_class(train, kept, protocol.per_class, record.seed, i, stream) for i in range(count))
            found[stream] = [rows_digest(train, rows) for rows in drawn]
    return found


def _probe(
    record: Record, path: Path, source: Filler, train: ImageSet, test: ImageSet, place: Place
) -> Iterator[Check]:
    """Compare a classifier that was kept with its record, and compute its score again."""
    try:
        solution, digest = read_probe(path)
        yield _same("record of the probe", record.digest, digest)
        command = record.command or "svm"
        stores = cached_stores(source, train.without_labels(), test.without_labels(), place.cache_dir, command)
        score = score_of(solution, stores[1], test, record.metric)
    except DcganEvalError as error:
        yield Check("probe", False if isinstance(error, WeightsError) else None, str(error))
        return
    difference, band = score - record.score, record_band(record)
    detail = f"{score:.2%} from {path.name}, {100 * difference:+.2f} points; band {100 * band:.2f}"
    yield Check("score of the probe", abs(difference) <= band, detail)


def _rerun(
    record: Record,
    protocol: Protocol,
    train: ImageSet,
    test: SealedTest,
    source: Filler,
    place: Place,
    progress: Progress,
) -> Check:
    """Run the protocol again and compare the score."""
    try:
        settings = record_settings(record, protocol)
    except RecordError as error:
        return Check("number again", None, str(error))
    again = run_protocol(protocol, train, test, source, settings, place, progress)
    difference, band = again.score - record.score, record_band(record)
    parameter, value = again.chosen
    detail = f"{again.score:.2%} at {parameter} = {value:g}, {100 * difference:+.2f} points; band {100 * band:.2f}"
    return Check("number again", abs(difference) <= band, detail)
