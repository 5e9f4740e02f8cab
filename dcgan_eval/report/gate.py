"""The gate's outcome as JUnit XML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from xml.etree import ElementTree


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
    text = "–" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def junit(measures: Sequence[Outcome], suite: str) -> str:
    """Return JUnit XML, a test case for each measure."""
    failed = sum(not m.passed for m in measures)
    root = ElementTree.Element("testsuite", name=f"dcgan-eval {suite}", tests=str(len(measures)), failures=str(failed))
    for m in measures:
        case = ElementTree.SubElement(root, "testcase", classname=m.case, name=m.name)
        if not m.passed:
            ElementTree.SubElement(case, "failure", message=f"{short(m.value)}, baseline {short(m.expected)}, {m.band}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(measures: Sequence[Outcome], suite: str) -> str:
    """Return a Markdown table, failures first, for the summary of a CI run."""
    failed = [m for m in measures if not m.passed]
    head = f"### dcgan-eval {suite}: {f'{len(failed)} regressions' if failed else 'no regression'}\n"
    lines = [head, "| | run | number | found | baseline | band |", "|---|---|---|---:|---:|---|"]
    for m in sorted(measures, key=lambda m: m.passed):
        found, known = (short(v).replace("|", "\\|").replace("\n", " ") for v in (m.value, m.expected))
        lines.append(f"| {'ok' if m.passed else '**FAILS**'} | {m.case} | {m.name} | {found} | {known} | {m.band} |")
    return "\n".join(lines) + "\n"
