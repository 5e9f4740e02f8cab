"""Time to a certified L2-SVM against scikit-learn's LinearSVC (LIBLINEAR), in one run: real features, and easy ones.

The real ones are CIFAR-10's. The easy ones are synthetic classes that hardly overlap, which every solver fits
quickly; they are fitted on a quiet machine and beside a process that keeps one processor busy. Each fit runs in a
process of its own, so that peak memory is its own; the sides take turns. The objective of both is evaluated by the
same float64 certificate. LinearSVC is run with its defaults (dual coordinate descent, tol 1e-4) up to
``--liblinear-up-to`` rows: at 50,000 rows its float64 copy and 16-byte sparse nodes need about 40 GB.

    DCGAN_EVAL_DATA=~/data python benchmarks/svm_vs_liblinear.py --out benchmarks/results/svm/vs_liblinear.json
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measuring import easy_features, in_own_process, neighbour, timed, write_record

from dcgan_eval.cli.options import default_cache_dir
from dcgan_eval.data.catalog import load_data
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import extract
from dcgan_eval.seeding import rng
from dcgan_eval.svm.linear_svc import L2SVM
from dcgan_eval.svm.objective import certificate
from dcgan_eval.svm.path import fit_path

PATH_Cs = tuple(float(C) for C in (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3))


def main() -> None:
    """Measure every case and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 4_000, 50_000])
    parser.add_argument("--easy-rows", type=int, nargs="*", default=[1_000, 4_000])
    parser.add_argument("--liblinear-up-to", type=int, default=4_000)
    parser.add_argument("--C", type=float, default=1e-4)
    parser.add_argument("--tol", type=float, default=1e-5, help="relative gap wanted beside LinearSVC")
    parser.add_argument("--large-tol", type=float, default=1e-3, help="relative gap wanted beyond, and on paths")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    features()  # extracted once, before anything is timed
    cases = [(n, "cifar10", False) for n in arguments.rows]
    cases += [(n, "easy", busy) for n in arguments.easy_rows for busy in (False, True)]
    results = [row for case in cases for row in _compare(*case, arguments)]
    write_record(arguments.out, "svm_vs_liblinear", {"C": arguments.C, "results": results})


def _compare(n: int, data: str, busy: bool, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run both sides on n rows in turn; return a row of results for each side, and for the path on real features."""
    sides = ["ours", "LinearSVC"] if n <= arguments.liblinear_up_to else ["ours"]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    tol = arguments.tol if n <= arguments.liblinear_up_to else arguments.large_tol
    case = {"data": data, "busy_neighbour": busy, "num_rows": n}
    with neighbour(busy):
        for _ in range(arguments.repeats):
            for side in sides:
                runs[side].append(in_own_process(_fit, side, data, n, arguments.C, tol))
    rows = [_summary(side, found) for side, found in runs.items()]
    if len(rows) == 2:
        rows[0]["times_faster"] = rows[1]["median_s"] / rows[0]["median_s"]
        rows[0]["objective_excess"] = rows[0]["objective"] / rows[1]["objective"] - 1
    if data == "cifar10":
        path = _summary("path of 7 C", [in_own_process(_fit, "path", data, n, arguments.C, arguments.large_tol)])
        rows.append(path | {"times_one_fit": path["median_s"] / rows[0]["median_s"]})
    return [case | row for row in rows]


def _summary(side: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the repetitions of one side."""
    times = [f["time_s"] for f in found]
    return {"side": side, **found[-1], "median_s": statistics.median(times), "times_s": times}


def features(n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of n training images of CIFAR-10, drawn with a fixed seed; all for None."""
    images = load_data("cifar10", "train", None)
    store = extract(load_encoder(), images, cache_dir=default_cache_dir())
    if n is None:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64)
    rows = rng(0, "svm benchmark").permutation(images.num_images)[:n]
    assert images.labels is not None, "CIFAR-10 has labels"
    return store.read(rows), images.labels[rows]


def _fit(side: str, data: str, n: int, C: float, tol: float) -> dict[str, Any]:
    """Load, fit, time and certify."""
    X, y = features(n) if data == "cifar10" else easy_features(n)
    if side == "path":
        solutions, found = timed(lambda: list(fit_path(X, y, PATH_Cs, tol=tol, together=len(PATH_Cs))))
        each = [{"C": s.C, "passes": s.passes, "time_s": s.time_s} for s in solutions]
        W, b, C = solutions[-1].W, solutions[-1].intercepts, solutions[-1].C
        found |= {
            "gap": max(s.relative_gap for s in solutions),
            "passes": sum(s.passes for s in solutions),
            "path": each,
        }
    else:
        model = L2SVM(C=C, tol=tol) if side == "ours" else _linear_svc(C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LinearSVC says when its iterations run out; its gap says it here
            _, found = timed(lambda: model.fit(X, y))
        W, b = model.coef_, model.intercept_
        if side == "ours":
            found |= {"passes": model.solution_.passes, "newton_iterations": model.n_iter_, "solver": model.solver_}
    primal, _, gaps = certificate(X, y, W, C, intercepts=b)
    return {"gap": float(np.max(gaps)), "objective": float(np.sum(primal)), "num_features": X.shape[1]} | found


def _linear_svc(C: float) -> Any:
    """Return the peer with its defaults."""
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C)


if __name__ == "__main__":
    main()
