"""Images per second of feature extraction against the common way, side by side in one run.

The peer is the same network run eagerly in float32 with torchvision's ``create_feature_extractor``, pooled by the same
windows. Ours is what ``dcgan-eval features`` does after calibration: folding, arithmetic type, pooling, conversion
to the store's float16. Both take the same uint8 images in turn; medians over repetitions. Shares are of the rate of a
matrix product of 4,096 x 4,096 x 4,096 in the same type, and count the convolutions' operations. Writes a JSON record.

    python benchmarks/features_throughput.py --out benchmarks/results/throughput/features.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import peak_flops_per_s, write_record
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.devices import has_fast_bfloat16, resolve_device
from dcgan_eval.features.batchnorm import norm_layers
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, Extractor, compute_statistics, store_identity
from dcgan_eval.features.pooling import pool_to_grid

PEER = "create_feature_extractor, float32"


def main() -> None:
    """Measure both sides and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="images per repetition")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8)
    sides = _sides(ImageSet(pixels), arguments.device)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run(pixels)
            if repeat:  # the first is a warm-up
                times[name].append(time.perf_counter() - started)
    device = resolve_device(arguments.device)
    types = {name: name.split(", ")[1] for name in sides}
    peaks = {name: peak_flops_per_s(device, getattr(torch, name)) for name in set(types.values())}
    flops = operations(sides[PEER], pixels[:1])
    _report(times, flops, {name: peaks[compute] for name, compute in types.items()}, arguments)


def operations(run: Callable[[np.ndarray], object], pixels: np.ndarray) -> int:
    """Count the additions and multiplications of convolutions that the usual way takes for images."""
    with FlopCounterMode(display=False) as counter:
        run(pixels)
    return counter.get_total_flops()


def _sides(images: ImageSet, device: str) -> dict[str, Callable[[np.ndarray], object]]:
    """Return the functions to be timed: uint8 images in, features out."""
    encoder = load_encoder()
    sides: dict[str, Callable[[np.ndarray], object]] = {}
    fast = has_fast_bfloat16(resolve_device(device))  # elsewhere it takes over 200 times as long
    for compute in ("float32", "bfloat16")[: 1 + fast]:
        options = ExtractOptions(compute=compute, device=device)
        statistics_ = compute_statistics(encoder, images, options)
        identity = store_identity(encoder, images, images, options, encoder.layers)
        sides[f"ours, {compute}"] = Extractor(encoder, identity, statistics_, options.torch_device)
    module = encoder.module
    for name, norm in norm_layers(module).items():
        norm.running_mean.copy_(statistics_[f"{name}.mean"])
        norm.running_var.copy_(statistics_[f"{name}.var"])
    on = options.torch_device
    extractor = create_feature_extractor(module.eval(), {name: name for name in encoder.layers}).to(on)

    @torch.no_grad()
    def peer(pixels_NHWC: np.ndarray) -> list[np.ndarray]:
        batches = torch.from_numpy(pixels_NHWC).to(on).split(128)
        return [
            torch.cat([pool_to_grid(h) for h in extractor(encoder.preprocess(x).contiguous()).values()], 1)
            .cpu()
            .numpy()
            for x in batches
        ]

    return {PEER: peer, **sides}


def _report(
    times: dict[str, list[float]], flops_per_image: int, peaks: dict[str, float], arguments: argparse.Namespace
) -> None:
    """Print images per second, ratios and shares, and write the record."""
    speeds = {name: arguments.images / statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(b / a for a, b in zip(times[name], times[PEER], strict=True))
        for name in times
        if name != PEER
    }
    rates = {name: speed * flops_per_image for name, speed in speeds.items()}
    shares = {name: rate / peaks[name] for name, rate in rates.items()}
    for name, speed in speeds.items():
        ratio, share = ratios.get(name, 1.0), shares[name]
        print(f"{name:36s} {speed:8.0f} images/s   {ratio:.2f} x   {share:.0%} of a large product's rate")
    found = {"num_images": arguments.images, "num_repeats": arguments.repeats, "images_per_s": speeds}
    found |= {"ratio_to_peer": ratios, "times_s": times, "flops_per_s": rates, "peak_flops_per_s": peaks}
    write_record(arguments.out, "features_throughput", found | {"share_of_peak": shares})


if __name__ == "__main__":
    main()
