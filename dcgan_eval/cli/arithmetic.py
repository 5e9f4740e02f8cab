"""``dcgan-eval arithmetic`` and ``turn``: sums and differences of latent vectors, as the paper's figures 7 and 8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DcganEvalError
from ..insight.finding import Finding
from ..report.panels import write_rows
from .findings import checked, drawn, from_prior, opened, pair_options, report_finding, samples_option
from .options import Number, example

if TYPE_CHECKING:
    from torch import Tensor


class _Signed(click.ParamType):
    """Keeps the sign of an option with its value, so that the order of --plus and --minus stays known."""

    name = "indices|file"

    def __init__(self, sign: int):
        self.sign = sign

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        """Return (sign, text)."""
        return value if isinstance(value, tuple) else (self.sign, value)


def _with_mean(z_KZ: Tensor) -> Tensor:
    """Return latent vectors and, last, their mean."""
    import torch

    return torch.cat([z_KZ, z_KZ.mean(0, True)])


def _few(terms: Mapping[str, Tensor]) -> list[str]:
    """Return a note for each concept of fewer exemplars than the paper found to be stable."""
    from ..insight.arithmetic import FEWEST_EXEMPLARS

    return [
        f"{name} has {len(z_KZ)} exemplars: with fewer than {FEWEST_EXEMPLARS} the paper found results unstable"
        for name, z_KZ in terms.items()
        if len(z_KZ) < FEWEST_EXEMPLARS
    ]


def _left_prior(outside: dict[str, Any]) -> list[str]:
    """Return a note where latent vectors leave the prior."""
    if not outside["share_outside_prior"]:
        return []
    return [
        f"{100 * outside['share_outside_prior']:.1f} % of the entries of z lie outside the prior: its images may too"
    ]


@click.command(epilog=example("dcgan-eval arithmetic --plus 3,17,40 --minus 5,9,21 --plus 60,61,77 --out sum.png"))
@click.option(
    "--plus", multiple=True, type=_Signed(1), help="Exemplars of a concept to add: 3,17,40, or .npy or .json."
)
@click.option("--minus", multiple=True, type=_Signed(-1), help="Exemplars of a concept to subtract.")
@samples_option(128)
@pair_options("arithmetic.png")
def arithmetic(
    plus: tuple[tuple[int, str], ...],
    minus: tuple[tuple[int, str], ...],
    samples: int,
    weights: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Add and subtract concepts in z, each the mean of some samples, as the paper's smiling woman - woman + man.

    Exemplars are indices of the grid that `samples --numbered` shows, or latent vectors in a file. The result is in the
    middle of eight neighbours. The number says how far the image moves when one exemplar is left out, in units of the
    distance between the exemplars.
    """
    from ..insight import arithmetic as adding
    from ..insight.drawing import chosen_latents, outside_prior

    finding_path = checked(path)
    if not plus:
        raise DcganEvalError("There is nothing to add", expected="at least one concept", remedy="give --plus 3,17,40")
    pair, still, place = opened(weights, None, device, seed, "arithmetic")
    draw = still.images
    signed = [plus[0], *minus, *plus[1:]]
    names = [f"{'+' if sign > 0 else '-'} {text}" for sign, text in signed]
    z = [chosen_latents(text, pair.preset, samples, seed) for _, text in signed]
    found = adding.arithmetic(draw, [(sign, z_KZ) for (sign, _), z_KZ in zip(signed, z, strict=True)], seed, place)
    rows = [(f"{n}, mean last", drawn(draw, _with_mean(k), place)) for n, k in zip(names, z, strict=True)]
    result = drawn(draw, found.z, place)
    write_rows([*rows, ("result in the middle", result[:3]), ("", result[3:6]), ("", result[6:])], path)
    caption = f"Concepts {' '.join(names)} with their means, and below the result in the middle of 8 neighbours"
    outside = outside_prior(pair.preset, found.z[4:5])
    settings = {"terms": names, "samples": samples, "preset": pair.preset.name, "noise": adding.NEIGHBOUR_NOISE}
    notes = _few(dict(zip(names, z, strict=True))) + _left_prior(outside)
    finding = Finding(
        "arithmetic", "one_left_out", found.measured() | outside, settings, seed, pair.hashes, notes=notes
    )
    sentence = (
        f"without one exemplar the image moves {found.one_left_out:.2f} of the way to another, "
        f"with single exemplars {found.single:.2f}"
    )
    alt = "Exemplars of each concept, and nine images of the sum"
    report_finding(finding, finding_path, {path: (alt, caption)}, sentence, as_json)


@click.command(epilog=example("dcgan-eval turn --left 1,5,9,12 --right 2,3,7,20 --out turn.png"))
@click.option("--left", required=True, metavar="INDICES|FILE", help="Exemplars of one end; the paper takes four.")
@click.option("--right", required=True, metavar="INDICES|FILE", help="Exemplars of the other end.")
@click.option("--rows", type=Number(int, 1, 1_000), default=5, show_default=True, help="Random samples to turn.")
@click.option("--steps", type=Number(int, 3, 1_001), default=9, show_default=True, help="Columns; odd.")
@samples_option(128)
@pair_options("turn.png")
def turn(
    left: str,
    right: str,
    rows: int,
    steps: int,
    samples: int,
    weights: str | None,
    path: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Add a turn vector, the mean of left less the mean of right, to random samples in steps from -1 to 1.

    The number is the share of steps that move the image from right to left along the difference of the exemplars' mean
    images; for random directions it is about one half.
    """
    from ..insight import arithmetic as adding
    from ..insight.drawing import chosen_latents, outside_prior

    finding_path = checked(path)
    if steps % 2 == 0:
        raise DcganEvalError("The samples themselves need a column", got=f"--steps {steps}", expected="an odd number")
    if left == right:
        raise DcganEvalError(
            "Both ends are the same, so there is nowhere to turn", got=f"--left {left} --right {right}"
        )
    pair, still, place = opened(weights, None, device, seed, "turn")
    draw = still.images
    ends = {name: chosen_latents(name, pair.preset, samples, seed) for name in (left, right)}
    z_RZ = from_prior(pair, rows, seed, "turned samples")
    found = adding.turn(draw, ends[left], ends[right], z_RZ, steps=steps, seed=seed, device=place)
    shown = [(f"{word}: {name}", drawn(draw, ends[name], place)) for word, name in (("left", left), ("right", right))]
    write_rows([*shown, *(("", drawn(draw, z_TZ, place)) for z_TZ in found.z)], path)
    caption = f"{rows} random samples, in the middle column, turned from right ({right}) to left ({left})"
    outside = outside_prior(pair.preset, found.z.flatten(0, 1))
    settings = {"left": left, "right": right, "rows": rows, "steps": steps, "samples": samples}
    settings["preset"] = pair.preset.name
    notes = _few(ends) + _left_prior(outside)
    finding = Finding("turn", "steps_forward", found.measured() | outside, settings, seed, pair.hashes, notes=notes)
    sentence = (
        f"{100 * found.forward:.0f} % of the steps go forward; in random directions {100 * found.forward_random:.0f} %"
    )
    alt = "Exemplars of both ends, and rows of samples that turn from one to the other"
    report_finding(finding, finding_path, {path: (alt, caption)}, sentence, as_json)
