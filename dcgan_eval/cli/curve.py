"""``dcgan-eval curve``: the score with few labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..files import check_target
from ..records import Record
from ..report.tables import comparison_table
from .console import err, out, progress_view
from .encoder import encoder_options, layer_option
from .options import (
    Number,
    example,
    fit_device_option,
    given_option,
    json_option,
    making_options,
    own_data_options,
    place_options,
    seed_option,
    to_option,
    tol_option,
)
from .running import protocol_argument, take_features, take_place, take_protocol, take_settings


class _Counts(click.ParamType):
    """Numbers of labels, ``1,2,5``."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers."""
        one = Number(int, 1, 10**6)
        return value if isinstance(value, tuple) else tuple(one.convert(part, param, ctx) for part in value.split(","))


@click.command(epilog=example("dcgan-eval curve cifar10-small --per-class 1,2,5,10,20,50 --data-dir ~/data"))
@protocol_argument
@encoder_options
@layer_option
@making_options
@given_option
@own_data_options
@place_options
@seed_option
@tol_option
@fit_device_option
@click.option("--per-class", type=_Counts(), default="1,2,5,10,20,50", show_default=True, help="Labels of each class.")
@click.option("--draws", "num_draws", type=Number(int, 2, 10_000), help="Fresh draws for each [default: 10].")
@to_option("folder", help="[default: records/curve-PROTOCOL-ENCODER].")
@json_option
def curve(
    protocol: str,
    per_class: tuple[int, ...],
    num_draws: int | None,
    folder: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a protocol with more and more labels of each class; a record for each number, and a figure with bands."""
    from ..protocols.few_shot import learning_curve
    from ..report.figures import learning_curve_figure

    source = take_features(protocol, options)
    spec = take_protocol(protocol, options | {"per_class": None, "num_draws": None}, source)
    place, settings = take_place(options), take_settings(options)
    folder = folder or Path("records") / f"curve-{spec.command}-{source.name}".replace(":", "-").replace("/", "-")
    check_target(folder / "curve.png", "--out")

    def keep(labels: int, record: Record) -> None:
        record.write(folder / f"{labels}.json")

    with progress_view() as progress:
        records = learning_curve(spec, source, per_class, num_draws, settings, place, progress, keep)
    figure = learning_curve_figure({source.name: records}, folder / "curve.png", spec.title)
    if as_json:
        click.echo(json.dumps({str(name): json.loads(r.to_json()) for name, r in records.items()}, indent=1))
    else:
        out.print(comparison_table(list(records.values()), spec.title))
    err.print(f"Records: {folder}/*.json\nFigure:  {figure}", highlight=False)
