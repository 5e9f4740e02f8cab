"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..tracking import TRACKERS

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.ParamType):
    """A finite number within limits, so that what cannot work is refused before the work.

    Parameters
    ----------
    kind : type
        ``int`` or ``float``.
    low, high : float
        Smallest and largest value.
    above : bool
        ``low`` itself is refused.
    """

    def __init__(self, kind: type, low: float, high: float, *, above: bool = False):
        self.kind, self.low, self.high, self.above = kind, low, high, above
        self.name = {int: "integer", float: "float"}[kind]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it."""
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no {self.name}.", param, ctx)
        # NaN is on no side of anything.
        if not self.low <= number <= self.high or (self.above and number == self.low):
            limits = f"above {self.low:,}, at most" if self.above else f"{self.low:,} to"
            self.fail(f"{value} is out of range: {limits} {self.high:,}.", param, ctx)
        return number


COUNT = Number(int, 1, 10**12)
FRACTION = Number(float, 0, 1)
MINUTES = Number(float, 0, 1e6)
SEED = Number(int, 0, 2**63 - 1)
SIDE = Number(int, 1, 4_096)
TOLERANCE = Number(float, 0, 1, above=True)


def example(command: str) -> str:
    """Return the end of a command's help: how it is called."""
    return f"\b\nExample:\n  {command}"


def default_cache_dir() -> Path:
    """Return ``DCGAN_EVAL_CACHE``, or the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("DCGAN_EVAL_CACHE") or base / "dcgan-eval" / "features")


def offering(names: Callable[[click.Context], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    """Return what completes a word in the shell: names that begin like it, else files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, word = incomplete.rpartition(",")
        found = [CompletionItem(before + comma + name) for name in names(ctx) if name.startswith(word)]
        return found or [CompletionItem(incomplete, type="file")]

    return complete


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply decorators so that options are listed in the order given."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def to_option(name: str, **settings: Any) -> Callable[[F], F]:
    """Return the option that says where a command writes, handed on as ``name``."""
    return click.option("-o", "--out", name, type=click.Path(path_type=Path), **settings)


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder that holds the data sets [default: DCGAN_EVAL_DATA].",
)
download_option = click.option("--download", is_flag=True, help="Let torchvision fetch the data set if it is missing.")
cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Folder of the feature stores [default: DCGAN_EVAL_CACHE, else ~/.cache/dcgan-eval/features].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output and nothing else.")
store_dtype_option = click.option(
    "--store-dtype", default="float16", show_default=True, metavar="float16|float32", help="Type in the store."
)
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Where the encoder runs."
)
fit_device_option = click.option(
    "--svm-device",
    metavar="auto|cpu|cuda|cuda:N",
    help="Where classifiers are fitted; features that take more than half of a GPU's free memory are streamed to it "
    "[default: where --device says, else auto].",
)
making_options = stack(
    click.option(
        "--batch-norm",
        default="auto",
        show_default=True,
        metavar="auto|dataset|running",
        help="Batch-norm statistics: of the target's training images, as in the paper, or the checkpoint's; auto is "
        "dataset for DCGAN discriminators and running for others.",
    ),
    click.option(
        "--compute",
        default="auto",
        show_default=True,
        metavar="auto|float32|bfloat16",
        help="Arithmetic of the encoder; auto is bfloat16 for discriminators where the processor has it.",
    ),
    store_dtype_option,
    device_option,
    click.option(
        "--batch-size",
        type=Number(int, 1, 10**6),
        help="Images at once in the encoder [default: 32 on a CPU, else 256].",
    ),
)


def _decode_by(count: int | None) -> None:
    """Set the number of threads that decode images."""
    if count is not None:
        from ..data.decoding import set_num_threads

        set_num_threads(count)


place_options = stack(
    data_dir_option,
    download_option,
    cache_dir_option,
    click.option("--no-wait", is_flag=True, help="Stop where another process is writing the same features."),
    click.option(
        "--num-workers",
        type=Number(int, 1, 256),
        expose_value=False,
        callback=lambda context, option, count: _decode_by(count),
        help="Threads that decode images [default: as many as cores, 4 at most].",
    ),
    click.option(
        "--memory",
        "memory_gb",
        type=Number(float, 0.001, 1e6),
        metavar="GB",
        help="Largest matrix of features that is held in memory; others are streamed [default: half of the machine's].",
    ),
)
seed_option = click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Root seed of validation split and draws."
)
tol_option = click.option(
    "--tol", type=TOLERANCE, default=1e-4, show_default=True, help="Relative duality gap that every fit must certify."
)
unconverged_option = click.option(
    "--allow-unconverged", is_flag=True, help="Report fits without their certificate, marked as such."
)
record_option = click.option(
    "--record",
    type=click.Path(path_type=Path),
    help="Where the record goes [default: a new file under records/].",
)
log_option = click.option(
    "--log",
    type=click.Choice(list(TRACKERS)),
    help="Show scores and curves to a tracker too, which must be installed.",
)
draws_options = stack(
    click.option("--per-class", type=COUNT, help="Labels per class of a draw, instead of the protocol's."),
    click.option(
        "--draws",
        "num_draws",
        type=Number(int, 1, 10_000),
        help="Fresh draws on the test set, instead of the protocol's.",
    ),
)
near_option = click.option(
    "--near-duplicates", is_flag=True, help="Count test images that look like a training image too (needs ImageHash)."
)
given_option = click.option(
    "--features",
    "given",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="TRAIN TEST",
    help="Features made elsewhere: .npz, .parquet, .h5 or our own stores.",
)
own_data_options = stack(
    click.option("--train-split", metavar="NAME", help="Split of own data to train on [default: train]."),
    click.option("--test-split", metavar="NAME", help="Split of own data to test on [default: test, else val]."),
    click.option("--label-column", metavar="NAME", help="Column of the labels, where own data have several."),
)
probe_options = stack(place_options, own_data_options, seed_option, record_option, log_option, json_option)
run_options = stack(
    place_options,
    own_data_options,
    draws_options,
    near_option,
    seed_option,
    tol_option,
    click.option(
        "--solver",
        type=click.Choice(("auto", "primal", "gram")),
        default="auto",
        show_default=True,
        help="Through the weights or the Gram matrix; auto chooses by shape, dtype, memory and device.",
    ),
    click.option("--explain", is_flag=True, help="Say which solver ran, why, and what it took."),
    unconverged_option,
    fit_device_option,
    record_option,
    log_option,
    json_option,
)
