"""Fail when a record's score is lower than a committed one's by more than an allowance, in points of accuracy.

python benchmarks/compare_record.py NEW COMMITTED --max-drop 1.5
"""

from __future__ import annotations

import argparse
import sys

from dcgan_eval.records import load_record


def main() -> int:
    """Compare and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("new")
    parser.add_argument("committed")
    parser.add_argument("--max-drop", type=float, required=True, help="points of accuracy")
    arguments = parser.parse_args()
    new, committed = load_record(arguments.new), load_record(arguments.committed)
    for field in ("protocol", "protocol_version", "dataset_fingerprint"):
        if getattr(new, field) != getattr(committed, field):
            print(f"not comparable: {field} is {getattr(new, field)!r}, committed {getattr(committed, field)!r}")
            return 1
    drop = 100 * (committed.score - new.score)
    print(f"{new.protocol}: {100 * new.score:.2f} %, committed {100 * committed.score:.2f} %, drop {drop:+.2f} points")
    return int(drop > arguments.max_drop)


if __name__ == "__main__":
    sys.exit(main())
