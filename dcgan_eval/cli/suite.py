"""Suites in TOML for the gate and for ``bench``, whose keys are the options of ``svm``."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DcganEvalError, SuiteError, unknown_name
from ..protocols.spec import Protocol
from .encoder import RULES, EncoderChoice
from .options import Number
from .running import given_source, take_making, take_protocol, take_settings
from .svm import svm

if TYPE_CHECKING:
    from ..protocols.regress import Bands, Case, Suite
    from ..protocols.sources import Filler

# Options of ``svm`` that are no keys: they decide no number, and the gate has its own or none.
_PLACES = {"data_dir", "download", "cache_dir", "no_wait", "num_workers", "memory_gb"}
_NOT_KEYS = _PLACES | {"list_layers", "explain", "record", "as_json", "probe", "log", "near_duplicates", "svm_device"}
_OPTIONS = [option for option in svm.params if isinstance(option, click.Option) and option.name not in _NOT_KEYS]
# Every spelling of an option -> the option: as typed behind the dashes, or with underscores.
_KEYS = {
    spelling: option
    for option in _OPTIONS
    for name in (*option.opts, option.name or "")
    for spelling in (name.lstrip("-"), name.lstrip("-").replace("-", "_"))
}
_RULES = [key for key, option in _KEYS.items() if option.name in ("layers", *RULES)]  # of an encoder in a list
_WEIGHTS = ("any", "equal")
_LISTS = 'data = ["digits", "./own"] and encoder = ["imagenet32-plus", {name = "timm:NAME", pool = "avg1"}]'
_EXAMPLE = '[[run]] with name = "...", protocol = "..." and options of svm'


def load_suite(name: str) -> Suite:
    """Return one of our own suites by its name, or the user's from a TOML file.

    Parameters
    ----------
    name : str
        ``"smoke"``, ``"small"``, ``"paper"`` or the path of a file that ends in ``.toml``.

    Raises
    ------
    SuiteError
        No such suite or file, or something in it that no run can be made of.
    """
    from ..protocols.regress import SOLVER, SUITES, Case, Suite, our_suite

    if name in SUITES:
        return our_suite(name)
    path = Path(name)
    if path.suffix.lower() != ".toml":
        raise unknown_name("suite", name, [*SUITES, "FILE.toml"], SuiteError)
    tables, cases, runs = _tables(path), dict[str, Case](), dict[str, Any]()
    for number, table in enumerate(tables, 1):
        title = table.get("name")
        if not isinstance(title, str) or not title.strip():
            raise _wrong(f"Run {number} of {path} has no name", title, 'name = "..."')
        if title in (*cases, SOLVER):
            whose = "the gate's own" if title == SOLVER else "an earlier run's"
            raise SuiteError(f"The name of run {number} of {path} is {whose}", got=repr(title), remedy="change it")
        with _within(f"Run {title!r} of {path}"):
            cases[title], runs[title] = _case(table)
    return Suite(path.stem, cases, path.with_suffix(".baseline.json"), runs)


@dataclass(frozen=True)
class Lists:
    """What a file for ``bench`` names.

    Attributes
    ----------
    data : list of str
        Protocols, or paths of own data.
    encoders : list of (str, dict)
        Names, with the options that are given beside each.
    rules : dict
        Options of all encoders.
    """

    data: list[str]
    encoders: list[tuple[str, dict[str, Any]]]
    rules: dict[str, Any]


def load_lists(path: Path) -> Lists:
    """Return the lists ``data`` and ``encoder`` of a TOML file, whose encoders may be tables with options of ``svm``.

    Raises
    ------
    SuiteError
        No such file, another key, or something else than names and options.
    """
    content = _content(path, _LISTS)
    _check_keys(content, ["data", "encoder", *_RULES], f"key of {path}")
    data, entries = content.get("data", []), content.get("encoder", [])
    tables = [{"name": e} if isinstance(e, str) else e for e in entries] if isinstance(entries, list) else [entries]
    for key, names, given in (("data", data, data), ("encoder", [_name(table) for table in tables], entries)):
        if not isinstance(given, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise _wrong(f"{key} of {path} is no list of names", given, _LISTS)
    with _within(str(path)):
        rules = _rules(content)
    encoders = []
    for table in tables:
        with _within(f"Encoder {table['name']!r} of {path}"):
            _check_keys(table, ["name", *_RULES], "key of an encoder")
            encoders.append((table["name"], _rules(table)))
    return Lists(data, encoders, rules)


def _name(table: Any) -> Any:
    """Return an encoder's name, None for what can have none."""
    return table.get("name") if isinstance(table, dict) else None


def _rules(table: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an encoder that a table gives."""
    asked, context = _parsed({key: value for key, value in table.items() if key in _RULES}, "digits")
    return {name: context.params[name] for name in asked if name != "protocol"}


def _content(path: Path, expected: str) -> dict[str, Any]:
    """Parse a TOML file."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise SuiteError("The suite cannot be read", got=f"{path}: {error}", expected=f"TOML: {expected}") from error


def _tables(path: Path) -> list[dict[str, Any]]:
    """Return the tables of the runs in a file."""
    content = _content(path, _EXAMPLE)
    _check_keys(content, ["run"], f"table of {path}")
    tables = content.get("run")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise _wrong(f"{path} has no runs", tables, f"a table for each: {_EXAMPLE}")
    return tables


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Say where in which file something is wrong, and name keys instead of options."""
    try:
        yield
    except click.UsageError as error:
        raise SuiteError(f"{place}: {_as_keys(error.format_message())}") from error
    except DcganEvalError as error:
        remedy = error.remedy and _as_keys(error.remedy)
        raise SuiteError(f"{place}: {error.what}", got=error.got, expected=error.expected, remedy=remedy) from error


def _as_keys(text: str) -> str:
    """Return a text that names keys of a suite where it named options."""
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*)", r"\1", text)


def _case(table: dict[str, Any]) -> tuple[Case, dict[str, Any]]:
    """Return a run, and what was asked for as plain values."""
    from ..protocols.regress import Case

    _check_keys(table, ["name", "protocol", "bands", *_KEYS], "key of a run")
    protocol = table.get("protocol")
    if not isinstance(protocol, str) or not protocol:
        raise _wrong("It has no protocol", protocol, "a protocol's name, or the path of own data")
    asked, context = _parsed(table, protocol)
    with context:
        pinned, source, options = _run(context.params)
    settings = take_settings(options)
    assert options.keys() <= _NOT_KEYS, "every key is used"
    gap = math.inf if settings.allow_unconverged else settings.tol
    return Case(pinned, source, settings, _bands(table.get("bands", {}), gap)), asked


def _parsed(table: dict[str, Any], protocol: str) -> tuple[dict[str, Any], click.Context]:
    """Return what a table asks for as plain values, and as a call of ``svm``."""
    words, asked = list[str](), {"protocol": protocol}
    for key, value in table.items():
        if key in _KEYS:
            option = _KEYS[key]
            if option.name in asked:
                raise SuiteError("An option is given twice", got=key, remedy="leave one of the two out")
            words += _words(key, option, value)
            asked[str(option.name)] = value
    return asked, svm.make_context("svm", [*words, "--", protocol])


def _run(options: dict[str, Any]) -> tuple[Protocol, Callable[[], Filler], dict[str, Any]]:
    """Return the protocol and the source that options of ``svm`` ask for, and the options that are left."""
    from ..protocols.sources import EncoderFeatures

    protocol, layers, given = (options.pop(name) for name in ("protocol", "layers", "given"))
    encoder = EncoderChoice(**{field.name: options.pop(field.name) for field in fields(EncoderChoice)})
    if given:
        features = given_source(protocol, given, options)
        return take_protocol(protocol, options, features), lambda: features, options
    making = take_making(options, layers)
    return take_protocol(protocol, options), lambda: EncoderFeatures(encoder.load(), making), options


def _words(key: str, option: click.Option, value: Any) -> list[str]:
    """Return the words of the command line that say the same as a key and its value."""
    flag = option.opts[0]
    if option.is_flag:
        if not isinstance(value, bool):
            raise _wrong(f"{key} has a value of another type", value, "true or false")
        return [flag] if value else []
    several = option.multiple or option.nargs > 1
    values = value if several and isinstance(value, list) else [value]
    if option.nargs > 1 and len(values) != option.nargs:
        raise _wrong(f"{key} has another number of values", value, f"a list of {option.nargs}")
    kind, words = ((int, float), "a number") if isinstance(option.type, Number) else (str, "a text in quotes")
    for one in values:
        if not isinstance(one, kind) or isinstance(one, bool) or one == "":
            raise _wrong(f"{key} has a value of another type", one, f"{words}, or a list of such" if several else words)
    return [flag, *values] if option.nargs > 1 else [f"{flag}={one}" for one in values]


def _bands(table: Any, gap: float) -> Bands:
    """Return the bands of a run."""
    from ..protocols.regress import Bands

    if not isinstance(table, dict):
        raise _wrong("bands is no table", table, "[run.bands] with score = 0.5, in percentage points")
    known = [field.name for field in fields(Bands) if field.name != "gap"]
    _check_keys(table, known, "band")
    for key, value in table.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key == "weights" and value not in _WEIGHTS:
            raise _wrong("The band of weights is unknown", value, " or ".join(map(repr, _WEIGHTS)))
        if key != "weights" and not (is_number and value >= 0):  # not NaN either
            unit = "percentage points" if key in ("score", "validation") else "times the baseline"
            raise _wrong(f"The band of {key} is no number from 0 on", value, f"{unit}, inf for any")
    points = {key: table[key] / 100 for key in ("score", "validation") if key in table}
    return Bands(**{"weights": _WEIGHTS[0], "gap": gap, **table, **points})


def _check_keys(table: Iterable[str], known: list[str], kind: str) -> None:
    """Refuse a key that means nothing, with the closest that do."""
    for key in table:
        if key not in known:
            raise unknown_name(kind, key, known, SuiteError)


def _wrong(what: str, got: Any, expected: str) -> SuiteError:
    """Build the error for a value that cannot be used."""
    return SuiteError(what, got="nothing" if got is None else repr(got), expected=expected)
