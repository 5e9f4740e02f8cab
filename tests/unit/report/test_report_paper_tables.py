"""The paper's tables beside our records: what may stand where, and every format of it."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.models.bundled import resolve
from dcgan_eval.models.weights import read_card
from dcgan_eval.protocols.catalog import PROTOCOLS
from dcgan_eval.records import Record, load_record
from dcgan_eval.report.paper_numbers import TABLES, trained_as_published
from dcgan_eval.report.paper_tables import OTHER, Row, rich_tables, table_rows, to_csv, to_json, to_latex, to_markdown

ROOT = Path(__file__).parents[3]
CIFAR10 = load_record(ROOT / "benchmarks" / "results" / "cifar10.json")


def record(protocol: str, name: str = "mine", dataset: str = "cifar10", **changes: Any) -> Record:
    counts = dict(zip(("train", "test"), TABLES[dataset].num_images, strict=True)) | changes.pop("counts", {})
    data = {part: {**CIFAR10.data[part], "name": dataset, "num_images": counts[part]} for part in counts}
    features = {"name": name, "layers": ["conv1"], "all_layers": True, "objective": "adversarial"} | changes.pop(
        "features", {}
    )
    return replace(CIFAR10, protocol=protocol, features=features, data=data, schema=2, **changes)


def rows(table: str, *records: Record) -> list[Row]:
    return table_rows(TABLES[table], [(Path(f"{i}.json"), r) for i, r in enumerate(records)])


def ours(found: list[Row]) -> list[Row]:
    return [row for row in found if row.ours is not None]


def test_ours_stands_beside_the_papers_dcgan() -> None:
    (row,) = ours(rows("cifar10", record("cifar10_l2svm_full", score=0.7)))
    assert (row.ours, row.published, row.difference) == (pytest.approx(70), 82.8, pytest.approx(-12.8))
    assert (row.section, row.record, row.status) == ("table 1, all 50,000 labels", "0.json", "converged")


def test_errors_are_shown_as_published() -> None:
    svhn = record(
        "svhn_l2svm_1000",
        dataset="svhn",
        num_draws=100,
        right=None,
        score=0.78,
        ci95=[0.77, 0.79],
        spread=0.01,
        spec={**CIFAR10.spec, "shown_as": "error"},
    )
    (row,) = ours(rows("svhn", svhn))
    assert (row.ours, row.draws_low, row.draws_high) == tuple(map(pytest.approx, (22, 21, 23)))
    assert (row.published, row.difference, row.spread) == (22.48, pytest.approx(-0.48), pytest.approx(1))


def test_part_of_a_data_set_stands_beside_nothing() -> None:
    (row,) = ours(rows("svhn", record("svhn_l2svm_1000", dataset="svhn", counts={"test": 10_000})))
    assert (row.section, row.published) == (OTHER, None)


@pytest.mark.parametrize(
    ("protocol", "dataset"),
    [
        ("cifar10_small_l2svm", "cifar10"),
        ("cifar10_l2svm_full_40_per_class_10_draws", "cifar10"),
        ("cifar10_l2svm_400_400_per_class_50_draws", "cifar10"),
        ("svhn_small_l2svm_1000", "svhn"),
        ("svhn_small_knn_1000", "svhn"),
        ("svhn_l2svm_1000_100_per_class_5_draws", "svhn"),
    ],
)
def test_other_protocols_stand_beside_nothing(protocol: str, dataset: str) -> None:
    (row,) = ours(rows(dataset, record(protocol, dataset=dataset)))
    assert row.section == OTHER
    assert (row.published, row.difference) == (None, None)


def test_every_small_protocol_is_kept_out_of_the_papers_columns() -> None:
    patterns = [section.protocols for table in TABLES.values() for section in table.sections]
    beside = {p.command for p in PROTOCOLS.values() if any(pattern.fullmatch(p.id) for pattern in patterns)}
    assert beside == {"cifar10", "cifar10-400", "svhn"} == {p.command for p in PROTOCOLS.values() if p.paper}


@pytest.mark.parametrize(
    ("changes", "published"),
    [
        ({"name": "untrained:svhn32:0", "features": {"objective": None}}, None),
        ({"name": "pixels", "features": {"objective": None}}, None),
        ({"name": "resnet18", "features": {"objective": None}}, None),
        ({"name": "mine", "features": {"all_layers": False}}, None),
        ({"name": "mine"}, 82.8),
        ({"name": "mine", "features": {"objective": "contrastive"}}, None),
        ({"name": "imagenet32-paper", "features": {"objective": None}}, None),  # a name says nothing
        ({"name": "kmeans", "features": {"objective": None, "num_centroids": 1600}}, 77.9),
        ({"name": "kmeans", "features": {"objective": None, "num_centroids": 800}}, None),
    ],
)
def test_only_the_same_method_stands_beside_a_number(changes: dict[str, Any], published: float | None) -> None:
    (row,) = ours(rows("cifar10", record("cifar10_l2svm_full", **changes)))
    assert row.published == published
    if not changes.get("features", {}).get("all_layers", True):
        assert row.method == "ours: mine (conv1)"


@pytest.mark.parametrize(
    ("weights", "adversarial"),
    [  # of records made before the features named their objective, as these weights' cards said it
        ("fd21864f2038e93d38f818b8d3e558d55a225109b5656934d3fd88be792dc072", True),
        ("fe088f19c46d1d618eccdb7aeb1c611377993877bde1e4c03db849ebbc99f5a7", False),
    ],
)
def test_records_of_before_are_known_by_their_weights(weights: str, adversarial: bool) -> None:
    old = record("cifar10_l2svm_full", name="renamed", features={"objective": None, "weights_sha256": weights})
    assert trained_as_published(old) == adversarial


@pytest.mark.parametrize("name", ["imagenet32-paper", "imagenet32-plus", "imagenet32-contrad"])
def test_what_stands_beside_the_papers_dcgan_is_what_the_cards_say(name: str) -> None:
    config = read_card(resolve(name))["card"]["config"]
    new = record("cifar10_l2svm_full", name="renamed", features={"objective": load_encoder(name).objective})
    assert trained_as_published(new) == (config["objective"] == "adversarial")


def test_both_intervals_are_shown() -> None:
    small = load_record(ROOT / "benchmarks" / "results" / "svhn-small-dcgan2015.json")
    (row,) = ours(rows("svhn", small))
    assert (row.draws_low, row.draws_high) == (pytest.approx(18.95, abs=0.005), pytest.approx(19.13, abs=0.005))
    # 6,000 test images alone: half of them would have to be as good as independent for less than 0.7 points
    assert 0.7 < (row.images_high - row.images_low) / 2 < 1.0
    single = record("cifar10_l2svm_full")
    (row,) = ours(rows("cifar10", single))
    assert (row.draws_low, row.images_low) == (None, pytest.approx(100 * single.ci95[0]))
    before = replace(small, right=None, schema=1)
    (row,) = ours(rows("svhn", before))
    assert (row.draws_low, row.images_low) == (pytest.approx(18.95, abs=0.005), None)


def test_the_catalogues_values_are_the_tables() -> None:
    for table in TABLES.values():
        for protocol in PROTOCOLS.values():
            for section in table.sections:
                if section.protocols.fullmatch(protocol.id):
                    printed = next(row for row in section.rows if row.kind == "dcgan")
                    value = protocol.paper.value if table.shown_as == "accuracy" else 1 - protocol.paper.value
                    assert 100 * value == pytest.approx(printed.percent)
                    assert protocol.paper.checked == printed.checked


def test_every_format_holds_every_row() -> None:
    table = TABLES["cifar10"]
    found = rows("cifar10", record("cifar10_l2svm_full"), record("cifar10_small_l2svm", name="a_b&c"))
    assert [row["method"] for row in json.loads(to_json(table, found))["rows"]] == [row.method for row in found]
    assert len(list(csv.DictReader(io.StringIO(to_csv(table, found))))) == len(found)
    markdown, latex = to_markdown(table, found), to_latex(table, found)
    assert "73.8 ±0.4 (unchecked)" in markdown
    assert "[0](0.json)" in markdown
    assert r"a\_b\&c" in latex
    assert len(re.findall(r"\\\\$", latex, re.MULTILINE)) == len(found) + 3  # and a heading for each section
    assert sum(len(view.rows) for view in rich_tables(table, found)) == len(found)
