"""Terminals of every kind: encodings that lack characters, pipes, narrow and dumb ones."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    """Return a committed record as it stands."""
    return json.loads((RESULTS / f"{name}.json").read_text())


PERCENT = {name: f"{100 * read(name)['score']:.2f}" for name in ("cifar10", "digits")}
SOME = ("cifar10", "cifar10-kmeans", "digits", "svhn-small-pixels")
COMMANDS = [
    ["show", "some/cifar10.json"],
    ["show", "some/cifar10.json", "some/svhn-small-pixels.json"],
    ["table", "cifar10", "some"],
    ["table", "svhn", "some", "--format", "markdown"],
    ["list", "some"],
    ["report", "some", "--out", "page.html"],
    ["export", "some", "--out", "records.csv"],
    ["data", "list"],
]
RUN = """
import sys
from dcgan_eval.cli.main import main
for words in {commands!r}:
    try:
        main(words, prog_name="dcgan-eval")
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON", "COLUMNS"))}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def run(commands: list[list[str]], folder: Path, **changes: str) -> bytes:
    """Run commands in one process whose output is a pipe."""
    code = RUN.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, env=environment(**changes))
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8"},
    ],
    ids=["ascii", "latin-1", "C locale", "UTF-8"],
)
def test_any_encoding(changes: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>a page that was there</html>")
    (tmp_path / "some").mkdir()
    for name in SOME:
        shutil.copy(RESULTS / f"{name}.json", tmp_path / "some")
    text = run(COMMANDS, tmp_path, **changes)
    shown = text.decode("utf-8" if "UTF-8" in str(changes) else changes.get("PYTHONIOENCODING", "ascii"))
    assert PERCENT["cifar10"] in shown
    assert f"{100 * read('cifar10')['ci95'][0]:.2f}" in shown
    page = (tmp_path / "page.html").read_bytes().decode("utf-8")  # files are UTF-8 wherever they are written
    assert "–" in page
    assert page.rstrip().endswith("</html>")


def test_a_pipe_is_never_cut(tmp_path: Path) -> None:
    lines = run([["list", str(RESULTS)]], tmp_path, COLUMNS="40", LC_ALL="C.UTF-8").decode().splitlines()
    for path in set(RESULTS.glob("*.json")) - {RESULTS / "faults.json"}:
        (line,) = [line for line in lines if line.split()[:1] == [path.name]]
        assert len(line.split()) >= 5


def on_terminal(words: list[str], columns: int, **changes: str) -> str:
    """Run a command on a terminal of a width, and return what it shows."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    code = RUN.format(commands=[words])
    env = environment(LC_ALL="C.UTF-8", **changes)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:  # how Linux says that the other end is closed
            break
        shown += part
    os.close(leader)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_forty_columns_show_every_number(term: str) -> None:
    if term == "dumb":
        text = on_terminal(["show", str(RESULTS / "cifar10.json"), str(RESULTS / "digits.json")], 40, TERM=term)
        assert "\x1b" not in text
    else:
        text = on_terminal(["list", str(RESULTS)], 40, TERM=term)
        assert "…" not in text
    for number in (PERCENT["cifar10"], PERCENT["digits"]):
        assert number in text
    width = 80 if term == "dumb" else 40  # a dumb terminal says nothing of its width
    assert max(len(line) for line in text.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()) <= width + 16
