"""``dcgan-eval completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .options import example

_SHELLS = ("bash", "zsh", "fish")


@click.command(epilog=example('eval "$(dcgan-eval completion bash)"'))
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    complete = get_completion_class(shell)
    assert complete is not None, "the choices are the shells that click knows"
    click.echo(complete(ctx.find_root().command, {}, "dcgan-eval", "_DCGAN_EVAL_COMPLETE").source())
