"""``dcgan-eval guided``: what excites units of the discriminator, as the paper's figure 5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..errors import DcganEvalError, WeightsError
from ..files import sha256_of
from ..insight.finding import Finding
from ..models.bundled import resolve
from ..report.panels import write_rows
from .findings import checked, data_option, loaded, out_option, report_finding, seed_option
from .options import Number, data_dir_option, device_option, example, json_option

if TYPE_CHECKING:
    from ..insight.guided import Responses
    from ..models.dcgan import Discriminator

_MOST_NAMED = 12  # rows of the picture that have a name


@click.command(epilog=example("dcgan-eval guided --data cifar10 --split test --out guided.png"))
@data_option(required=True)
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
    from ..devices import resolve_device
    from ..insight.drawing import settled_discriminator
    from ..insight.guided import responses
    from ..models.dcgan import build

    finding_path, place = checked(path), resolve_device(device)
    D_path = resolve(weights)
    D = _discriminator(D_path)
    images = loaded(name, split, data_dir, limit, D.preset)
    wanted = _units(units)
    pairs = {"trained": D, "random": build(D.preset, seed)[0]}
    found = {}
    for kind, network in pairs.items():
        still = settled_discriminator(network.to(place), images.images).requires_grad_(False)
        found[kind] = responses(still.trunk, images.images, wanted, count, place)
    write_rows([row for kind, answers in found.items() for row in _rows(kind, answers)], path)
    settings = {"data": name, "split": split, "images": len(images), "units": wanted, "count": count}
    settings["preset"] = D.preset.name
    hashes = {"discriminator": sha256_of(D_path), "data": images.without_labels().fingerprint}
    finding = Finding("guided", "concentration", _measured(found), settings, seed, hashes)
    alt = "Parts of images that excite units most, and their guided gradients, for trained and for random weights"
    caption = f"The {count} strongest responses of each unit in {name}: what it depends on, then guided gradients"
    sentence = (
        f"{100 * found['trained'].mean_concentration:.0f} % of a gradient's energy lies in a tenth of the pixels; "
        f"with random weights {100 * found['random'].mean_concentration:.0f} %"
    )
    report_finding(finding, finding_path, {path: (alt, caption)}, sentence, as_json)


def _measured(found: dict[str, Responses]) -> dict[str, Any]:
    """Return the numbers of both networks."""
    return {
        "concentration": found["trained"].mean_concentration,
        "concentration_random": found["random"].mean_concentration,
        "by_unit": {kind: [float(c) for c in np.nanmean(r.concentration, 1)] for kind, r in found.items()},
    }


def _discriminator(path: Path) -> Discriminator:
    """Load a discriminator that is told no labels."""
    from ..models.dcgan import Discriminator
    from ..models.weights import load_network

    D = load_network(path)
    assert isinstance(D, Discriminator), "load_network checks the header"
    if D.preset.num_classes:
        raise WeightsError("The discriminator needs labels", got=D.preset.name, remedy="choose another with --weights")
    return D


def _rows(kind: str, answers: Responses) -> list[tuple[str, np.ndarray]]:
    """Return a row of the picture for each unit: what it answers to, then the gradients."""
    from ..insight.guided import crops

    named = len(answers.units) <= _MOST_NAMED
    return [
        (f"{kind}: unit {unit}" if named else "", np.concatenate(crops(answers, i)))
        for i, unit in enumerate(answers.units)
    ]


def _units(text: str) -> list[int]:
    """Read the numbers of units."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise DcganEvalError("There are no such units", got=text, expected="numbers such as 0,1,2") from error
