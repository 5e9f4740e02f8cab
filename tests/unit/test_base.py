"""Errors, seeds, provenance and records."""

from __future__ import annotations

import base64
import json
import os
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dcgan_eval
from dcgan_eval import devices, provenance
from dcgan_eval.errors import DataError, DcganEvalError, RecordError, counted, unknown_name
from dcgan_eval.records import Record, load_record, pack_counts, unpack_counts
from dcgan_eval.seeding import derive, rng, torch_generator


@pytest.fixture
def record() -> Record:
    entry = {"name": "toy", "split": "all", "fingerprint": "f"}
    return Record(
        protocol="toy",
        spec={"id": "toy", "version": 1, "shown_as": "accuracy", "paper": None},
        settings={"seed": 0},
        features={"kind": "pixels", "name": "pixels", "num_features": 3, "weights_sha256": None},
        classifier={"name": "l2svm", "parameter": "C", "value": 1e-3},
        data={"train": {**entry, "num_images": 4}, "test": {**entry, "num_images": 2}},
        metric="accuracy",
        score=0.5,
        spread=None,
        ci95=[0.4, 0.6],
        num_draws=1,
        status="converged",
        duality_gap=1e-6,
        selection=[{"C": 1e-3, "score": 0.5, "scores": [0.5], "duality_gap": 1e-6}],
        draws=[{"score": 0.5}],
        confusion=[[1, 0], [1, 0]],
        class_names=["a", "b"],
        made={
            "time_s": 1.0,
            "timings_s": {},
            "peak_memory_bytes": 1,
            "environment": {},
            "command": "dcgan-eval svm toy",
            "created": "2026-01-01T00:00:00+00:00",
            "git": None,
        },
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
    assert load_record(path) == replace(record, intact=True)
    assert os.listdir(path.parent) == ["r.json"]


def test_an_altered_record_is_noticed(record: Record, tmp_path: Path) -> None:
    path = record.write(tmp_path / "r.json")
    values = json.loads(path.read_text())
    for change in ({"later": 1}, {"score": 0.75}, {"notes": ["better"]}):
        path.write_text(json.dumps({**values, **change}))
        assert load_record(path).intact is False
    path.write_text(json.dumps(values, indent=4, sort_keys=True))  # other white space is no other record
    assert load_record(path).intact is True


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", [], [1], {}, {"a": 1}, True, -1, 10**30, [[1]], [{}]])
def test_values_of_any_type_anywhere_are_a_sentence(record: Record, tmp_path: Path, value: object) -> None:
    """Whatever stands in a field, a record is read or refused; nothing else is raised, then or when it is looked at."""
    values = json.loads(record.to_json())
    places = [(key,) for key in values] + [
        (key, inner) for key in values if isinstance(values[key], dict) for inner in values[key]
    ]
    path = tmp_path / "r.json"
    for place in places:
        changed = json.loads(json.dumps(values))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        path.write_text(json.dumps(changed))
        with suppress(RecordError):
            read = load_record(path)
            _ = (read.name, read.class_accuracies, read.chosen, read.dataset_fingerprint, read.C)


def test_bombs_are_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[" * 200_000)
    with pytest.raises(RecordError, match="cannot be read"):
        load_record(path)
    bomb = base64.b64encode(zlib.compress(b"\0" * (1 << 28))).decode()
    with pytest.raises(RecordError, match="too long"):
        unpack_counts(bomb)
    for text in ("", "!", "AAAA", pack_counts(np.arange(9))[:-8]):
        with pytest.raises(RecordError, match="cannot be read"):
            unpack_counts(text)


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
    own = replace(record, protocol="own_l2svm", data={"train": {"name": "my flowers/2"}})
    assert replace(own, features={"name": "timm:vit.b"}).name == "own_l2svm-my-flowers-2-timm-vit.b"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--data-dir", "/home/someone/data"], "--data-dir data"),
        (["--data-dir=/home/someone/data"], "--data-dir=data"),
        (["~someone/own"], "own"),
        (["own data"], "'own data'"),
        (["--weights", "untrained:imagenet32:0"], "--weights untrained:imagenet32:0"),
        (["--encoder=torchvision:resnet18"], "--encoder=torchvision:resnet18"),
    ],
)
def test_the_command_hides_folders(words: list[str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/dcgan-eval", "svm", *words])
    assert provenance.command_line() == f"dcgan-eval svm {shown}"


def test_provenance_names_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    real = provenance.metadata.version
    monkeypatch.setattr(provenance.metadata, "version", lambda name: "0.0.1" if name == "dcgan-eval" else real(name))
    found = provenance.environment()
    assert found["packages"]["dcgan-eval"] == dcgan_eval.__version__  # whatever was installed before
    assert found["instructions"] in ("DEFAULT", "AVX2", "AVX512", "NO AVX") or found["platform"] != "Linux x86_64"
    assert found["packages"]["torch"]
    assert found["num_threads"] >= 1
    assert provenance.peak_memory_bytes() > 1_000_000


@pytest.mark.parametrize(
    ("flags", "variable", "limit", "fast"),
    [
        ("avx2 avx512_bf16", None, "", True),
        ("avx2 amx_bf16", None, "", True),
        ("avx2 avx512f", None, "", False),
        ("avx2 avx512_bf16", "ONEDNN_MAX_CPU_ISA", "AVX2", False),
        ("avx2 avx512_bf16", "ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", False),
        ("avx2 avx512_bf16", "DNNL_MAX_CPU_ISA", "AVX512_CORE", False),
        ("avx2 avx512_bf16", "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("avx2 amx_bf16", "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX_FP16", True),
        ("avx2 avx512_bf16", "ONEDNN_MAX_CPU_ISA", "DEFAULT", True),
        ("avx2", "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", False),
    ],
)
def test_bfloat16_is_fast_where_the_processor_has_it_and_onednn_may_use_it(
    flags: str, variable: str | None, limit: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    monkeypatch.setattr(devices, "_CPU_FLAGS", tmp_path / "cpuinfo")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, limit)
    assert devices.has_fast_bfloat16.__wrapped__(torch.device("cpu")) == fast


@pytest.mark.parametrize(
    ("number", "what", "text"),
    [
        (1, "images", "1 image"),
        (0, "images", "0 images"),
        (1234, "images", "1,234 images"),
        (1, "classes", "1 class"),
        (1, "class folders without images", "1 class folder without images"),
        (1, "files of other kinds", "1 file of other kinds"),
        (1, "pipes, devices and broken links", "1 pipe, device or broken link"),
        (1, "hidden files and folders", "1 hidden file or folder"),
        (2, "hidden files and folders", "2 hidden files and folders"),
    ],
)
def test_one_of_a_kind_is_singular(number, what, text):
    assert counted(number, what) == text


@pytest.mark.parametrize(
    ("kind", "known", "text"),
    [
        (
            "layer",
            ("conv1", "conv2", "fc"),
            "There is no layer named 'conv3'. Remedy: did you mean conv2 or conv1? There is also fc.",
        ),
        ("bundled weights", ("conv",), "There are no bundled weights named 'conv3'. Remedy: did you mean conv?"),
        (
            "weights of torchvision's resnet18",
            ("a",),
            "There are no weights of torchvision's resnet18 named 'conv3'. Remedy: choose one of a.",
        ),
    ],
)
def test_unknown_names_read_as_sentences(kind, known, text):
    assert str(unknown_name(kind, "conv3", known, DataError)) == text
