"""Errors, seeds, provenance and records."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dcgan_eval import provenance
from dcgan_eval.errors import DataError, DcganEvalError, RecordError, unknown_name
from dcgan_eval.records import Record, load_record
from dcgan_eval.seeding import derive, rng, torch_generator


@pytest.fixture
def record() -> Record:
    return Record(
        protocol="toy",
        protocol_version=1,
        metric="accuracy",
        score=0.5,
        spread=None,
        ci95=[0.4, 0.6],
        num_draws=1,
        C=1e-3,
        status="converged",
        duality_gap=1e-6,
        num_features=3,
        seed=0,
        features={"name": "pixels"},
        weights_sha256=None,
        dataset_fingerprint="f",
        data={"train": {"num_images": 4}, "test": {"num_images": 2}},
        selection=[{"C": 1e-3, "score": 0.5, "scores": [0.5], "duality_gap": 1e-6}],
        draws=[{"score": 0.5}],
        confusion=[[1, 0], [1, 0]],
        class_names=["a", "b"],
        paper=None,
        time_s=1.0,
        timings_s={},
        peak_memory_bytes=1,
        environment={},
        command="dcgan-eval svm toy",
        created="2026-01-01T00:00:00+00:00",
    )


def test_an_error_says_what_got_expected_and_remedy() -> None:
    error = DataError("The set is empty", got="0 images", expected="1", remedy="add images")
    assert str(error) == "The set is empty. Got: 0 images. Expected: 1. Remedy: add images."
    assert isinstance(error, DcganEvalError)


def test_an_unknown_name_offers_the_closest_or_all() -> None:
    assert "did you mean conv4" in str(unknown_name("layer", "conv44", ["conv4", "linear"], DataError))
    assert "choose one of a, b" in str(unknown_name("layer", "zzzz", ["b", "a"], DataError))


def test_streams_are_pinned_and_independent() -> None:
    # written down once: a change here would change every published split
    assert derive(0, "svhn", draw=17) == 4593865840923120393
    assert len({derive(0, "a"), derive(0, "b"), derive(1, "a"), derive(0, "a", draw=0), derive(0, "a", draw=1)}) == 5
    assert rng(0, "a").integers(1 << 30) == rng(0, "a").integers(1 << 30)
    assert torch_generator(0, "a").initial_seed() == derive(0, "a")


def test_a_record_is_read_back(record: Record, tmp_path: Path) -> None:
    path = record.write(tmp_path / "deep" / "r.json")
    assert load_record(path) == record
    assert os.listdir(path.parent) == ["r.json"]


def test_unknown_fields_of_a_record_are_ignored(record: Record, tmp_path: Path) -> None:
    path = record.write(tmp_path / "r.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert load_record(path) == record


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "no record"),
        ('{"a": 1}', "no record"),
        ('{"schema": 99}', "newer than this version"),
        ('{"schema": 1}', "lacks fields"),
    ],
)
def test_what_is_no_record(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=message):
        load_record(path)


def test_a_record_that_cannot_be_written(record: Record, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="cannot be written"):
        record.write(tmp_path / "file" / "r.json")
    path = record.write(tmp_path / "r.json")
    with pytest.raises(RecordError, match="cannot be read"):
        load_record(path.with_name("none.json"))


def test_names_of_records_are_file_names(record: Record) -> None:
    assert replace(record, features={"name": "untrained:a:0"}).name == "toy-untrained-a-0"


def test_provenance_names_versions_and_hides_absolute_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/dcgan-eval", "svm", "cifar10", "--data-dir", "/home/someone/data"])
    assert provenance.command_line() == "dcgan-eval svm cifar10 --data-dir data"
    found = provenance.environment()
    assert found["packages"]["torch"]
    assert found["num_threads"] >= 1
    assert provenance.peak_memory_bytes() > 1_000_000
