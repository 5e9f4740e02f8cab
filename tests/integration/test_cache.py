"""``cache list|clean``: what is shown is what lies there, and nothing else than that is ever deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcgan_eval.features.cache import cache_files

ROOT = Path(__file__).parents[2]
# Lays a store out, writes its first block, says so, and holds it until its input ends.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from dcgan_eval.features.store_writer import StoreWriter
from dcgan_eval.features.store_file import RowKeys, StoreIdentity

made = ("x", "running", "float32", "float16", "")
identity = StoreIdentity("mine", "0" * 64, (("conv1", 4),), *made, "noise-train", "1" * 64, 300)
keys = RowKeys(np.array([b"%064d" % i for i in range(300)]))
path = Path(sys.argv[1]) / f"{identity.file_stem}-{'a' * 8}.h5"
with StoreWriter(path, identity, keys, {"conv1": np.ones((3, 4), np.float32)}) as writer:
    writer.write(0, {"conv1": np.ones((256, 4), np.float16)})
    print("writing", flush=True)
    sys.stdin.read()
    if sys.argv[2:]:
        writer.write(1, {"conv1": np.ones((44, 4), np.float16)})
        writer.finish()
"""


@pytest.fixture
def cache(run, npz: Path, small_weights: Path, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A cache with features of two encoders, statistics of one, a search, and files that are none of ours."""
    for encoder in (small_weights, "untrained:svhn32:1"):
        result = run("features", "--data", npz, "--encoder", encoder, "--layer", "conv1")
        assert result.exit_code == 0, result.output
    folder = tmp_path / "cache"
    (folder / f"supervised-{'0' * 16}.json").write_text('{"format": "dcgan-eval-search-1", "trials": [1, 2]}')
    for name, content in FOREIGN.items():
        (folder / name).write_bytes(content)
    (folder / "thesis").mkdir()
    (folder / "thesis" / f"noise-{'0' * 16}-{'0' * 8}-{'0' * 8}.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / f"linked-{'0' * 16}-{'0' * 8}-{'0' * 8}.h5.partial").symlink_to(folder / "notes.txt")
    return folder


FOREIGN = {
    "notes.txt": b"mine",
    "data.h5": b"\x89HDF\r\n\x1a\n",
    f"text-{'0' * 16}-{'0' * 8}-{'0' * 8}.h5": b"no HDF5 at all",
    "kmeans-mine.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    f"supervised-{'1' * 16}.json": b'{"format": "other"}',
    f"supervised-{'2' * 16}.json": b"[",
    ".other.lock": b"",
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def age(path: Path, days: float) -> None:
    """Let a file have been written days ago."""
    then = time.time() - 86_400 * days
    os.utime(path, (then, then))


def writer(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that is in the middle of writing a store."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_is_listed_is_what_lies_there(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(run("cache", "list", "--json").stdout)
    kinds = sorted(file["kind"] for file in found["files"])
    assert kinds == sorted(["features"] * 2 + ["lock"] * 2 + ["batch-norm statistics"] * 2 + ["search"])
    for file in found["files"]:
        assert file["size_bytes"] == Path(file["file"]).stat().st_size
        assert file["in_use"] is False
    assert found["total_bytes"] == sum(Path(file["file"]).stat().st_size for file in found["files"])
    shown = run("cache", "list").stdout
    for words in (
        "svhn32: noise-all, 60 images, conv1",
        "untrained:svhn32:1: noise-all",
        "2 finished trials",
        "7 files,",
    ):
        assert words in shown
    assert not {Path(file["file"]).name for file in found["files"]} & FOREIGN.keys()


def test_an_empty_or_missing_cache(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("cache", "list").stdout == "0 files, 0.0 MB\n"
    assert run("cache", "clean", "--keep-gb", "0", "--yes").exit_code == 0
    (tmp_path / "file").write_text("")
    assert run("cache", "list", "--cache-dir", "file").exit_code == 2


def test_all_of_it_goes_and_nothing_else(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("cache", "clean", "--keep-gb", "0", "--yes")
    assert result.exit_code == 0, result.output
    left = names(cache)
    assert {name for name in left if not name.endswith((".h5.lock", ".json.lock"))} == {
        *FOREIGN,
        "thesis",
        f"linked-{'0' * 16}-{'0' * 8}-{'0' * 8}.h5.partial",
    }
    assert len(list((cache / "thesis").iterdir())) == 1
    assert "Deleted: 5 files" in result.stdout
    again = run("features", "--data", "noise.npz", "--encoder", "untrained:svhn32:1", "--layer", "conv1")
    assert again.exit_code == 0  # the cache works on


def test_dry_runs_and_refusals_delete_nothing(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    before = names(cache)
    assert "Would be deleted" in run("cache", "clean", "--keep-gb", "0", "--dry-run").stdout
    assert json.loads(run("cache", "clean", "--keep-gb", "0", "--dry-run", "--yes", "--json").stdout)["deleted"] == []
    assert run("cache", "clean", "--keep-gb", "0").exit_code == 1  # nobody there to say yes
    nothing_said = run("cache", "clean", "--yes")
    assert nothing_said.exit_code == 2
    assert "--older-than" in nothing_said.stderr
    assert names(cache) == before


def test_age_and_size(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    stores = sorted(path for path in cache.glob("noise-*.h5"))
    age(stores[1], 40)
    age(stores[0], 20)
    for days, gone in (("50", []), ("30", [stores[1]])):
        done = json.loads(run("cache", "clean", "--older-than", days, "--yes", "--json").stdout)
        assert [file["file"] for file in done["deleted"]] == [str(path) for path in gone]
    total = sum(file.size_bytes for file in cache_files(cache))
    room = str((total - 1) / 1e9)  # one byte too many: the oldest goes, and no other
    done = json.loads(run("cache", "clean", "--keep-gb", room, "--yes", "--json").stdout)
    assert [file["file"] for file in done["deleted"]] == [str(stores[0])]
    assert json.loads(run("cache", "clean", "--keep-gb", room, "--yes", "--json").stdout)["deleted"] == []


def test_what_another_process_writes_stays(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    """While it is written it is shown and stays; once the process is gone it is what an interrupted run left."""
    process = writer(cache, "finish")
    try:
        (listed,) = [file for file in json.loads(run("cache", "list", "--json").stdout)["files"] if file["in_use"]]
        assert listed["kind"] == "unfinished"
        assert "mine: noise-train, 300 images, conv1" in listed["what"]
        for option in (["--unfinished"], ["--keep-gb", "0"]):
            kept = run("cache", "clean", *option, "--yes")
            assert kept.exit_code == 0
            assert Path(listed["file"]).exists()
            assert "a process is writing it" in kept.stderr
    finally:
        process.communicate("")
    assert process.returncode == 0
    assert Path(listed["file"].removesuffix(".partial")).exists()  # finished, undisturbed


def test_what_a_killed_process_left_goes(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    process = writer(cache)
    process.kill()
    process.communicate()
    temporary, fresh = (
        cache / ".kmeans-0.abcdefgh.partial.safetensors",
        cache / ".kmeans-0.hgfedcba.partial.safetensors",
    )
    temporary.write_bytes(b"")
    fresh.write_bytes(b"")
    age(temporary, 1)
    before = names(cache)
    result = run("cache", "clean", "--unfinished", "--yes")
    assert result.exit_code == 0, result.output
    gone = before - names(cache)
    assert temporary.name in gone
    assert fresh.name not in gone  # it may be being written
    assert len(gone) == 2
    assert any(name.endswith(".h5.partial") for name in gone)


def test_a_store_that_was_written_anew_since_it_was_listed_stays(run, cache: Path) -> None:  # type: ignore[no-untyped-def]
    from dcgan_eval.features.cache import choose, free

    chosen, kept = choose(cache_files(cache), keep_bytes=0), []
    changed = next(file for file in chosen if file.kind == "features")
    age(changed.path, 3)
    gone = free(chosen, kept.append)
    assert kept == [changed]
    assert len(gone) == len(chosen) - 1
