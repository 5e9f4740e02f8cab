"""Named errors: what went wrong, what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_FEW = 4  # names that fit a sentence
_MANY = re.compile(r"(\w+ )?weights\b")  # kinds of things that come in the plural


_NOUNS = re.compile(
    r"\b(array|class|column|device|draw|file|finding|folder|image|"
    r"key|label|line|link|list|number|pipe|record|regression|row|run|value)(?:(?<=class)es|s)\b"
)
_END = re.compile(r" (?:in|of|to|without|beside|named|that|from)\b|$")


def counted(number: int, what: str) -> str:
    """Write a number and what is counted, given in the plural: ``1 image``, ``2 images``.

    Parameters
    ----------
    number : int
        How many.
    what : str
        Begins with the nouns that are counted: ``"files and folders of other kinds"``.

    Returns
    -------
    str
    """
    if number != 1:
        return f"{number:,} {what}"
    end = _END.search(what)
    assert end is not None, "it matches the end"
    head, tail = what[: end.start()], what[end.start() :]
    singular = _NOUNS.sub(r"\1", head).replace(" and ", " or ")
    return f"1 {singular}{tail}"


class DcganEvalError(Exception):
    """A mistake that the user can mend.

    Parameters
    ----------
    what : str
        One sentence on what went wrong.
    got, expected : str, optional
        What was found and what was needed.
    remedy : str, optional
        What to do, with the flag or command that does it.

    Attributes
    ----------
    told : bool
        Whether another process of the same job says it: before they have joined, the first one of a machine.
    """

    told = int(os.environ.get("LOCAL_RANK") or 0) > 0

    def __init__(self, what: str, *, got: str | None = None, expected: str | None = None, remedy: str | None = None):
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [self.what.rstrip(".") + "."]
        parts += [f"Got: {self.got}."] if self.got is not None else []
        parts += [f"Expected: {self.expected}."] if self.expected is not None else []
        parts += [f"Remedy: {self.remedy}" + "." * (not self.remedy.endswith("?"))] if self.remedy is not None else []
        return " ".join(parts)


class TeamError(DcganEvalError):
    """Another process of a job over several has ended or is lost."""


class DataError(DcganEvalError):
    """A data set is missing, unreadable or not what the protocol needs."""


class WeightsError(DcganEvalError):
    """A weights file is missing, damaged, foreign or does not match its preset."""


class EncoderError(DcganEvalError):
    """An encoder cannot be built, or does not give what features are made of."""


class StoreError(DcganEvalError):
    """A feature store is damaged, foreign, incomplete or cannot be written."""


class ProtocolError(DcganEvalError):
    """A protocol cannot be run on what was given."""


class LeakError(DcganEvalError):
    """Something tried to look at the test labels more often than once."""


class ArgumentError(DcganEvalError, ValueError):
    """A parameter has a value that cannot be used; also a ValueError, as scikit-learn's users expect."""


class ConvergenceError(DcganEvalError):
    """A fit did not reach its certificate, so it has no score."""


class RecordError(DcganEvalError):
    """A record cannot be read, or lacks what is asked of it."""


class SuiteError(DcganEvalError):
    """A suite of runs for the gate cannot be read, or asks for what does not exist."""


class TrainingError(DcganEvalError):
    """Training cannot start, resume or go on."""


def unknown_name(kind: str, name: str, known: Iterable[str], error: type[DcganEvalError]) -> DcganEvalError:
    """Build the error for a name that is not in a table, with the closest names that are.

    Parameters
    ----------
    kind : str
        What the name should name: ``"layer"``, ``"preset"``.
    name : str
        What was asked for.
    known : iterable of str
        The names that exist.
    error : type
        The class of error to build.

    Returns
    -------
    DcganEvalError
        Not raised here, so that the caller's ``raise`` stays visible.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    remedy = f"choose one of {', '.join(names)}"
    if close:
        others = [other for other in names if other not in close] if len(names) <= _FEW else []
        remedy = f"did you mean {' or '.join(close)}?"
        remedy += f" There {'is' if len(others) == 1 else 'are'} also {' and '.join(others)}" if others else ""
    return error(f"There {'are' if _MANY.match(kind) else 'is'} no {kind} named {name!r}", remedy=remedy)


def looks_like_path(name: str) -> bool:
    """Tell whether a user means a file or folder by a name: it has a separator, or begins like a path."""
    return name.startswith((".", "~")) or any(sep in name for sep in ("/", os.sep))


def missing_path(path: Path, error: type[DcganEvalError], remedy: str = "correct the path") -> DcganEvalError:
    """Build the error for a path that does not exist, with the closest names of what is in its folder."""
    part = path.expanduser()
    while not part.parent.is_dir():
        part = part.parent
    names = os.listdir(part.parent) if os.access(part.parent, os.R_OK) else []
    close = [os.path.join(part.parent, name) for name in difflib.get_close_matches(part.name, names, n=3)]
    shown = [f".{os.sep}{name}" if part.parent == Path() else name for name in map(os.path.normpath, close)]
    return error(
        f"There is no file or folder {path}", remedy=f"did you mean {' or '.join(shown)}?" if shown else remedy
    )


def check_installed(package: str, asked: str, *, extra: str, distribution: str | None = None) -> None:
    """Raise unless a package that only some options need can be imported; nothing is imported.

    Parameters
    ----------
    package : str
        What is imported.
    asked : str
        The option that needs it.
    extra : str
        Ours that installs it.
    distribution : str or None
        What pip installs it as; None is the package's name.

    Raises
    ------
    DcganEvalError
        It is not installed.
    """
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise DcganEvalError(
            f"{package} is not installed",
            got=asked,
            remedy=f"pip install {distribution or package}, or from a checkout pip install -e '.[{extra}]'",
        )
