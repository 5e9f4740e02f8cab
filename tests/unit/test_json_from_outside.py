"""Whatever stands in a JSON file from outside, it is read or refused with a sentence; nothing else is raised."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from dcgan_eval.baselines.supervised import _read as read_trials
from dcgan_eval.data.lists import read_list
from dcgan_eval.errors import DcganEvalError
from dcgan_eval.insight.drawing import read_latents
from dcgan_eval.insight.finding import Finding, load_finding
from dcgan_eval.insight.forget import read_boxes
from dcgan_eval.models.presets import get_preset
from dcgan_eval.protocols.saved_probe import read_probe
from dcgan_eval.svm.path import fit_ovr
from dcgan_eval.svm.saved import save_solution
from dcgan_eval.training.checkpoint import read_state

PRESET = get_preset("svhn32")
VALUES = (None, 1, -1, 1.5, 10**400, float("nan"), True, "", "x", "\ud800", [], [1], [[1]], [{}], {}, {"a": 1})
TEXTS = ("", "[", "[" * 100_000, '{"a":' * 100_000, "nul", "\udcff", "1" * 5_000)


def finding() -> Any:
    found = Finding("walk", "sharpness", {"sharpness": 1.5}, {"steps": 3}, 0, {"weights": "ab"})
    return json.loads(found.to_json())


def probe_header(key: str) -> Any:
    X = np.random.default_rng(0).normal(size=(12, 3))
    tensors = save_solution(fit_ovr(X, np.arange(12) % 3, 1.0), {"record": "ab", "weights_sha256": "cd"})
    Path("probe.safetensors").write_bytes(tensors)
    with safe_open("probe.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


def write_probe(path: Path, text: str, key: str) -> None:
    with safe_open("probe.safetensors", "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated
    safetensors.torch.save_file(tensors, path, {**header, key: text})


def plainly(path: Path, text: str) -> None:
    path.write_bytes(text.encode(errors="surrogateescape"))


def in_a_checkpoint(path: Path, text: str) -> None:
    path.mkdir(exist_ok=True)
    plainly(path / "checkpoint.json", text)


Reader = tuple[str, Callable[[], Any], Callable[[Path, str], None], Callable[[Path], Any]]
READERS: tuple[Reader, ...] = (
    ("f.json", finding, plainly, load_finding),
    ("z.json", lambda: [[0.5] * PRESET.z_dim], plainly, lambda p: read_latents(p, PRESET)),
    (
        "boxes.json",
        lambda: {"boxes": [[0, 1, 1, 5, 5]], "seed": 0},
        plainly,
        lambda p: read_boxes(p, PRESET, 4, {"seed": 0}),
    ),
    ("trials.json", lambda: {"format": "x", "trials": [{"score": 0.5}], "sha256": "ab"}, plainly, read_trials),
    ("metadata.jsonl", lambda: {"file_name": "a.png", "label": 1}, plainly, lambda p: read_list(p, None)),
    (
        "round-1",
        lambda: {
            "format": "x",
            "rounds_done": 1,
            "config": {},
            "parts": [{"file": "a", "size_bytes": 1}],
            "sha256": "a",
        },
        in_a_checkpoint,
        read_state,
    ),
    *(
        (
            f"p{key}.safetensors",
            lambda key=key: probe_header(key),
            lambda p, t, key=key: write_probe(p, t, key),
            read_probe,
        )
        for key in ("solution", "extra")
    ),
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value, itself included; of a list to the first alone."""
    yield above
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*above, key))


def changed(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with another value at a place."""
    if not way:
        return new
    copy = value.copy()
    copy[way[0]] = changed(value[way[0]], way[1:], new)
    return copy


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader[0])
def test_it_is_read_or_refused(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, make, write, read = reader
    good = make()
    texts = [json.dumps(changed(good, way, new)) for way in places(good) for new in VALUES]
    for text in (*texts, *(t for t in TEXTS if name.endswith(("json", "jsonl")) or t.isascii())):
        write(Path(name), text)
        with suppress(DcganEvalError):
            read(Path(name))


def test_values_that_would_pass_are_among_them(tmp_path: Path) -> None:
    """So that refusing everything would be noticed."""
    plainly(tmp_path / "z.json", json.dumps([[0.5] * PRESET.z_dim]))
    assert torch.equal(read_latents(tmp_path / "z.json", PRESET), torch.full((1, PRESET.z_dim), 0.5))
    plainly(tmp_path / "f.json", json.dumps(finding()))
    assert load_finding(tmp_path / "f.json").value == 1.5
