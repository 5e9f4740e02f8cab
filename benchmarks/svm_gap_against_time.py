"""How close to the optimum after how many seconds: this package beside every solver of the problem that is installed.

Real CIFAR-10 features, ten classes, one C. Each solver is asked for a series of tolerances, each a fit from nothing,
and each fit is evaluated by the same float64 objective. The figure shows the excess over the best objective that any of
them reached. Conversion to the form that a solver wants is part of its time. Peers: LinearSVC of scikit-learn (dual
coordinate descent, and trust-region Newton), the current LIBLINEAR of its authors, and Snap ML; those not installed are
named and left out. A peer that needs longer than ``--patience`` at a tolerance is not asked for a smaller one.

    pip install -e '.[bench]'
    DCGAN_EVAL_DATA=~/data python benchmarks/svm_gap_against_time.py --out benchmarks/results/svm/gap_against_time.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.svm import LinearSVC
from svm_vs_liblinear import features

from dcgan_eval import provenance
from dcgan_eval.svm.linear_svc import L2SVM
from dcgan_eval.svm.objective import certificate

Fit = Callable[[np.ndarray, np.ndarray, float, float], tuple[Any, Any]]  # X, y, C, tol -> W, intercepts


def ours(X: np.ndarray, y: np.ndarray, C: float, tol: float) -> tuple[Any, Any]:
    """Fit with this package."""
    model = L2SVM(C=C, tol=tol).fit(X, y)
    return model.coef_, model.intercept_


def dual_descent(X: np.ndarray, y: np.ndarray, C: float, tol: float) -> tuple[Any, Any]:
    """Fit with LinearSVC's default, dual coordinate descent."""
    model = LinearSVC(C=C, tol=tol, random_state=0).fit(X, y)
    return model.coef_, model.intercept_


def primal_newton(X: np.ndarray, y: np.ndarray, C: float, tol: float) -> tuple[Any, Any]:
    """Fit with LinearSVC's trust-region Newton method."""
    model = LinearSVC(C=C, tol=tol, dual=False).fit(X, y)
    return model.coef_, model.intercept_


def official(X: np.ndarray, y: np.ndarray, C: float, tol: float) -> tuple[Any, Any]:
    """Fit with the Newton method of LIBLINEAR's own Python package, which takes sparse matrices."""
    from liblinear.liblinearutil import parameter, problem, train

    model = train(problem(y.astype(float), sparse.csr_matrix(X)), parameter(f"-s 2 -c {C} -e {tol} -B 1 -q"))
    order = np.argsort(model.get_labels())
    found = [model.get_decfun(int(place)) for place in order]
    return [w for w, _ in found], [b for _, b in found]


def snap_ml(X: np.ndarray, y: np.ndarray, C: float, tol: float) -> tuple[Any, Any]:
    """Fit with Snap ML's parallel dual coordinate descent, whose regulariser is 1 / C."""
    from snapml import SupportVectorMachine

    wanted = {"loss": "squared_hinge", "regularizer": 1 / C, "fit_intercept": True, "n_jobs": 2, "max_iter": 20_000}
    model = SupportVectorMachine(**wanted, tol=tol, random_state=0).fit(X, y)
    return model.coef_, model.intercept_


SOLVERS: tuple[tuple[str, str, Fit, Sequence[float]], ...] = (
    ("dcgan-eval", "dcgan-eval", ours, (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)),
    ("Snap ML (dual)", "snapml", snap_ml, (1e-2, 1e-3, 1e-4, 1e-5)),
    ("LIBLINEAR (primal)", "liblinear-official", official, (1e-1, 1e-2, 1e-3, 1e-4)),
    ("LinearSVC (primal)", "scikit-learn", primal_newton, (1e-1, 1e-2, 1e-3, 1e-4)),
    ("LinearSVC (dual)", "scikit-learn", dual_descent, (1e-1, 1e-2, 1e-3, 1e-4)),
)
DENSE = 2
"""The first so many solvers keep dense float32; the others' sparse float64 needs about 40 GB at 50,000 rows."""


def main() -> None:
    """Measure, write the record and draw the figure beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 4_000, 50_000])
    parser.add_argument("--sparse-up-to", type=int, default=10_000, help="rows for solvers of sparse matrices")
    parser.add_argument("--C", type=float, default=1e-4)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # iterations that run out show in the objective
    points = [point for n in arguments.rows for point in measure(n, arguments)]
    record = {"benchmark": "svm_gap_against_time", "C": arguments.C, "points": points}
    record["versions"] = {package: version(package) for package in {p["package"] for p in points}}
    record |= {"environment": provenance.environment(), "git": provenance.git_state()}
    record["command"] = provenance.command_line()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    draw(record, arguments.out.with_suffix(".png"))


def measure(n: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a point for each solver and tolerance, on n rows."""
    C = arguments.C
    X, y = features(n)
    ours(X, y, C, 1.0)  # threads and libraries are started before anything is timed
    for name, package, fit, tolerances in SOLVERS[: None if n <= arguments.sparse_up_to else DENSE]:
        for tol in tolerances:
            started = time.perf_counter()
            try:
                W, intercepts = fit(X, y, C, tol)
            except ImportError as error:
                print(f"left out: {name} ({error})")
                break
            time_s = time.perf_counter() - started
            primal, _, gaps = certificate(X, y, W, C, intercepts=intercepts)
            point = {"solver": name, "package": package, "num_rows": n, "tol": tol, "time_s": time_s}
            point |= {"objective": float(primal.sum()), "relative_gap": float(gaps.max())}
            print(json.dumps(point), flush=True)
            yield point
            if time_s > arguments.patience:
                break


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the excess of each solver's objective over the best one against time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    sizes = sorted({point["num_rows"] for point in record["points"]})
    figure = Figure(figsize=(5.2 * len(sizes), 4), layout="constrained")
    for axes, n in zip(np.atleast_1d(figure.subplots(1, len(sizes), sharey=True)), sizes, strict=True):
        points = [point for point in record["points"] if point["num_rows"] == n]
        best = min(point["objective"] for point in points)
        for name, *_ in SOLVERS:
            own = sorted((p["time_s"], max(p["objective"] / best - 1, 1e-10)) for p in points if p["solver"] == name)
            if own:
                axes.loglog(*zip(*own, strict=True), marker="o", markersize=4, label=name)
        axes.set(title=f"{n:,} rows", xlabel="time, s", ylabel="objective over the best, minus 1")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.1, 0.02))  # the smallest size has all solvers
    environment = record["environment"]
    where = f"{environment['cpu']}, {environment['num_threads']} threads"
    figure.suptitle(f"CIFAR-10 features, ten L2-SVMs, C = {record['C']:g}; {where}", fontsize=10)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
