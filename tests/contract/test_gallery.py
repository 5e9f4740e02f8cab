"""The gallery shows what its findings are about, and names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dcgan_eval.files import sha256_of
from dcgan_eval.insight.finding import load_finding

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text()
FINDINGS = sorted(path for path in (ROOT / "docs" / "gallery").glob("*.json") if path.name != "boxes.json")


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.stem)
def test_pictures_are_those_of_the_findings(path: Path) -> None:
    finding = load_finding(path)  # its digest is checked
    assert finding.pictures
    for shown in finding.pictures:
        assert sha256_of(path.with_name(shown.file)) == shown.sha256
        assert f"](gallery/{shown.file})" in PAGE
    assert finding.command in PAGE


def test_every_picture_is_there_and_has_words() -> None:
    shown = re.findall(r"!\[(.*?)\]\((.*?)\)", PAGE)
    assert {name for _, name in shown} == {f"gallery/{path.name}" for path in (ROOT / "docs/gallery").glob("*.png")}
    assert all(len(words.split()) >= 5 for words, _ in shown)


def test_every_experiment_names_its_tests() -> None:
    sections = PAGE.split("\n## ")[1:]
    for section in sections:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)
        assert named, section.splitlines()[0]
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text()
        assert "Planted: " in section
        assert "dcgan-eval " in section
