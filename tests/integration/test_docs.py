"""The documents' code runs as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from dcgan_eval.records import load_record

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a document."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.S)


def test_own_encoder(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    checkpoint, six_lines, factory = blocks("docs/howto/own-encoder.md", "python")
    assert len([line for line in six_lines.splitlines() if line]) == 6
    subprocess.run([sys.executable, "-c", checkpoint], cwd=tmp_path, check=True)
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", six_lines], cwd=tmp_path, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    (tmp_path / "mine.py").write_text(factory)
    for line in blocks("docs/howto/own-encoder.md", "sh")[0].splitlines():
        result = run(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    record = load_record("simclr.json")
    assert record.features["cached"] == [True, True]  # the same module, weights and rules, by another door
    assert record.score == float(done.stdout)
    assert record.score > 0.9
