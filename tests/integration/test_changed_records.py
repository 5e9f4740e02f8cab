"""Records in which a value is another, of any type, or gone: every command reads, refuses or finds it, none fails."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dcgan_eval.records import _digest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
GONE = object()
VALUES = (
    GONE,
    None,
    1,
    -1,
    1.5,
    10**400,
    1e308,
    float("nan"),
    True,
    "",
    "x",
    "\ud800",
    [],
    [1],
    [[1]],
    [{}],
    {},
    {"a": 1},
)
COMMANDS = (
    ("show", "m.json"),
    ("show", "m.json", "good.json"),
    ("list", ".", "--json"),
    ("export", "m.json", "--out", "e.csv"),
    ("export", "m.json", "--out", "e.tex"),
    ("export", "m.json", "--out", "e.parquet"),
    ("report", "m.json", "good.json", "--out", "p.html"),
    ("table", "svhn", "."),
    ("compare", "m.json", "good.json"),
    ("verify", "m.json", "--data-dir", "nowhere"),
)
FOUND = {  # each was a traceback
    "svhn-small-pixels": (
        ("selection", 1, "C", {}, "verify"),
        ("selection", 1, "scores", "", "verify"),
        ("selection", 0, "scores", GONE, "verify"),  # the hour of the fault campaign found these two
        ("selection", 1, "C", GONE, "verify"),
        ("selection", 1, "duality_gap", {}, "show"),
        ("selection", 1, "score", 1e308, "show"),
        ("draws", 1, "score", 10**400, "show"),
        ("draws", 1, "score", 0.0, "report"),
        ("draws", 1, "score", 0.0, "verify"),
        ("draws", 0, "score", float("nan"), "verify"),
        ("class_names", 1, "x", "compare"),
        ("data", "test", "fingerprint", "\ud800", "export"),
        ("features", "batch_norm", [{}], "report"),
        ("made", "environment", "packages", [], "report"),
        ("made", "environment", {}, "report"),
        ("made", "timings_s", None, "report"),
    ),
    "cifar10-small-kmeans": (  # which has rows of the test split alone
        ("spec", "splits", 1, "verify"),
    ),
    "digits": (  # whose images are at hand
        ("spec", "per_class", [], "verify"),
        ("spec", "subset", {}, "verify"),
        ("features", "kind", GONE, "verify"),
        ("features", "kind", "given", "verify"),
        ("features", "rules", {"normalise": 1}, "verify"),
        ("data", {}, "verify"),
        ("data", "train", GONE, "verify"),
        ("data", "test", "in_train", [], "verify"),
        ("selection", [], "verify"),
        ("draws", [], "verify"),
        ("figures", {"ece": {"score": 0.1, "ci95": [0.0, 0.2], "bins": []}}, "verify"),
    ),
}


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value; of a list to the first two."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    for key, below in inner:
        yield (*above, key)
        yield from places(below, (*above, key))


def write_changed(name: str, way: tuple[Any, ...], new: Any) -> None:
    """Write a committed record, and a changed one with a digest that fits."""
    good = json.loads((RESULTS / f"{name}.json").read_text())
    Path("good.json").write_text(json.dumps(good))
    inner = good
    for key in way[:-1]:
        inner = inner[key]
    if new is GONE:
        del inner[way[-1]]
    else:
        inner[way[-1]] = new
    Path("m.json").write_text(json.dumps(good | {"digest": _digest(good)}))


def check(result: Result, what: object) -> None:
    assert isinstance(result.exception, SystemExit | None), (what, result.exception)
    assert result.exit_code in (0, 1, 2, 3), what


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, cases in FOUND.items() for case in cases],
    ids=lambda v: v if isinstance(v, str) else " ".join(map(str, v[:-2])) + f" {v[-2]!r:.20}",
)
def test_what_was_found(run: Callable[..., Result], name: str, case: tuple[Any, ...]) -> None:
    *way, new, command = case
    write_changed(name, tuple(way), new)
    for words in COMMANDS:
        if words[0] == command:
            check(run(*words), words)


@pytest.mark.parametrize(("key", "new"), [("values", {}), ("values", "x"), ("values", [None, 1.0]), ("patience", "x")])
def test_no_run_is_made_again_from_what_is_no_value(run: Callable[..., Result], key: str, new: Any) -> None:
    write_changed("digits-pixels", ("classifier", key), new)
    result = run("verify", "m.json", "--rerun")
    check(result, (key, new))
    assert f"classifier.{key} has another form" in result.stderr


def test_any_value_anywhere(run: Callable[..., Result]) -> None:
    draw = random.Random(0)
    for _ in range(20):
        name = draw.choice(("digits", "svhn-small-pixels", "cifar10-small-kmeans", "cifar10-small-supervised"))
        way = draw.choice(list(places(json.loads((RESULTS / f"{name}.json").read_text()))))
        new, words = draw.choice(VALUES), draw.choice(COMMANDS)
        write_changed(name, way, new)
        check(run(*words), (name, way, new, words))
