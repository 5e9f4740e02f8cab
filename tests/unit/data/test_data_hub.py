"""Data sets of the Hugging Face hub: what its library is asked for, and what becomes of what it fetches."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from dcgan_eval.cli.main import main
from dcgan_eval.data.catalog import load_data
from dcgan_eval.errors import DataError, DcganEvalError
from dcgan_eval.records import load_record

hub = pytest.importorskip("huggingface_hub")
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the library was asked for; it fetches a set of sixty images, as the hub lays one out."""
    snapshot = tmp_path / "snapshots" / ("a" * 40)
    (snapshot / "data").mkdir(parents=True)
    for split, rows in (("train", range(40)), ("test", range(40, 60))):
        table = pa.table(
            {"image": [{"bytes": png(PIXELS[i]), "path": f"{i}.png"} for i in rows], "label": [i % 2 for i in rows]}
        )
        pq.write_table(table, snapshot / "data" / f"{split}-00000-of-00001.parquet")
    calls = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_it_is_fetched_and_read(asked: list[tuple[str, dict[str, Any]]]) -> None:
    images = load_data("hf:org/sixty", "train")
    assert asked == [
        ("org/sixty", {"repo_type": "dataset", "revision": None, "allow_patterns": ["*.parquet", "*.tar"]})
    ]
    assert images.name == "hf-org-sixty"
    assert np.array_equal(images.images, PIXELS[:40])
    assert images.labels.tolist() == [i % 2 for i in range(40)]
    load_data("hf:org/sixty@v2", "test")
    assert asked[-1][1]["revision"] == "v2"


def test_a_protocol_runs_on_it_and_is_verified(asked: list[tuple[str, dict[str, Any]]]) -> None:
    words = ["baseline", "pixels", "hf:org/sixty", "--cache-dir", "cache", "--record", "r.json"]
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    record = load_record(Path("r.json"))
    assert (record.spec["dataset"], record.data["test"]["num_images"]) == ("hf:org/sixty", 20)
    assert CliRunner().invoke(main, ["verify", "r.json", "--rerun", "--cache-dir", "cache"]).exit_code == 0
    assert CliRunner().invoke(main, ["data", "check", "hf:org/sixty"]).exit_code == 0


def test_a_folder_of_that_name_is_the_folder(asked: list[tuple[str, dict[str, Any]]]) -> None:
    np.savez("hf:mine.npz", images=PIXELS, labels=np.arange(60) % 3)
    assert load_data("hf:mine.npz", "train").num_classes == 3
    assert asked == []


def test_what_cannot_be_had_is_a_sentence(
    asked: list[tuple[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()
    with pytest.raises(DataError, match="no files that are read here"):
        load_data("hf:org/sixty", "train")

    def refuse(name: str, **options: Any) -> str:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=r"hf:org/sixty cannot be fetched.*ConnectionError: no route"):
        load_data("hf:org/sixty", "train")
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DcganEvalError, match=r"huggingface_hub is not installed.*\[hub\]"):
        load_data("hf:org/sixty", "train")
