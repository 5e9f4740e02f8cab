"""``dcgan-eval bench``: many data sets by many encoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DcganEvalError
from ..files import check_target
from ..records import Record
from ..report.sheet import Sheet
from ..report.tables import interval_over_images, score_cell
from .console import err, out, progress_view
from .encoder import RULES, EncoderChoice, layer_option, rule_options
from .options import (
    example,
    fit_device_option,
    json_option,
    making_options,
    place_options,
    seed_option,
    to_option,
    tol_option,
)
from .running import take_making, take_place, take_settings
from .suite import Lists, load_lists

if TYPE_CHECKING:
    from ..features.extract import ExtractOptions
    from ..protocols.bench import Pair
    from ..protocols.sources import EncoderFeatures


@click.command(epilog=example("dcgan-eval bench --data digits --data ./own --encoder untrained --encoder mine:net"))
@click.option("--data", multiple=True, metavar="PROTOCOL|PATH", help="What to run on; repeated.")
@click.option("--encoder", "encoders", multiple=True, metavar="SPEC", help="As for `svm`; repeated.")
@click.option(
    "--suite",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with the lists `data` and `encoder`, beside what is given here; an encoder may be a table with "
    "its `name` and options of its own, as layer and image-size.",
)
@layer_option
@rule_options
@making_options
@place_options
@seed_option
@tol_option
@fit_device_option
@to_option("folder", default=Path("records/bench"), show_default=True)
@json_option
def bench(
    data: tuple[str, ...],
    encoders: tuple[str, ...],
    suite: Path | None,
    folder: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Run every encoder on every data set: a record for each, one table with intervals and mean ranks.

    What has its record already is not run again; what fails is said at the end, with exit code 1, and keeps nothing
    else from being run.
    """
    from ..protocols.bench import Pair, run_pairs

    lists = Lists([], [], {}) if suite is None else load_lists(suite)
    rules = lists.rules | {name: value for name in ("layers", *RULES) if (value := options.pop(name))}
    named = [(name, rules) for name in encoders] + [(name, rules | own) for name, own in lists.encoders]
    sets = list(dict.fromkeys([*data, *lists.data]))
    for option, names in (("--data", sets), ("--encoder", named)):
        if not names:
            raise click.UsageError(f"Missing option '{option}', or a list of them in a file given with --suite.")
    place, making, settings = take_place(options), take_making(options), take_settings(options)
    check_target(folder / "all.json", "--out")
    sources, pairs = {}, list[Pair]()
    for title, (name, own) in {_title(*encoder): encoder for encoder in named}.items():
        try:
            sources[title] = _source(name, making, **own)
        except DcganEvalError as error:
            pairs += [Pair(part, title, folder, error=str(error)) for part in sets]
    with progress_view() as progress:
        for pair in run_pairs(sets, sources, folder, settings, place, progress):
            pairs.append(pair)
            err.print(_line(pair), highlight=False, markup=False)
    _show(pairs, as_json)
    failed = [pair for pair in pairs if pair.record is None]
    for pair in failed:
        err.print(f"Failed: {pair.encoder} on {pair.data}: {pair.error}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        click.get_current_context().exit(1)


def _title(name: str, rules: dict[str, Any]) -> str:
    """Return what an encoder is called: its name, with the options that are given for it."""
    words = {key: ",".join(value) if key == "layers" else value for key, value in rules.items()}
    return " ".join([name, *(f"{key.removesuffix('s').replace('_', '-')}={value}" for key, value in words.items())])


def _source(name: str, making: ExtractOptions, layers: tuple[str, ...] = (), **rules: Any) -> EncoderFeatures:
    """Return the features of an encoder."""
    from ..protocols.sources import EncoderFeatures

    return EncoderFeatures(EncoderChoice(encoder=name, **rules).load(), replace(making, layers=layers or None))


def _line(pair: Pair) -> str:
    """Say how a pair went."""
    if pair.record is None:
        return f"{pair.data}, {pair.encoder}: failed"
    return f"{pair.data}, {pair.encoder}: {score_cell(pair.record)} %" + (", from its record" if pair.reused else "")


def _show(pairs: list[Pair], as_json: bool) -> None:
    """Show all scores in one table, best mean rank first."""
    from ..report.summary import mean_ranks, summarise

    found = [(pair.path, pair.record) for pair in pairs if pair.record is not None]
    summary = summarise(found)
    ranks = mean_ranks(summary)
    if as_json:
        rows = [
            {"data": p.data, "encoder": p.encoder, "file": str(p.path), "score": p.record.score if p.record else None}
            | ({"error": p.error} if p.error else {})
            for p in pairs
        ]
        click.echo(json.dumps({"pairs": rows, "mean_ranks": ranks}, indent=1))
        return
    table = sorted(summary.rows, key=lambda row: ranks.get(row[0], 0.0))
    cells = [(name, *map(_cell, places), _rank(ranks, name)) for name, places in table]
    out.print(Sheet("", ("encoder", *summary.titles, "mean rank"), cells, (*summary.titles, "mean rank")))


def _cell(found: tuple[Path, Record] | None) -> str:
    """Return a score with its interval."""
    return f"{score_cell(found[1])} ({interval_over_images(found[1])})" if found else ""


def _rank(ranks: dict[str, float], name: str) -> str:
    """Return a mean rank as text."""
    return f"{ranks[name]:.2f}" if name in ranks else ""
