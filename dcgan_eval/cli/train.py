"""``dcgan-eval train-imagenet``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

from ..data.catalog import load_data
from ..features.extract import ExtractOptions
from ..training.config import TrainingConfig
from ..training.loop import Trainer, train
from .console import err, out, progress_view
from .options import data_dir_option, example, json_option

_DEFAULTS = TrainingConfig()


@click.command(
    "train-imagenet",
    epilog=example("dcgan-eval train-imagenet --data tiny-imagenet --out runs/imagenet32 --max-minutes 60"),
)
@click.option(
    "--data",
    "data_name",
    default="tiny-imagenet",
    show_default=True,
    metavar="NAME|PATH",
    help="Images at 32x32: a data set, or a folder, .npz or Parquet of your own.",
)
@data_dir_option
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/imagenet32"),
    show_default=True,
    help="Folder of the run: checkpoints, log, networks.",
)
@click.option("--images", "total_images", default=_DEFAULTS.total_images, show_default=True, help="Images to see.")
@click.option("--decay-images", default=0, show_default=True, help="Decay the learning rate over the last N images.")
@click.option("--batch-size", default=_DEFAULTS.batch_size, show_default=True, help="Images per minibatch.")
@click.option("--learning-rate", default=_DEFAULTS.learning_rate, show_default=True, help="Adam's step size.")
@click.option("--flip", is_flag=True, help="Mirror half of the images (not in the paper's recipe).")
@click.option("--seed", default=0, show_default=True, help="Root seed.")
@click.option("--compute", default="auto", show_default=True, metavar="auto|float32|bfloat16", help="Arithmetic.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where to train.")
@click.option("--max-minutes", type=float, help="Stop cleanly after this time.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--dry-run", is_flag=True, help="Print the configuration and stop.")
@json_option
def train_imagenet(
    data_name: str,
    data_dir: Path | None,
    folder: Path,
    compute: str,
    device: str,
    max_minutes: float | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Train the DCGAN on ImageNet images at 32x32 by the paper's recipe."""
    options = ExtractOptions(compute=compute, device=device)
    config = TrainingConfig(preset="imagenet32", compute=options.compute_name, **recipe)
    if dry_run:
        click.echo(json.dumps({**config.as_dict(), "device": str(options.torch_device)}, indent=1))
        return
    trainer = Trainer(config, load_data(data_name, "train", data_dir).images, str(options.torch_device))
    result = _run(trainer, folder, resume=resume, max_minutes=max_minutes)
    result["device"] = torch.cuda.get_device_name() if options.torch_device.type == "cuda" else "cpu"
    _report(result, as_json)


def _run(trainer: Trainer, folder: Path, *, resume: bool, max_minutes: float | None) -> dict[str, Any]:
    """Train with a progress bar that counts images and shows the losses."""
    with progress_view() as progress:

        def on_log(row: dict[str, float]) -> None:
            progress("training", int(row["seen_images"]), trainer.config.total_images)
            if row["round"] % 200 == 0:
                err.print(
                    f"{int(row['seen_images']):>12,} images  D {row['d_loss']:.3f}  G {row['g_loss']:.3f}  "
                    f"D(x) {row['d_real']:.3f}  D(G(z)) {row['d_fake']:.3f}",
                    highlight=False,
                )

        return train(trainer, folder, resume=resume, max_minutes=max_minutes, on_log=on_log)


def _report(result: dict[str, Any], as_json: bool) -> None:
    """Say how far the run is and where the networks are."""
    summary = {key: value for key, value in result.items() if key != "log"}
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    out.print(f"{summary['status']}: {summary['seen_images']:,} images seen", highlight=False)
    out.print(f"{summary['discriminator']}\n{summary['generator']}", highlight=False)
    if summary["status"] != "finished":
        out.print("Continue with the same command and --resume.", highlight=False)
