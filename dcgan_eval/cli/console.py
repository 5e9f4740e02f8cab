"""The terminal: results on standard output, progress and notices on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions

from ..report.escaping import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

_PIPE_WIDTH = 1_000_000  # characters: nothing is cut or wrapped on its way to another program


class Screen(Console):
    """A console that shows strings as they are: no markup, no emoji codes, control characters as escapes."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string; every string that is printed, in cells of tables too, comes through here."""
        return super().render_str(printable(text, keep="\n"), **options)

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """The terminal's size; without one, as wide as anything."""
        return super().size if self.is_terminal else ConsoleDimensions(_PIPE_WIDTH, 25)


out = Screen()
err = Screen(stderr=True)


class ProgressView:
    """Adapter from the library's progress calls (what, done, total) to bars; one bar per stage of work."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._tasks: dict[tuple[str, int], TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work is."""
        what = printable(what)
        images = what.startswith(("features", "batch-norm", "training", "packing"))
        key = (what if images else "svm", total)
        if key not in self._tasks:
            # A continued run starts where it stopped, so that its speed counts new work only.
            self._tasks[key] = self._bars.add_task(what, total=total, completed=done, images=images)
        self._bars.update(self._tasks[key], completed=done, description=what)


@contextmanager
def progress_view() -> Iterator[ProgressView]:
    """Show progress bars on standard error while work goes on."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """Images per second, for work that is counted in images."""

        def render(self, task: Task) -> Text:
            """Render the speed of a task."""
            speed = task.finished_speed or task.speed
            text = f"{speed:,.0f} images/s" if speed and task.fields.get("images") else ""
            return Text(text, style="progress.data.speed")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err) as bars:
        yield ProgressView(bars)
