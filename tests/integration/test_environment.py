"""Surroundings that are not as hoped for: no room, no home, a clock that jumps, a hand on Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from dcgan_eval.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_what_the_system_refuses_is_a_sentence(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(code, os.strerror(code), b"/full/caf\xe9")  # a name that is no UTF-8

    monkeypatch.setattr("dcgan_eval.cli.weights.read_manifest", refuse)
    result = CliRunner().invoke(main, ["weights", "list"])
    assert result.exit_code == 2
    assert os.strerror(code) in result.stderr
    assert "/full/caf" in result.stderr
    assert result.stderr.count("Error: ") == 1
    with pytest.raises(OSError, match=os.strerror(code)):
        CliRunner().invoke(main, ["--debug", "weights", "list"], catch_exceptions=False)


def test_a_home_that_cannot_be_written(run, npz: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("DCGAN_EVAL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")  # not even root makes folders there
    result = run("features", "--data", npz, "--weights", small_weights)
    assert result.exit_code == 2
    assert "--cache-dir" in result.stderr


def test_a_clock_that_jumps_changes_no_result(
    run, npz: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    arguments = ("features", "--data", npz, "--weights", small_weights)
    assert run(*arguments, "--cache-dir", "now").exit_code == 0
    jumps = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr("time.time", lambda: float(next(jumps)))
    result = run(*arguments, "--cache-dir", "then")
    assert result.exit_code == 0, result.output
    (now,), (then,) = Path("now").glob("*.h5"), Path("then").glob("*.h5")
    with h5py.File(now) as before, h5py.File(then) as after:
        assert np.array_equal(before["all"], after["all"])


def test_an_interrupt_that_falls_into_a_destructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints such a KeyboardInterrupt and forgets it; the command must end all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored

    class Falls:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def work() -> None:
        Falls()
        ended.wait(20)

    ended = threading.Event()
    monkeypatch.setattr("dcgan_eval.cli.weights.read_manifest", work)
    try:
        result = CliRunner().invoke(main, ["weights", "list"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr


def test_an_interrupt_while_a_command_is_loaded() -> None:
    """Ctrl-C before anything has begun, with libraries half imported."""
    code = (
        "import sys, signal, os; from dcgan_eval.cli import main\n"
        "class Now:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Now()); main.main(['features', '--data', 'digits'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
