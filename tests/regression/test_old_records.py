"""Records of every schema so far can still be read, shown and exported."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from dcgan_eval.protocols.verify import verify
from dcgan_eval.records import SCHEMA, load_record
from dcgan_eval.report.export import export_records
from dcgan_eval.report.tables import result_panel

FIXTURES = sorted((Path(__file__).parent / "records").glob("schema-*.json"))


def test_every_older_schema_has_a_fixture() -> None:
    found = {int(path.name.split("-")[1]) for path in FIXTURES}
    assert set(range(1, SCHEMA)) <= found
    assert 1 in found


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.stem)
def test_old_records_load_and_show(path: Path) -> None:
    record = load_record(path)
    assert 0 < record.score < 1
    console = Console(record=True, width=100)
    console.print(result_panel(record, record.name))
    assert f"{100 * record.score:.2f}" in console.export_text()


def test_export_to_every_kind_of_table(tmp_path: Path) -> None:
    records = [(path, load_record(path)) for path in FIXTURES]
    frame = pd.read_parquet(export_records(records, tmp_path / "new" / "table.parquet"))
    assert frame["score"].tolist() == [record.score for _, record in records]
    text = pd.read_csv(export_records(records, tmp_path / "t.csv"))
    assert text["score"].tolist() == frame["score"].tolist()
    assert text.columns.tolist() == frame.columns.tolist()
    latex = export_records(records, tmp_path / "t.tex").read_text()
    assert "cifar10\\_l2svm\\_400" in latex
    assert f"{100 * records[0][1].score:.2f}" in latex


@pytest.mark.parametrize("path", [p for p in FIXTURES if "digits" in p.stem], ids=lambda p: p.stem)
def test_verification_of_older_records(path: Path, tmp_path: Path) -> None:
    """What an older record does not hold is not checked, and said; only weights that were replaced since differ."""
    record = load_record(path)
    pixels = record.features["name"] == "pixels"  # others take a while
    checks = verify(record, rerun=pixels, cache_dir=tmp_path)
    assert [check.name for check in checks if check.passed is False] == ([] if pixels else ["weights"])
    not_held = {"digest", "right images"} if "schema-1" in path.stem else {"digest"}
    assert {check.name for check in checks if check.passed is None} == not_held
    assert {"weights", "train data", "test data"} <= {check.name for check in checks}
    assert ("number again" in {check.name for check in checks}) is pixels
