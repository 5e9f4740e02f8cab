"""Findings on the page: numbers, pictures with their words, and nothing that a file could smuggle in."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from test_page import PATHS, RECORDS, Outline

from dcgan_eval.cli.main import main
from dcgan_eval.errors import RecordError
from dcgan_eval.insight.finding import Finding, load_finding
from dcgan_eval.report.findings import shown_finding
from dcgan_eval.report.page import build_page

MEASURED = {
    "sharpness_pixels": 2.345678,
    "step_pixels": {"median": 0.5, "largest": 1.25},
    "ci95": [0.125, 0.25],
    "dropped": list(range(40)),
    "copied": False,
}


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """Write a finding with a PNG and a GIF beside it."""
    for name in ("walk.png", "walk.gif"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9), dtype=np.uint8)).save(tmp_path / name)
    words = {
        tmp_path / "walk.png": ('rows of "images"', "A caption <b>"),
        tmp_path / "walk.gif": ("one walk", "It moves"),
    }
    finding = Finding(
        "walk", "sharpness_pixels", MEASURED, {"rows": 4}, 7, {"generator": "ab" * 32}, notes=["<script>"]
    )
    finding.write(tmp_path / "walk.json", words)
    return tmp_path / "walk.json"


def report(*arguments: object) -> Result:
    """Make a page beside the first argument."""
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_page_shows_numbers_and_pictures(walk: Path) -> None:
    out = walk.with_name("page.html")
    result = report(walk, "--out", out)
    assert result.exit_code == 0, result.output
    text = out.read_text()
    outline = Outline(text)
    pictures = {attributes["alt"]: attributes["src"] for tag, attributes in outline.attributes if tag == "img"}
    for alt, name, kind in (('rows of "images"', "walk.png", "png"), ("one walk", "walk.gif", "gif")):
        content = base64.b64encode(walk.with_name(name).read_bytes()).decode()
        assert pictures[alt] == f"data:image/{kind};base64,{content}"
    for words in (
        "walk: sharpness pixels 2.346",
        "A caption &lt;b&gt;",
        ">step pixels: largest</th><td>1.25<",
        ">ci95</th><td>0.125, 0.25<",
        ">dropped</th><td>40 entries",
        ">rows</th><td>4<",
        "ab" * 32,
        "Note: &lt;script&gt;",
    ):
        assert words in text, words
    assert "<script" not in text
    for absent in ('id="results"', 'id="records"', "Accuracies of features"):
        assert absent not in text
    ids = [attributes["id"] for _, attributes in outline.attributes if "id" in attributes]
    links = [str(attributes["href"]) for tag, attributes in outline.attributes if tag == "a"]
    assert all(link[1:] in ids for link in links if link.startswith("#"))


def test_findings_stand_beside_records(walk: Path) -> None:
    shutil.copy(PATHS[-1], walk.with_name("digits.json"))
    walk.with_name("other.json").write_text("[]")
    result = report(walk.parent, "--out", walk.with_name("page.html"))
    assert result.exit_code == 0, result.output
    assert "1 record, 1 finding," in result.stderr
    assert "Passed over" in result.stderr  # what is neither
    assert "walk.json" not in result.stderr
    text = walk.with_name("page.html").read_text()
    assert f"{100 * RECORDS[-1][1].score:.2f}" in text
    assert "from 1 record and 1 finding." in text


def test_pictures_are_those_that_were_drawn_and_lie_beside_the_finding(walk: Path) -> None:
    deeper = walk.parent / "deeper" / walk.name
    deeper.parent.mkdir()
    elsewhere = replace(load_finding(walk).pictures[0], file="../walk.png")
    with pytest.raises(RecordError, match="cannot be read"):
        shown_finding(deeper, replace(load_finding(walk), pictures=[elsewhere]))
    walk.with_name("walk.gif").write_bytes(b"another")
    result = report(walk, "--out", walk.with_name("page.html"))
    assert result.exit_code == 2
    assert "is not the one" in " ".join(result.stderr.split())
    walk.with_name("walk.gif").unlink()
    assert "cannot be read" in report(walk, "--out", walk.with_name("page.html")).stderr


def test_a_finding_that_was_changed_is_refused(walk: Path) -> None:
    walk.write_text(walk.read_text().replace("2.345678", "1.345678"))
    result = report(walk, "--out", walk.with_name("page.html"))
    assert result.exit_code == 2
    assert "was changed" in " ".join(result.stderr.split())
    assert not walk.with_name("page.html").exists()


def test_nothing_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="needs records"):
        build_page([], [])
    assert "There are no records" in report(tmp_path, "--out", tmp_path / "page.html").stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("experiment", "measured", "settings", "pictures", "notes") for value in (None, 3)),
        ("command", ["a"]),
        ("notes", [3]),
        ("pictures", [{"file": "walk.png"}]),
        ("pictures", [{"file": 3, "sha256": "", "alt": "", "caption": ""}]),
        ("number", "nothing measured"),
        ("measured", {"sharpness_pixels": float("nan")}),
    ],
)
def test_any_value_in_any_place_is_a_sentence(walk: Path, name: str, value: object) -> None:
    """The digest fits, so that only the form is wrong; NaN has none."""
    values = json.loads(walk.read_text()) | {name: value}
    del values["digest"]
    values["digest"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    walk.write_text(json.dumps(values))
    result = report(walk, "--out", walk.with_name("page.html"))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: The f")
    walk.write_text("[" * 100_000)
    assert report(walk, "--out", walk.with_name("page.html")).exit_code == 2
