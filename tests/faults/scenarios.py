"""Commands of the campaign: what is run, on what, and what counts as its result."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from children import run
from PIL import Image

from dcgan_eval.models.presets import get_ladder
from dcgan_eval.models.release import released_parts

# Two runs of the same command differ in these, and in the digests of files that hold them.
VOLATILE = {"created", "command", "environment", "git", "time_s", "timings_s", "peak_memory_bytes", "unix_time_s"}
VOLATILE |= {"crc32", "images_per_s", "cached", "digest", "sha256_of_record", "iterations_per_s", "memory_bytes"}
VOLATILE |= {"time", "time_cached", "memory", "memory_cached"}  # of the gate, which also has a measure of each
_MEASURE = re.compile(r'<testcase[^>]* name="(time|memory)[^>]*>')


@dataclass(frozen=True)
class Scenario:
    """A command whose results are the same whenever it is run.

    Attributes
    ----------
    name : str
        As in the table.
    arguments : callable
        Arguments of ``dcgan-eval`` for (inputs, folder).
    results : tuple of str
        Patterns of files in the folder that are complete as soon as they have their name.
    journals : tuple of str
        Patterns of files that grow, and are judged when the command has ended well.
    before : callable or None
        Arguments that leave earlier results in the folder: afterwards either these or the new ones are allowed.
    again : bool
        Whether the command may be run on its own complete result.
    """

    name: str
    arguments: Callable[[Path, Path], list[object]]
    results: tuple[str, ...]
    journals: tuple[str, ...] = ()
    before: Callable[[Path, Path], list[object]] | None = None
    again: bool = True

    def found(self, folder: Path, *, ended: bool = False) -> dict[str, str]:
        """Return the digest of each result, and of the journals if the command has ended well."""
        patterns = self.results + (self.journals if ended else ())
        paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        return {str(path.relative_to(folder)): digest(path) for path in paths if ".partial" not in path.name}


def leftovers(folder: Path) -> list[str]:
    """Return the files that nothing but an unfinished command needs."""
    marks = (".partial", ".parts", ".tmp")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if any(m in p.name for m in marks))


def digest(path: Path) -> str:
    """Hash what a file says, apart from times and machines; ``unreadable`` if it is damaged."""
    readers: dict[str, Callable[[Path], Iterator[bytes]]] = {
        ".h5": _hdf5,
        ".json": lambda p: iter([_stable(json.loads(p.read_text()))]),
        ".safetensors": _safetensors,
        ".csv": _csv,
        ".xml": lambda p: iter([_MEASURE.sub("", re.sub(r' (time|timestamp)="[^"]*"', "", p.read_text())).encode()]),
    }
    whole = hashlib.sha256()
    try:
        for piece in readers.get(path.suffix, lambda p: iter([p.read_bytes()]))(path):
            whole.update(piece)
    except Exception as error:
        return f"unreadable: {type(error).__name__}: {error}"
    return whole.hexdigest()[:16]


def _stable(value: Any) -> bytes:
    """Return JSON without what differs from run to run."""

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: kept(v) for key, v in part.items() if key not in VOLATILE}
        if isinstance(part, list):
            return [kept(v) for v in part if not (isinstance(v, dict) and v.get("name") in VOLATILE)]
        return float(part) if isinstance(part, int) else part  # a table read back has 20.0 where it had 20

    return json.dumps(kept(value), sort_keys=True).encode()


def _hdf5(path: Path) -> Iterator[bytes]:
    """Yield names, types, shapes, attributes and values of everything in a file."""
    with h5py.File(path, "r", locking=False) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in ["/", *sorted(names)]:
            item = file[name]
            attributes = {key: str(value) for key, value in item.attrs.items()}
            yield f"{name} {sorted(attributes.items())}".encode()
            if isinstance(item, h5py.Dataset):
                yield f"{item.dtype} {item.shape}".encode()
                yield np.asarray(item[()]).tobytes() if item.dtype != object else repr(item[()].tolist()).encode()


def _safetensors(path: Path) -> Iterator[bytes]:
    """Yield header and tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    notes = {k: json.loads(v) if v[:1] == "{" else v for k, v in header.pop("__metadata__", {}).items()}
    notes.pop("sha256", None)  # of all the others, times included
    yield _stable(header) + _stable(notes) + data[8 + length :]


def _csv(path: Path) -> Iterator[bytes]:
    """Yield the rows."""
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            yield _stable(
                {key: float(value) for key, value in row.items() if key not in VOLATILE} if "round" in row else row
            )


def make_inputs(inputs: Path) -> None:
    """Write what the commands read: noise in every layout, released parameters, records, weights."""
    draw = np.random.default_rng(7)
    for number in range(300):
        path = inputs / "folder" / f"class{number % 5}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), np.uint8)).save(path, compress_level=1)
    for count in (96, 600):
        images = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
        np.savez(inputs / f"noise{count}.npz", images=images, labels=np.arange(count) % 4)
    labels = np.arange(120) % 3
    images = draw.integers(0, 200, (120, 32, 32, 3), np.uint8) + (20 * labels).astype(np.uint8)[:, None, None, None]
    split = {"x_train": images[:80], "y_train": labels[:80], "x_test": images[80:], "y_test": labels[80:]}
    np.savez(inputs / "own.npz", **split)
    digits = draw.integers(0, 256, (96, 28, 28, 1), np.uint8)
    np.savez(inputs / "digits96.npz", images=digits, labels=np.arange(96) % 4)
    _write_release(inputs / "release", draw)
    for name, arguments in (("a", []), ("b", ["--seed", "1"])):
        target = inputs / "records" / f"{name}.json"
        _do(["svm", inputs / "own.npz", *TINY, "--cache-dir", inputs / "cache", "--record", target, *arguments], inputs)
    _do([*TRAIN(inputs, inputs / "run"), "--images", "32"], inputs)
    (inputs / "mine.toml").write_text(SUITE.format(data=inputs / "own.npz", encoder=TINY[1]))
    _do(["regress", "--suite", inputs / "mine.toml", "--update"], inputs)


def _do(arguments: list[object], inputs: Path) -> None:
    """Run a command that must succeed."""
    outcome = run(arguments, inputs / "log.txt")
    assert outcome.kind == "ok", outcome.text


def _write_release(folder: Path, draw: np.random.Generator) -> None:
    """Write arrays of the shapes of a discriminator that the paper's authors released."""
    folder.mkdir()
    (folder / "1_discrim_params.jl").write_bytes(b"never read")
    for number, part in enumerate(released_parts(get_ladder("svhn32"), "discriminator"), start=1):
        np.save(folder / f"1_discrim_params.jl_{number:02d}.npy", draw.normal(0, 0.02, part.shape).astype(np.float32))


TINY = ("--encoder", "tiny_encoder:make")
SUITE = """
[[run]]
name = "mine"
protocol = "{data}"
encoder = "{encoder}"

[run.bands]
time = inf
memory = inf
"""


def TRAIN(inputs: Path, folder: Path) -> list[object]:
    """Return the command, but for its length, of a training that lasts seconds, with checkpoints in several parts."""
    cut = ["--part-mb", "4", "--checkpoint-minutes", "0.03", "--samples-every", "64"]
    return ["train", "mnist28_keras", "--data", inputs / "digits96.npz", "--batch-size", "2", *cut, "--out", folder]


def copy_of(template: Path, folder: Path) -> Path:
    """Return a folder as new as its template."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    return folder


_KMEANS = ("--centroids", "6", "--patches", "500", "--iterations", "3")
_REGRESS = ("--json", "out.json", "--junit", "out.xml", "--markdown", "out.md")

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "features", lambda i, d: ["features", "--data", i / "noise600.npz", *TINY, "--cache-dir", d], ("*.h5",)
        ),
        Scenario(
            "features of the discriminator",
            lambda i, d: ["features", "--data", i / "noise96.npz", "--weights", "untrained:svhn32:0", "--cache-dir", d],
            ("*.h5",),
        ),
        Scenario(
            "pack",
            lambda i, d: ["data", "pack", i / "folder", "--out", d / "p.h5", "--size", "16", "--processes", "1"],
            ("p.h5",),
            again=False,
        ),
        Scenario(
            "train",
            lambda i, d: [*TRAIN(i, d / "run"), "--images", "80", "--resume"],
            ("run/*.safetensors",),
            ("run/*.csv",),
        ),
        Scenario(
            "train, continued",
            lambda i, d: [*TRAIN(i, d / "run"), "--images", "80", "--resume", "--allow-changes"],
            ("run/*.safetensors",),
            ("run/*.csv",),
            before=lambda i, d: [*TRAIN(i, d / "run"), "--images", "40"],
        ),
        Scenario(
            "svm",
            lambda i, d: ["svm", i / "own.npz", *TINY, "--cache-dir", d, "--record", d / "r.json"],
            ("r.json", "*.h5"),
            before=lambda i, d: [
                *["svm", i / "own.npz", *TINY, "--layer", "2", "--cache-dir", d / "other"],
                *["--record", d / "r.json", "--seed", "1"],
            ],
        ),
        Scenario(
            "K-means",
            lambda i, d: ["baseline", "kmeans", i / "own.npz", *_KMEANS, "--cache-dir", d, "--record", d / "r.json"],
            ("r.json", "*.h5", "*.safetensors"),
        ),
        Scenario(
            "regress",
            lambda i, d: ["regress", "--suite", i / "mine.toml", "--cache-dir", d, *_in(d, _REGRESS)],
            ("out.json", "out.xml", "*.h5"),
        ),
        Scenario(
            "report",
            lambda i, d: ["report", i / "records", "--out", d / "page.html"],
            ("page.html",),
            before=lambda i, d: ["report", i / "records" / "a.json", "--out", d / "page.html"],
        ),
        Scenario(
            "export",
            lambda i, d: ["export", i / "records", "--out", d / "table.csv"],
            ("table.csv",),
            before=lambda i, d: ["export", i / "records" / "a.json", "--out", d / "table.csv"],
        ),
        Scenario(
            "weights import",
            lambda i, d: ["weights", "import", "dcgan-code", i / "release", "--out", d / "w.safetensors"],
            ("w.safetensors",),
        ),
        Scenario(
            "samples",
            lambda i, d: [
                "samples",
                "--rows",
                2,
                "--weights",
                i / "run" / "generator.safetensors",
                "--out",
                d / "grid.png",
            ],
            ("grid.png",),
        ),
    )
}


def _in(folder: Path, words: tuple[str, ...]) -> list[object]:
    """Put the file names among arguments into a folder."""
    return [word if word.startswith("--") else folder / word for word in words]
