"""Commands run in forked children of a process that has imported everything, and broken at a chosen moment.

Needs the library built from ``interpose.c`` in ``LD_PRELOAD`` (see ``server.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import io
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STUCK_S = 400.0
"""A child that takes longer hangs; on two quiet cores the slowest command takes a hundredth of it."""


class Action(enum.IntEnum):
    """What happens at the chosen call; the numbers are those of ``interpose.c``."""

    COUNT = 1
    KILL_BEFORE = 2
    KILL_AFTER = 3
    TEAR = 4
    FAIL = 5
    STOP = 6
    INTERRUPT = 7


@dataclass(frozen=True)
class Fault:
    """Something that happens to a child at a call that changes files below a folder.

    Attributes
    ----------
    action : Action
        What.
    call : int
        At which call, counted from 1.
    folder : Path
        Calls on files outside it are not counted.
    error : int
        The ``errno`` of a call that fails.
    trace : Path or None
        Gets a line for each call.
    """

    action: Action
    call: int
    folder: Path
    error: int = 0
    trace: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes
    ----------
    code : int
        Exit code; of a child that a signal ended, the signal's number, negative.
    text : str
        Everything that it printed, on either stream.
    calls : int
        Calls counted, of a child that ended by itself.
    is_stuck : bool
        It had to be killed because it took too long.
    """

    code: int
    text: str
    calls: int = 0
    is_stuck: bool = False

    @property
    def kind(self) -> str:
        """``ok``, ``killed``, ``sentence``, ``stuck`` or ``traceback``: a crash and what HDF5 prints are one, too."""
        if self.is_stuck:
            return "stuck"
        if self.code == -signal.SIGKILL:
            return "killed"
        if self.code < 0 or "Traceback (most recent call last)" in self.text or "HDF5-DIAG" in self.text:
            return "traceback"
        if self.code in (0, 1):  # 1 is an answer, too: something differs, a number has moved
            return "ok" if self.code == 0 else "sentence"
        return "sentence" if "Error: " in self.text or "Interrupted." in self.text else "traceback"


class Child:
    """A command or function in a forked process of its own group.

    Parameters
    ----------
    work : sequence of str, or callable
        Arguments of ``dcgan-eval``, or what to call.
    log : Path
        Gets what is printed.
    fault : Fault or None
        What happens to it.
    directory : Path or None
        Where it runs.
    """

    def __init__(
        self,
        work: Sequence[object] | Callable[[], object],
        log: Path,
        fault: Fault | None = None,
        directory: Path | None = None,
    ):
        self.log = log
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 97
            try:
                code = _work(work, log, fault, directory, writer)
            finally:
                os._exit(code)
        os.close(writer)
        self._watch = os.pidfd_open(self.pid)

    def wait(self, timeout_s: float) -> bool:
        """Tell whether it has ended, after waiting for it for some time at most."""
        return bool(select.select([self._watch], [], [], max(timeout_s, 0))[0])

    def wait_until_stopped(self) -> bool:
        """Wait until it has stopped at its chosen call; False if it ended without."""
        return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_code == os.CLD_STOPPED

    def go_on(self) -> None:
        """Continue it where it stopped."""
        os.kill(self.pid, signal.SIGCONT)

    def end(self, timeout_s: float = STUCK_S) -> Outcome:
        """Wait for it, kill it if it takes too long, and say how it ended."""
        is_stuck = not self.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):  # the group outlives a killed leader
            os.killpg(self.pid, signal.SIGKILL) if is_stuck else None
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        calls = os.read(self._reader, 20)
        os.close(self._reader)
        os.close(self._watch)
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return Outcome(code, text, int(calls or 0), is_stuck)

    def kill_after(self, time_s: float) -> Outcome:
        """Kill it at a moment, unless it ended before."""
        if not self.wait(time_s):
            os.kill(self.pid, signal.SIGKILL)
        return self.end()


def _work(
    work: Sequence[object] | Callable[[], object], log: Path, fault: Fault | None, directory: Path | None, writer: int
) -> int:
    """Run in the child; return its exit code."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs in the background
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), write_through=True) for n in (1, 2))
    if directory is not None:
        os.chdir(directory)
    with _armed(fault, writer):
        try:
            if callable(work):
                work()
            else:
                from dcgan_eval.cli.main import main

                main([str(word) for word in work], prog_name="dcgan-eval")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:  # whatever it is, the campaign must see it
            return _show(error)
    return 0


def _show(error: BaseException) -> int:
    """Print an exception as the command line would: ours in a sentence, others with their traceback."""
    from dcgan_eval.errors import DcganEvalError

    if isinstance(error, DcganEvalError):
        print(f"Error: {error}")
        return 2
    traceback.print_exception(error)
    return 3


@contextlib.contextmanager
def _armed(fault: Fault | None, writer: int) -> Iterator[None]:
    """Let the fault happen within, and report how many calls were counted."""
    if fault is None:
        yield
        return
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.interpose_calls.restype = ctypes.c_long
    library.interpose_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    trace = -1 if fault.trace is None else os.open(fault.trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    library.interpose_arm(fault.action, fault.call, fault.error, os.fsencode(fault.folder), trace)
    try:
        yield
    finally:
        os.write(writer, str(library.interpose_calls()).encode())


def run(work: Sequence[object] | Callable[[], object], log: Path, fault: Fault | None = None) -> Outcome:
    """Run a command or function to its end."""
    return Child(work, log, fault).end()


def now_s() -> float:
    """Return a clock that only goes forward."""
    return time.monotonic()
