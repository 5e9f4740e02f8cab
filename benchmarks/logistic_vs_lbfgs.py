"""Certified multinomial logistic regression beside scikit-learn's ``LogisticRegression`` (lbfgs) at equal objective.

The features are those that ``probe logistic`` fits: all training rows of a protocol, 28,672 features, and a column of
ones, which both sides penalise. Ours starts from nothing at each C. The peer is asked for tighter and tighter
tolerances until its objective, evaluated in float64 like ours, is within our certificate's tolerance of the best
seen; the time of the first fit that is counts. Each fit runs in a process of its own.

    DCGAN_EVAL_DATA=~/data python benchmarks/logistic_vs_lbfgs.py --out benchmarks/results/svm/logistic_vs_lbfgs.json
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_own_process, timed, write_record
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.cli.options import default_cache_dir
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import extract
from dcgan_eval.protocols.catalog import get_protocol, load_protocol_data

TOL = 1e-4  # ours: relative duality gap
PEER_TOLS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def main() -> None:
    """Measure both sides at each C and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="cifar10-small")
    parser.add_argument("--C", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    features(arguments.protocol)  # extracted before anything is timed
    found = [compared(arguments.protocol, C) for C in arguments.C]
    write_record(arguments.out, "logistic_vs_lbfgs", {"protocol": arguments.protocol, "tol": TOL, "fits": found})


def compared(protocol: str, C: float) -> dict[str, Any]:
    """Fit both sides at one C; return ours, the peer's fits up to the one that will do, and the ratio of times."""
    ours, peer = in_own_process(fit_ours, protocol, C), []
    enough = ours["objective"] * (1 + TOL)
    for tol in PEER_TOLS:
        peer.append(in_own_process(fit_peer, protocol, C, tol))
        if peer[-1]["objective"] <= enough:
            break
    is_equal = peer[-1]["objective"] <= enough
    ratio = peer[-1]["time_s"] / ours["time_s"]
    return {"C": C, "ours": ours, "lbfgs": peer, "is_equal_objective": is_equal, "times_faster": ratio}


def features(protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, 28672) float32 and labels of a protocol's training images."""
    images, _ = load_protocol_data(get_protocol(protocol))
    store = extract(load_encoder(), images, cache_dir=default_cache_dir())
    assert images.labels is not None, "protocols have labels"
    return store.read(), images.labels


def fit_ours(protocol: str, C: float) -> dict[str, Any]:
    """Fit with this package."""
    X, y = features(protocol)
    fit, found = timed(lambda: LogisticClassifier(tol=TOL).fit(X, y, C))
    W = fit.W.numpy()
    return found | {"objective": objective(X, y, W, C), "gap": fit.duality_gap, "solver": fit.solver}


def fit_peer(protocol: str, C: float, tol: float) -> dict[str, Any]:
    """Fit with scikit-learn, which is given the column of ones."""
    X, y = features(protocol)
    X = np.hstack([X, np.ones((len(X), 1), np.float32)])
    model = LogisticRegression(C=C, tol=tol, max_iter=10_000, fit_intercept=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it did not reach, its objective tells
        _, found = timed(lambda: model.fit(X, y))
    W = model.coef_.astype(np.float64)
    iterations = int(np.max(model.n_iter_))
    return found | {"objective": objective(X[:, :-1], y, W, C), "tol": tol, "iterations": iterations}


def objective(X: np.ndarray, y: np.ndarray, W: np.ndarray, C: float) -> float:
    """Return the primal objective in float64; the last column of W (K, D + 1) belongs to the constant feature."""
    loss = 0.0
    for start in range(0, len(X), 500):
        scores = X[start : start + 500].astype(np.float64) @ W[:, :-1].T + W[:, -1]
        labels = y[start : start + 500]
        loss += float(np.sum(logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]))
    return 0.5 * float(np.sum(W**2)) + C * loss


if __name__ == "__main__":
    main()
