"""The command line's entry: commands loaded when they are called, errors as sentences."""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import DcganEvalError
from ..memory import keep_freed_memory
from .options import example
from .streams import hushed, keep_encodable, warnings_as_notes

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Command -> module that defines it, under the same name (dashes become underscores) or the one given, and its help. The
# module is loaded when the command is called; that the help is the command's own is tested.
_CLI = "dcgan_eval.cli"
_COMMANDS = {
    "ablate": (
        f"{_CLI}.ablate",
        "Run a protocol on each layer alone, on all layers up to each, and on all but each; a record for every one.",
    ),
    "arithmetic": (
        f"{_CLI}.arithmetic",
        "Add and subtract concepts in z, each the mean of some samples, as the paper's smiling woman - woman + man.",
    ),
    "baseline": (f"{_CLI}.baseline", "Run a baseline through a protocol; each gives a record like any other."),
    "bench": (
        f"{_CLI}.bench",
        "Run every encoder on every data set: a record for each, one table with intervals and mean ranks.",
    ),
    "cache": (f"{_CLI}.cache", "Show what lies in the cache folder, or free some of it."),
    "compare": (
        f"{_CLI}.compare",
        "Compare two records on the same test images: paired bootstrap, McNemar's test, accuracies per class.",
    ),
    "completion": (f"{_CLI}.completion", "Print the completion script of a shell."),
    "curve": (
        f"{_CLI}.curve",
        "Run a protocol with more and more labels of each class; a record for each number, and a figure with bands.",
    ),
    "data": (f"{_CLI}.data", "Find data sets and check what is in them."),
    "describe": (
        f"{_CLI}.describe",
        "Describe features without a classifier: rank, decay of the spectrum, intrinsic dimension, uniformity.",
    ),
    "export": (
        f"{_CLI}.records",
        "Write records as one table: CSV and Parquet with every value, or LaTeX to print.",
    ),
    "features": (
        f"{_CLI}.features",
        "Cache the features of a data set in HDF5; interrupted, it continues where it stopped.",
    ),
    "forget": (
        f"{_CLI}.forget",
        "Find the maps of the generator that draw an object, from boxes around it, and draw the same z without them.",
    ),
    "guided": (
        f"{_CLI}.guided",
        "Show what in the images excites units of the discriminator's last layer, by guided backpropagation.",
    ),
    "list": (f"{_CLI}.records:list_records", "List records, one line each [default: those in records/]."),
    "neighbours": (
        f"{_CLI}.neighbours",
        "Show the training images nearest to samples, and test whether the samples are copies.",
    ),
    "probe": (
        f"{_CLI}.probe",
        "Run a protocol with another classifier than the L2-SVM; each gives a record under an id of its own.",
    ),
    "quickstart": (
        f"{_CLI}.quickstart",
        "Run the whole pipeline on scikit-learn's digits: no data, network or GPU needed.",
    ),
    "regress": (
        f"{_CLI}.regress",
        "Run a suite and compare each number with its baseline; exit code 1 when one has moved.",
    ),
    "report": (
        f"{_CLI}.report",
        "Make one HTML page of records, which needs nothing else and opens from disk.",
    ),
    "samples": (
        f"{_CLI}.samples",
        "Draw a grid of samples from a generator, with the statistics of their minibatch as the 2016 release does.",
    ),
    "score-digits": (
        f"{_CLI}.score_digits",
        "Classify real digits by the nearest generated one, as the paper's supplement does.",
    ),
    "score-samples": (
        f"{_CLI}.score_samples",
        "Measure how far a generator's samples are from real images: KID on the features of an encoder.",
    ),
    "show": (f"{_CLI}.show", "Show a record, or several beside each other."),
    "svm": (f"{_CLI}.svm", "Run a protocol end to end: features, choice of C, certified L2-SVM, record."),
    "table": (
        f"{_CLI}.table",
        "Set a published table beside our records [default: those in benchmarks/results, else in records].",
    ),
    "train": (
        f"{_CLI}.train",
        "Train a DCGAN of the family by the paper's recipe or another; resumable, also under torchrun.",
    ),
    "train-imagenet": (
        f"{_CLI}.train",
        "Train the DCGAN on ImageNet images at 32x32; resumable, also under torchrun.",
    ),
    "turn": (
        f"{_CLI}.arithmetic",
        "Add a turn vector, the mean of left less the mean of right, to random samples in steps from -1 to 1.",
    ),
    "verify": (
        f"{_CLI}.records",
        "Check a record against itself and the data and weights it names.",
    ),
    "walk": (
        f"{_CLI}.walk",
        "Walk between random z and measure how evenly the image changes: jumps suggest stored images.",
    ),
    "weights": (
        f"{_CLI}.weights",
        "Look at the bundled weights or at a weights file, or import released ones.",
    ),
}


_SHARED = ("baseline", "features", "probe", "svm", "train", "train-imagenet")  # under torchrun, by all processes


class _Commands(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        collecting = gc.isenabled()
        gc.disable()  # what is imported is kept: looking through it for garbage is a tenth of the time
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute or cmd_name.replace("-", "_"))
        finally:
            if collecting:
                gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was named, or name the closest three."""
        if args[0] not in _COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _COMMANDS, n=3, cutoff=0.4)
            raise click.UsageError(
                f"There is no command {args[0]!r}." + f" Did you mean {', '.join(close)}?" * bool(close), ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in sorted(_COMMANDS.items())])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=h) for n, (_, h) in sorted(_COMMANDS.items()) if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(self, args: Sequence[str] | None = None, *positional: Any, **extra: Any) -> Any:
        """Run a command; a user's mistake is one sentence with its remedy and exit code 2."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        debug = "--debug" in words[:end]
        words = [word for word in words[:end] if word != "--debug"] + words[end:]
        keep_encodable()
        keep_freed_memory()
        try:
            _refuse_empty(words)
            if not _is_needed(words):
                return None
            with hushed(), warnings_as_notes(), _interrupts_kept():
                return super().main(words, *positional, **extra)
        except DcganEvalError as error:
            if debug:
                raise
            sys.exit(2 if error.told else _say(self._sentence(error, words)))
        except OSError as error:  # a full disk or a folder that cannot be read or written, where nobody expected it
            if debug:
                raise
            sys.exit(_say(_unexpected(error)))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an interruption is no traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted. What is complete is kept; the same command continues.", err=True)
            ctx.exit(130)

    def _sentence(self, error: DcganEvalError, words: Sequence[str]) -> str:
        """Return an error's sentence, without a remedy that names options which the command does not have."""
        from ..report.escaping import printable

        command: click.Command = self
        for word in words:
            child = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
            command = child or command
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        # What stands in backticks is another command with options of its own.
        named = re.findall(r"(?<!\S)--[a-z][a-z-]*", re.sub(r"`[^`]*`", "", error.remedy or ""))
        if not set(named) <= known:
            error = DcganEvalError(error.what, got=error.got, expected=error.expected)
        return printable(str(error))


def _is_needed(words: Sequence[str]) -> bool:
    """Tell whether this process has something to do, of those that ``torchrun`` starts: most commands take one."""
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return True
    if words[:1] and words[0] in _SHARED and list(words[:2]) != ["baseline", "supervised"]:
        return True
    leads = os.environ["RANK"] == "0"
    if leads and words:
        name = " ".join(words[: 1 + (words[0] in _SHARED)])
        click.echo(f"Note: `{name}` runs in one process; the others have nothing to do.", err=True)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    return leads


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Make an interruption again that fell into a destructor, where Python prints and then forgets it."""
    before = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            return before(dropped)
        # sent to the thread, which wakes it where it waits; interrupt_main only marks it
        timer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _say(sentence: str) -> int:
    """Print an error's sentence; return the exit code."""
    click.echo(f"Error: {sentence}", err=True)
    return 2


def _unexpected(error: OSError) -> str:
    """Return the sentence for what the operating system refused."""
    from ..report.escaping import printable

    place = error.filename if error.filename2 is None else error.filename2
    what = error.strerror or str(error)
    refused = DcganEvalError(
        "A file or folder cannot be read or written",
        got=what if place is None else f"{what}: {os.fsdecode(place) if isinstance(place, (str, bytes)) else place}",
        remedy="free some space or choose another place, then run the same command again",
    )
    return printable(str(refused))


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse values that are empty: what a variable of the shell's becomes that is not set."""
    for before, word in zip(["", *words], words, strict=False):
        option = re.fullmatch(r"(--?[\w-]+)=\s*", word)
        if option or not word.strip():
            name = option[1] if option else before if before.startswith("-") else "an argument"
            raise DcganEvalError(
                f"The value of {name} is empty",
                expected="a value",
                remedy="check the shell's variable that should hold it, or leave the option out",
            )


@click.command(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=example("dcgan-eval quickstart")
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere.")
@click.version_option(__version__, prog_name="dcgan-eval")
def main(debug: bool) -> None:
    """Measure how good an unsupervised image representation is: features, certified L2-SVMs, records."""


if __name__ == "__main__":
    sys.exit(main())
