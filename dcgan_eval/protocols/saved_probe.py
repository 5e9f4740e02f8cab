"""The classifier behind a record as a file beside it, and the record's score made again from that file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ..data.imageset import ImageSet
from ..errors import ProtocolError, WeightsError
from ..features.store import FeatureStore
from ..files import check_target, write_file
from ..records import Record
from ..svm.objective import Solution
from ..svm.saved import load_solution, save_solution
from .classifiers import Classifier, Fit, SvmFit
from .spec import Protocol
from .statistics import accuracy


def check_probe_target(path: Path, protocol: Protocol, classifier: Classifier) -> None:
    """Raise, before the work, unless a run fits one L2-SVM in the end and it can be written to ``path``.

    Raises
    ------
    ProtocolError
        Several fits, or another classifier.
    WeightsError
        A wrong suffix, or a file of another kind.
    """
    if protocol.per_class is not None and protocol.num_draws > 1:
        raise ProtocolError(
            f"Protocol {protocol.command} has no single classifier to keep",
            got=f"{protocol.num_draws} draws, each with a fit of its own",
            remedy="leave out --save-probe, or ask for one draw with --draws 1",
        )
    if not classifier.name.startswith("l2svm"):
        raise ProtocolError("Only an L2-SVM can be kept", got=classifier.name, remedy="use `svm`")
    check_target(path, "--save-probe", WeightsError, suffixes=(".safetensors",))


def write_probe(path: Path, fit: Fit, record: Record) -> None:
    """Write the fit behind a record's score, with the record's digest.

    Raises
    ------
    WeightsError
        The file cannot be written.
    """
    assert isinstance(fit, SvmFit), "checked before the run"
    extra = {"record": record.digest, "weights_sha256": _digest(fit.solution), "class_names": record.class_names}
    try:
        write_file(path, save_solution(fit.solution, extra))
    except OSError as error:
        raise WeightsError(
            "The classifier cannot be written", got=f"{path}: {error}", remedy="give another place with --save-probe"
        ) from error


def read_probe(path: Path) -> tuple[Solution, str]:
    """Read a fit, and the digest of the record that it belongs to.

    Raises
    ------
    WeightsError
        Missing, damaged or foreign.
    """
    solution, extra = load_solution(path)
    if extra.get("weights_sha256") != _digest(solution):
        raise WeightsError(
            f"{path} is damaged, or was not written by --save-probe",
            got="weights that do not match their digest",
            remedy="run the protocol again with --save-probe",
        )
    return solution, str(extra.get("record"))


def score_of(solution: Solution, X: FeatureStore, test: ImageSet, metric: str) -> float:
    """Return a metric of a fit on test features whose rows are those of ``test``."""
    if X.shape[1] != solution.W.shape[1]:
        raise WeightsError(
            "The classifier is of other features",
            got=f"{solution.W.shape[1]:,} weights a class, {X.shape[1]:,} features",
            remedy="give the file that was written together with the record",
        )
    assert test.labels is not None, "protocols test on labelled images"
    return accuracy(test.labels, solution.predict(X, allow_unconverged=True), metric)


def _digest(solution: Solution) -> str:
    """Return the SHA-256 of what predicts: classes, weights and intercepts."""
    parts = (np.asarray(solution.classes, np.int64), solution.W.astype("<f8"), solution.intercepts.astype("<f8"))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()
