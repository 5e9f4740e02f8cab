"""Images per second of contrastive training beside a loop as it is usually written, and beside the recipe of 0.1.

The usual loop is SimCLR's: float32, a DataLoader whose worker processes draw both views of each image with
torchvision's transforms, NT-Xent, Adam. It learns the same discriminator and head from the same images in the same
minibatches, from views of the same size. The recipe of 0.1 took views of 16x16 that show 0.2 to 1 of the image; at
equal time it ends at a lower score (docs/log.md). All take turns. An image counts once for its two views.

    DCGAN_EVAL_DATA=~/data python benchmarks/contrastive_throughput.py \
        --out benchmarks/results/throughput/contrastive.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import peak_flops_per_s, write_record
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from train_throughput import in_turns, our_loop

from dcgan_eval.data.catalog import load_data
from dcgan_eval.devices import arithmetic
from dcgan_eval.training.config import TrainingConfig, contrastive_recipe
from dcgan_eval.training.contrastive import ContrastiveTrainer, contrastive_loss
from dcgan_eval.training.estimate import flops_per_round


class Views(Dataset):
    """Two random views of each image, as torchvision's transforms make them."""

    def __init__(self, images: np.ndarray, config: TrainingConfig):
        self.images = images
        colours = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
        areas = (config.view_min_area, config.view_max_area)
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomResizedCrop(config.view_size, areas, antialias=False),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([colours], 0.8),
                v2.RandomGrayscale(0.2),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[row]), self.transform(self.images[row])


def usual_loop(config: TrainingConfig, images: np.ndarray) -> Iterator[None]:
    """Train as usual; yields after every minibatch."""
    networks = ContrastiveTrainer(config, images)
    D, head = networks.D, networks.head
    adam = torch.optim.Adam([*D.parameters(), *head.parameters()], lr=config.learning_rate)
    loader = DataLoader(Views(images, config), config.batch_size, shuffle=True, drop_last=True, num_workers=2)
    while True:
        for a, b in loader:
            z = head(D.trunk(torch.cat([a, b])).mean((2, 3)))
            loss = contrastive_loss(z[: len(a)], z[len(a) :], config.temperature)["contrastive_loss"]
            adam.zero_grad()
            loss.backward()
            adam.step()
            yield


def main() -> None:
    """Measure all loops in turns and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="minibatches of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images = load_data("tiny-imagenet", "train").images
    device = torch.device("cpu")
    chosen: dict[str, Any] = {"compute": arithmetic("auto", device)[0], "start": ""}
    now = contrastive_recipe("imagenet32", **chosen)
    first = contrastive_recipe(
        "imagenet32", **chosen, view_size=16, view_min_area=0.2, view_max_area=1.0, decoupled=False
    )
    loops = {
        "ours": our_loop(ContrastiveTrainer(now, images)),
        "ours, the recipe of 0.1": our_loop(ContrastiveTrainer(first, images)),
        "usual": usual_loop(now, images),
    }
    times = in_turns(loops, arguments.turns, arguments.rounds, device)
    medians = {name: statistics.median(found) for name, found in times.items()}
    rate, peak = flops_per_round(now, ContrastiveTrainer) / medians["ours"], peak_flops_per_s(device)
    found = {"recipe": now.as_dict(), "seconds_per_round": times}
    found["images_per_s"] = {name: now.batch_size / median for name, median in medians.items()}
    found["times_faster"] = {name: median / medians["ours"] for name, median in medians.items() if name != "ours"}
    found |= {"flops_per_s": rate, "peak_flops_per_s": peak, "share_of_peak": rate / peak}
    write_record(arguments.out, "contrastive_throughput", found)


if __name__ == "__main__":
    main()
