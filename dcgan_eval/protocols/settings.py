"""What decides a run beside its protocol and features, and where it keeps things: made once, passed on whole."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..baselines.logistic import LogisticClassifier
from ..devices import memory_share
from ..errors import ProtocolError
from ..ranks import ALONE, Team
from ..svm.path import Solver
from .classifiers import Classifier, SvmClassifier
from .spec import Protocol

_MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Settings:
    """What decides a run's numbers beside its protocol and features; the record keeps all of it.

    Attributes
    ----------
    seed : int
        Root seed of splits and draws.
    tol : float
        Relative duality gap that every fit of the protocol's L2-SVM must certify.
    solver : str
        Of the protocol's L2-SVM: ``"auto"``, ``"primal"`` or ``"gram"``.
    allow_unconverged : bool
        Report fits that did not converge, marked as such, instead of refusing.
    classifier : Classifier or None
        What is fitted; None is the protocol's L2-SVM. Another classifier has a protocol id of its own.
    near_duplicates : bool
        Count near-duplicates of test images within the training set as well; no score depends on it.

    Raises
    ------
    ProtocolError
        A value that cannot be used.
    """

    seed: int = 0
    tol: float = 1e-4
    solver: Solver = "auto"
    allow_unconverged: bool = False
    classifier: Classifier | None = None
    near_duplicates: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _MOST_SEED:
            raise ProtocolError("The seed cannot be used", got=f"--seed {self.seed}", expected=f"0 to {_MOST_SEED}")
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise ProtocolError(
                "The tolerance cannot be used", got=f"--tol {self.tol}", expected="a positive, finite relative gap"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values; the classifier describes itself elsewhere."""
        return {
            "seed": self.seed,
            "tol": self.tol,
            "solver": self.solver,
            "allow_unconverged": self.allow_unconverged,
        }

    def named(self, protocol: Protocol) -> Protocol:
        """Return the protocol under the id that it has with the classifier."""
        if self.classifier is None or self.classifier.name == "l2svm":
            return protocol
        return protocol.with_classifier(self.classifier.name)

    def classifier_for(self, protocol: Protocol) -> Classifier:
        """Return what is fitted: the classifier asked for, or the protocol's L2-SVM."""
        if isinstance(self.classifier, LogisticClassifier) and protocol.relative and self.classifier.relative is None:
            relative = copy(self.classifier)
            relative.values, relative.relative = protocol.Cs, True
            return relative
        if self.classifier is not None:
            return self.classifier
        return SvmClassifier(
            protocol.Cs, protocol.patience, tol=self.tol, solver=self.solver, relative=protocol.relative
        )


DEFAULTS = Settings()


@dataclass(frozen=True)
class Place:
    """Where a run finds, keeps and computes things; no number depends on it beyond rounding.

    Attributes
    ----------
    data_dir : Path or None
        Where data sets lie; None uses ``DCGAN_EVAL_DATA``.
    cache_dir : Path
        Folder of the feature stores.
    download : bool
        Let torchvision fetch what is missing.
    wait : bool
        Wait for another process that writes the same features, else raise.
    memory_bytes : int
        Largest matrix of features that is read into memory whole; larger ones are read in blocks, again in each pass.
    probe : Path or None
        Where the classifier that was fitted goes, as safetensors; None keeps none.
    device : torch.device or None
        Where classifiers are fitted, and predict; None leaves it to the classifier, whose own is the processor.
    team : Team
        Processes that share the run: blocks of features, draws, rows of large fits. The one that leads has the record.
    """

    data_dir: Path | None = None
    cache_dir: Path = Path("cache")
    download: bool = False
    wait: bool = True
    memory_bytes: int = field(default_factory=memory_share)
    probe: Path | None = None
    device: torch.device | None = None
    team: Team = ALONE
