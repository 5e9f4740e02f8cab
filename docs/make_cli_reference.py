"""Write ``docs/cli.md`` from the commands' own help; with ``--check`` only compare.

python docs/make_cli_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from dcgan_eval.cli.main import main as dcgan_eval

PATH = Path(__file__).parent / "cli.md"
HEAD = "# Command line\n\nGenerated from `--help` by `docs/make_cli_reference.py`.\n"


def commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    """Yield (full name, help) of a command and of those below it."""
    wide = {"terminal_width": 100, "max_content_width": 100} | command.context_settings
    context = click.Context(command, parent=parent, info_name=name, **wide)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, "the group lists it"
            yield from commands(found, context, child)


def reference() -> str:
    """Return the whole document."""
    parts = [f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in commands(dcgan_eval, None, "dcgan-eval")]
    return HEAD + "".join(parts)


if __name__ == "__main__":
    PATH.write_text(reference())
