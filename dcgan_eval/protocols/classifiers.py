"""What turns features into predictions: what the runner asks of a classifier, the L2-SVM, and the table of others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.special
import torch
import torch.distributed as dist

from ..baselines.knn import KnnClassifier
from ..baselines.logistic import LogisticClassifier
from ..baselines.mlp import MlpClassifier, MlpOptions
from ..baselines.ridge import RidgeClassifier
from ..devices import memory_share
from ..ranks import Team
from ..svm.journal import Journal
from ..svm.objective import Solution, predict_all, score_all
from ..svm.path import FitOptions, Solver, choose_solver, fit_ovr, fit_path
from ..svm.rows import mean_squared_norm, sum_of_all
from ..svm.sums import pieces
from .matrix import Matrix
from .spec import TOP, Ranked
from .spec import Protocol as ProtocolSpec


class Fit(Protocol):
    """A classifier fitted at one value of its hyperparameter."""

    @property
    def value(self) -> float:
        """The hyperparameter."""

    @property
    def status(self) -> str:
        """``"converged"``, ``"exact"`` (nothing is left to converge), ``"trained"``, or how it fell short."""

    @property
    def duality_gap(self) -> float | None:
        """Relative duality gap; None where nothing is minimised."""

    @property
    def num_rows(self) -> int:
        """Training rows."""

    def details(self) -> dict[str, Any]:
        """Return what else a record keeps of the fit."""

    def without_rows(self) -> Fit:
        """Return the fit without the training rows that it holds on to, for the record alone."""


class Classifier(Protocol):
    """A classifier with one hyperparameter that is chosen on validation rows.

    Attributes
    ----------
    name : str
        Stands in the protocol's id.
    parameter : str
        Name of the hyperparameter in records: ``"C"``, ``"k"``.
    values : tuple of float
        Candidates, ascending; of equally good ones the first is taken.
    patience : int
        The path ends after this many values without a better validation score.
    keeps_rows : bool
        Whether a fit holds on to its training rows.

    One that can be fitted on a GPU has a ``device``, too: where, or None for where its features are.
    """

    name: str
    parameter: str
    values: tuple[float, ...]
    patience: int
    keeps_rows: bool

    def path(self, X: Matrix, y: np.ndarray, X_val: Matrix) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield a :class:`Fit` to X (N, D), y (N,) and the predicted labels of X_val for each of the values."""

    def fit(self, X: Matrix, y: np.ndarray, value: float) -> Any:
        """Return the :class:`Fit` to all of X, y at one value."""

    def predict(self, fits: Sequence[Any], X: Matrix) -> list[np.ndarray]:
        """Return the predicted labels (N,) of every fit; whether a fit may be used is the runner's business."""

    def describe(self) -> dict[str, Any]:
        """Return what else decided the numbers."""


def with_values(classifier: Classifier, values: Sequence[float]) -> Classifier:
    """Return the classifier with other candidates for its hyperparameter."""
    return _with(classifier, "values", tuple(values))


def on_device(classifier: Classifier, device: torch.device | None) -> Classifier:
    """Return the classifier fitted on another device; itself for None, and where it is not for GPUs."""
    return _with(classifier, "device", device)


def keeping_fits(classifier: Classifier, journal: Journal | None) -> Classifier:
    """Return the classifier with long fits written down in a journal; itself without one, or where it makes none."""
    return _with(classifier, "journal", journal)


def looking_ahead(classifier: Classifier, num_certain: Callable[[], int]) -> Classifier:
    """Return the classifier told how many of its next values are certain to be tried; itself where it fits one by one.

    Values that are certain can be solved at once.
    """
    return _with(classifier, "num_certain", num_certain)


def _with(classifier: Classifier, name: str, value: Any) -> Classifier:
    """Return a copy with another attribute; the classifier itself for None, and where it has no such attribute."""
    if value is None or not hasattr(classifier, name):
        return classifier
    other = copy.copy(classifier)
    setattr(other, name, value)
    return other


def can_share(classifier: Classifier, num_rows: int, num_features: int, device: torch.device) -> bool:
    """Tell whether processes can share one fit: neighbours are looked for in turn, an SVM's rows in its weights spread.

    A Gram matrix needs all rows in one process, and few of them make one that is solved in no time.
    """
    if not isinstance(classifier, SvmClassifier) or classifier.solver != "auto":
        return isinstance(classifier, KnnClassifier) or getattr(classifier, "solver", None) == "primal"
    return choose_solver(num_rows, num_features, memory_bytes=memory_share(device) // 4).solver == "primal"


def spread_over(classifier: Classifier, team: Team) -> Classifier:
    """Return the classifier with its training rows spread over processes; itself where each needs all of them."""
    return _with(classifier, "group", team.group)


def has_open_grid(classifier: Classifier, protocol: ProtocolSpec, features: Mapping[str, Any]) -> bool:
    """Tell whether values beyond a classifier's candidates are tried where the best is at their end.

    Neighbours and perceptrons have no penalty that follows the features' scale. A grid of which every value is tried is
    the published one, and stays as it is for the features that the paper had.
    """
    if not isinstance(classifier, SvmClassifier | LogisticClassifier | RidgeClassifier) or len(classifier.values) == 1:
        return False
    if classifier.open_grid is not None:
        return classifier.open_grid
    is_published = classifier.patience >= len(classifier.values) and not protocol.relative
    is_own = features["kind"] == "given" or (features["kind"] == "encoder" and features.get("preset") is None)
    return is_own or not is_published


@runtime_checkable
class Scoring(Protocol):
    """A classifier that scores every class, the highest of which it predicts; the neighbours' votes are no such scores.

    Attributes
    ----------
    probabilities : bool
        Whether the softmax of the scores is a probability.
    """

    probabilities: bool

    def scores(self, fits: Sequence[Any], X: Matrix) -> Iterable[np.ndarray]:
        """Return the scores (N, K) by every fit, K in the order of its ``classes``."""


def rank(classifier: Classifier, fits: Sequence[Any], X: Matrix, num_classes: int) -> list[Ranked]:
    """Return what the scores of the fits say beside their predictions; nothing where there are none to say it."""
    if not isinstance(classifier, Scoring) or not (classifier.probabilities or num_classes > TOP):
        return []
    found = []
    for fit, scores in zip(fits, classifier.scores(fits, X), strict=True):
        parts = [scores[rows] for rows in pieces(*scores.shape)]  # what is made of them is several times as large
        # a stable sort, so that of equal scores the first class leads, as in predictions
        order = [np.argsort(-part, axis=1, kind="stable")[:, :TOP] for part in parts] if num_classes > TOP else []
        sure = [scipy.special.softmax(part, axis=1).max(axis=1) for part in parts] if classifier.probabilities else []
        found.append(
            Ranked(fit.classes[np.concatenate(order)] if order else None, np.concatenate(sure) if sure else None)
        )
    return found


@dataclass(frozen=True)
class SvmFit:
    """An L2-SVM at one value of C.

    Attributes
    ----------
    value : float
        C in the classifier's convention.
    num_rows : int
        Training rows.
    solution : Solution
        Weights and certificate.
    """

    value: float
    num_rows: int
    solution: Solution

    @property
    def status(self) -> str:
        """How the fit ended."""
        return str(self.solution.status)

    @property
    def classes(self) -> np.ndarray:
        """Labels in order."""
        return self.solution.classes

    @property
    def duality_gap(self) -> float:
        """Largest relative duality gap of the one-vs-rest problems."""
        return self.solution.relative_gap

    def details(self) -> dict[str, Any]:
        """Return how the fit was made."""
        solution = self.solution
        return {
            "newton_iterations": solution.newton_iterations,
            "passes": solution.passes,
            "time_s": solution.time_s,
            "solver": solution.solver,
            "solver_reason": solution.reason,
            "device": solution.device,
        }

    def without_rows(self) -> SvmFit:
        """Return the fit: it holds weights alone."""
        return self


class SvmClassifier:
    """The certified one-vs-rest L2-SVM of the paper's protocols.

    Parameters
    ----------
    values : tuple of float
        Candidates for C.
    patience : int
        See :class:`Classifier`.
    tol : float
        Relative duality gap that counts as converged.
    solver : str
        ``"auto"``, ``"primal"`` or ``"gram"``.
    mean_loss : bool
        C multiplies the mean of the losses instead of their sum, as in the code of Coates, Ng & Lee.
    relative : bool
        C is for features of mean squared norm one; see :class:`~dcgan_eval.protocols.spec.Protocol`.
    open_grid : bool or None
        Try values beyond the candidates where the best is at their end; None: see :func:`has_open_grid`.
    device : torch.device or str, optional
        Where to multiply; None: where the features are.
    memory_bytes : int, optional
        About the most that a fit may take beside features in memory; None: a share of the machine.

    Attributes
    ----------
    group : torch.distributed.ProcessGroup or None
        Processes that hold the other training rows, see :func:`spread_over`.
    """

    parameter, keeps_rows, probabilities = "C", False, False
    group: dist.ProcessGroup | None = None

    def __init__(
        self,
        values: tuple[float, ...],
        patience: int = 2,
        *,
        tol: float = 1e-4,
        solver: Solver = "auto",
        mean_loss: bool = False,
        relative: bool = False,
        open_grid: bool | None = None,
        device: torch.device | str | None = None,
        memory_bytes: int | None = None,
    ):
        FitOptions(tol=tol, solver=solver)  # refused here, before features are computed
        self.values, self.patience, self.tol, self.solver = values, patience, tol, solver
        self.mean_loss, self.relative, self.open_grid = mean_loss, relative, open_grid
        self.device, self.memory_bytes = device, memory_bytes
        self.name = "l2svm_mean_loss" if mean_loss else "l2svm"
        self.journal: Journal | None = None  # where long fits are written down, set by whoever runs them
        self.num_certain: Callable[[], int] | None = None  # see :func:`looking_ahead`

    def path(self, X: Matrix, y: np.ndarray, X_val: Matrix) -> Iterator[tuple[SvmFit, np.ndarray]]:
        """Yield fits and validation predictions for ascending C, each warm-started from the one before."""
        how, unit, num_rows = self._how(X)
        solutions = fit_path(X, y, [C / unit for C in self.values], together=self.num_certain or 1, **how)
        for C, solution in zip(self.values, solutions, strict=True):
            yield SvmFit(C, num_rows, solution), solution.predict(X_val, allow_unconverged=True, device=self.device)

    def fit(self, X: Matrix, y: np.ndarray, value: float) -> SvmFit:
        """Return the fit at one C."""
        how, unit, num_rows = self._how(X)
        return SvmFit(value, num_rows, fit_ovr(X, y, value / unit, **how))

    def predict(self, fits: Sequence[SvmFit], X: Matrix) -> list[np.ndarray]:
        """Return the predicted labels of every fit, in one pass over X."""
        return predict_all([fit.solution for fit in fits], X, allow_unconverged=True, device=self.device)

    def scores(self, fits: Sequence[SvmFit], X: Matrix) -> Iterable[np.ndarray]:
        """Return the margins (N, K) of every fit, in one pass over X; of two classes (N, 1)."""
        return score_all([fit.solution for fit in fits], X, self.device)

    def describe(self) -> dict[str, Any]:
        """Return the objective."""
        return {
            "objective": f"1/2 ||w||^2 + C {'mean' if self.mean_loss else 'sum'} max(0, 1 - y w.x)^2",
            "relative": self.relative,
        }

    def _how(self, X: Matrix) -> tuple[dict[str, Any], float, int]:
        """Return the options of a fit, the unit of C and the number of rows in all processes.

        C is divided by its unit to be the factor of the summed losses.
        """
        num_rows = int(sum_of_all(len(X), self.group))
        squared_norm = mean_squared_norm(X, self.group) if self.relative else 1.0
        scaling = math.sqrt(squared_norm)
        how: dict[str, Any] = {"tol": self.tol, "solver": self.solver, "intercept_scaling": scaling}
        how |= {"device": self.device, "memory_bytes": self.memory_bytes, "journal": self.journal, "group": self.group}
        return how, squared_norm * (num_rows if self.mean_loss else 1), num_rows


def _recorded(made: Mapping[str, Any], what: str) -> bool | None:
    """Return what a record says of its classifier's grid, which older ones do not: no; None without a record."""
    return bool(made.get(what, False)) if made else None


def _recorded_values(made: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the candidates of a record's classifier; None without them."""
    return tuple(made["values"]) if "values" in made else None


def _mlp(tol: float, seed: int, made: Mapping[str, Any]) -> Classifier:
    """Return a perceptron as a record describes it, or as it is made now."""
    described = {field.name: made[field.name] for field in fields(MlpOptions) if field.name in made}
    return MlpClassifier(MlpOptions(**({"seed": seed} | described)))


PROBES: Mapping[str, Callable[[float, int, Mapping[str, Any]], Classifier]] = {
    "knn": lambda tol, seed, made: KnnClassifier(),
    "knn_cosine": lambda tol, seed, made: KnnClassifier(cosine=True),
    "logistic": lambda tol, seed, made: LogisticClassifier(
        tol, values=_recorded_values(made), relative=_recorded(made, "relative"), open_grid=_recorded(made, "open_grid")
    ),
    "ridge": lambda tol, seed, made: RidgeClassifier(open_grid=_recorded(made, "open_grid")),
    "mlp": _mlp,
}
"""Every classifier beside the L2-SVM: name -> (tolerance, seed, what its record describes) -> classifier."""
