"""The table at a glance: encoders by protocols."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dcgan_eval.records import Record, load_record
from dcgan_eval.report.export import export_records
from dcgan_eval.report.paper_numbers import TABLES
from dcgan_eval.report.paper_tables import table_rows
from dcgan_eval.report.summary import markdown_summary, mean_ranks, protocol_title, summarise
from dcgan_eval.report.tables import comparison_table, markdown_results, paired_table, result_panel

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
    assert found.protocols == [
        "cifar10_l2svm_full v1",
        "digits_l2svm v1",
        "zzz v1",
    ]  # the catalogue's order, then others
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
        ("own_knn_cosine", "knn_cosine", "own data, digits, by knn_cosine"),
        ("own_l2svm_1_per_class_1_draws", "l2svm", "own data, digits; 1 label per class, 1 draw"),
        ("own_ridge_5_per_class_3_draws", "ridge", "own data, digits, by ridge; 5 labels per class, 3 draws"),
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


def test_a_title_of_the_catalogues_names_the_classifier_too() -> None:
    spec = {"id": "pets_mlp", "version": 2, "title": "Pets, official splits"}
    assert protocol_title(
        record("pets_mlp", "a", 0.5, spec=spec, classifier={"name": "mlp", "parameter": "decay"})
    ) == ("Pets, official splits, by mlp")


@pytest.mark.parametrize("part", ["train", "test"])
def test_two_folders_of_one_name_keep_a_column_each(part: str) -> None:
    one, other = own("a", "images", 0.9), own("a", "images", 0.4)
    other.data[part]["fingerprint"] = "f" * 64  # other images
    found = summarise([(Path("1.json"), one), (Path("2.json"), other)])
    assert sorted(cell[1].score for cell in found.rows[0][1] if cell) == [0.4, 0.9]
    assert len(set(found.titles)) == 2
    assert all("own data, images (own_l2svm v1, images " in title for title in found.titles)


def test_two_versions_of_a_protocol_keep_a_column_each() -> None:
    newer = record("digits_l2svm", "a", 0.4, spec={**DIGITS.spec, "version": 2})
    found = summarise([(Path("1.json"), record("digits_l2svm", "a", 0.9)), (Path("2.json"), newer)])
    assert [cell[1].score for cell in found.rows[0][1] if cell] == [0.9, 0.4]


def test_every_table_says_whose_data_a_record_of_own_data_is_of(tmp_path: Path) -> None:
    records = [own("a", "cats", 0.9), own("a", "dogs", 0.4)]
    found = [(Path(f"{i}.json"), r) for i, r in enumerate(records)]
    out = Console(width=300, file=io.StringIO())
    for view in (comparison_table(records, "2"), result_panel(records[0], "1"), result_panel(records[1], "1")):
        out.print(view)
    compared = {"difference": 0.5, "ci95": [0.4, 0.6], "num_images": 500, "mcnemar_p": None}
    out.print(paired_table(records, compared))
    paper = [row.protocol for row in table_rows(replace(TABLES["cifar10"], dataset="cats"), found)]
    export_records(found, tmp_path / "all.tex")
    export_records(found, tmp_path / "all.csv")
    digest = hashlib.sha256(
        "\n".join(DIGITS.data[part]["fingerprint"] for part in ("train", "test")).encode()
    ).hexdigest()
    name = f"own_l2svm v1, cats {digest[:8]}"
    assert out.file.getvalue().count(name) == 3  # type: ignore[attr-defined]
    assert out.file.getvalue().count(f"own_l2svm v1, dogs {digest[:8]}") == 3  # type: ignore[attr-defined]
    assert name in paper
    assert f", cats {digest[:8]}" in markdown_results(found)
    assert f", cats {digest[:8]}" in (tmp_path / "all.tex").read_text()
    assert [row["data"] for row in csv.DictReader((tmp_path / "all.csv").open())] == ["cats", "dogs"]


def test_mean_ranks_over_complete_columns() -> None:
    scores = {"a": [0.9, 0.4, 0.5], "b": [0.8, 0.7, 0.5], "c": [0.7, 0.6, None]}
    records = [own(n, d, s) for n, row in scores.items() for d, s in zip(("x", "y", "z"), row, strict=True) if s]
    found = summarise([(Path(f"{i}.json"), r) for i, r in enumerate(records)])
    assert mean_ranks(found) == {"a": 2.0, "b": 1.5, "c": 2.5}  # z has no c
    tied = summarise([(Path("1.json"), own("a", "x", 0.5)), (Path("2.json"), own("b", "x", 0.5))])
    assert mean_ranks(tied) == {"a": 1.5, "b": 1.5}
    lonely = summarise([(Path("1.json"), own("a", "x", 0.5)), (Path("2.json"), own("b", "y", 0.5))])
    assert mean_ranks(lonely) == {}
