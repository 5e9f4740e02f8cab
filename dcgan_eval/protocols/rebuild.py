"""From a record back to the run: its protocol, its source of features, its settings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..baselines.kmeans import KMeansFeatures, KMeansOptions
from ..data.imageset import ImageSet
from ..errors import EncoderError, RecordError
from ..features.encoders import is_factory, load_encoder
from ..features.extract import EncoderFeatures, ExtractOptions
from ..features.fill import Filler
from ..features.preprocess import Preprocess
from ..features.taps import GREY_REPEATED, Encoder
from ..records import Record
from .catalog import PROTOCOLS
from .classifiers import PROBES, Classifier, SvmClassifier
from .settings import Settings
from .sources import PixelFeatures
from .spec import Protocol, Published


def record_protocol(record: Record) -> Protocol:
    """Return the protocol behind a record: as the record has it, or for older ones out of the catalogue.

    Raises
    ------
    RecordError
        An older record of a protocol that the catalogue does not have.
    """
    if "dataset" in record.spec:
        return _protocol_from(record.spec)
    name = record.classifier["name"]
    for known in PROTOCOLS.values():
        protocol = known if name == "l2svm" else known.with_classifier(name)
        if protocol.id == record.protocol and protocol.version == record.protocol_version:
            return protocol
    raise RecordError(
        f"Records of schema {record.schema} do not hold their protocol, and the catalogue has none like it",
        got=f"{record.protocol} v{record.protocol_version}",
        remedy="run it again",
    )


def _protocol_from(spec: dict[str, Any]) -> Protocol:
    """Build a protocol from a record's values, refusing values that are none."""
    known = {f.name for f in fields(Protocol)}
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in spec.items() if key in known
    }
    try:
        if values.get("paper") is not None:
            values["paper"] = Published(**values["paper"])
        protocol = Protocol(**values)
        _check_values(protocol)
    except (TypeError, ValueError) as error:
        raise RecordError("The record's protocol cannot be read", got=str(error), remedy="run it again") from error
    return protocol


def _check_values(protocol: Protocol) -> None:
    """Raise unless the values of a protocol are of the types that they must have."""
    per_class = 1 if protocol.per_class is None else protocol.per_class
    counts = (per_class, protocol.num_draws, protocol.selection_draws, protocol.num_held_out(10))
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"counts {counts}")
    texts = (protocol.dataset, protocol.command, protocol.title, protocol.preset, protocol.metric, *protocol.splits)
    if not all(isinstance(text, str) and text for text in texts) or len(protocol.splits) != 2:
        raise ValueError(f"names {texts}")
    pairs = [pair for pair in (protocol.subset, protocol.test_rows) if pair is not None]
    wholes = (1 if protocol.num_test is None else protocol.num_test, protocol.patience, *sum(pairs, ()))
    if not all(isinstance(whole, int) and whole > 0 for whole in wholes) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"numbers of images {wholes}")
    if not protocol.Cs or not all(isinstance(C, int | float) for C in protocol.Cs):
        raise ValueError(f"candidates {protocol.Cs}")


def record_source(record: Record, encoder: Encoder | None = None) -> Filler:
    """Return a record's source of features, built anew.

    Parameters
    ----------
    record : Record
        Its ``features`` say how.
    encoder : Encoder or None
        What was measured; None looks it up by its name.

    Raises
    ------
    DcganEvalError
        No encoder of that name can be built here.
    """
    made = record.features
    if encoder is not None and made["kind"] != "encoder":
        raise RecordError(
            "The features behind the record are of no encoder",
            got=made["name"],
            remedy="leave out the encoder's options",
        )
    if made["kind"] == "pixels":
        return PixelFeatures()
    if made["kind"] == "given":
        raise RecordError(
            "The features behind the record were made elsewhere",
            got=", ".join(file["name"] for file in made["files"].values()),
            remedy="give their files with --features TRAIN TEST",
        )
    try:
        if made["kind"] == "kmeans":
            options = KMeansOptions(**{f.name: made[f.name] for f in fields(KMeansOptions)})
            return KMeansFeatures(options, store_dtype=made["store_dtype"])
        encoder = encoder or load_recorded(record)
        how = {key: made[key] for key in ("batch_norm", "compute", "store_dtype")}
        return EncoderFeatures(encoder, ExtractOptions(tuple(made["layers"]), **how))
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError("The record does not say how its features were made", got=str(error)) from error


def load_recorded(
    record: Record, spec: str | None = None, *, checkpoint: str | Path | None = None, **rules: Any
) -> Encoder:
    """Return a record's encoder, or one that the user names, with the record's rules where the user gives none.

    Parameters
    ----------
    record : Record
        Whose features are to be made again.
    spec, checkpoint
        As for :func:`~dcgan_eval.features.encoders.load_encoder`; without both it is looked up by the record's name.
    **rules
        ``normalise``, ``image_size``, ``pooling`` and ``layout``; those that are None are taken from the record.

    Raises
    ------
    DcganEvalError
        The encoder cannot be built, or the record's rules cannot be read.
    """
    given = {key: value for key, value in rules.items() if value is not None}
    try:
        wanted = _recorded_rules(record.features) | given
        looked_up = spec is None and checkpoint is None
        name = record.features["name"] if looked_up else spec
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError("The record does not say how its features were made", got=str(error)) from error
    if looked_up and is_factory(str(name)):
        raise EncoderError(
            "The record's encoder is code, which is not run because a file says so",
            got=name,
            remedy="name it yourself with --encoder",
        )
    encoder = load_encoder(name, checkpoint=checkpoint, **given)
    if all(encoder.rules[key] == value for key, value in wanted.items()):
        return encoder
    with suppress(
        EncoderError
    ):  # an Encoder out of the user's code has its own rules; whoever checks says what differs
        return load_encoder(name, checkpoint=checkpoint, **wanted)
    return encoder


def _recorded_rules(made: dict[str, Any]) -> dict[str, Any]:
    """Return the rules of a record that an encoder is loaded with: all but those that it did not follow."""
    known = ("normalise", "image_size", "pooling", "layout")
    rules = {key: value for key, value in made.get("rules", {}).items() if key in known and value is not None}
    if made.get("kind") != "encoder" or not rules:
        return {}
    rule = Preprocess(rules.get("normalise", "paper"), rules.get("image_size")).words
    if made["preprocessing"].removesuffix(GREY_REPEATED) != rule:  # the weights' own, which no rule describes
        rules.pop("normalise", None)
    return rules


def record_settings(record: Record, protocol: Protocol) -> Settings:
    """Return the settings of a run, with its classifier.

    Raises
    ------
    RecordError
        A classifier that this version does not have.
    """
    known = {f.name for f in fields(Settings)} - {"classifier"}
    values = {key: value for key, value in record.settings.items() if key in known}
    try:
        plain = Settings(**values)
        return Settings(**values, classifier=_classifier(record, protocol, plain))
    except TypeError as error:
        raise RecordError("The record's settings cannot be read", got=str(error), remedy="run it again") from error


def _classifier(record: Record, protocol: Protocol, settings: Settings) -> Classifier | None:
    """Return the classifier of a record; None is the protocol's own."""
    made = record.classifier
    if made["name"] in ("l2svm", "l2svm_mean_loss"):
        if made["name"] == "l2svm" and "values" not in made:
            return None
        values = tuple(made.get("values", protocol.Cs))
        return SvmClassifier(
            values,
            made.get("patience", protocol.patience),
            tol=settings.tol,
            solver=settings.solver,
            mean_loss=made["name"] == "l2svm_mean_loss",
            relative=bool(made.get("relative", False)),
            open_grid=bool(made.get("open_grid", False)),
        )
    if made["name"] in PROBES:
        return PROBES[made["name"]](settings.tol, settings.seed, made)
    raise RecordError("The record's classifier is none of this version's", got=made["name"], remedy="run its command")


def packing_order(record: Record, test: ImageSet) -> np.ndarray:
    """Return the rows of a labelled test set in the order in which a record packs its counts, (N,).

    Up to schema 2 that is by (label, pixel hash), later by the pixel hash alone.
    """
    if record.schema > 2:
        return test.canonical_order
    assert test.labels is not None, "protocols test on labelled images"
    return np.lexsort((test.pixel_hashes, test.labels))
