"""Fit an L2-SVM to more rows than fit in memory: a synthetic HDF5 file of float16 features, read at every pass.

The features imitate an image encoder's: a common mean, a spectrum that falls by a power, ten classes in its tail.

    python benchmarks/svm_streaming.py --folder /tmp --out benchmarks/results/svm/streaming.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from dcgan_eval import provenance
from dcgan_eval.seeding import rng
from dcgan_eval.svm.path import fit_ovr

BLOCK_ROWS = 1_000


def main() -> None:
    """Make the file, fit, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=28_672)
    parser.add_argument("--C", type=float, default=1e-4)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--folder", type=Path, required=True, help="where the file (2 bytes per feature) may lie")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    path = arguments.folder / f"rows-{arguments.rows}-{arguments.features}.h5"
    y = _write(path, arguments.rows, arguments.features)
    before, started = provenance.peak_memory_bytes(), time.perf_counter()
    with h5py.File(path) as file:
        solution = fit_ovr(file["X"], y, arguments.C, tol=arguments.tol)
    record = {
        "benchmark": "svm_streaming",
        "num_rows": arguments.rows,
        "num_features": arguments.features,
        "C": arguments.C,
        "status": str(solution.status),
        "gap": solution.relative_gap,
        "passes": solution.passes,
        "newton_iterations": solution.newton_iterations,
        "time_s": time.perf_counter() - started,
        "peak_bytes": provenance.peak_memory_bytes(),
        "peak_before_fit_bytes": before,
        "file_bytes": path.stat().st_size,
        "environment": provenance.environment(),
        "command": provenance.command_line(),
        "git": provenance.git_state(),
    }
    print(json.dumps(record))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def _write(path: Path, num_rows: int, num_features: int) -> np.ndarray:
    """Write the features block by block; return the labels."""
    random = rng(0, "streaming benchmark")
    y = random.integers(10, size=num_rows)
    rank = 256
    mixing = torch.from_numpy(random.standard_normal((rank, num_features), np.float32))
    mixing *= (4 / (1 + torch.arange(rank)) ** 0.7)[:, None]
    classes = torch.from_numpy(random.standard_normal((10, rank), np.float32))
    with h5py.File(path, "w") as file:
        X = file.create_dataset("X", (num_rows, num_features), np.float16)
        for start in range(0, num_rows, BLOCK_ROWS):
            labels = y[start : start + BLOCK_ROWS]
            hidden = torch.from_numpy(random.standard_normal((len(labels), rank), np.float32)) + 0.5 * classes[labels]
            noise = torch.from_numpy(random.standard_normal(num_features, np.float32))  # one shared row, rolled
            shifts = random.integers(num_features, size=len(labels))
            block = hidden @ mixing * 0.05 + 0.5
            block += 0.3 * torch.stack([noise.roll(int(s)) for s in shifts])
            X[start : start + len(labels)] = block.half().numpy()
    return y


if __name__ == "__main__":
    main()
