"""Listing, exporting and verifying records from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FIXTURE = Path(__file__).parents[1] / "regression" / "records" / "schema-1-digits-pixels.json"


def test_list_and_export(run) -> None:  # type: ignore[no-untyped-def]
    assert "pixels" in run("list", FIXTURE.parent).output
    assert json.loads(run("list", FIXTURE, "--json").stdout)[0]["protocol"] == "digits_l2svm"
    assert run("export", FIXTURE.parent, "--out", "t.csv").exit_code == 0
    assert "digits_l2svm" in Path("t.csv").read_text()


def test_no_records(run) -> None:  # type: ignore[no-untyped-def]
    result = run("list")
    assert result.exit_code == 2
    assert "There are no records" in result.stderr


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"score": 0.99}, "score"),
        ({"C": 0.1}, "chosen C"),
        ({"protocol_version": 9}, "protocol"),
        ({"weights_sha256": "0" * 64}, "weights"),
        ({"dataset_fingerprint": "0" * 64}, "data digest"),
        ({"duality_gap": 1e-9}, "certificate"),
    ],
)
def test_verify_finds_what_was_changed(run, change: dict[str, object], name: str) -> None:  # type: ignore[no-untyped-def]
    Path("r.json").write_text(json.dumps({**json.loads(FIXTURE.read_text()), **change}))
    result = run("verify", "r.json", "--json")
    assert result.exit_code == 1
    assert name in [check["name"] for check in json.loads(result.stdout) if check["passed"] is False]


def test_verify_says_what_it_cannot_check(run) -> None:  # type: ignore[no-untyped-def]
    result = run("verify", FIXTURE.with_name("schema-1-cifar10-400.json"))
    assert result.exit_code == 0
    assert "not checked" in result.output  # there is no CIFAR-10 here


def test_a_record_cannot_name_code_to_run(run) -> None:  # type: ignore[no-untyped-def]
    Path("trap.py").write_text("from pathlib import Path\nPath('sprung').touch()\ndef factory(): ...\n")
    values = json.loads(FIXTURE.read_text())
    Path("r.json").write_text(json.dumps({**values, "features": {**values["features"], "name": "trap:factory"}}))
    result = run("verify", "r.json", "--json")
    (weights,) = [check for check in json.loads(result.stdout) if check["name"] == "weights"]
    assert weights["passed"] is None
    assert "--encoder" in weights["detail"]
    assert not Path("sprung").exists()


def test_report(run) -> None:  # type: ignore[no-untyped-def]
    result = run("report", FIXTURE, "--out", "new/page.html", "--examples", FIXTURE)
    assert result.exit_code == 0, result.output
    text = Path("new/page.html").read_text()
    assert text.count("<img") == 5 * 7  # five test images with six neighbours each
    assert "Mistakes cannot be shown" in text
    empty = run("report", "none/")
    assert empty.exit_code == 2
    assert "cannot be read" in empty.stderr
