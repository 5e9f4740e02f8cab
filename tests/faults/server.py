"""The process in which the campaign runs: imports the package once, then answers one JSON line with another.

A request ``{"row": ..., "target": ..., "tries": ..., "seed": ...}`` is answered with the row's tally.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Campaign:
    """A server process, and the library that breaks its children.

    Parameters
    ----------
    work : Path
        Folder for everything.

    Raises
    ------
    FileNotFoundError
        There is no C compiler.
    """

    def __init__(self, work: Path):
        work.mkdir(parents=True, exist_ok=True)
        library = work / "interpose.so"
        flags = ["-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "interpose.c"), "-ldl"]
        subprocess.run(["cc", *flags], check=True)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        home = {"HOME": str(work), "XDG_CACHE_HOME": str(work / "xdg"), "COLUMNS": "200"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, **home, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        )

    def __call__(self, **request: Any) -> dict[str, Any]:
        """Run a part of a row; return its tally."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


def _answer(bench: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run a part of a row; what goes wrong with the campaign itself is an answer, too."""
    try:
        answer: dict[str, Any] = bench.answer(**request)
    except Exception:
        return {"error": traceback.format_exc()}
    return answer


def _import_everything() -> None:
    """Load what the commands load, so that a child begins at once."""
    import sklearn.datasets
    import torch

    import dcgan_eval

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)], fused=True)
    for module in (
        "matplotlib.pyplot",
        "pandas",
        "pyarrow.parquet",
        "torchvision",
        "PIL.PngImagePlugin",
        "scipy.stats",
    ):
        importlib.import_module(module)
    for found in pkgutil.walk_packages(dcgan_eval.__path__, "dcgan_eval."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    digits = sklearn.datasets.load_digits()
    sklearn.datasets.load_digits = lambda: digits


def _serve(work: Path) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed by accident is no answer
    sys.path.insert(0, str(HERE))
    _import_everything()
    from rows import Bench

    memory = Path("/dev/shm")  # what is tried is kills and errors, not disks
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else work) as scratch:
        bench = Bench(Path(scratch))
        for line in sys.stdin:
            answers.write(json.dumps(_answer(bench, json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
