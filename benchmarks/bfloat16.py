"""Is the arithmetic that ``auto`` chooses the faster one here? Matrix products in float32 and in bfloat16, in turns.

``dcgan_eval.devices.has_fast_bfloat16`` asks the processor's flags and oneDNN's limit, and decides for features,
training and K-means; this times what it decides about. Exit code 1 where the type chosen is the slower one. On
processors without hardware for bfloat16 a product of 256 x 256 x 256 already takes long, so sizes grow only while they
stay below a second.

    python benchmarks/bfloat16.py --out benchmarks/results/throughput/bfloat16.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from measuring import seconds

from dcgan_eval import provenance
from dcgan_eval.devices import arithmetic, resolve_device

SIZES = (128, 256, 512, 1024, 2048, 4096)
LONGEST_S = 1.0


def measure(device: torch.device, repeats: int) -> list[dict[str, float]]:
    """Time both types for growing sizes, until one takes too long; flops/s by medians."""
    rows = []
    for size in SIZES:
        matrices = {
            name: torch.randn(size, size, device=device).to(dtype)
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        }
        times: dict[str, list[float]] = {name: [] for name in matrices}
        for repeat in range(repeats + 1):
            for name, A in matrices.items():
                found = seconds(lambda A=A: A @ A, 1, device)
                if repeat:  # the first is a warm-up
                    times[name].append(found)
        rows.append({"size": size, **{name: 2 * size**3 / statistics.median(t) for name, t in times.items()}})
        if max(statistics.median(t) for t in times.values()) > LONGEST_S:
            break
    return rows


def main() -> int:
    """Measure, compare with the choice, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    chosen, sentence = arithmetic("auto", device)
    rows = measure(device, arguments.repeats)
    faster = max(("float32", "bfloat16"), key=lambda name: rows[-1][name])
    record = {
        "benchmark": "bfloat16",
        "chosen": chosen,
        "says": sentence,
        "faster": faster,
        "flops_per_s": rows,
        "environment": provenance.environment(),
        "git": provenance.git_state(),
        "command": provenance.command_line(),
    }
    print(json.dumps(record, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(chosen != faster)


if __name__ == "__main__":
    sys.exit(main())
