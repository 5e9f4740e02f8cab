"""What every command that runs a protocol does: options to settings, the run, its record on disk and on screen."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import DcganEvalError, ProtocolError, RecordError
from ..files import check_target
from ..protocols.catalog import PROTOCOLS, get_protocol
from ..protocols.spec import Protocol
from ..records import Record
from ..report.tables import result_panel
from ..tracking import Tracker, tracking
from .console import err, out, progress_view
from .encoder import EncoderChoice
from .options import default_cache_dir, offering

if TYPE_CHECKING:
    import torch

    from ..features.extract import ExtractOptions
    from ..protocols.classifiers import Classifier
    from ..protocols.settings import Place, Settings
    from ..protocols.sources import Filler, GivenFeatures

_HOW = ("batch_norm", "compute", "store_dtype", "device", "batch_size")
_MAKING = {field.name for field in fields(EncoderChoice)} | {"encoder", "layers", *_HOW}

protocol_argument = click.argument(
    "protocol", metavar="|".join(PROTOCOLS), shell_complete=offering(lambda _: PROTOCOLS)
)


def take_making(options: dict[str, Any], layers: tuple[str, ...] = ()) -> ExtractOptions:
    """Take the options that say how features are made out of a command's options."""
    from ..features.extract import ExtractOptions

    return ExtractOptions(layers or None, **{name: options.pop(name) for name in _HOW})


def take_features(protocol: str, options: dict[str, Any]) -> Filler:
    """Take out of a command's options what is measured: features made elsewhere, or by an encoder."""
    from ..protocols.sources import EncoderFeatures

    if given := options.pop("given"):
        return given_source(protocol, given, options)
    get_protocol(protocol)
    layers = options.pop("layers")
    return EncoderFeatures(options.pop("encoder").load(), take_making(options, layers))


def given_source(protocol: str, given: tuple[Path, Path], options: dict[str, Any]) -> GivenFeatures:
    """Return features made elsewhere as a source; options that say how features are made are taken out."""
    from ..protocols.given import given_protocol
    from ..protocols.sources import GivenFeatures

    given_protocol(protocol)
    _refuse_making()
    for name in _MAKING & options.keys():
        options.pop(name)
    return GivenFeatures(given[0], given[1], options["label_column"])


def _refuse_making() -> None:
    """Refuse options that say how features are made beside features that are there."""
    ctx = click.get_current_context()
    making = [p for p in ctx.command.params if p.name in _MAKING and isinstance(p, click.Option)]
    typed = [p.opts[0] for p in making if ctx.get_parameter_source(p.name or "") == ParameterSource.COMMANDLINE]
    if typed:
        raise ProtocolError(
            "Features that are given are not made",
            got=f"--features beside {', '.join(typed)}",
            remedy="leave out --features, or the options of the encoder",
        )


def take_place(options: dict[str, Any]) -> Place:
    """Take the options that say where things are out of a command's options."""
    from ..protocols.settings import Place

    memory_gb = options.pop("memory_gb")
    held: dict[str, Any] = {} if memory_gb is None else {"memory_bytes": int(memory_gb * 1e9)}
    device = _fit_device(options.pop("svm_device")) if "svm_device" in options else None
    return Place(
        data_dir=options.pop("data_dir"),
        cache_dir=options.pop("cache_dir") or default_cache_dir(),
        download=options.pop("download"),
        wait=not options.pop("no_wait"),
        probe=options.pop("probe", None),
        device=device,
        **held,
    )


def _fit_device(name: str | None) -> torch.device:
    """Return where classifiers are fitted: where the command says, or without that where its encoder runs."""
    from ..devices import device_of_fits, resolve_device

    if name == "mps":
        raise DcganEvalError(
            "No classifier is fitted on mps, which has no float64 for its certificate",
            got="--svm-device mps",
            remedy="leave it out, or use --svm-device cpu",
        )
    if name is not None:
        return resolve_device(name, "--svm-device")
    return device_of_fits(resolve_device(click.get_current_context().params.get("device", "auto")))


def take_settings(options: dict[str, Any], classifier: Classifier | None = None) -> Settings:
    """Take the options that decide a run's numbers out of a command's options."""
    from ..protocols.settings import Settings

    names = [name for name in ("seed", "tol", "solver", "allow_unconverged", "near_duplicates") if name in options]
    return Settings(classifier=classifier, **{name: options.pop(name) for name in names})


def take_protocol(name: str, options: dict[str, Any], source: Filler | None = None) -> Protocol:
    """Return the protocol of a name, with the splits, labels and draws that were asked for."""
    from ..protocols.given import given_protocol
    from ..protocols.sources import GivenFeatures

    columns = [options.pop(name) for name in ("train_split", "test_split", "label_column")]
    protocol = given_protocol(name) if isinstance(source, GivenFeatures) else get_protocol(name)
    if isinstance(source, GivenFeatures) and not protocol.id.startswith("own_"):
        columns[2] = None  # it is of the files of features; the protocol's own labels are pinned
    return protocol.with_columns(*columns).with_draws(options.pop("per_class"), options.pop("num_draws"))


def run_and_show(name: str, source: Filler, options: dict[str, Any], classifier: Classifier | None = None) -> None:
    """Run a protocol on a source of features, write the record and show it."""
    from ..protocols.evaluate import evaluate
    from ..ranks import joined

    protocol, place = take_protocol(name, options, source), take_place(options)
    settings, explain = take_settings(options, classifier), options.pop("explain", False)
    check_record_target(options["record"])
    with joined(place.device) as team:
        options["log"] = options["log"] if team.leads else None
        with tracked(options, settings.named(protocol), source.name, settings.seed) as tracker:
            with progress_view() as progress:
                result = evaluate(protocol, source, settings, replace(place, team=team), progress)
            show_and_keep(result, protocol.title, **options)
            show_to(tracker, result)
        if explain:
            for draw in result.draws:
                err.print(_explanation(draw), highlight=False)


def tracked(options: dict[str, Any], protocol: Protocol, what: str, seed: int) -> AbstractContextManager[Tracker]:
    """Return the tracker that is asked for, if any, as a context: opened before the work, closed after it."""
    kind, record = options.pop("log", None), options["record"]
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    name = f"{protocol.id}-{what}".replace(":", "-").replace("/", "-")
    folder = (record.parent if record else Path("records")) / "tensorboard" / f"{name}-{stamp}"
    config = {"protocol": protocol.id, "version": protocol.version, "features": what, "seed": seed}
    return tracking(kind, name, config, folder, lambda note: err.print(f"Note: {note}", highlight=False, markup=False))


def show_to(tracker: Tracker, result: Record) -> None:
    """Show a tracker the validation curve, a step for each value, and then the score."""
    parameter, value = result.chosen
    for step, row in enumerate(result.selection):
        tracker.log({f"validation/{key}": row.get(key) for key in (parameter, "score", "duality_gap")}, step)
    low, high = result.ci95
    final = {"score": result.score, "ci95_low": low, "ci95_high": high, parameter: value}
    final |= {"duality_gap": result.duality_gap, "time_s": result.time_s}
    final |= {name: figure["score"] for name, figure in result.figures.items()}
    what = "test" if result.is_tested else "best"  # a search has validation scores alone
    tracker.log({f"{what}/{key}": number for key, number in final.items()}, len(result.selection))


def check_record_target(path: Path | None) -> None:
    """Refuse, before the work, a place where no record can be written."""
    check_target(path or Path("records") / "new.json", "--record", RecordError, suffixes=(".json",))


def show_and_keep(result: Record, title: str, record: Path | None, as_json: bool) -> None:
    """Show a record and write it; one that cannot be written is printed whole, so that the work is not lost."""
    if as_json:
        click.echo(result.to_json())
    else:
        out.print(result_panel(result, title))
    try:
        path = result.write(record or default_record_path(result))
    except RecordError:
        if not as_json:
            click.echo(result.to_json())
        raise
    err.print(f"Record: {path}", highlight=False, markup=False)


def _explanation(draw: dict[str, Any]) -> str:
    """Say how a fit was made."""
    return (
        f"Fit of {draw['num_rows']:,} rows at C = {draw['C']:g} on {draw['device']}: "
        f"solver {draw['solver']} ({draw['solver_reason']}); "
        f"{draw['newton_iterations']} Newton iterations, {draw['passes']} passes over X, {draw['time_s']:.1f} s, "
        f"relative duality gap {draw['duality_gap']:.1e}"
    )


def default_record_path(record: Record) -> Path:
    """Return a new name under ``records/``, with the time to the microsecond, so that no earlier record is replaced."""
    stamp = "".join(c for c in record.created.split("+")[0] if c not in "-:")
    return Path("records") / f"{record.name}-{stamp}.json"
