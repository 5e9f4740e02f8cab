"""A name that holds every danger at once, in every format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console

from dcgan_eval.cli.console import Screen
from dcgan_eval.protocols.regress import Measure
from dcgan_eval.records import Record, load_record
from dcgan_eval.report import gate
from dcgan_eval.report.escaping import csv_cell, latex_cell, markdown_cell, printable
from dcgan_eval.report.export import export_records
from dcgan_eval.report.page import build_page
from dcgan_eval.report.paper_numbers import TABLES
from dcgan_eval.report.paper_tables import rich_tables, table_rows, to_csv, to_json, to_latex, to_markdown
from dcgan_eval.report.tables import class_table, comparison_table, markdown_results, result_panel

ROOT = Path(__file__).parents[3]
NASTY = "=1+1[b][/b]\x1b[31m\r\x9b\u202e\udcff|`<script>&%$#_{}~^\\input{x}\"'\n-end"
SEEN = "=1+1[b][/b]\\x1b[31m\\r\\x9b\\u202e\\udcff|`<script>&%$#_{}~^\\input{x}\"'\\n-end"  # what a reader should see


@pytest.fixture
def nasty() -> Record:
    record = load_record(ROOT / "benchmarks" / "results" / "cifar10-pixels.json")
    names = [f"{name}{NASTY}" for name in record.class_names]
    features = {**record.features, "name": NASTY}
    made = {**record.made, "command": NASTY, "created": NASTY}
    return replace(record, features=features, class_names=names, notes=[NASTY], made=made)


def acts(text: str) -> bool:
    """Tell whether a terminal would do anything but show the text."""
    return re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text) is not None


def test_printable_shows_what_would_act() -> None:
    assert printable(NASTY) == SEEN
    assert printable("ä–é 日本 \n", keep="\n") == "ä–é 日本 \n"


def test_terminal(nasty: Record) -> None:
    screen = Screen(file=io.StringIO(), width=2_000)
    views = [result_panel(nasty, NASTY), comparison_table([nasty] * 2, NASTY), class_table([nasty] * 2)]
    views += rich_tables(TABLES["cifar10"], table_rows(TABLES["cifar10"], [(Path("r.json"), nasty)]))
    for view in views:
        screen.print(view)
    screen.print(NASTY, "\n".join(gate.lines([Measure(NASTY, NASTY, NASTY, NASTY, NASTY, False)], "smoke")))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert not acts(text)
    assert "".join(SEEN.split("\\n")[0]) in text
    assert "[b][/b]" in text


def test_markup_would_have_acted() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print("enc[b]")
    assert "[b]" not in console.file.getvalue()  # type: ignore[attr-defined]


def unlatex(text: str) -> str:
    """Read LaTeX's text back: every command that the escaping uses, nothing else may be left."""
    commands = {"textbackslash": "\\", "^": "^", "~": "~", "textless": "<", "textgreater": ">"}
    commands |= {"textbar": "|", "textquotedbl": '"'}
    escape = r"\\(text\w+|[\^~])\{\}|\\([{}$&#_%])"
    rest = re.sub(escape, "", text)
    assert not re.search(r"[\\{}$&#_%^~]", rest), rest
    return re.sub(escape, lambda m: commands[m[1]] if m[1] else m[2], text)


def test_latex(nasty: Record, tmp_path: Path) -> None:
    assert unlatex(latex_cell(NASTY)) == SEEN
    path = export_records([(Path("r.json"), nasty)], tmp_path / "t.tex")
    whole = to_latex(TABLES["cifar10"], table_rows(TABLES["cifar10"], [(Path("r.json"), nasty)]))
    for text in (path.read_text(encoding="utf-8"), whole):
        assert latex_cell(NASTY) in text
        assert "\\input{" not in text
        assert not acts(text)
    (row,) = [line for line in path.read_text(encoding="utf-8").splitlines() if "l2svm" in line]
    assert len(re.findall(r"(?<!\\)&", row)) == 5  # six cells
    assert row.endswith("\\\\")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
def test_latex_compiles(nasty: Record, tmp_path: Path) -> None:
    table = export_records([(Path("r.json"), nasty)], tmp_path / "t.tex").read_text(encoding="utf-8")
    source = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "d.tex").write_text(source + table + "\\end{document}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "d.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r="])
def test_no_cell_of_a_csv_is_a_formula(start: str) -> None:
    assert csv_cell(f"{start}1")[0] not in "=+-@\t\r"
    assert csv_cell(-1.5) == -1.5
    assert csv_cell("plain") == "plain"


def test_csv(nasty: Record, tmp_path: Path) -> None:
    path = export_records([(Path("r.json"), nasty)], tmp_path / "t.csv")
    texts = [path.read_text(encoding="utf-8")]
    texts.append(to_csv(TABLES["cifar10"], table_rows(TABLES["cifar10"], [(Path("r.json"), nasty)])))
    for text in texts:
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert any(SEEN in cell for cell in cells)
        for cell in cells:
            assert not acts(cell)
            assert not cell.startswith(("=", "+", "@")), cell
            assert not cell.startswith("-") or float(cell) <= 0
    assert pd.read_csv(path)["score"].item() == nasty.score


def test_markdown_and_json(nasty: Record) -> None:
    rows = table_rows(TABLES["cifar10"], [(Path("r.json"), nasty)])
    measures = [Measure(NASTY, NASTY, NASTY, NASTY, NASTY, False)]
    for text in (to_markdown(TABLES["cifar10"], rows), markdown_results([(Path("r.json"), nasty)])):
        (line,) = [line for line in text.splitlines() if "r.json" in line]
        assert markdown_cell(NASTY) in line
        assert not acts(line)
    summary = gate.markdown(measures, "smoke").splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", summary)) == 7  # six cells
    assert "<script>" not in re.sub(r"\\.", "", summary)
    assert any(NASTY in row["method"] for row in json.loads(to_json(TABLES["cifar10"], rows))["rows"])


def test_xml() -> None:
    text = gate.junit([Measure(NASTY, NASTY, NASTY, NASTY, NASTY, False)], "smoke")
    (case,) = ElementTree.fromstring(text).iter("testcase")
    assert case.get("name") == SEEN


def test_html(nasty: Record) -> None:
    text = build_page([(Path("r.json"), nasty)], title=NASTY)
    assert "<script" not in text
    assert not acts(text)
    assert "[b][/b]\\x1b[31m" in text
