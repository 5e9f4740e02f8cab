"""A fitted L2-SVM as a file: weights as safetensors, everything else as JSON in the file's header."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import WeightsError
from ..files import check_regular
from .objective import Solution, Status

_FORMAT = "dcgan-eval-l2svm-1"
_ARRAYS = ("W", "intercepts", "primal", "dual", "gaps")
_KINDS = "biufU"  # of NumPy dtypes: truth values, numbers, strings


def save_solution(solution: Solution, extra: dict[str, Any] | None = None) -> bytes:
    """Return the bytes of a safetensors file that holds a solution.

    Parameters
    ----------
    solution : Solution
        Converged or not: its status and certificate go with it.
    extra : dict, optional
        What else belongs to it, such as the identity of the features; must be JSON.

    Returns
    -------
    bytes
        For :func:`dcgan_eval.files.write_file`. ``W``, ``intercepts``, ``primal``, ``dual`` and ``gaps`` are arrays,
        the rest is the JSON under ``"solution"`` in the header.

    Raises
    ------
    TypeError
        The labels are neither numbers nor strings, or ``extra`` is no JSON.
    """
    labels = solution.classes
    if labels.dtype.kind not in _KINDS:
        raise TypeError(f"Classes must be numbers or strings to be saved; got dtype {labels.dtype}.")
    others = (field.name for field in fields(Solution) if field.name not in (*_ARRAYS, "classes"))
    described = {name: getattr(solution, name) for name in others}
    described["classes"] = {"dtype": labels.dtype.str, "values": labels.tolist()}
    header = {"format": _FORMAT, "solution": json.dumps(described), "extra": json.dumps(extra or {})}
    return save({name: np.ascontiguousarray(getattr(solution, name)) for name in _ARRAYS}, header)


def load_solution(path: Path) -> tuple[Solution, dict[str, Any]]:
    """Read a solution from a file.

    Parameters
    ----------
    path : Path
        Written from what :func:`save_solution` gave.

    Returns
    -------
    tuple
        The solution, with the same bits, and what was saved beside it.

    Raises
    ------
    WeightsError
        The file is missing, damaged, or holds something else.
    """
    try:
        check_regular(path)
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise _foreign(path, f"format {header.get('format')!r}")
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        described, extra = dict(json.loads(header["solution"])), dict(json.loads(header["extra"]))
        labels = described.pop("classes")
        described |= {"status": Status(described["status"]), "history": tuple(described["history"])}
        classes = np.array(labels["values"], dtype=labels["dtype"])
        if classes.dtype.kind not in _KINDS or classes.ndim != 1:
            raise ValueError(f"classes of dtype {classes.dtype}")
        return Solution(**arrays, classes=classes, **described), extra
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _foreign(path, f"{type(error).__name__}: {error}") from error


def _foreign(path: Path, got: str) -> WeightsError:
    """Build the error for a file that holds no solution (not raised here)."""
    return WeightsError(
        f"{path} holds no L2-SVM of this toolkit",
        got=got,
        expected=f"format {_FORMAT!r}",
        remedy="fit and save it again",
    )
