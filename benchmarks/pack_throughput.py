"""Images shrunk per second and core: ``data pack`` beside torchvision's ImageFolder with Resize and CenterCrop.

The images are made here: 500x375 JPEGs, enlarged Tiny ImageNet photographs, once with the fine noise of a camera, which
makes them about as large as ImageNet's, and once without. Both sides read files, decode and shrink to 32x32 in one
process with one thread, in turns; packing includes writing the pack.

    DCGAN_EVAL_DATA=~/data python benchmarks/pack_throughput.py --out benchmarks/results/throughput/pack.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Resize

from dcgan_eval import provenance
from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.pack import pack, read_pack
from dcgan_eval.seeding import rng

WIDTH, HEIGHT, QUALITY = 500, 375, 92
KINDS = {"noisy": 9.0, "smooth": 0.0}  # standard deviation of the noise, in levels


def main() -> None:
    """Measure both sides and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = {"benchmark": "pack_throughput", "num_images": arguments.images, "repeats": arguments.repeats}
    record["kinds"] = {kind: compare(noise, arguments.images, arguments.repeats) for kind, noise in KINDS.items()}
    record |= {"environment": provenance.environment(), "git": provenance.git_state()}
    record["command"] = provenance.command_line()
    print(json.dumps(record, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def compare(noise: float, count: int, repeats: int) -> dict[str, Any]:
    """Shrink the same images with both, in turns."""
    times: dict[str, list[float]] = {"ours": [], "torchvision": []}
    with tempfile.TemporaryDirectory() as folder:
        tree = make_images(Path(folder) / "tree", count, noise)
        sizes = [path.stat().st_size for path in tree.rglob("*.jpg")]
        for repeat in range(repeats):
            out = Path(folder) / f"{repeat}.h5"
            started = time.perf_counter()
            pack(tree, out, num_processes=1)
            times["ours"].append(time.perf_counter() - started)
            started = time.perf_counter()
            theirs = np.stack([np.asarray(image) for image, _ in peer(tree)])
            times["torchvision"].append(time.perf_counter() - started)
        difference = float(np.abs(read_pack(out).images.astype(int) - theirs).mean())
    speeds = {side: count / statistics.median(found) for side, found in times.items()}
    return {
        "images_per_s_and_core": speeds,
        "times_faster": speeds["ours"] / speeds["torchvision"],
        "times_s": times,
        "mean_bytes": statistics.mean(sizes),
        "mean_difference_levels": difference,
    }


def peer(tree: Path) -> ImageFolder:
    """Return the usual data set."""
    return ImageFolder(str(tree), Compose([Resize(32), CenterCrop(32)]))


def make_images(tree: Path, count: int, noise: float) -> Path:
    """Write JPEGs in class folders."""
    photos = load_data("tiny-imagenet", "train", None).images
    random = rng(0, "pack benchmark")
    for number in range(count):
        large = Image.fromarray(photos[number]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        grained = np.asarray(large) + random.normal(0, noise, (HEIGHT, WIDTH, 1))
        path = tree / f"class{number % 10}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return tree


if __name__ == "__main__":
    main()
