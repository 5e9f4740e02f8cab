"""``dcgan-eval neighbours``: the training images nearest to samples, and whether the samples are copies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..insight.finding import Finding
from ..report.panels import write_rows
from .findings import (
    checked,
    data_option,
    discriminator_option,
    drawn,
    from_prior,
    loaded,
    opened,
    pair_options,
    report_finding,
)
from .options import Number, data_dir_option, example

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..insight.drawing import Pair
    from ..insight.neighbours import Copying, Regions

_SHOWN = 12  # samples in the picture
_NO_TEST = "without --held-out nothing is tested: distances alone do not say whether samples are copies"
_FLAGGED = "samples that are smoother than real images come near to them too: look at the picture"


@click.command(epilog=example("dcgan-eval neighbours --weights imagenet32-paper --data tiny-imagenet --out near.png"))
@data_option(required=True)
@click.option("--split", default="train", show_default=True, help="Of the images that the generator was trained on.")
@click.option("--held-out", metavar="SPLIT", help="Images never trained on, for the test [default: none, no test].")
@click.option("--count", type=Number(int, 20, 10**6), default=1_000, show_default=True, help="Samples to draw.")
@click.option(
    "--limit", type=Number(int, 20, 10**7), default=20_000, show_default=True, help="Images of a split to use."
)
@click.option("--show", "num_near", type=Number(int, 1, 20), default=3, show_default=True, help="Nearest images shown.")
@data_dir_option
@discriminator_option
@pair_options("neighbours.png")
def neighbours(
    name: str,
    split: str,
    held_out: str | None,
    count: int,
    limit: int,
    num_near: int,
    data_dir: Path | None,
    weights: str | None,
    discriminator: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Show the training images nearest to samples, and test whether the samples are copies.

    With --held-out the test of Meehan, Chaudhuri & Dasgupta (2020) asks whether samples are nearer to training images
    than held-out images are: a z far below 0 says that they are copied, one far above that they miss the data.
    """
    from ..insight.neighbours import pixel_regions

    finding_path = checked(path)
    pair, still, place = opened(weights, discriminator, device, seed)
    splits = {"train": split} | ({"held out": held_out} if held_out else {})
    sets = {part: loaded(name, at, data_dir, limit, pair.preset) for part, at in splits.items()}
    z_NZ = from_prior(pair, count, seed, "neighbours")
    images = {"samples": drawn(still.images, z_NZ, place), **{part: s.images for part, s in sets.items()}}
    spaces = _spaces(pair, images, place)
    pixels = spaces["pixels"]
    regions = pixel_regions(pixels["train"], pixels["samples"], pixels["held out"], seed) if held_out else None
    rows, measured = [("samples", images["samples"][:_SHOWN])], dict[str, Any]()
    for space, values in spaces.items():
        numbers, found = _nearest(space, values, regions, num_near, place)
        measured |= numbers
        near_first = images["train"][found[:_SHOWN].T]  # (num_near, _SHOWN, H, W, C)
        rows += [(f"nearest in {space}" if i == 0 else "", row) for i, row in enumerate(near_first)]
    write_rows(rows, path)
    caption = f"Samples above the {num_near} nearest images of {name} ({split}), in pixels and in D's features"
    number = "copying_pixels" if held_out else "distance_pixels"
    settings = {"data": name, "split": split, "held_out": held_out, "count": count, "preset": pair.preset.name}
    hashes = pair.hashes | {part: s.without_labels().fingerprint for part, s in sets.items()}
    finding = Finding("neighbours", number, measured, settings, seed, hashes, notes=_notes(measured, held_out))
    alt = "A row of samples above rows of the real images nearest to them"
    report_finding(finding, finding_path, {path: (alt, caption)}, _copying_sentence(measured), as_json)


def _spaces(pair: Pair, images: dict[str, np.ndarray], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Return flat pixels and, where D can be asked, features of all images."""
    import torch

    from ..insight.drawing import feature_maker, from_uint8, in_batches

    cpu = torch.device("cpu")
    spaces = {"pixels": {part: torch.from_numpy(x_NHWC).flatten(1) for part, x_NHWC in images.items()}}
    if pair.D is not None and not pair.preset.num_classes:
        features = feature_maker(pair.D, images["train"])
        spaces["features"] = {
            part: in_batches(lambda batch: features(from_uint8(batch.numpy(), device)), torch.from_numpy(x), cpu)
            for part, x in images.items()
        }
    return spaces


def _nearest(
    space: str, values: dict[str, Tensor], regions: Regions | None, num_near: int, device: torch.device
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what is measured in one space, and the rows of the training images nearest to each sample."""
    from ..insight.neighbours import copying, find

    distances, found = find(values["samples"], values["train"], device, num_near)
    measured: dict[str, Any] = {f"distance_{space}": float(np.median(distances[:, 0]))}
    if regions is not None:
        there = find(values["held out"], values["train"], device, 1)[0][:, 0]
        measured[f"distance_held_out_{space}"] = float(np.median(there))
        measured |= _tested(copying(distances[:, 0], there, regions), space)
    return measured, found


def _tested(test: Copying, space: str) -> dict[str, Any]:
    """Return the numbers of the test in one space."""
    return {
        f"copying_{space}": test.score,
        f"copying_overall_{space}": test.overall,
        f"copied_{space}": test.copied,
        f"regions_{space}": test.regions,
    }


def _notes(measured: dict[str, Any], held_out: str | None) -> list[str]:
    """Return what a reader of the numbers should know."""
    flagged = any(measured.get(f"copied_{space}") for space in ("pixels", "features"))
    return ([] if held_out else [_NO_TEST]) + ([_FLAGGED] if flagged else [])


def _copying_sentence(measured: dict[str, Any]) -> str:
    """Say what was found."""
    parts = []
    for space in ("pixels", "features"):
        if f"copying_{space}" in measured:
            verdict = "copied" if measured[f"copied_{space}"] else "not copied"
            parts.append(f"z {measured[f'copying_{space}']:+.1f} in {space} ({verdict})")
        elif f"distance_{space}" in measured:
            parts.append(f"median distance {measured[f'distance_{space}']:.1f} in {space}")
    return "samples to training images: " + ", ".join(parts)
