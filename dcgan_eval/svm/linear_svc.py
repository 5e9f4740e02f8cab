"""A scikit-learn estimator for the certified L2-SVM."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..devices import resolve_device
from ..errors import ArgumentError
from .objective import Solution, Status, linear_scores, unconverged
from .path import FitOptions, Fitter, Solver, check_positive
from .rows import Rows

_DTYPES = (np.float64, np.float32, np.float16)


class L2SVM(LinearClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear SVM with squared hinge loss and L2 penalty, one-vs-rest, solved to a certified duality gap.

    ``min_w 1/2 ||w||^2 + C sum_i max(0, 1 - y_i w.x_i)^2`` for each class, the intercept being the weight of a
    constant feature and regularised like any other; what ``sklearn.svm.LinearSVC`` solves by default.

    Parameters
    ----------
    C : float
        Cost, > 0.
    tol : float
        Relative duality gap ``(P - D) / P``, per class, that counts as converged; measured in float64.
    max_iter : int
        Newton iterations allowed.
    fit_intercept : bool
        Whether to add the constant feature.
    intercept_scaling : float
        Its value, > 0.
    solver : str
        ``"auto"`` (Gram matrix when there are fewer rows than features and few enough rows), ``"primal"``, ``"gram"``.
    class_weight : dict, "balanced" or None
        Factor of C per class. As in LIBLINEAR, with more than two classes it applies to the class's own rows in its
        own problem.
    on_unconverged : str
        ``"raise"`` a ConvergenceError, or ``"warn"`` with scikit-learn's ConvergenceWarning and mark ``status_``.
    loss, penalty, multi_class : str
        ``"squared_hinge"``, ``"l2"``, ``"ovr"``; taken so that calls of ``LinearSVC`` need no change, and other values
        are an error.
    dual, random_state
        Of no effect: there is one optimum, and nothing is drawn.
    verbose : int
        Other than 0: print a line after the fit.
    device : str or None
        Where to multiply: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; None: where X is, arrays on the processor.
        What does not fit there is streamed.

    Attributes
    ----------
    coef_ : numpy.ndarray
        Float64 (K, D), (1, D) for two classes.
    intercept_ : numpy.ndarray
        Float64 (K,).
    classes_ : numpy.ndarray
        Labels, sorted.
    status_, solver_, solver_reason_ : str
        How the fit ended, which solver ran, and why that one.
    duality_gap_ : float
        Largest relative gap over the classes.
    primal_objective_, dual_objective_ : numpy.ndarray
        Per class, (K,).
    n_iter_ : int
        Newton iterations.
    solution_ : Solution
        Everything else: passes over X, time, gap per class.

    Notes
    -----
    Source: the L2-loss SVM of LIBLINEAR, Fan et al., JMLR 9 (2008), one-vs-rest. Deviations: ``tol`` is a duality gap.
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-4,
        max_iter: int = 100,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        solver: Solver = "auto",
        class_weight: dict[Any, float] | str | None = None,
        on_unconverged: str = "raise",
        loss: str = "squared_hinge",
        penalty: str = "l2",
        multi_class: str = "ovr",
        dual: bool | str = "auto",
        random_state: Any = None,
        verbose: int = 0,
        device: str | None = None,
    ):
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.solver = solver
        self.class_weight = class_weight
        self.on_unconverged = on_unconverged
        self.loss = loss
        self.penalty = penalty
        self.multi_class = multi_class
        self.dual = dual
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any | None = None) -> L2SVM:
        """Fit to rows X (N, D) and labels y (N,).

        Parameters
        ----------
        X : array_like or torch.Tensor
            Shape (N, D). float32 and float64 are not copied; float16 and bfloat16 are converted block by block.
        y : array_like
            Labels.
        sample_weight : array_like, optional
            Factor of C per row, (N,).

        Returns
        -------
        L2SVM
            Itself.

        Raises
        ------
        ConvergenceError
            When the certificate is not reached and ``on_unconverged`` is ``"raise"``.
        ValueError, TypeError
            When the data or a parameter cannot be used.
        """
        options, device = self._options(), self._where()
        X, y = self._checked(X, y)
        sample_weight = None if sample_weight is None else _sample_weight(sample_weight, X)
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"L2SVM needs at least 2 classes in y; the data holds only one class: {classes[0]!r}.")
        fitter = Fitter(X, y, options, self._class_weight(y, sample_weight), sample_weight, device=device)
        solution = fitter.fit(float(self.C))
        self._adopt(solution)
        if self.verbose:
            print(
                f"L2SVM: {solution.status}, relative duality gap {solution.relative_gap:.1e}, {solution.time_s:.2f} s"
            )
        if solution.status is not Status.CONVERGED:
            if self.on_unconverged == "raise":
                raise unconverged(solution)
            warnings.warn(str(unconverged(solution)), ConvergenceWarning, stacklevel=2)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Score rows block by block: (N, K), or (N,) for two classes.

        Parameters
        ----------
        X : array_like or torch.Tensor
            Shape (N, D).
        """
        check_is_fitted(self)
        if not isinstance(X, torch.Tensor):
            X = validate_data(self, X, dtype=_kept_dtype(X), accept_sparse=False, reset=False)
        scores = linear_scores(X, self.coef_, self.intercept_, self._where())
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def _where(self) -> torch.device | None:
        """Return the device asked for, or say that it is not there."""
        return None if self.device is None else resolve_device(self.device, "device")

    def _options(self) -> FitOptions:
        """Validate the parameters."""
        check_positive("C", self.C, "1e-4")
        for name, only in (("loss", "squared_hinge"), ("penalty", "l2"), ("multi_class", "ovr")):
            value = getattr(self, name)
            if value != only:
                remedy = f"use sklearn.svm.LinearSVC({name}={value!r})"
                raise ArgumentError(f"L2SVM has no {name}={value!r}", expected=repr(only), remedy=remedy)
        if self.on_unconverged not in ("raise", "warn"):
            raise ArgumentError(
                'on_unconverged must be "raise" or "warn"', got=repr(self.on_unconverged), remedy='use "warn" to go on'
            )
        if self.fit_intercept:
            check_positive("intercept_scaling", self.intercept_scaling, "1")
        scale = float(self.intercept_scaling) if self.fit_intercept else 0.0
        return FitOptions(float(self.tol), int(self.max_iter), self.solver, scale)

    def _checked(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        """Validate X and y the way scikit-learn does, a tensor without leaving torch."""
        if isinstance(X, torch.Tensor):
            if y is None:
                raise ValueError("L2SVM requires y to be passed, but the target y is None.")
            if not Rows(X).all_finite():
                raise ValueError("Input X contains NaN or infinity.")
            self.n_features_in_ = int(X.shape[1])
            y = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
        else:
            X, y = validate_data(self, X, y, dtype=_kept_dtype(X), accept_sparse=False)
        check_classification_targets(y)
        return X, y

    def _class_weight(self, y: np.ndarray, sample_weight: np.ndarray | None) -> dict[Any, float] | None:
        """Resolve ``class_weight`` to a factor per class."""
        if self.class_weight is None:
            return None
        classes = np.unique(y)
        factors = compute_class_weight(self.class_weight, classes=classes, y=y, sample_weight=sample_weight)
        return dict(zip(classes.tolist(), factors.tolist(), strict=True))

    def _adopt(self, solution: Solution) -> None:
        """Take over the fitted attributes."""
        self.solution_ = solution
        self.coef_, self.intercept_, self.classes_ = solution.W, solution.intercepts, solution.classes
        self.status_, self.solver_, self.solver_reason_ = str(solution.status), solution.solver, solution.reason
        self.duality_gap_ = solution.relative_gap
        self.primal_objective_, self.dual_objective_ = solution.primal, solution.dual
        self.n_iter_ = solution.newton_iterations


def _kept_dtype(X: Any) -> Any:
    """Return what scikit-learn's checks may convert X to; integers stay, and become floats block by block."""
    return None if getattr(getattr(X, "dtype", None), "kind", "") in ("b", "i", "u") else _DTYPES


def _sample_weight(sample_weight: Any, X: Any) -> np.ndarray:
    """Validate weights per row."""
    if isinstance(X, torch.Tensor):
        return np.asarray(sample_weight, dtype=np.float64)
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
