"""Tables on terminals of any width: no character is lost, and no number is broken."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dcgan_eval.report.sheet import Sheet

ROWS = [
    ("cifar10-small-kmeans-published-c.json", "cifar10_small_l2svm_mean_loss", "60.60", "58.44–62.72"),
    ("cifar10-small-kmeans-published-d.json", "own data with a long title of several words", "100.00", "–"),
    ("x.json", "", "9.99", "9.00–10.00"),
]
SHEET = Sheet("Four columns", ("file", "protocol", "score %", "test images"), ROWS, ("score %", "test images"))


def render(width: int, sheet: Sheet = SHEET) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(sheet)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [*range(14, 120), 1_000])
def test_at_every_width_everything_is_there(width: int) -> None:
    lines = render(width)
    assert max(map(len, lines)) <= width
    text = "".join("".join(line.split()) for line in lines)
    for row in ROWS:
        for number in row[2:]:
            assert any(number in line for line in lines), (width, number)  # on one line
    if width < 45:  # a list: folded names read on from line to line
        for row in ROWS:
            assert "".join(row[0].split()) in text


def test_names_that_differ_at_their_end_differ_in_a_folded_table() -> None:
    lines = render(60)
    width = next(line for line in lines if "file" in line).index("protocol")
    file_column = "".join(line[:width].strip() for line in lines)
    assert "published-c.json" in file_column
    assert "published-d.json" in file_column
    assert "60.60" in next(line for line in lines if "cifar10-small" in line)  # and the numbers stand beside them


def test_what_fits_is_one_line_a_row() -> None:
    lines = render(200)
    assert len(lines) == 3 + len(ROWS)  # title, headings, rule
    assert [line.split()[0] for line in lines[3:]] == [row[0] for row in ROWS]
    assert (
        len(
            {line.rindex("0.60") + 4 for line in lines if "60.60" in line}
            | {line.rindex("0.00  ") + 4 for line in lines if "100.00" in line}
        )
        == 1
    )


def test_without_headings_there_is_no_rule() -> None:
    lines = render(40, Sheet("", ("", ""), [("a", "1"), ("b", "2")]))
    assert [line.rstrip() for line in lines] == ["a 1", "b 2"]  # rich pads before release 14
