"""One way to finish a file: whole or not at all, whoever else writes, and never over a file of another kind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import h5py
import pytest

from dcgan_eval.baselines import supervised
from dcgan_eval.errors import DcganEvalError
from dcgan_eval.features.store import FeatureStore
from dcgan_eval.files import check_target, kind_of, locked, replacing, write_file
from dcgan_eval.models import release
from dcgan_eval.models.tensors import read_tensors
from dcgan_eval.svm.saved import load_solution
from dcgan_eval.training.checkpoint import read_state


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    target = write_file(tmp_path / "a.json", "old")

    def write_half() -> None:
        with replacing(target) as partial:
            partial.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_does_not_read_back_does_not_take_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_file(tmp_path / "a.json", "old")
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"other bytes than were written")
    with pytest.raises(OSError, match="read back"):
        write_file(target, "new")
    assert target.read_text() == "old"


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "a[1].json"
    if (child := os.fork()) == 0:
        with replacing(target) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = os.listdir(tmp_path)
    other = tmp_path / left.replace("a[1]", "b")  # of another name: not this writer's
    other.touch()
    write_file(target, "whole")
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, "a[1].json"])
    assert target.read_text() == "whole"


def test_what_a_living_writer_holds_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    with replacing(target) as partial:
        partial.write_text("slow")
        write_file(target, "fast")
        assert target.read_text() == "fast"
    assert target.read_text() == "slow"
    lock, calls = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        lock(descriptor, how)
        if not calls:  # another process was faster, and cleared the file as nobody's
            os.unlink(next(tmp_path.glob(".*")))
        calls.append(how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_file(target, "again")
    assert (target.read_text(), calls) == ("again", [fcntl.LOCK_EX, fcntl.LOCK_EX])
    assert os.listdir(tmp_path) == ["a.json"]


def test_many_processes_write_one_name(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dcgan_eval.files import write_file\n"
        "for _ in range(50): write_file(Path(sys.argv[1]), sys.argv[2] * 10_000)"
    )
    target = tmp_path / "shared.json"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(target), letter]) for letter in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert set(target.read_text()) in ({"a"}, {"b"}, {"c"})
    assert len(target.read_text()) == 10_000
    assert os.listdir(tmp_path) == ["shared.json"]


def test_the_mode_of_a_new_file_follows_the_mask(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        assert write_file(tmp_path / "a", b"x").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(earlier)


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "features.json", "w") as file:
        file["x"] = 1
    (tmp_path / "record.json").write_text(' {"schema": 1}')
    (tmp_path / "page.html").write_text("<!doctype html>")
    assert kind_of(tmp_path / "features.json") == "HDF5"
    assert kind_of(tmp_path / "record.json") == "JSON"
    assert kind_of(tmp_path / "page.html") == "HTML"
    assert kind_of(tmp_path / "missing") is None


def test_targets_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"schema": 1}')
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("folder.png", "pipe.png", "record.json/x.png"):
        with pytest.raises(DcganEvalError, match="--out"):
            check_target(tmp_path / name, "--out")
    with pytest.raises(DcganEvalError, match="suffix"):
        check_target(tmp_path / "a.txt", "--out", suffixes=(".png",))
    (tmp_path / "was.safetensors").write_text('{"schema": 1}')
    with pytest.raises(DcganEvalError, match="another kind"):
        check_target(tmp_path / "was.safetensors", "--out")
    check_target(tmp_path / "was.safetensors", "--out", force=True)
    check_target(tmp_path / "record.json", "--record")
    check_target(tmp_path / "new" / "record.json", "--record")


def test_a_lock_is_waited_for_and_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dcgan_eval.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.h5")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(filelock.Timeout), locked(tmp_path / "a.h5", wait=False):
        pass
    waits: list[int] = []

    def on_wait() -> None:
        waits.append(1)
        holder.kill()

    with locked(tmp_path / "a.h5", on_wait=on_wait):
        assert waits
    holder.wait()


def test_without_locks_the_user_must_say_that_one_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_lock)
    with pytest.raises(OSError, match="HDF5_USE_FILE_LOCKING=FALSE"), locked(tmp_path / "a.h5"):
        pass
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    with locked(tmp_path / "a.h5"):
        pass


@pytest.mark.parametrize(
    "read",
    [
        FeatureStore,
        read_tensors,
        supervised._read,
        lambda path: read_state(path.parent),
        load_solution,
        release._read_array,
    ],
    ids=["store", "tensors", "search", "checkpoint", "classifier", "released array"],
)
def test_a_pipe_among_our_files_is_refused_at_once(read: Callable[[Path], object], tmp_path: Path) -> None:
    pipe = tmp_path / "checkpoint.json"
    os.mkfifo(pipe)

    def release() -> None:  # whoever waits for a writer all the same
        time.sleep(3)
        with open(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), "wb"):
            pass

    threading.Thread(target=release, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(DcganEvalError, match="it is a pipe"):
        read(pipe)
    assert time.monotonic() - began < 3
