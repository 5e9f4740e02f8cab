"""The paper besides its tables, against real images: ``dcgan-eval guided``, ``neighbours``, ``score-digits``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from ..data.catalog import load_data
from ..data.imageset import ImageSet
from ..devices import resolve_device
from ..errors import DataError, DcganEvalError, WeightsError
from ..files import sha256_of
from ..insight import digits
from ..insight import guided as back
from ..insight import neighbours as near
from ..insight.drawing import (
    Draw,
    Pair,
    feature_maker,
    from_uint8,
    in_batches,
    load_pair,
    settled,
    settled_discriminator,
)
from ..insight.finding import Finding
from ..models.dcgan import Discriminator, build, grid_latents, sample_prior
from ..models.presets import Preset
from ..models.weights import load_network, resolve
from ..report.panels import write_rows
from ..seeding import torch_generator
from .findings import checked, discriminator_option, drawn, out_option, pair_options, report_finding, seed_option
from .options import Number, data_dir_option, device_option, example, json_option

_SHOWN = 12  # samples in the picture
_CPU = torch.device("cpu")
_NO_TEST = "without --held-out nothing is tested: distances alone do not say whether samples are copies"
_FLAGGED = "samples that are smoother than real images come near to them too: look at the picture"


def _data_option(**settings: Any) -> Any:
    """Return the option that names the images."""
    return click.option("--data", "name", metavar="NAME|PATH", help="Real images.", **settings)


@click.command(epilog=example("dcgan-eval neighbours --weights imagenet32-paper --data tiny-imagenet --out near.png"))
@_data_option(required=True)
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
    finding_path, place = checked(path), resolve_device(device)
    pair = load_pair(weights, discriminator, place)
    sets = {"train": _loaded(name, split, data_dir, limit, pair.preset)}
    if held_out is not None:
        sets["held out"] = _loaded(name, held_out, data_dir, limit, pair.preset)
    draw = settled(pair.G, seed)
    z_NZ = sample_prior(pair.preset, count, torch_generator(seed, "neighbours"))
    images = {"samples": drawn(draw, z_NZ, place), **{part: s.images for part, s in sets.items()}}
    rows, measured = [("samples", images["samples"][:_SHOWN])], {}
    regions = None
    for space, values in _spaces(pair, images, place).items():
        distances, found = near.find(values["samples"], values["train"], place, num_near)
        measured[f"distance_{space}"] = float(np.median(distances[:, 0]))
        rows += [
            (f"nearest in {space}" if i == 0 else "", images["train"][found[:_SHOWN, i]]) for i in range(found.shape[1])
        ]
        if held_out is not None:
            if regions is None:  # pixels come first
                regions = near.pixel_regions(values["train"], values["samples"], values["held out"], seed)
            there = near.find(values["held out"], values["train"], place, 1)[0][:, 0]
            measured |= _tested(near.copying(distances[:, 0], there, regions), space) | {
                f"distance_held_out_{space}": float(np.median(there))
            }
    write_rows(rows, path)
    caption = (
        f"Samples, and below each the {num_near} nearest images of {name} ({split}), in pixels and in D's features"
    )
    number = "copying_pixels" if held_out is not None else "distance_pixels"
    settings = {"data": name, "split": split, "held_out": held_out, "count": count, "preset": pair.preset.name}
    hashes = pair.hashes | {part: s.without_labels().fingerprint for part, s in sets.items()}
    notes = [_NO_TEST] if held_out is None else []
    notes += [_FLAGGED] if any(measured.get(f"copied_{space}") for space in ("pixels", "features")) else []
    finding = Finding("neighbours", number, measured, settings, seed, hashes, notes=notes)
    alt = "A row of samples above rows of the real images nearest to them"
    report_finding(finding, finding_path, {path: (alt, caption)}, _copying_sentence(measured), as_json)


def _loaded(name: str, split: str, data_dir: Path | None, limit: int, preset: Preset) -> ImageSet:
    """Load images of the generator's shape, the first ``limit`` of them."""
    images = load_data(name, split, data_dir)
    near.check_images(images.images, preset, name)
    return images if len(images) <= limit else images.take(np.arange(limit))


def _spaces(pair: Pair, images: dict[str, np.ndarray], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """Return flat pixels and, where D can be asked, features of all images."""
    spaces = {"pixels": {part: torch.from_numpy(x_NHWC).flatten(1) for part, x_NHWC in images.items()}}
    if pair.D is not None and not pair.preset.num_classes:
        features = feature_maker(pair.D, images["train"])
        spaces["features"] = {
            part: in_batches(lambda batch: features(from_uint8(batch.numpy(), device)), torch.from_numpy(x), _CPU)
            for part, x in images.items()
        }
    return spaces


def _tested(test: near.Copying, space: str) -> dict[str, Any]:
    """Return the numbers of the test in one space."""
    return {
        f"copying_{space}": test.score,
        f"copying_overall_{space}": test.overall,
        f"copied_{space}": test.copied,
        f"regions_{space}": test.regions,
    }


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


@click.command(epilog=example("dcgan-eval guided --data cifar10 --split test --out guided.png"))
@_data_option(required=True)
@click.option("--split", default="train", show_default=True, help="Of the images.")
@click.option("--limit", type=Number(int, 2, 10**7), default=2_000, show_default=True, help="Images to search.")
@click.option("--units", default="0,1,2,3,4,5", show_default=True, help="Maps of the last convolutional layer.")
@click.option(
    "--count", type=Number(int, 1, 100), default=6, show_default=True, help="Strongest responses of each unit."
)
@click.option(
    "--weights", metavar="NAME|FILE", help="Discriminator: bundled name or file [default: the bundled default]."
)
@data_dir_option
@out_option("guided.png")
@seed_option
@device_option
@json_option
def guided(
    name: str,
    split: str,
    limit: int,
    units: str,
    count: int,
    weights: str | None,
    data_dir: Path | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Show what in the images excites units of the discriminator's last layer, by guided backpropagation.

    Next to the trained discriminator stands the same one with random weights. The number is the share of a gradient's
    energy in the strongest tenth of the pixels: 0.1 is spread evenly.
    """
    finding_path, place = checked(path), resolve_device(device)
    D_path = resolve(weights)
    D = load_network(D_path)
    assert isinstance(D, Discriminator), "load_network checks the header"
    if D.preset.num_classes:
        raise WeightsError("The discriminator needs labels", got=D.preset.name, remedy="choose another with --weights")
    images = _loaded(name, split, data_dir, limit, D.preset)
    wanted = _units(units)
    pairs = {"trained": D, "random": build(D.preset, seed)[0]}
    found = {}
    for kind, network in pairs.items():
        still = settled_discriminator(network.to(place), images.images).requires_grad_(False)
        found[kind] = back.responses(still.trunk, images.images, wanted, count, place)
    rows = []
    for kind, answers in found.items():
        for i, unit in enumerate(wanted):
            parts = np.concatenate(back.crops(answers, i))
            rows.append((f"{kind}: unit {unit}" if len(wanted) <= _SHOWN else "", parts))
    write_rows(rows, path)
    measured = {
        "concentration": found["trained"].mean_concentration,
        "concentration_random": found["random"].mean_concentration,
        "by_unit": {kind: [float(c) for c in np.nanmean(r.concentration, 1)] for kind, r in found.items()},
    }
    settings = {"data": name, "split": split, "images": len(images), "units": wanted, "count": count}
    settings["preset"] = D.preset.name
    hashes = {"discriminator": sha256_of(D_path), "data": images.without_labels().fingerprint}
    finding = Finding("guided", "concentration", measured, settings, seed, hashes)
    alt = "Parts of images that excite units most, and their guided gradients, for trained and for random weights"
    caption = f"The {count} strongest responses of each unit in {name}: what it depends on, then guided gradients"
    sentence = (
        f"{100 * found['trained'].mean_concentration:.0f} % of a gradient's energy lies in a tenth of the pixels; "
        f"with random weights {100 * found['random'].mean_concentration:.0f} %"
    )
    report_finding(finding, finding_path, {path: (alt, caption)}, sentence, as_json)


def _units(text: str) -> list[int]:
    """Read the numbers of units."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise DcganEvalError("There are no such units", got=text, expected="numbers such as 0,1,2") from error


@click.command("score-digits", epilog=example("dcgan-eval score-digits --weights mnist28_cond --out digits.png"))
@_data_option(default="mnist", show_default=True)
@click.option(
    "--count",
    "counts",
    type=Number(int, 10, 10**8),
    multiple=True,
    default=(10_000, 50_000),
    show_default=True,
    help="Generated digits to compare with; repeated.",
)
@data_dir_option
@pair_options("digits.png")
def score_digits(
    name: str,
    counts: tuple[int, ...],
    data_dir: Path | None,
    weights: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Classify real digits by the nearest generated one, as the paper's supplement does.

    The generator must be one that is told the class. Digits are compared by pixels; the error with generated digits
    stands beside that with the real training digits.
    """
    finding_path, place = checked(path), resolve_device(device)
    pair = load_pair(weights, None, place)
    sets = {split: load_data(name, split, data_dir) for split in ("train", "test")}
    for images in sets.values():
        near.check_images(images.images, pair.preset, name)
    _check_classes(pair, sets["test"])
    draw = settled(pair.G, seed)
    found = digits.score(lambda n: _labelled(draw, pair, n, seed, place), counts, sets["test"], place)
    real = digits.nearest_error(sets["train"], sets["test"], place)
    rows, columns = 10, pair.preset.num_classes
    grid = drawn(draw, grid_latents(pair.preset, rows * columns, seed, columns), place)
    write_rows([("", row) for row in grid.reshape(rows, columns, *grid.shape[1:])], path)
    measured = {"error": found[-1].error, "generated": [f.measured() for f in found], "real": real.measured()}
    measured["published_percent_unchecked"] = digits.PUBLISHED
    settings = {"data": name, "counts": list(counts), "preset": pair.preset.name}
    hashes = pair.hashes | {split: images.fingerprint for split, images in sets.items()}
    finding = Finding("score-digits", "error", measured, settings, seed, hashes)
    errors = [f"{100 * f.error:.2f} % with {f.count:,} generated" for f in found]
    sentence = (
        f"error on {real.tested:,} digits: {', '.join(errors)}, {100 * real.error:.2f} % with {real.count:,} real"
    )
    words = ("Generated digits, a class in each column", f"Digits of {pair.preset.name}, a class in each column")
    report_finding(finding, finding_path, {path: words}, sentence, as_json)


def _check_classes(pair: Pair, test: ImageSet) -> None:
    """Raise unless the generator is told the classes that the images have."""
    if not pair.preset.num_classes:
        raise WeightsError(
            "The generator is not told which digit to draw, so its digits have no labels",
            got=pair.preset.name,
            expected="a conditional generator, such as one of mnist28_cond",
            remedy="choose another with --weights",
        )
    if test.labels is None or test.num_classes != pair.preset.num_classes:
        raise DataError(
            "The images do not have the generator's classes",
            got=f"{test.num_classes} classes",
            expected=f"{pair.preset.num_classes}",
            remedy="choose others with --data",
        )


def _labelled(draw: Draw, pair: Pair, count: int, seed: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of classes in equal chance; return both."""
    z_NZ = sample_prior(pair.preset, count, torch_generator(seed, "score digits"))
    return drawn(draw, z_NZ, device), z_NZ[:, pair.preset.z_dim :].argmax(1).numpy()
