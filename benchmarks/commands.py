"""How long users wait for whole commands, in processes of their own, from pixels to the last line.

The short ones beside what they cannot do without, ``import torch``; the long ones with the stages that their records
tell. ``svm cifar10`` starts from an empty cache; probes of the same images find its features.

    DCGAN_EVAL_DATA=~/data python benchmarks/commands.py --out benchmarks/results/throughput/commands.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import timed_command, write_record

from dcgan_eval.records import load_record

PROGRAM = (sys.executable, "-m", "dcgan_eval")
SHORT: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "import torch": ((sys.executable, "-c", "import torch"), {}),
    "dcgan-eval --help": ((*PROGRAM, "--help"), {}),
    "dcgan-eval svm --help": ((*PROGRAM, "svm", "--help"), {}),
    "TAB": (PROGRAM, {"_DCGAN_EVAL_COMPLETE": "bash_complete", "COMP_WORDS": "dcgan-eval s", "COMP_CWORD": "1"}),
    "dcgan-eval train-imagenet --dry-run": ((*PROGRAM, "train-imagenet", "--dry-run"), {}),
}
LONG = ("svm cifar10", "probe logistic cifar10-small", "probe logistic cifar10", "probe knn cifar10")


def main() -> None:
    """Run every command and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of short commands")
    parser.add_argument("--long", nargs="*", default=list(LONG), help="long commands, in order, sharing a cache")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    short = {name: repeated(words, extra, arguments.repeats) for name, (words, extra) in SHORT.items()}
    with tempfile.TemporaryDirectory() as folder:
        long = {command: recorded(command, Path(folder)) for command in arguments.long}
    write_record(arguments.out, "commands", {"short": short, "long": long})


def repeated(words: tuple[str, ...], extra: dict[str, str], repeats: int) -> dict[str, Any]:
    """Return wall seconds of a command, after one run that is not counted."""
    times = [seconds(words, extra) for _ in range(repeats + 1)][1:]
    return {"median_s": statistics.median(times), "times_s": times}


def seconds(words: tuple[str, ...], extra: dict[str, str]) -> float:
    """Run a command and return wall seconds."""
    started = time.perf_counter()
    subprocess.run(words, env=os.environ | extra, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def recorded(command: str, folder: Path) -> dict[str, Any]:
    """Run a command that writes a record; return wall seconds, peak memory and what the record says."""
    out = folder / f"{command.replace(' ', '-')}.json"
    words = [*PROGRAM, *command.split(), "--cache-dir", str(folder / "cache"), "--record", str(out)]
    found = timed_command(words)
    record = load_record(out)
    return {"wall_s": found["time_s"], "peak_bytes": found["peak_bytes"]} | {
        "score": record.score,
        "timings_s": record.timings_s,
    }


if __name__ == "__main__":
    main()
