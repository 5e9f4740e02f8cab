"""The table at a glance: encoders by protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dcgan_eval.records import Record, load_record
from dcgan_eval.report.summary import markdown_summary, mean_ranks, protocol_title, summarise

ROOT = Path(__file__).parents[3]
DIGITS = load_record(ROOT / "benchmarks" / "results" / "digits.json")


def record(protocol: str, name: str, score: float, created: str = "2026-01-01", **changes: object) -> Record:
    features = {"name": name, "layers": ["conv1"], "all_layers": True}
    made = {**DIGITS.made, "created": created}
    return replace(DIGITS, protocol=protocol, features=features, score=score, made=made, **changes)


def test_one_row_an_encoder_one_column_a_protocol() -> None:
    records = [
        record("digits_l2svm", "b", 0.9),
        record("cifar10_l2svm_full", "a", 0.5),
        record("cifar10_l2svm_full", "b", 0.6),
        record("zzz", "c", 0.1),
        record("cifar10_l2svm_full", "a", 0.7, created="2026-01-02"),  # made later: this one is shown
    ]
    found = summarise([(Path(f"{i}.json"), r) for i, r in enumerate(records)])
    assert found.protocols == ["cifar10_l2svm_full", "digits_l2svm", "zzz"]  # the catalogue's order, then others
    scores = {name: [cell and cell[1].score for cell in cells] for name, cells in found.rows}
    assert scores == {"a": [0.7, None, None], "b": [0.6, 0.9, None], "c": [None, None, 0.1]}
    assert list(scores) == ["a", "b", "c"]
    lines = markdown_summary(found, "../").splitlines()
    assert lines[2] == "| a | [70.00](../4.json) |  |  |"


@pytest.mark.parametrize(
    ("protocol", "classifier", "title"),
    [
        ("digits_l2svm", "l2svm", "scikit-learn digits, 1,297 / 500 images"),
        ("digits_knn", "knn", "scikit-learn digits, 1,297 / 500 images, by knn"),
        (
            "cifar10_l2svm_400_400_per_class_50_draws",
            "l2svm",
            "CIFAR-10, 400 labels per class; 400 labels per class, 50 draws",
        ),
        ("mine", "l2svm", "mine"),
        ("own_l2svm", "l2svm", "own data, digits"),
    ],
)
def test_titles_in_words(protocol: str, classifier: str, title: str) -> None:
    made = record(protocol, "a", 0.5, classifier={"name": classifier, "parameter": "C"})
    assert protocol_title(made) == title


def test_errors_are_named() -> None:
    svhn = load_record(ROOT / "benchmarks" / "results" / "svhn-small-dcgan2015.json")
    assert summarise([(Path("r.json"), svhn)]).titles[0].endswith("error %")
    assert "[19.04](r.json)" in markdown_summary(summarise([(Path("r.json"), svhn)]))


def own(name: str, data: str, score: float) -> Record:
    return record("own_l2svm", name, score, data={part: {**DIGITS.data[part], "name": data} for part in DIGITS.data})


def test_data_sets_of_ones_own_keep_a_column_each() -> None:
    records = [own("a", "cats", 0.9), own("a", "dogs", 0.4), own("b", "cats", 0.8), own("b", "dogs", 0.7)]
    found = summarise([(Path(f"{i}.json"), r) for i, r in enumerate(records)])
    assert found.titles == ["own data, cats: accuracy %", "own data, dogs: accuracy %"]
    scores = {name: [cell[1].score for cell in cells if cell] for name, cells in found.rows}
    assert scores == {"a": [0.9, 0.4], "b": [0.8, 0.7]}


def test_two_folders_of_one_name_keep_a_column_each() -> None:
    one, other = own("a", "images", 0.9), own("a", "images", 0.4)
    other.data["train"]["fingerprint"] = "f" * 64  # other images
    found = summarise([(Path("1.json"), one), (Path("2.json"), other)])
    assert sorted(cell[1].score for cell in found.rows[0][1] if cell) == [0.4, 0.9]


def test_mean_ranks_over_complete_columns() -> None:
    scores = {"a": [0.9, 0.4, 0.5], "b": [0.8, 0.7, 0.5], "c": [0.7, 0.6, None]}
    records = [own(n, d, s) for n, row in scores.items() for d, s in zip(("x", "y", "z"), row, strict=True) if s]
    found = summarise([(Path(f"{i}.json"), r) for i, r in enumerate(records)])
    assert mean_ranks(found) == {"a": 2.0, "b": 1.5, "c": 2.5}  # z has no c
    tied = summarise([(Path("1.json"), own("a", "x", 0.5)), (Path("2.json"), own("b", "x", 0.5))])
    assert mean_ranks(tied) == {"a": 1.5, "b": 1.5}
    lonely = summarise([(Path("1.json"), own("a", "x", 0.5)), (Path("2.json"), own("b", "y", 0.5))])
    assert mean_ranks(lonely) == {}
