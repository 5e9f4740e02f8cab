"""The command line's entry: commands loaded when they are called, errors as sentences."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from .. import __version__
from ..errors import DcganEvalError
from .options import example

# Command -> module that defines it, under the same name (dashes become underscores) or the one given; loaded if called.
_COMMANDS = {
    "ablate": "dcgan_eval.cli.ablate",
    "baseline": "dcgan_eval.cli.baseline",
    "compare": "dcgan_eval.cli.compare",
    "completion": "dcgan_eval.cli.completion",
    "data": "dcgan_eval.cli.data",
    "export": "dcgan_eval.cli.records",
    "features": "dcgan_eval.cli.features",
    "list": "dcgan_eval.cli.records:list_records",
    "probe": "dcgan_eval.cli.probe",
    "quickstart": "dcgan_eval.cli.quickstart",
    "regress": "dcgan_eval.cli.regress",
    "report": "dcgan_eval.cli.report",
    "samples": "dcgan_eval.cli.samples",
    "show": "dcgan_eval.cli.show",
    "svm": "dcgan_eval.cli.svm",
    "table": "dcgan_eval.cli.table",
    "train": "dcgan_eval.cli.train",
    "train-imagenet": "dcgan_eval.cli.train",
    "verify": "dcgan_eval.cli.records",
    "walk": "dcgan_eval.cli.insight",
    "weights": "dcgan_eval.cli.weights",
}


class _Commands(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        return getattr(importlib.import_module(module), attribute or cmd_name.replace("-", "_"))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print a user's mistake as one sentence with its remedy, exit code 2."""
        try:
            return super().invoke(ctx)
        except DcganEvalError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted. What is complete is kept; the same command continues.", err=True)
            ctx.exit(130)


@click.command(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=example("dcgan-eval quickstart")
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="dcgan-eval")
def main(debug: bool) -> None:
    """Measure how good an unsupervised image representation is: features, certified L2-SVMs, records."""


if __name__ == "__main__":
    sys.exit(main())
