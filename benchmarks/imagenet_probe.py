"""How long the two linear probes of ImageNet-1k take, shown on synthetic features of the same shape, scaled down.

The features imitate a trained encoder's: class means in a spectrum that falls by a power, noise, ReLU, float16 on the
disk. For each number of rows each probe is fitted at one C, in a process of its own within the same memory; the slope
is of time against rows, and the full size is extrapolated by the two largest. A record is written after each run; runs
that it has already are kept, unless they are measured again.

    python benchmarks/imagenet_probe.py --folder /tmp --out benchmarks/results/svm/imagenet-probe.json
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from measuring import environment, write_record

from dcgan_eval import provenance
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.protocols.classifiers import SvmClassifier, rank
from dcgan_eval.seeding import rng

FULL_ROWS = 1_281_167
VALIDATION = 2_000
BLOCK_ROWS = 2_000
RANK = 256
PROBES = ("svm", "logistic")
MACHINE = ("cpu", "instructions", "num_threads")  # as a record's environment names it
Runs = dict[tuple[int, str], dict[str, Any]]  # by rows and probe


def main() -> None:
    """Make the features, fit, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000])
    parser.add_argument("--features", type=int, default=2_048)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--probes", nargs="+", choices=PROBES, default=list(PROBES))
    parser.add_argument(
        "--C", type=float, default=1.0, help="for features of mean squared norm one, as in the protocol"
    )
    parser.add_argument("--memory-gb", type=float, default=4.0, help="what a fit may take")
    parser.add_argument("--folder", type=Path, required=True, help="where the features (2 bytes each) may lie")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the probe that a process of its own fits
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(fit(arguments, arguments.rows[0])))
        return
    runs = earlier_runs(arguments)
    for num_rows in arguments.rows:
        for run in measured(arguments, num_rows):
            runs[num_rows, run["probe"]] = run
            write_record(arguments.out, "imagenet_probe", found_so_far(arguments, runs))


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of a record share."""
    shared = {"num_features": arguments.features, "num_classes": arguments.classes}
    return shared | {"C": arguments.C, "memory_gb": arguments.memory_gb}


def earlier_runs(arguments: argparse.Namespace) -> Runs:
    """Return the runs of the record at ``--out``, by rows and probe; they must have the same settings and machine."""
    if not (arguments.out and arguments.out.exists()):
        return {}
    record, here = json.loads(arguments.out.read_text(encoding="utf-8")), environment()
    is_same = all(record["environment"][name] == here[name] for name in MACHINE)
    if not is_same or any(record[name] != value for name, value in settings(arguments).items()):
        raise SystemExit(f"{arguments.out} holds runs of other settings or another machine: give another --out")
    return {(run["num_rows"], run["probe"]): run for run in record["runs"]}


def found_so_far(arguments: argparse.Namespace, runs: Runs) -> dict[str, Any]:
    """Return the settings, all runs in order of rows, and what they say of the full size."""
    ordered = [run for _, run in sorted(runs.items(), key=lambda item: item[0][0])]
    whole = {probe: extrapolated([run for run in ordered if run["probe"] == probe]) for probe in PROBES}
    return settings(arguments) | {"runs": ordered, "extrapolated": whole}


def measured(arguments: argparse.Namespace, num_rows: int) -> Iterator[dict[str, Any]]:
    """Make features, yield each probe's fit to them in a process of its own, and delete them."""
    place = file_of(arguments, num_rows)
    write(place, num_rows + VALIDATION, arguments.features, arguments.classes)
    try:
        for probe in arguments.probes:
            options = [
                sys.executable,
                __file__,
                "--one",
                probe,
                "--folder",
                str(arguments.folder),
                "--rows",
                str(num_rows),
            ]
            options += [f"--{name}={getattr(arguments, name)}" for name in ("features", "classes", "C")]
            options += [f"--memory-gb={arguments.memory_gb}"]
            answer = subprocess.run(options, check=True, stdout=subprocess.PIPE, text=True).stdout
            yield json.loads(answer.splitlines()[-1]) | {"git": provenance.git_state()}
    finally:
        place.unlink()


def fit(arguments: argparse.Namespace, num_rows: int) -> dict[str, Any]:
    """Fit one probe at one C and score it; return how it went."""
    before, memory = provenance.peak_memory_bytes(), int(arguments.memory_gb * 1e9)
    with h5py.File(file_of(arguments, num_rows)) as file:
        X, y = Part(file["X"], 0, num_rows), file["y"][:]
        X_val, y_val = Part(file["X"], num_rows, num_rows + VALIDATION), y[num_rows:]
        classifier: Any = LogisticClassifier(memory_bytes=memory, relative=True)
        if arguments.one == "svm":
            classifier = SvmClassifier((arguments.C,), relative=True, memory_bytes=memory)
        started = time.perf_counter()
        found = classifier.fit(X, y[:num_rows], arguments.C)
        fitted = time.perf_counter() - started
        peak = provenance.peak_memory_bytes()
        (predicted,), (ranked,) = (
            classifier.predict([found], X_val),
            rank(classifier, [found], X_val, arguments.classes),
        )
    return {
        "probe": arguments.one,
        "num_rows": num_rows,
        "time_s": fitted,
        "peak_bytes": peak,
        "peak_before_bytes": before,
        "status": found.status,
        "gap": found.duality_gap,
        "top1": float(np.mean(predicted == y_val)),
        "top5": float(np.mean((ranked.top == y_val[:, None]).any(axis=1))) if ranked.top is not None else None,
        **{name: value for name, value in found.details().items() if name != "time_s"},
    }


class Part:
    """Some rows of an HDF5 data set, read when they are asked for."""

    def __init__(self, data: h5py.Dataset, start: int, stop: int):
        self.data, self.start = data, start
        self.shape, self.dtype = (stop - start, data.shape[1]), data.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return self.data[self.start + start : self.start + stop]

    def blocks(self) -> Any:
        """Yield places and rows, some thousands at a time."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield slice(start, start + BLOCK_ROWS), self[slice(start, start + BLOCK_ROWS)].astype(np.float32)


def extrapolated(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the slopes between sizes, and the time of one fit, and of the protocol, at the full size."""
    if len(runs) < 2:
        return {}
    slopes = [math.log(b["time_s"] / a["time_s"]) / math.log(b["num_rows"] / a["num_rows"]) for a, b in pairwise(runs)]
    last = runs[-1]
    one = last["time_s"] * (FULL_ROWS / last["num_rows"]) ** max(1.0, slopes[-1])
    return {
        "slopes": slopes,
        "full_rows": FULL_ROWS,
        "one_fit_s": one,
        "how": "the last slope, at least 1, from the last size",
    }


def file_of(arguments: argparse.Namespace, num_rows: int) -> Path:
    """Return where features of a shape lie."""
    return arguments.folder / f"imagenet-probe-{num_rows}-{arguments.features}-{arguments.classes}.h5"


def write(place: Path, num_rows: int, num_features: int, num_classes: int) -> None:
    """Write features and labels block by block."""
    random = rng(0, "ImageNet probe benchmark")
    spectrum = (1 + np.arange(RANK)) ** -0.5
    mixing = torch.from_numpy((random.standard_normal((RANK, num_features)) * spectrum[:, None]).astype(np.float32))
    means = random.standard_normal((num_classes, RANK)).astype(np.float32)
    y = random.integers(num_classes, size=num_rows)
    with h5py.File(place, "w") as file:
        X = file.create_dataset("X", (num_rows, num_features), np.float16)
        file["y"] = y
        for start in range(0, num_rows, BLOCK_ROWS):
            labels = y[start : start + BLOCK_ROWS]
            hidden = random.standard_normal((len(labels), RANK), np.float32) + 0.35 * means[labels]
            noise = torch.from_numpy(random.standard_normal((len(labels), num_features), np.float32))
            block = (torch.from_numpy(hidden) @ mixing + noise - 0.5).relu_()
            X[start : start + len(labels)] = block.half().numpy()


if __name__ == "__main__":
    main()
