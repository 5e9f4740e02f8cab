"""Training speed beside the loop that most people start from, and as a share of what the device can multiply.

The other loop is the usual DCGAN example: float32, a DataLoader that converts and normalises each image, labels of ones
and zeros with ``BCELoss``, real and generated images through D one after the other, ``item()`` for the log in every
iteration. Both train the same two networks on the same images, in turns, each in a process of its own: ours as the
command line sets it up, the other as it is, and once more with freed memory kept, as ours has it. An iteration is one
update of D and one of G. Speed is counted in real images that D sees, so that it does not matter that the paper (and
our log) also counts G's minibatches. The peak is a matrix product of 4,096 x 4,096 x 4,096 on the same device.

    DCGAN_EVAL_DATA=~/data python benchmarks/train_throughput.py --out benchmarks/results/throughput/train.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import device_there, peak_flops_per_s, seconds, steps_elsewhere, write_record
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from dcgan_eval.data.catalog import load_data
from dcgan_eval.devices import arithmetic
from dcgan_eval.memory import keep_freed_memory
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.training.config import paper_recipe
from dcgan_eval.training.estimate import flops_per_round
from dcgan_eval.training.trainer import Trainer

LOOPS = ("ours", "common", "common, memory kept")


class Photos(Dataset):
    """Images as the example's transforms give them."""

    def __init__(self, images: np.ndarray):
        self.images = images
        self.transform = Compose([ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(self.images[row])


def common_loop(preset: str, images: np.ndarray, device: torch.device, batch_size: int) -> Iterator[None]:
    """Train as the usual example does; yields after every iteration."""
    ladder = get_preset(preset)
    D, G = (network.to(device) for network in build(ladder, 0))
    criterion = nn.BCELoss()
    adam_D = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_G = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loader = DataLoader(Photos(images), batch_size, shuffle=True, drop_last=True, num_workers=2)
    while True:
        for batch in loader:
            real = batch.to(device)
            ones, zeros = (torch.full((len(real),), value, device=device) for value in (1.0, 0.0))
            D.zero_grad()
            loss_real = criterion(torch.sigmoid(D(real)), ones)
            loss_real.backward()
            fake = G(torch.rand(len(real), ladder.z_dim, device=device) * 2 - 1)
            loss_fake = criterion(torch.sigmoid(D(fake.detach())), zeros)
            loss_fake.backward()
            adam_D.step()
            G.zero_grad()
            loss_G = criterion(torch.sigmoid(D(fake)), ones)
            loss_G.backward()
            adam_G.step()
            _ = (loss_real.item() + loss_fake.item(), loss_G.item())
            yield


def loop_of(name: str, preset: str, compiled: bool) -> Iterator[None]:
    """Return a loop on real images by the name it has in the record."""
    if name != "common":
        keep_freed_memory()
    device = device_there()
    config = paper_recipe(preset, compute=arithmetic("auto", device)[0])
    images = load_data("tiny-imagenet", "train").images
    if name == "ours":
        return our_loop(Trainer(config, images, str(device), compiled=compiled))
    return common_loop(preset, images, device, config.batch_size)


def our_loop(trainer: Trainer) -> Iterator[None]:
    """Train with this package; yields after every round."""
    while True:
        trainer.step()
        yield


def in_turns(loops: dict[str, Iterator[None]], turns: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Return the wall time of a round of each loop, turn by turn, after one round of each to warm up."""
    for loop in loops.values():
        next(loop)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            times[name].append(seconds(lambda loop=loop: next(loop), rounds, device))
    return times


def main() -> None:
    """Measure both loops in turns and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="imagenet32")
    parser.add_argument("--rounds", type=int, default=3, help="iterations of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, config = device_there(), paper_recipe(arguments.preset)
    with steps_elsewhere(loop_of, LOOPS, arguments.preset, arguments.compile) as loops:
        times = in_turns(loops, arguments.turns, arguments.rounds, device)
    medians = {name: statistics.median(found) for name, found in times.items()}
    rate, peak = flops_per_round(config) / medians["ours"], peak_flops_per_s(device)
    found = {
        "preset": arguments.preset,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "compiled": arguments.compile,
        "seconds_per_round": times,
        "real_images_per_s": {name: config.batch_size / median for name, median in medians.items()},
        "counted_images_per_s": 2 * config.batch_size / medians["ours"],
        "times_faster": medians["common"] / medians["ours"],
        "times_faster_than_common_with_kept_memory": medians[LOOPS[2]] / medians["ours"],
        "flops_per_s": rate,
        "peak_flops_per_s": peak,
        "share_of_peak": rate / peak,
    }
    write_record(arguments.out, "train_throughput", found)


if __name__ == "__main__":
    main()
