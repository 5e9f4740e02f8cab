"""Strings of users' made harmless: one helper for each format that they are written to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

# Control characters, terminal escapes among them; marks that reorder or hide text; halves of surrogate pairs.
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")
_FORMULA = ("=", "+", "-", "@")


def printable(text: str, keep: str = "") -> str:
    """Return text with every character that acts instead of being seen as its escape: ESC as ``\\x1b``.

    Parameters
    ----------
    text : str
        Anything: names in archives, records and folders are written by others.
    keep : str
        Characters to leave, such as ``"\\n"``.
    """
    return _HIDDEN.sub(lambda m: m[0] if m[0] in keep else m[0].encode("unicode_escape").decode(), text)


def markdown_cell(text: str) -> str:
    """Return text that Markdown shows as it stands, within a cell of a table."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def csv_cell(value: Any) -> Any:
    """Return text that no spreadsheet takes for a formula: one that starts like it gets an apostrophe; else the value.

    Source: OWASP, CSV injection.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return "'" + text if text.startswith(_FORMULA) else text


def latex_cell(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    # One pass, so that what stands for a character is not itself replaced.
    return re.sub(r"[\\{}$&#^_~%<>|\"–±×]", lambda m: _LATEX[m[0]], printable(text))


def html_templates() -> Environment:
    """Return the templates of the pages, which escape what they are given; a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: errors are made printable without pages

    return Environment(
        loader=PackageLoader("dcgan_eval.report"),
        autoescape=True,
        finalize=lambda value: printable(value, keep="\n") if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "{}$&#_%"},
    "^": r"\^{}",
    "~": r"\~{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
}
