"""Does reading records stay linear? Times of ``compare``, ``list`` and ``report`` over sizes, with their slopes.

``compare`` reads two records of more and more test images; ``list`` and ``report`` read more and more records. Each
runs as a process of its own, whose start (an empty ``--help``) is taken off. A slope of 1 is linear; exit code 1 where
one exceeds 1.2.

    python benchmarks/growth.py --out benchmarks/results/throughput/growth.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dcgan_eval import provenance
from dcgan_eval.records import Record, load_record, pack_counts

RESULTS = Path(__file__).parent / "results"
STEEPEST = 1.2
IMAGES = (10_000, 100_000, 1_000_000)
LISTED = (100, 1_000, 10_000)
REPORTED = (20, 200, 2_000)


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


def seconds(words: list[str]) -> float:
    """Return the wall time of a command, the least of two."""
    found = []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dcgan_eval", *words], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - started)
    return min(found)


def measure(command: Callable[[int, Path], list[str]], sizes: tuple[int, ...]) -> dict[str, object]:
    """Time a command over sizes; the slope is that of the last two, where the start weighs least."""
    times = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            words = command(size, Path(folder))
            times.append(seconds(words) - seconds([words[0], "--help"]))
    slope = float(np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2]))
    return {"sizes": list(sizes), "time_s": times, "slope": slope}


def main() -> int:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {
        "compare, test images": measure(compare, IMAGES),
        "list, records": measure(listed, LISTED),
        "report, records": measure(reported, REPORTED),
    }
    record = {
        "benchmark": "growth",
        "growth": found,
        "environment": provenance.environment(),
        "git": provenance.git_state(),
        "command": provenance.command_line(),
    }
    print(json.dumps(record, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(max(row["slope"] for row in found.values()) > STEEPEST)  # type: ignore[type-var]


if __name__ == "__main__":
    sys.exit(main())
