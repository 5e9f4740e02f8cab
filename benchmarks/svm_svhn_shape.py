"""Time the fits of the SVHN protocol: 7 values of C x 10 draws of 1,000 rows, then 100 fresh draws with test scores.

The shape is SVHN's (7,168 features, 10,000 validation and 26,032 test rows); the data are the first 7,168 features of
CIFAR-10's training images, so this times the engine and scores nothing. LinearSVC is timed on the first fits and
multiplied up; its scoring is not counted.

    DCGAN_EVAL_DATA=~/data python benchmarks/svm_svhn_shape.py --out benchmarks/results/svm/svhn_shape.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.svm import LinearSVC

from dcgan_eval import provenance
from dcgan_eval.cli.options import default_cache_dir
from dcgan_eval.data.catalog import load_data
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import extract
from dcgan_eval.seeding import rng
from dcgan_eval.svm.objective import predict_all
from dcgan_eval.svm.path import fit_ovr, fit_path

FEATURES, POOL, VALIDATION, TEST, DRAWN = 7_168, 10_000, 10_000, 26_032, 1_000
Cs = tuple(float(C) for C in (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3))


def main() -> None:
    """Measure both sides and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-fits", type=int, default=2, help="draws on which LinearSVC is timed at every C")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images = load_data("cifar10", "train", None)
    assert images.labels is not None, "CIFAR-10 has labels"
    rows = rng(0, "svhn shape").permutation(images.num_images)[: POOL + VALIDATION + TEST]
    X = extract(load_encoder(), images, cache_dir=default_cache_dir()).read(rows)[:, :FEATURES].copy()
    y = images.labels[rows]
    ours = _ours(X, y)
    record: dict[str, Any] = {"ours": ours, "LinearSVC": _peer(X, y, arguments.peer_fits, ours["C"])}
    record |= {"benchmark": "svm_svhn_shape", "environment": provenance.environment(), "git": provenance.git_state()}
    record["command"] = provenance.command_line()
    print(json.dumps(record))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _draw(k: int) -> np.ndarray:
    """Return the rows of a draw."""
    return rng(0, "svhn shape draw", draw=k).permutation(POOL)[:DRAWN]


def _ours(X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Select, fit and score."""
    started = time.perf_counter()
    curve = np.zeros(len(Cs))
    validation = slice(POOL, POOL + VALIDATION)
    gaps = []
    for k in range(10):
        path = list(fit_path(X[_draw(k)], y[_draw(k)], Cs))
        gaps += [solution.relative_gap for solution in path]
        curve += [float(np.mean(p == y[validation])) for p in predict_all(path, X[validation])]
    selected = time.perf_counter()
    C = Cs[int(curve.argmax())]
    fits = [fit_ovr(X[_draw(k)], y[_draw(k)], C) for k in range(10, 110)]
    fitted = time.perf_counter()
    predict_all(fits, X[POOL + VALIDATION :])
    ended = time.perf_counter()
    times = {"select_s": selected - started, "fit_s": fitted - selected, "score_s": ended - fitted}
    gap = max([*gaps, *(fit.relative_gap for fit in fits)])
    return times | {"total_s": ended - started, "largest_gap": gap, "C": C, "num_fits": 10 * len(Cs) + len(fits)}


def _peer(X: np.ndarray, y: np.ndarray, num_draws: int, chosen: float) -> dict[str, Any]:
    """Time LinearSVC at every C on some draws, and multiply up to 10 draws and, at the C that was chosen, 100."""
    times = np.zeros(len(Cs))
    for k in range(num_draws):
        for place, C in enumerate(Cs):
            started = time.perf_counter()
            LinearSVC(C=C).fit(X[_draw(k)], y[_draw(k)])
            times[place] += (time.perf_counter() - started) / num_draws
    total = 10 * times.sum() + 100 * times[Cs.index(chosen)]
    return {"mean_s_per_C": times.tolist(), "draws_timed": num_draws, "extrapolated_total_s": float(total)}


if __name__ == "__main__":
    main()
