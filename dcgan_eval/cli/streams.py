"""Standard output and error on terminals of any encoding."""

from __future__ import annotations

import codecs
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from ..errors import DcganEvalError

# What stands for a character that the terminal's encoding lacks; others are shown as their escape.
_PLAIN = {"–": "-", "±": "+-", "×": "x", "█": "#", "◀": "<", "…": ".", "✓": "ok", "━": "-", "╸": "-", "╺": "-"}

_TO_SPEAK_S = 60.0


def keep_encodable() -> None:
    """Let standard output and error write what their encoding lacks in other characters, and file names as they are."""
    codecs.register_error("dcgan_eval.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="dcgan_eval.plain")


@contextmanager
def hushed() -> Iterator[None]:
    """Let only one of the processes that ``torchrun`` started show anything; errors that pass through are said.

    ``torchrun`` ends all of them when the first has failed: one whose mistake another says leaves it the time to.
    """
    if int(os.environ.get("RANK") or 0) == 0:
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except (SystemExit, DcganEvalError) as end:
        if end.code if isinstance(end, SystemExit) else end.told:
            time.sleep(_TO_SPEAK_S)
        raise


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show warnings as one line each, without the place in the code that gave them."""

    def show(message: Warning | str, *about: Any, **more: Any) -> None:
        from .console import err

        err.print(f"Note: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what is written instead of a character, and where to go on: see :func:`codecs.register_error`."""
    assert isinstance(error, UnicodeEncodeError), "only registered for output"
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is no text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _PLAIN.get(character, character.encode("unicode_escape").decode()), error.start + 1
