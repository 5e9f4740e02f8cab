"""What is published agrees with the records it is made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dcgan_eval
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network
from dcgan_eval.protocols.catalog import PROTOCOLS
from dcgan_eval.records import load_record

ROOT = Path(__file__).parents[2]
CLASSIFIERS = ("knn", "knn_cosine", "logistic", "l2svm_mean_loss", "supervised")
KNOWN = {(q.id, q.version) for p in PROTOCOLS.values() for q in (p, *map(p.with_classifier, CLASSIFIERS))}
RECORDS = sorted(p for p in (ROOT / "benchmarks" / "results").glob("*.json") if p.name != "faults.json")
ABLATIONS = sorted((ROOT / "benchmarks" / "results").glob("ablate-*/*.json"))


def test_the_readme_is_made_from_the_records() -> None:
    assert subprocess.run([sys.executable, str(ROOT / "benchmarks" / "update_readme.py"), "--check"]).returncode == 0


@pytest.mark.parametrize("path", [*RECORDS, *ABLATIONS], ids=lambda p: p.stem)
def test_every_published_number_is_certified(path: Path) -> None:
    record = load_record(path)
    if record.metric == "accuracy":
        exact = record.classifier["parameter"] == "k"
        assert {record.status, *[draw["status"] for draw in record.draws]} == {"exact" if exact else "converged"}
        assert record.duality_gap is None if exact else record.duality_gap <= 1e-4
    else:
        assert record.metric == "validation accuracy"
        assert "test" not in record.data
    assert (record.protocol, record.protocol_version) in KNOWN


def test_every_protocol_has_ours_and_both_baselines() -> None:
    found = {(r.protocol, r.features["name"].split(":")[0]) for r in map(load_record, RECORDS)}
    for protocol in PROTOCOLS.values():
        if protocol.command == "svhn":
            continue  # its training set has not been at hand
        names = {name for id_, name in found if id_ == protocol.id}
        assert {"pixels", "untrained"} < names, protocol.id


def test_records_of_schema_1_still_load() -> None:
    record = load_record(Path(__file__).parent / "fixtures" / "record-schema-1.json")
    assert (record.schema, record.score, record.C) == (1, 0.982, 0.0001)
    assert (record.shown_as, record.rows_sha256, record.right) == ("accuracy", {}, None)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an encoder of 896 features; what the bundled one scores on the digits is the smoke suite's business."""
    narrow = tmp_path / "narrow.safetensors"
    save_network(build(get_preset("svhn32", 8), seed=0)[0], narrow)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dcgan_eval, "load_encoder", lambda: load_encoder(narrow), raising=False)
    exec((ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0], {})
    score, status, gap = capsys.readouterr().out.splitlines()[-1].split()
    assert float(score) > 0.8
    assert status == "converged"
    assert float(gap) <= 1e-4
