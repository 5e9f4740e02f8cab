"""How time and memory grow: features, fits and searches with rows, features and classes; pages with their records.

Everything is measured in a process of its own. Fits are of synthetic features (easy ones, so that their number of
passes hardly changes), in float32 in memory; peak memory has them in it. ``compare``, ``list`` and ``report`` are
commands, whose start (an empty ``--help``) is taken off their time. A slope of 1, between the two largest sizes, is
linear; exit code 1 where one of those that should be linear exceeds 1.2. A figure goes beside the record.

    python benchmarks/growth.py --out benchmarks/results/throughput/growth.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import easy_features, in_own_process, timed, timed_command, write_record
from performance import machine

from dcgan_eval.baselines.knn import KnnClassifier
from dcgan_eval.baselines.logistic import LogisticClassifier
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import extract
from dcgan_eval.records import Record, load_record, pack_counts
from dcgan_eval.svm.linear_svc import L2SVM

RESULTS = Path(__file__).parent / "results"
STEEPEST = 1.2
IMAGES = (10_000, 100_000, 1_000_000)
LISTED = (100, 1_000, 10_000)
REPORTED = (20, 200, 2_000)
EXTRACTED = (1_000, 2_000, 4_000, 8_000, 16_000)
ROWS = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000)  # of 28,672 features; up to 8,000 by the Gram matrix
FEATURES = (1_792, 3_584, 7_168, 14_336, 28_672)  # of 4,000 rows
CLASSES = (2, 10, 100, 1_000)  # of 8,000 rows of 2,048 features, as an encoder of ImageNet gives them
QUERIES = 2_000
JOBS = ("SVM", "logistic", "kNN")


def extraction(count: int) -> dict[str, Any]:
    """Extract features of so many images, statistics of batch norm first."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: extract(load_encoder(), ImageSet(pixels), cache_dir=folder))[1]


def fitted(job: str, num_rows: int, num_features: int, num_classes: int) -> dict[str, Any]:
    """Fit a classifier, or search the neighbours of 2,000 queries."""
    X, y = easy_features(num_rows, num_features, num_classes)
    if job == "kNN":
        knn, queries = KnnClassifier(), easy_features(QUERIES, num_features, num_classes)[0]
        return timed(lambda: knn.predict([knn.fit(X, y, 5)], queries))[1]
    model = L2SVM(C=1e-4) if job == "SVM" else LogisticClassifier()
    return timed(lambda: model.fit(X, y) if job == "SVM" else model.fit(X, y, 1e-4))[1]


def grown(sizes: tuple[int, ...], points: list[dict[str, Any]]) -> dict[str, Any]:
    """Join points of growing size; the slope is that of the last two, where the start weighs least."""
    times = [point["time_s"] for point in points]
    slope = float(np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2]))
    return {"sizes": list(sizes), "time_s": times, "peak_bytes": [p["peak_bytes"] for p in points], "slope": slope}


def of_fits() -> dict[str, Any]:
    """Measure extraction, fits and searches."""
    found = {"extraction, images": grown(EXTRACTED, [in_own_process(extraction, n) for n in EXTRACTED])}
    for job in JOBS:
        shapes = {
            "rows": (ROWS, [(n, 28_672, 10) for n in ROWS]),
            "features": (FEATURES, [(4_000, d, 10) for d in FEATURES]),
            "classes": (CLASSES, [(8_000, 2_048, k) for k in CLASSES]),
        }
        for axis, (sizes, cases) in shapes.items():
            found[f"{job}, {axis}"] = grown(sizes, [in_own_process(fitted, job, *case) for case in cases])
            print(f"{job}, {axis}", json.dumps(found[f"{job}, {axis}"]), flush=True)
    return found


def of_images(count: int, seed: int) -> Record:
    """Return a record of one draw on so many test images, a third of them wrong by chance."""
    base = load_record(RESULTS / "digits.json")
    right = np.random.default_rng(seed).random(count) < 2 / 3
    data = {**base.data, "test": {**base.data["test"], "num_images": count}}
    confusion = np.zeros((10, 10), int)
    confusion[0, :2] = right.sum(), count - right.sum()
    score = float(right.mean())
    parts = {"score": score, "num_draws": 1, "draws": [{**base.draws[0], "score": score}]}
    return replace(base, data=data, right=pack_counts(right), confusion=confusion.tolist(), **parts)


def compare(count: int, folder: Path) -> list[str]:
    """Write two records and return the command that compares them."""
    paths = [of_images(count, seed).write(folder / f"{seed}.json") for seed in (1, 2)]
    return ["compare", *map(str, paths), "--json"]


def listed(count: int, folder: Path) -> list[str]:
    """Write records and return the command that lists them."""
    record = load_record(RESULTS / "cifar10-small.json")
    for number in range(count):
        record.write(folder / f"{number}.json")
    return ["list", str(folder)]


def reported(count: int, folder: Path) -> list[str]:
    """Write records and return the command that makes their page."""
    return ["report", *listed(count, folder)[1:], "--out", str(folder / "page.html")]


def of_command(words: list[str]) -> dict[str, Any]:
    """Return wall time and peak memory of a command, the least of two."""
    found = [timed_command([sys.executable, "-m", "dcgan_eval", *words]) for _ in range(2)]
    return {name: min(run[name] for run in found) for name in found[0]}


def of_commands(command: Callable[[int, Path], list[str]], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Measure a command over sizes."""
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            words = command(size, Path(folder))
            point = of_command(words)
            points.append(point | {"time_s": point["time_s"] - of_command([words[0], "--help"])["time_s"]})
    return grown(sizes, points)


def draw(record: dict[str, Any], place: Path) -> None:
    """Draw time and memory against each size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    axes_of = {
        "rows": "rows of 28,672 features",
        "features": "features of 4,000 rows",
        "classes": "classes, 8,000 rows of 2,048 features",
        "records": "records",
    }
    colours = {"extraction": "C2", "SVM": "C0", "logistic": "C1", "kNN": "C3", "list": "C5", "report": "C4"}
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, len(axes_of), sharey="row")
    for column, (axis, label) in enumerate(axes_of.items()):
        for name, curve in record["growth"].items():
            job, of = name.split(", ")
            if {"images": "rows"}.get(of, of) != axis:
                continue
            style = {"marker": "o", "color": colours[job], "label": job}
            panels[0, column].loglog(curve["sizes"], curve["time_s"], **style)
            panels[1, column].semilogx(curve["sizes"], [peak / 1e9 for peak in curve["peak_bytes"]], **style)
        panels[1, column].set_xlabel(label)
        for panel in panels[:, column]:
            panel.xaxis.set_minor_formatter(NullFormatter())
        panels[0, column].legend()
    panels[0, 0].set_ylabel("time, s")
    panels[1, 0].set_ylabel("peak memory, GB, data included")
    figure.suptitle(f"Ten classes where nothing else is said; {machine(record)}", fontsize=10)
    figure.savefig(place, dpi=80)


def main() -> int:
    """Measure, print, write the record, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    linear = {
        "compare, test images": of_commands(compare, IMAGES),
        "list, records": of_commands(listed, LISTED),
        "report, records": of_commands(reported, REPORTED),
    }
    write_record(arguments.out, "growth", {"growth": of_fits() | linear})
    if arguments.out:
        draw(json.loads(arguments.out.read_text()), arguments.out.with_suffix(".png"))
    return int(max(row["slope"] for row in linear.values()) > STEEPEST)


if __name__ == "__main__":
    sys.exit(main())
