"""Listing, exporting and verifying records from the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dcgan_eval.records import load_record

FIXTURE = Path(__file__).parents[1] / "regression" / "records" / "schema-1-digits-pixels.json"


def test_list_and_export(run) -> None:  # type: ignore[no-untyped-def]
    assert "pixels" in run("list", FIXTURE.parent).output
    assert run("list", FIXTURE).stdout.split("\n")[0].rstrip() == "1 record"
    assert json.loads(run("list", FIXTURE, "--json").stdout)[0]["protocol"] == "digits_l2svm"
    assert run("export", FIXTURE.parent, "--out", "t.csv").exit_code == 0
    assert "digits_l2svm" in Path("t.csv").read_text()


def test_no_records(run) -> None:  # type: ignore[no-untyped-def]
    result = run("list")
    assert result.exit_code == 2
    assert "There are no records" in result.stderr


def test_what_is_no_record_in_a_folder_is_passed_over(run) -> None:  # type: ignore[no-untyped-def]
    Path("records").mkdir()
    Path("records/package.json").write_text('{"name": "left-pad", "version": "1.3.0"}')
    Path("records/cut.json").write_text("{")
    Path("records/deep.json").write_text("[" * 100_000)
    os.mkfifo("records/pipe.json")
    assert "There are no records" in run("list").stderr
    Path("records/r.json").write_bytes(FIXTURE.read_bytes())
    for words in (["list"], ["report"], ["export", "--out", "t.csv"], ["list", "--json"]):
        result = run(*words)
        assert result.exit_code == 0, result.output
        for name in ("package.json", "cut.json"):
            assert f"Passed over records/{name}" in result.stderr
    named = run("list", "records/package.json")
    assert named.exit_code == 2
    assert "no record" in named.stderr


@pytest.mark.parametrize("words", [("report",), ("export",), ("table", "svhn", "--format", "csv")], ids=lambda w: w[0])
def test_results_have_a_place_before_the_work(run, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    Path("records").mkdir()
    Path("records/r.json").write_bytes(FIXTURE.read_bytes())
    suffix = {"report": "html"}.get(words[0], "csv")
    Path("file").write_text("no folder")
    for target in (f"file/x.{suffix}", "records", f"r.{suffix}"):
        if target.startswith("r."):
            Path(target).write_bytes(b"\x89HDF\r\n\x1a\n a store")
        result = run(*words, "records/none.json", "--out", target)  # the record is missing, and comes second
        assert result.exit_code == 2
        assert "--out" in result.stderr
        assert "none.json" not in result.stderr
    assert Path(f"r.{suffix}").read_bytes().startswith(b"\x89HDF")


def test_a_page_that_cannot_be_written_leaves_the_one_that_was_there(run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert run("report", FIXTURE, "--out", "page.html").exit_code == 0
    before = Path("page.html").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    result = run("report", FIXTURE, "--out", "page.html", "--title", "another")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert Path("page.html").read_bytes() == before


def test_an_altered_record_is_said_to_be(run) -> None:  # type: ignore[no-untyped-def]
    fine = json.loads(load_record(FIXTURE).to_json())
    Path("fine.json").write_text(json.dumps(fine))
    Path("altered.json").write_text(json.dumps({**fine, "notes": ["better than it was"]}))
    for words in (["list", "."], ["show", "altered.json"], ["show", "fine.json", "altered.json"], ["report", "."]):
        noted = run(*words).stderr
        assert "altered.json does not fit its digest" in noted
        assert "fine.json" not in noted
    assert json.loads(run("show", "altered.json", "--json").stdout)["digest"] == fine["digest"]  # nothing made to fit


def test_every_reading_command_prints_json(run) -> None:  # type: ignore[no-untyped-def]
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    digits, paper = results / "digits.json", results / "digits-paper.json"
    for words in (["list", digits], ["show", digits], ["show", digits, paper], ["compare", digits, paper]):
        assert json.loads(run(*words, "--json").stdout)
    assert json.loads(run("table", "cifar10", results / "cifar10.json", "--json").stdout)["rows"]
    assert len(json.loads(run("show", digits, paper, "--json").stdout)) == 2
    shown = run("show", digits, results / "cifar10.json").stdout
    assert "digits_l2svm v1" in shown
    assert "cifar10_l2svm_full v1" in shown


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"score": 0.99}, "score"),
        ({"C": 0.1}, "chosen C"),
        ({"weights_sha256": "0" * 64}, "weights"),
        ({"duality_gap": 1e-9}, "certificate"),
    ],
)
def test_verify_finds_what_was_changed(run, change: dict[str, object], name: str) -> None:  # type: ignore[no-untyped-def]
    Path("r.json").write_text(json.dumps({**json.loads(FIXTURE.read_text()), **change}))
    result = run("verify", "r.json", "--json")
    assert result.exit_code == 1
    assert name in [check["name"] for check in json.loads(result.stdout) if check["passed"] is False]


def test_a_record_whose_fingerprints_disagree_is_refused(run) -> None:  # type: ignore[no-untyped-def]
    Path("r.json").write_text(json.dumps({**json.loads(FIXTURE.read_text()), "dataset_fingerprint": "0" * 64}))
    result = run("verify", "r.json")
    assert result.exit_code == 2
    assert "damaged" in result.output


def test_verify_says_what_it_cannot_check(run) -> None:  # type: ignore[no-untyped-def]
    result = run("verify", FIXTURE.with_name("schema-1-cifar10-400.json"))
    assert result.exit_code == 3
    assert "not checked" in result.output  # there is no CIFAR-10 here


def test_a_record_cannot_name_code_to_run(run) -> None:  # type: ignore[no-untyped-def]
    Path("trap.py").write_text("from pathlib import Path\nPath('sprung').touch()\ndef factory(): ...\n")
    values = json.loads(FIXTURE.read_text())
    Path("r.json").write_text(json.dumps({**values, "features": {**values["features"], "name": "trap:factory"}}))
    result = run("verify", "r.json", "--json")
    assert result.exit_code == 3
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
