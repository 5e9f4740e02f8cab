"""``dcgan-eval compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .console import out
from .options import SEED, example, json_option
from .records import read_record


@click.command(epilog=example("dcgan-eval compare quickstart/discriminator.json quickstart/untrained.json"))
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--seed", type=SEED, default=0, show_default=True, help="Root seed of the bootstrap.")
@json_option
def compare(a: Path, b: Path, seed: int, as_json: bool) -> None:
    """Compare two records on the same test images: paired bootstrap, McNemar's test, accuracies per class."""
    records = [read_record(a), read_record(b)]
    from ..report.paired import paired_comparison  # here, because scipy takes longer to import than a mistake to find
    from ..report.tables import class_table, paired_table

    found = paired_comparison(*records, seed=seed)
    if as_json:
        classes = {name: [r.class_accuracies[name] for r in records] for name in records[0].class_names}
        click.echo(json.dumps({**asdict(found), "class_accuracies": classes}, indent=1))
        return
    out.print(paired_table(records, asdict(found)), "", class_table(records))
