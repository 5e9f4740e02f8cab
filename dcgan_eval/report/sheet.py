"""Tables on a terminal that lose no character, however narrow it is."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_NARROWEST_TEXT = 12  # columns to which words may be folded before the table becomes a list


class Sheet:
    """Rows under headings; numbers are never folded, and where they do not fit, each row is shown as a list.

    Parameters
    ----------
    title : str
        Above the table; empty for none.
    headings : sequence of str
        Of the columns.
    rows : sequence of sequence of str
        Cells.
    numbers : sequence of str
        Headings of the columns that are set to the right and kept whole.
    """

    def __init__(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()):
        self.title, self.headings, self.numbers = title, headings, numbers
        self.rows = [[str(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table, else as a list."""
        widths = self._widths(options.max_width)
        if widths is None:
            yield from self._list(console)
        else:
            yield self._table(widths)

    def _widths(self, available: int) -> list[int] | None:
        """Return the width of each column, None where even the narrowest do not fit."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.headings))]
        widest = [max([_longest(c) for c in column] or [0]) for column in columns]
        word = [max(map(len, heading.split()), default=0) for heading in self.headings]
        natural, narrowest = [], []
        for heading, cells, longest_word in zip(self.headings, widest, word, strict=True):
            whole = max(cells, longest_word)
            natural.append(max(whole, len(heading)))
            narrowest.append(whole if heading in self.numbers else min(whole, max(_NARROWEST_TEXT, longest_word)))
        room = available - 2 * (len(self.headings) - 1)
        if sum(narrowest) > room:
            return None
        widths = natural
        while sum(widths) > room:  # fold the widest that may be folded, a character at a time; headings of numbers too
            i = max((i for i in range(len(widths)) if widths[i] > narrowest[i]), key=lambda i: widths[i])
            widths[i] -= 1
        return widths

    def _table(self, widths: Sequence[int]) -> Table:
        """Return the table with columns of fixed widths."""
        table = Table(
            title=self.title or None,
            title_justify="left",
            box=box.SIMPLE_HEAD if any(self.headings) else None,
            show_header=any(self.headings),
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for heading, width in zip(self.headings, widths, strict=True):
            right = heading in self.numbers
            table.add_column(heading, width=width, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def _list(self, console: Console) -> RenderResult:
        """Yield the rows as lines of "heading value"."""
        if self.title:
            yield console.render_str(self.title, style="italic")
        for row in self.rows:
            yield console.render_str(row[0], style="bold", overflow="fold")
            for heading, cell in zip(self.headings[1:], row[1:], strict=True):
                if cell:
                    yield console.render_str(f"  {heading} {cell}".rstrip(), overflow="fold")
        yield Text("")


def _longest(cell: str) -> int:
    """Return the length of a cell's longest line."""
    return max(map(len, cell.split("\n")))
