"""The gate's outcome as JUnit XML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from xml.etree import ElementTree

from ..errors import counted
from .escaping import markdown_cell, printable


class Outcome(Protocol):
    """What is shown of a measure: see :class:`dcgan_eval.protocols.regress.Measure`."""

    @property
    def case(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> Any: ...
    @property
    def expected(self) -> Any: ...
    @property
    def band(self) -> str: ...
    @property
    def passed(self) -> bool: ...


def short(value: Any) -> str:
    """Return a value in few characters: scores with four digits, hashes with twelve."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "–" if value is None else printable(str(value))
    return text[:12] if len(text) == 64 else text


def junit(measures: Sequence[Outcome], suite: str) -> str:
    """Return JUnit XML, a test case for each measure."""
    failed = sum(not m.passed for m in measures)
    root = ElementTree.Element("testsuite", name=f"dcgan-eval {suite}", tests=str(len(measures)), failures=str(failed))
    for m in measures:
        case = ElementTree.SubElement(root, "testcase", classname=printable(m.case), name=printable(m.name))
        if not m.passed:
            message = printable(f"{short(m.value)}, baseline {short(m.expected)}, {m.band}")
            ElementTree.SubElement(case, "failure", message=message)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def lines(measures: Sequence[Outcome], suite: str) -> list[str]:
    """Return a heading, a line for each number that has moved, and how many have not."""
    failed = [m for m in measures if not m.passed]
    cases = len({m.case for m in measures})
    moved = [
        f"FAILS  {m.case}: {m.name} {short(m.value)}, baseline {short(m.expected)}" + f", {m.band}" * bool(m.band)
        for m in failed
    ]
    return [
        _heading(failed, suite),
        *moved,
        f"ok     {counted(len(measures) - len(failed), 'numbers')} of {counted(cases, 'runs')}",
    ]


def _heading(failed: Sequence[Outcome], suite: str) -> str:
    """Say how many numbers have moved."""
    return f"{suite}: {counted(len(failed), 'regressions') if failed else 'no regression'}"


def markdown(measures: Sequence[Outcome], suite: str) -> str:
    """Return a Markdown table, failures first, for the summary of a CI run."""
    failed = [m for m in measures if not m.passed]
    head = f"### dcgan-eval {_heading(failed, suite)}\n"
    table = [head, "| | run | number | found | baseline | band |", "|---|---|---|---:|---:|---|"]
    for m in sorted(measures, key=lambda m: m.passed):
        cells = (markdown_cell(text) for text in (m.case, m.name, short(m.value), short(m.expected), m.band))
        table.append(f"| {'ok' if m.passed else '**FAILS**'} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"
