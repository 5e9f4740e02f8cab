"""The terminal: results on standard output, progress and notices on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

out = Console()
err = Console(stderr=True)


class _Speed(ProgressColumn):
    """Images per second, for work that is counted in images."""

    def render(self, task: Task) -> Text:
        """Render the speed of a task."""
        speed = task.finished_speed or task.speed
        return Text(
            f"{speed:,.0f} images/s" if speed and task.fields.get("images") else "", style="progress.data.speed"
        )


class ProgressView:
    """Adapter from the library's progress calls (what, done, total) to bars; one bar per stage of work."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._tasks: dict[tuple[str, int], TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work is."""
        images = what.startswith(("features", "batch-norm", "training", "packing"))
        key = (what if images else "svm", total)
        if key not in self._tasks:
            # A continued run starts where it stopped, so that its speed counts new work only.
            self._tasks[key] = self._bars.add_task(what, total=total, completed=done, images=images)
        self._bars.update(self._tasks[key], completed=done, description=what)


@contextmanager
def progress_view() -> Iterator[ProgressView]:
    """Show progress bars on standard error while work goes on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err) as bars:
        yield ProgressView(bars)
