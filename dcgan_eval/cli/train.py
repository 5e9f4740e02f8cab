"""``dcgan-eval train`` and ``dcgan-eval train-imagenet``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..data.catalog import DATASETS, dataset_info, find, load_data
from ..data.imageset import ImageSet
from ..errors import TrainingError
from ..files import check_target
from ..models.presets import PRESETS, get_preset
from ..tracking import check_tracker
from ..training.config import RECIPES, TrainingConfig
from .console import err, out, progress_view
from .options import (
    COUNT,
    FRACTION,
    MINUTES,
    SEED,
    SIDE,
    Number,
    data_dir_option,
    example,
    json_option,
    log_option,
    stack,
)

if TYPE_CHECKING:
    import torch

    from ..protocols.validation_score import ValidationScore
    from ..ranks import Team
    from ..training.log import Row
    from ..training.loop import RunOptions
    from ..training.schedule import Measurement
    from ..training.start import Start
    from ..training.trainer import BaseTrainer

_BUILT_STARTS = {"random": "", "kmeans": "kmeans"}
_PRINT_EVERY_S = 30.0
_GRID = (8, 16)

_recipe_options = stack(
    click.option(
        "--recipe", type=click.Choice(list(RECIPES)), default="paper", show_default=True, help="Starting point."
    ),
    click.option(
        "--width", type=Number(int, 1, 1_024), help="Channels of the first layer; the others follow [default: preset]."
    ),
    click.option("--images", "total_images", type=COUNT, help="Images to see, D's and G's together [default: recipe]."),
    click.option(
        "--decay-images",
        type=Number(int, 0, 10**12),
        help="Decay the learning rate over the last N images [default: recipe].",
    ),
    click.option(
        "--batch-size", type=Number(int, 1, 10**6), help="Images of a minibatch, over all processes [default: recipe]."
    ),
    click.option("--learning-rate", type=Number(float, 0, 100, above=True), help="Adam's step size [default: recipe]."),
    click.option("--weight-decay", type=Number(float, 0, 100), help="L2 penalty [default: recipe]."),
    click.option("--flip", is_flag=True, help="Mirror half of the real images (not in the recipe)."),
    click.option("--shift", type=Number(int, 0, 4_096), help="Move real images by up to N pixels (not in the recipe)."),
    click.option(
        "--rotation", type=Number(float, 0, 1e6), help="Weight of a loss that tells quarter turns (not in the recipe)."
    ),
    click.option("--view-size", type=SIDE, help="Side of contrastive views, pixels [default: recipe]."),
    click.option(
        "--view-area", type=(FRACTION, FRACTION), help="Smallest and largest share of the image in a contrastive view."
    ),
    click.option(
        "--decoupled/--coupled", default=None, help="Contrastive loss without the partner in its denominator."
    ),
    click.option(
        "--warmup-images", type=Number(int, 0, 10**12), help="Raise the learning rate from 0 over the first N images."
    ),
    click.option(
        "--temperature", type=Number(float, 0, 1e6, above=True), help="Of the contrastive loss [default: recipe]."
    ),
    click.option(
        "--start",
        metavar="random|kmeans|NAME|DIR|FILE",
        help="Networks to begin with: random, of K-means, bundled ones, a run's, or a file's [default: recipe].",
    ),
    click.option(
        "--held-out", type=Number(int, 0, 10**9), help="Images never trained on, for --neighbours [default: 0]."
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Root seed."),
    click.option("--compute", default="auto", show_default=True, metavar="auto|float32|bfloat16", help="Arithmetic."),
)
_run_options = stack(
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to train."),
    click.option("--compile", "compiled", is_flag=True, help="Compile the networks with torch.compile."),
    click.option("--sync-batch-norm", is_flag=True, help="Under torchrun: normalise over all processes."),
    click.option("--max-minutes", type=MINUTES, help="Stop cleanly after this time."),
    click.option(
        "--checkpoint-minutes", type=MINUTES, default=5.0, show_default=True, help="Time between checkpoints."
    ),
    click.option(
        "--part-mb", type=Number(int, 1, 10**6), help="Cut checkpoints into files of this size [default: one]."
    ),
    log_option,
    click.option("--resume", is_flag=True, help="Continue the run in --out."),
    click.option("--allow-changes", is_flag=True, help="Continue although the configuration has changed."),
    click.option("--probe", metavar="digits|cifar10-small", help="Measure features on validation rows as it goes."),
    click.option("--probe-every", type=COUNT, default=250_000, show_default=True, help="Images between."),
    click.option("--samples-every", type=COUNT, default=250_000, show_default=True, help="Images between."),
    click.option("--neighbours", is_flag=True, help="Log the distance from held-out images to the nearest samples."),
    click.option("--dry-run", is_flag=True, help="Print configuration, size and expected time, and stop."),
    data_dir_option,
    json_option,
)


def _data_option(**settings: Any) -> Callable[..., Any]:
    """Return the option that names the images."""
    what = "Images: a data set, or a pack, folder, .npz or Parquet of your own."
    return click.option("--data", "data_name", metavar="NAME|PATH", help=what, show_default=True, **settings)


def _out_option(default: str | None) -> Callable[..., Any]:
    """Return the option that names the run's folder."""
    kind = click.Path(path_type=Path, file_okay=False)
    what = "Folder of the run: checkpoints, log, samples, networks" + ("." if default else " [default: runs/PRESET].")
    return click.option("-o", "--out", "folder", type=kind, default=default, show_default=bool(default), help=what)


@click.command(
    "train-imagenet",
    epilog=example("dcgan-eval train-imagenet --data imagenet32.h5 --out runs/imagenet32 --max-minutes 60"),
)
@_data_option(default="tiny-imagenet")
@_out_option("runs/imagenet32")
@_recipe_options
@_run_options
def train_imagenet(**options: Any) -> None:
    """Train the DCGAN on ImageNet images at 32x32; resumable, also under torchrun.

    The paper's recipe trains discriminator and generator against each other; the contrastive one trains a
    discriminator alone, for its features; contrad adds a generator that learns through it.
    """
    _train("imagenet32", **options)


@click.command("train", epilog=example("dcgan-eval train svhn32 --data svhn --probe digits --max-minutes 60"))
@click.argument("preset", metavar="|".join(PRESETS))
@_data_option(required=True)
@_out_option(None)
@_recipe_options
@_run_options
def train(preset: str, **options: Any) -> None:
    """Train a DCGAN of the family by the paper's recipe or another; resumable, also under torchrun."""
    _train(preset, **options)


@dataclass(frozen=True)
class _Plan:
    """What the options ask for, before any data are read."""

    config: TrainingConfig
    start: Start | None
    device: torch.device
    arithmetic: str
    run: RunOptions
    every: dict[str, int]


def _train(
    preset: str,
    *,
    data_name: str,
    data_dir: Path | None,
    folder: Path | None,
    compiled: bool,
    sync_batch_norm: bool,
    probe: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train, or say what it would cost."""
    import torch

    from ..ranks import joined

    plan, folder = _plan(preset, options), folder or Path("runs") / preset
    config = plan.config
    if not dry_run:
        _check_targets(folder)
    score = _validation_score(probe, data_dir, plan)
    images = _outline(data_name, data_dir, config) if dry_run else _images(data_name, data_dir, config)
    kind = partial(_trainer(config.objective), sync_batch_norm=sync_batch_norm, compiled=compiled, start=plan.start)
    with joined(plan.device) as team:
        moves = not dry_run or plan.device.type == "cuda"  # on a GPU Adam's memory is measured, too
        trainer = kind(config, images.images, str(plan.device), labels_N=images.labels, team=team, moves=moves)
        if dry_run:
            _report_dry_run(trainer, as_json)
            return
        measurements = _measurements(trainer, folder, score, plan.every)
        device_name = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "cpu"
        about = {"data": _describe(images), "device": device_name} | (plan.start.about if plan.start else {})
        if team.leads:
            err.print(plan.arithmetic, highlight=False)
        result = _run(trainer, folder, plan.run, measurements, about)
        if team.leads:
            _report(result, folder, as_json)


def _trainer(objective: str) -> type[BaseTrainer]:
    """Return what trains by an objective."""
    from ..training.contrad import ContraDTrainer
    from ..training.contrastive import ContrastiveTrainer
    from ..training.trainer import Trainer

    return {"adversarial": Trainer, "contrastive": ContrastiveTrainer, "contrad": ContraDTrainer}[objective]


def _plan(preset: str, options: dict[str, Any]) -> _Plan:
    """Resolve the options; every mistake in them is told here."""
    from ..devices import arithmetic, resolve_device
    from ..training.start import load_start

    recipe, start = options.pop("recipe"), options.pop("start")
    device = resolve_device(options.pop("device"))
    compute, sentence = arithmetic(options.pop("compute"), device)
    run, wanted, every = _split(options)
    is_built = start is None or start in _BUILT_STARTS
    pair = None if is_built else load_start(start, get_preset(preset, wanted["width"] or 0))
    named = pair.sha256 if pair else _BUILT_STARTS.get(start)
    config = RECIPES[recipe](preset, compute=compute, start=named, **wanted)
    if config.objective == "contrastive" and "neighbours_every" in every:
        raise TrainingError(
            "Without a generator there are no samples to be near to",
            got=f"--neighbours with --recipe {recipe}",
            remedy="leave out --neighbours, or choose --recipe paper",
        )
    return _Plan(config, pair, device, sentence, run, every)


def _validation_score(probe: str | None, data_dir: Path | None, plan: _Plan) -> ValidationScore | None:
    """Return what measures the discriminator on the way, having seen that it can."""
    if probe is None:
        return None
    from ..protocols.validation_score import ValidationScore  # scikit-learn with it, which nothing else here needs

    score = ValidationScore(probe, data_dir, compute=plan.config.compute, device=str(plan.device))
    score.check(plan.config.architecture)
    return score


def _check_targets(folder: Path) -> None:
    """Raise unless the pictures can be written that come at the end, or in between."""
    for name in ("curves.png", "samples/0.png"):
        check_target(folder / name, "--out", TrainingError)


def _images(data_name: str, data_dir: Path | None, config: TrainingConfig) -> ImageSet:
    """Load the images, shrunk as ``data pack`` does where they are larger than the preset's."""
    from ..data.resize import shrink_all

    images = load_data(data_name, "train", data_dir)
    size, (height, width, channels) = config.architecture.image_size, images.image_shape
    if channels != config.architecture.image_channels or min(height, width) < size or height == width == size:
        return images  # what does not fit is refused with all else that does not
    with progress_view() as progress:
        return replace(images, images=shrink_all(images.images, size, progress))


def _outline(data_name: str, data_dir: Path | None, config: TrainingConfig) -> ImageSet:
    """Stand in for images whose number is known without reading them: all of the official set, black, in no memory."""
    if data_name not in DATASETS or find(data_name, data_dir, "train") is None:
        return _images(data_name, data_dir, config)
    shape = (next(iter(dataset_info(data_name).counts.values())), *config.architecture.image_shape)
    black = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape, (0,) * len(shape))
    return ImageSet(black, np.zeros(shape[0], np.int64), name=data_name)


def _split(options: dict[str, Any]) -> tuple[RunOptions, dict[str, Any], dict[str, int]]:
    """Divide the options into those of the run, of the recipe, and the intervals of measurements."""
    from ..training.loop import RunOptions

    names = ("resume", "allow_changes", "max_minutes", "checkpoint_minutes", "log")
    if options["log"] is not None:
        check_tracker(options["log"])
    part_mb = options.pop("part_mb")
    run = RunOptions(**{name: options.pop(name) for name in names}, part_bytes=part_mb and part_mb << 20)
    every = {name: options.pop(name) for name in ("probe_every", "samples_every")}
    neighbours = options.pop("neighbours")
    options["view_min_area"], options["view_max_area"] = options.pop("view_area") or (None, None)
    if neighbours and not options["held_out"]:
        options["held_out"] = 1_000
    return run, options, every | ({"neighbours_every": every["samples_every"]} if neighbours else {})


def _describe(images: ImageSet) -> dict[str, Any]:
    """Describe the training images for the card."""
    return {"name": images.name, "num_images": images.num_images, "fingerprint": images.without_labels().fingerprint}


def _measurements(
    trainer: BaseTrainer, folder: Path, score: ValidationScore | None, every: dict[str, int]
) -> list[Measurement]:
    """Return what is measured on the way: of the generator, if one is trained, and of the discriminator."""
    from ..models.dcgan import draw_samples
    from ..report.figures import write_image_grid
    from ..training.neighbours import neighbour_score
    from ..training.schedule import Measurement

    def grid(trainer: BaseTrainer) -> Row:
        G = trainer.networks()[1]
        assert G is not None, "only pairs are asked for samples"
        images = draw_samples(G, _GRID[0] * _GRID[1], columns=_GRID[1])
        write_image_grid(images, _GRID[1], folder / "samples" / f"{trainer.seen_images:012d}.png")
        return {}

    measurements = []
    if "G" in trainer.parts:
        measurements.append(Measurement("samples", every["samples_every"], grid))
        if "neighbours_every" in every:
            measurements.append(
                Measurement("neighbours", every["neighbours_every"], lambda _: neighbour_score(trainer))
            )
    if score:
        measurements.append(Measurement("probe", every["probe_every"], lambda trainer: score(trainer.networks()[0])))
    return measurements


def _run(
    trainer: BaseTrainer, folder: Path, options: RunOptions, measurements: list[Measurement], about: dict[str, Any]
) -> dict[str, Any]:
    """Train with a progress bar that counts images, and print the losses now and then."""
    from ..training import loop

    printed = 0.0
    with progress_view() as progress:

        def on_log(row: Row) -> None:
            nonlocal printed
            progress("training", int(row["seen_images"]), trainer.config.total_images)
            if time.monotonic() - printed > _PRINT_EVERY_S:
                printed = time.monotonic()
                err.print(_log_line(row), highlight=False)

        def on_event(text: str) -> None:
            err.print(text, highlight=False)

        return loop.train(
            trainer,
            folder,
            options,
            measurements=measurements,
            about=about,
            on_log=on_log,
            on_event=on_event,
            on_progress=progress,
        )


_LOG_LABELS = {
    "d_loss": "D",
    "g_loss": "G",
    "d_real": "D(x)",
    "d_fake": "D(G(z))",
    "rotation_accuracy": "turns",
    "contrastive_loss": "loss",
    "apart_loss": "apart",
    "partner_accuracy": "partners found",
}


def _log_line(row: Row) -> str:
    """Show a row of the log."""
    shown = [f"{label} {row[key]:.3f}" for key, label in _LOG_LABELS.items() if key in row]
    return "  ".join([f"{int(row['seen_images']):>12,} images", *shown])


def _report(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Say how far the run is and where everything is; draw its curves."""
    from ..report.figures import training_figure
    from ..training.log import read_table

    tables = {name: read_table(folder / f"{name}.csv") for name in ("log", "probe")}
    if tables["log"]:
        result["figure"] = str(training_figure(tables["log"], tables["probe"], folder / "curves.png"))
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    seen, speed = f"{result['seen_images']:,} images seen", f"{result['images_per_s']:,.0f} images/s"
    out.print(f"{result['status']}: {seen}, {speed}", highlight=False)
    for key in ("discriminator", "generator", "figure"):
        if key in result:
            out.print(result[key], highlight=False)
    if result["status"] != "finished":
        out.print("Continue with the same command and --resume.", highlight=False)


def _report_dry_run(trainer: BaseTrainer, as_json: bool) -> None:
    """Print what a run would be and cost."""
    from ..training.estimate import estimate

    config: TrainingConfig = trainer.config
    cost = estimate(trainer)
    if as_json:
        facts = {"config": config.in_use(), "departures": config.departures(), "device": str(trainer.device), **cost}
        click.echo(json.dumps(facts, indent=1))
        return
    for name, value in config.in_use().items():
        mark = "  (departs from the paper's recipe)" if name in config.departures() else ""
        out.print(f"{name:>16}  {value}{mark}", highlight=False)
    out.print(f"\n{_cost_text(cost, trainer.team)}", highlight=False)


def _cost_text(cost: dict[str, Any], team: Team) -> str:
    """Say what a run costs."""
    D, G = (cost["parameters"][name] / 1e6 for name in "DG")
    lines = [
        f"parameters       D {D:.2f} million, G {G:.2f} million",
        f"arithmetic       {cost['flops_per_image'] / 1e9:.2f} GFLOP per image",
        f"memory           {cost['state_bytes'] / 1e6:.0f} MB of state, {cost['data_bytes'] / 1e6:.0f} MB of images",
        f"speed            {cost['images_per_s']:,.0f} images/s ({cost['flops_per_s'] / 1e12:.2f} TFLOP/s), "
        f"{team.size} process{'es' if team.size > 1 else ''}",
        f"expected time    {cost['expected_hours']:.1f} hours",
    ]
    return "\n".join(lines)
