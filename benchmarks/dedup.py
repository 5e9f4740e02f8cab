"""Near-duplicates that are found: the semantic hash of ``data dedup`` beside perceptual hashes and equal pixels.

Near-duplicates are planted in Tiny ImageNet, one of each kind for some of its images: JPEG again, a shift, another
brightness. Recall is the share that is put into the group of its original. What is dropped beside the planted ones is
counted as a false positive, although some of it is in the data twice: an upper bound.

    DCGAN_EVAL_DATA=~/data python benchmarks/dedup.py --out benchmarks/results/insight/dedup.json
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import torch
from PIL import Image

from dcgan_eval import provenance
from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.imageset import hash_pixels
from dcgan_eval.data.resize import shrink_all
from dcgan_eval.files import write_file
from dcgan_eval.insight import dedup
from dcgan_eval.seeding import rng

CPU = torch.device("cpu")
SHIFTS = [
    (y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0)
]  # of up to two pixels, to the right, down


def main() -> None:
    """Measure all methods and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--planted", type=int, default=1_000, help="Of each kind.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    everything = load_data("tiny-imagenet", "train", None).images
    chosen = np.sort(rng(0, "dedup benchmark").permutation(len(everything))[: arguments.images])
    originals = np.stack([everything[int(row)] for row in chosen])
    images, source, kind = plant(originals, arguments.planted)
    record: dict[str, Any] = {"benchmark": "dedup", "num_images": len(originals), "planted": arguments.planted}
    record["methods"] = {name: measure(find, images, source, kind) for name, find in METHODS.items()}
    record |= {"environment": provenance.environment(), "git": provenance.git_state()}
    record["command"] = provenance.command_line()
    print(json.dumps(record["methods"], indent=1))
    if arguments.out:
        write_file(arguments.out, json.dumps(record, indent=1) + "\n")


def plant(originals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images with planted ones behind them, and of those the row of the original and the kind."""
    random = rng(0, "planted near-duplicates")
    rows = random.permutation(len(originals))[: len(KINDS) * count]
    kinds = np.repeat(list(KINDS), count)[: len(rows)]
    planted = [KINDS[kind](originals[row], random) for row, kind in zip(rows, kinds, strict=True)]
    return np.concatenate([originals, np.stack(planted)]), rows, kinds


def jpeg_again(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Compress at a quality of 60 to 90."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(random.integers(60, 91)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shift by up to two pixels; the edge is repeated."""
    y, x = SHIFTS[random.integers(len(SHIFTS))]
    height, width = image.shape[:2]
    return np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")[2 - y : 2 - y + height, 2 - x : 2 - x + width]


def brightened(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Multiply by 0.95 or 1.05."""
    return (image * random.choice([0.95, 1.05])).round().clip(0, 255).astype(np.uint8)


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "jpeg": jpeg_again,
    "shift": shifted,
    "brightness": brightened,
}


def measure(find: Callable[[np.ndarray], np.ndarray], images: np.ndarray, source: np.ndarray, kind: np.ndarray) -> Any:
    """Return recall of each kind, and what was dropped beside the planted images."""
    started = time.perf_counter()
    first = find(images)
    num_originals = len(images) - len(source)
    hit = first[num_originals:] == first[source]
    dropped = first != np.arange(len(first))
    others = int(dropped[:num_originals].sum())
    return {
        "recall": {name: float(hit[kind == name].mean()) for name in KINDS},
        "dropped": int(dropped.sum()),
        "dropped_not_planted": others,
        "false_positives_at_most": others / max(1, int(dropped.sum())),
        "time_s": time.perf_counter() - started,
    }


def semantic(turned: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``data dedup``'s method, with or without doubtful bits."""

    def find(images: np.ndarray) -> np.ndarray:
        small = shrink_all(images, dedup.SIDE)
        return dedup.first_alike(dedup.encode(dedup.train(small, 0, CPU), small, CPU), turned=turned)

    return find


def equal(keys: np.ndarray) -> np.ndarray:
    """Return for each key where it stands first."""
    _, where, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return where[group.ravel()]


def perceptual(images: np.ndarray) -> np.ndarray:
    """Group by equal ``imagehash.phash``, which is what a hash table can do with it."""
    return equal(np.stack([np.packbits(imagehash.phash(Image.fromarray(image)).hash) for image in images]))


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "semantic hash, doubtful bits turned over": semantic(True),
    "semantic hash, equal codes (the paper's)": semantic(False),
    "perceptual hash (imagehash.phash), equal": perceptual,
    "equal pixels": lambda images: equal(hash_pixels(images)),
}

if __name__ == "__main__":
    main()
