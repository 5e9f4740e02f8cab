"""A record checked against what it says it was made from: data, weights, its own arithmetic, and the number again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import provenance
from ..data.imageset import ImageSet
from ..errors import DcganEvalError, EncoderError
from ..features.encoders import is_factory, load_encoder
from ..features.extract import ExtractOptions, Progress
from ..features.taps import Encoder
from ..records import Record
from .catalog import PROTOCOLS, load_protocol_data
from .runner import best_value, run_protocol
from .sources import EncoderFeatures, FeatureSource, PixelFeatures
from .spec import Protocol, SealedTest

# Features in bfloat16 differ in the last bits between processors, so some images near a boundary change sides.
_FLIPPED = 0.02


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


def score_band(num_test: int) -> float:
    """Return how far a score may move when nothing but rounding changed, as a fraction.

    Three standard deviations of the score's change when 2 % of the predictions flip independently, and one image: 1.0
    points for 2,000 test images, 0.4 for 10,000.
    """
    return 3 * math.sqrt(_FLIPPED / num_test) + 1 / num_test


def verify(
    record: Record,
    *,
    encoder: Encoder | None = None,
    data_dir: Path | None = None,
    cache_dir: Path | str = "cache",
    rerun: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> list[Check]:
    """Check a record; what is missing here is reported, not guessed.

    Parameters
    ----------
    record : Record
        What to check.
    encoder : Encoder or None
        Behind the record; None looks it up by the name in the record.
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
    protocol = next((p for p in PROTOCOLS.values() if p.id == record.protocol), None)
    if protocol is None or protocol.version != record.protocol_version:
        known = "no such protocol" if protocol is None else f"version {protocol.version}"
        return [Check("protocol", False, f"{record.protocol} v{record.protocol_version}; here: {known}")]
    checks = [Check("protocol", True, f"{record.protocol} v{record.protocol_version}"), *_arithmetic(record)]
    try:
        source = record_source(record, encoder, cache_dir)
        checks += [_weights(record, source)]
    except DcganEvalError as error:
        source = None
        checks += [Check("weights", None, str(error))]
    try:
        train, test = load_protocol_data(protocol, data_dir)
    except DcganEvalError as error:
        return [*checks, Check("data", None, str(error))]
    checks += [_same("train data", record.data["train"]["fingerprint"], train.fingerprint)]
    checks += [_same("test data", record.data["test"]["fingerprint"], test.fingerprint)]
    if rerun and source is not None:
        checks += [_rerun(record, protocol, train, test, source, progress)]
    return checks


def _same(name: str, recorded: str | None, found: str | None) -> Check:
    """Compare two hashes."""
    short = str(found)[:16]
    return Check(name, recorded == found, short if recorded == found else f"{short}, recorded {str(recorded)[:16]}")


def _arithmetic(record: Record) -> list[Check]:
    """Compare the record's numbers with each other."""
    confusion = np.array(record.confusion)
    scores = [draw["score"] for draw in record.draws]
    agree = np.allclose([np.mean(scores), np.trace(confusion) / confusion.sum()], record.score, rtol=0, atol=1e-12)
    gap = max((draw["duality_gap"] for draw in record.draws if draw["duality_gap"] is not None), default=None)
    certificate = record.status if gap is None else f"{gap:.1e}, the largest gap of the fits"
    parameter, value = record.chosen
    best = best_value(record.selection, parameter)
    fingerprint = provenance.digest(*(part["fingerprint"] for part in record.data.values()))
    return [
        Check(
            "score", bool(agree), f"{record.score:.4%}, the mean of its draws and the share of the confusion's trace"
        ),
        Check(f"chosen {parameter}", best == value, f"{value:g}, the best on validation rows"),
        Check("certificate", gap == record.duality_gap, certificate),
        _same("data digest", record.dataset_fingerprint, fingerprint),
    ]


def record_source(record: Record, encoder: Encoder | None, cache_dir: Path | str) -> FeatureSource:
    """Return a record's source of features, built anew.

    Parameters
    ----------
    record : Record
        Its ``features`` say how.
    encoder : Encoder or None
        What was measured; None looks it up by its name.
    cache_dir : Path or str
        Folder of the feature stores.

    Raises
    ------
    DcganEvalError
        No encoder of that name can be built here.
    """
    made = record.features
    if made["name"] == "pixels":
        return PixelFeatures()
    if encoder is None and is_factory(made["name"]):
        raise EncoderError(
            "The record's encoder is code, which is not run because a file says so",
            got=made["name"],
            remedy="name it yourself with --encoder",
        )
    encoder = encoder or load_encoder(made["name"], **made.get("rules", {}))
    how = {key: made[key] for key in ("batch_norm", "compute", "store_dtype")}
    return EncoderFeatures(encoder, ExtractOptions(tuple(made["layers"]), **how), Path(cache_dir))


def _weights(record: Record, source: FeatureSource) -> Check:
    """Compare the hash of the weights."""
    if isinstance(source, EncoderFeatures):
        return _same("weights", record.weights_sha256, source.encoder.weights_sha256)
    return _same("weights", record.weights_sha256, None)


def _rerun(
    record: Record, protocol: Protocol, train: ImageSet, test: SealedTest, source: FeatureSource, progress: Progress
) -> Check:
    """Run the protocol again and compare the score."""
    classifier = record.classifier["name"]
    if classifier != "l2svm":
        return Check("number again", None, f"made by {classifier}: run `{record.command}`")
    again = run_protocol(protocol, train, test, source, seed=record.seed, progress=progress)
    difference, band = again.score - record.score, score_band(test.images.num_images)
    parameter, value = again.chosen
    detail = f"{again.score:.2%} at {parameter} = {value:g}, {100 * difference:+.2f} points; band {100 * band:.2f}"
    return Check("number again", abs(difference) <= band, detail)
