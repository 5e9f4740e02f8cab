"""Exact nearest neighbours beside the flat search of faiss-cpu: all of CIFAR-10, 10,000 queries among 50,000 rows.

Both sides get the same float32 features in memory and return the k nearest of every query; each runs in a process of
its own. faiss adds up in float32, ours decides as in float64, so the two are compared row by row, and where they
differ the float64 distances say who is right. The time of faiss includes ``add``, which copies the rows.

    pip install faiss-cpu
    DCGAN_EVAL_DATA=~/data python benchmarks/knn_vs_faiss.py --out benchmarks/results/throughput/knn_vs_faiss.json
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import in_own_process, timed, write_record

from dcgan_eval.baselines.nearest import NearestRows
from dcgan_eval.cli.options import default_cache_dir
from dcgan_eval.data.catalog import load_data
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import extract


def main() -> None:
    """Measure both sides and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    features(arguments.rows, arguments.queries)  # extracted before anything is timed
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "faiss": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            for side, runs in sides.items():
                shape = (arguments.rows, arguments.queries, arguments.k)
                runs.append(in_own_process(search, side, *shape, f"{folder}/{side}.npy"))
        answers = {side: np.load(f"{folder}/{side}.npy") for side in sides}
    ratio = sides["ours"][-1]["time_s"] / sides["faiss"][-1]["time_s"]
    found = {"rows": arguments.rows, "queries": arguments.queries, "k": arguments.k, "sides": sides}
    found |= {"times_as_long": ratio, "faiss": version("faiss-cpu"), **differences(answers, arguments)}
    write_record(arguments.out, "knn_vs_faiss", found)


def features(num_rows: int, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features of training and of test images of CIFAR-10, float32."""
    parts = []
    for split, count in (("train", num_rows), ("test", num_queries)):
        images = load_data("cifar10", split).without_labels()
        store = extract(load_encoder(), images, cache_dir=default_cache_dir())
        parts.append(store.read(np.arange(count)))
    return parts[0], parts[1]


def search(side: str, num_rows: int, num_queries: int, k: int, answer: str) -> dict[str, Any]:
    """Search on one side; keep the rows found, (Q, k)."""
    X, queries = features(num_rows, num_queries)

    def ours() -> np.ndarray:
        return NearestRows(X, cosine=False).search(queries, k)[0].numpy()

    def flat() -> np.ndarray:
        index = faiss.IndexFlatL2(X.shape[1])
        index.add(X)
        return index.search(queries, k)[1]

    rows, found = timed(ours if side == "ours" else flat)
    np.save(answer, rows)
    return found


def differences(answers: dict[str, np.ndarray], arguments: argparse.Namespace) -> dict[str, int]:
    """Count queries whose neighbours differ, and on whose side float64 distances are, for a hundred of them."""
    differ = np.flatnonzero((answers["ours"] != answers["faiss"]).any(axis=1))
    X, queries = features(arguments.rows, arguments.queries)
    right = {"ours": 0, "faiss": 0}
    for query in differ[:100]:
        rows = np.union1d(answers["ours"][query], answers["faiss"][query])
        squares = ((X[rows].astype(np.float64) - queries[query]) ** 2).sum(axis=1)
        order = rows[np.argsort(squares, kind="stable")][: arguments.k]
        for side in right:
            right[side] += bool((answers[side][query] == order).all())
    looked_at = min(len(differ), 100)
    return {
        "queries_that_differ": len(differ),
        "looked_at": looked_at,
        **{f"{s}_as_in_float64": n for s, n in right.items()},
    }


if __name__ == "__main__":
    main()
