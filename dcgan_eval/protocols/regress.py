"""The gate: a suite of runs compared with a baseline, each number within a stated band.

Scores: a single fit may move by :func:`~dcgan_eval.protocols.verify.score_band`, which is what rounding on another
processor can do; a mean over draws by the half-width of its 95 % interval. Hashes, widths and rules must be equal, and
C may move among ties. Processor time is a ratio to that of fixed work in the same run (matrix products, and LIBLINEAR
on a fixed problem), memory one to the size of the feature matrices; both may grow by some factor. A suite of the user's
own may state other :class:`Bands`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.svm import LinearSVC

from .. import provenance
from ..data.imageset import ImageSet
from ..errors import DcganEvalError, RecordError
from ..features.encoders import load_encoder
from ..features.extract import COMPUTE_TYPES, ExtractOptions, Progress
from ..records import Record
from ..seeding import rng
from ..svm.path import fit_ovr
from .catalog import get_protocol
from .given import load_sets
from .runner import run_protocol
from .settings import DEFAULTS, Place, Settings
from .sources import EncoderFeatures, Filler, GivenFeatures, PixelFeatures
from .spec import Protocol, SealedTest
from .verify import record_band, score_band

FORMAT = "dcgan-eval-baseline-3"  # 2 adds the digest, 3 how images become features
SOLVER = "solver"  # the case that every suite has
_SPARE_BYTES = 1 << 28  # so that allocations which have nothing to do with small matrices do not count
OBJECTIVE_BAND = 1e-4  # the certificate that fits are made to
_ROUNDING = 1e-12  # of a difference of scores that is as large as the band

# Suite of this toolkit -> (protocol, features); None is the bundled default encoder.
SUITES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "smoke": (("digits", None), ("digits", "untrained"), ("digits", "pixels")),
    "small": (("cifar10-small", None), ("cifar10-small", "pixels")),
    "paper": (("cifar10", None), ("cifar10-400", None), ("cifar10", "pixels")),
}


@dataclass(frozen=True)
class Bands:
    """How far the numbers of a run may be from its baseline.

    Attributes
    ----------
    score, validation : float or None
        Of the score, and of each score on validation rows, as fractions; None is what rounding can do.
    time, memory : float
        Times the baseline's.
    weights : str
        ``"equal"``: their hash must be the baseline's; ``"any"``: it need not.
    gap : float
        Largest relative duality gap.
    """

    score: float | None = None
    validation: float | None = None
    time: float = 3.0
    memory: float = 1.5
    weights: str = "equal"
    gap: float = OBJECTIVE_BAND


@dataclass(frozen=True)
class Case:
    """One run of a suite.

    Attributes
    ----------
    protocol : Protocol
        What to run.
    source : callable
        Makes the source of features when the run begins.
    settings : Settings
        What else decides its numbers.
    bands : Bands
        How far they may move.
    """

    protocol: Protocol
    source: Callable[[], Filler]
    settings: Settings = DEFAULTS
    bands: Bands = Bands()


@dataclass(frozen=True)
class Suite:
    """Runs whose numbers are compared with a baseline.

    Attributes
    ----------
    name : str
        What it is called.
    cases : dict
        Name -> run.
    path : Path
        Where its baseline lies, if nothing else is said.
    runs : dict
        Name -> what the user asked for, as plain values; a baseline holds for the very same. Empty for our own suites.
    """

    name: str
    cases: dict[str, Case]
    path: Path
    runs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A number beside what it should be.

    Attributes
    ----------
    case, name : str
        Which run, and what of it.
    value, expected : object
        Found, and in the baseline.
    band : str
        How far apart they may be, in words.
    passed : bool
        Whether they are.
    """

    case: str
    name: str
    value: Any
    expected: Any
    band: str
    passed: bool


def baseline_path(suite: str) -> Path:
    """Return the file of a suite's bundled baseline: inside an installed package, or of the checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "gate_baselines"
    return (inside if inside.is_dir() else package.parent / "benchmarks" / "baselines") / f"{suite}.json"


def our_suite(name: str) -> Suite:
    """Return a suite of this toolkit: ``"smoke"`` (needs the package alone), ``"small"`` or ``"paper"``."""
    cases = {}
    for command, features in SUITES[name]:
        protocol = get_protocol(command)
        cases[f"{protocol.id}, {features or 'bundled'}"] = Case(protocol, partial(_source, features))
    return Suite(name, cases, baseline_path(name))


def _source(features: str | None) -> Filler:
    """Return pixels, or the features of bundled or untrained weights."""
    if features == "pixels":
        return PixelFeatures()
    return EncoderFeatures(load_encoder(features), ExtractOptions(device="cpu"))


def run_suite(
    suite: Suite,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | str = "cache",
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run a suite and return what a baseline holds; a case that fails is kept with its error.

    Parameters
    ----------
    suite : Suite
        What to run.
    data_dir : Path or None
        Where data sets lie; None uses ``DCGAN_EVAL_DATA``.
    cache_dir : Path or str
        Folder of the feature stores; with a fresh one, features are computed and timed.
    progress : callable
        Shows long work.
    """
    reference_time = cache(_reference_time)
    place = Place(data_dir=data_dir, cache_dir=Path(cache_dir))
    cases, images = {SOLVER: _attempt(_solver_case)}, _Images(place)
    for name, case in suite.cases.items():
        cases[name] = _attempt(partial(_protocol_case, case, reference_time, images, progress))
    environment = provenance.environment()
    return {"format": FORMAT, "suite": suite.name, "runs": suite.runs, "environment": environment, "cases": cases}


@dataclass
class _Images:
    """The images of the last case, for the next one of the same protocol: some take longer to decode than to run."""

    place: Place
    protocol: Protocol | None = None
    sets: tuple[ImageSet, ImageSet] | None = None

    def of(self, protocol: Protocol, source: Filler) -> tuple[ImageSet, ImageSet]:
        """Return the training and test images of a protocol; given features have their own."""
        if isinstance(source, GivenFeatures):
            return load_sets(protocol, source, self.place)
        if self.sets is None or protocol != self.protocol:
            self.protocol = self.sets = None  # let go of first
            self.protocol, self.sets = protocol, load_sets(protocol, source, self.place)
        return self.sets


def _attempt(case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a case, keeping the error of one that fails."""
    try:
        return case()
    except DcganEvalError as error:
        return {"error": str(error)}


def _problem() -> tuple[np.ndarray, np.ndarray]:
    """Return a fixed problem of three overlapping classes, (600, 300)."""
    draw = rng(0, "regress")
    y = np.arange(600) % 3
    X = draw.normal(size=(600, 300)) + 0.4 * draw.normal(size=(3, 300))[y]
    return X.astype(np.float32), y


def _objective(W: np.ndarray, b: np.ndarray, X: np.ndarray, y: np.ndarray, C: float) -> float:
    """Return the sum of the one-vs-rest objectives in float64, from their definition."""
    signs = np.where(y[:, None] == np.arange(len(W)), 1.0, -1.0)
    hinge = np.maximum(0.0, 1.0 - signs * (X.astype(np.float64) @ W.T + b))
    return float(0.5 * (W**2).sum() + 0.5 * (b**2).sum() + C * (hinge**2).sum())


def _solver_case() -> dict[str, Any]:
    """Compare the solver's objective with LIBLINEAR's on the fixed problem."""
    X, y = _problem()
    ours = fit_ovr(X, y, 0.01, tol=OBJECTIVE_BAND)
    peer = LinearSVC(C=0.01, tol=1e-8, max_iter=20_000, dual=True, random_state=0).fit(X.astype(np.float64), y)
    found = _objective(np.asarray(ours.W, np.float64), np.asarray(ours.intercepts, np.float64), X, y, 0.01)
    return {"objective_to_liblinear": found / _objective(peer.coef_, peer.intercept_, X, y, 0.01)}


def _reference_time() -> float:
    """Return the processor time of fixed work, in seconds: matrix products, and LIBLINEAR on the fixed problem.

    Half of the products are in float32, as those of classifiers, half in the type that features are computed in here.
    """
    X, y = _problem()
    types = torch.float32, COMPUTE_TYPES[ExtractOptions().compute_name]
    matrices = [torch.ones((1024, 1024), dtype=dtype) for dtype in types]
    times = []
    for _ in range(3):
        started = time.process_time()
        for A in matrices * 15:
            A @ A
        LinearSVC(C=0.01, random_state=0).fit(X, y)
        times.append(time.process_time() - started)
    return float(np.median(times))


def _protocol_case(
    case: Case, reference_time: Callable[[], float], images: _Images, progress: Progress
) -> dict[str, Any]:
    """Run a protocol and return its numbers."""
    source = case.source()
    _reset_peak_memory()
    before, started = provenance.peak_memory_bytes(), time.process_time()
    train, test = images.of(case.protocol, source)
    record = run_protocol(case.protocol, train, SealedTest(test), source, case.settings, images.place, progress)
    used_s, grown_bytes = time.process_time() - started, provenance.peak_memory_bytes() - before
    # With features out of a cache, time and memory are other numbers.
    suffix = "_cached" if any(record.features.get("cached", [])) else ""
    matrix_bytes = 4 * record.num_features * sum(part["num_images"] for part in record.data.values())
    memory = (grown_bytes + _SPARE_BYTES) / (matrix_bytes + _SPARE_BYTES)
    timed = case.bands.time < math.inf  # if any time will do, the fixed work is spared, which takes seconds
    ratios = {f"time{suffix}": used_s / reference_time()} if timed else {}
    return {**_numbers(record, case.protocol), **ratios, f"memory{suffix}": memory}


def _numbers(record: Record, protocol: Protocol) -> dict[str, Any]:
    """Return what a baseline keeps of a record."""
    names = "protocol protocol_version score num_draws C duality_gap num_features dataset_fingerprint weights_sha256"
    half = (record.ci95[1] - record.ci95[0]) / 2
    band = half if record.num_draws > 1 else record_band(record)
    bands = {
        "score_band": band,
        "score_band_at_another_C": max(band, half),
        "curve_band": score_band(protocol.num_held_out(record.data["train"]["num_images"])),
    }
    rules = {name: record.features.get(name) for name in ("preprocessing", "pooling")}
    curve = {f"{row['C']:g}": row["score"] for row in record.selection}
    return {**{name: getattr(record, name) for name in names.split()}, **rules, "curve": curve, **bands}


def _reset_peak_memory() -> None:
    """Let the peak of resident memory start anew, where Linux allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def baseline_text(found: dict[str, Any]) -> str:
    """Return the file of a baseline: what :func:`run_suite` found, with a digest of it."""
    return json.dumps({**found, "digest": _digest(found)}, indent=1) + "\n"


def _digest(values: dict[str, Any]) -> str:
    """Return the SHA-256 of everything but the digest itself."""
    content = {key: value for key, value in values.items() if key != "digest"}
    return provenance.digest(json.dumps(content, sort_keys=True))


def load_baseline(path: Path, suite: Suite) -> dict[str, Any]:
    """Read a baseline.

    Raises
    ------
    RecordError
        Missing, damaged or foreign file, another suite or other runs in it, or another version of a protocol.
    """
    try:
        found = json.loads(path.read_bytes())
        known = found["format"] == FORMAT and found["suite"] == suite.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise RecordError(
            f"There is no baseline of the suite {suite.name!r} here", got=str(path), remedy="make one with --update"
        )
    if found.get("digest") != _digest(found) or not _is_baseline(found):
        raise RecordError(
            "The baseline is damaged or was edited: it does not fit its digest",
            got=str(path),
            remedy="restore the file, or make a new one with --update",
        )
    _check_runs(found["runs"], suite, path)
    versions = {case.protocol.id: case.protocol.version for case in suite.cases.values()}
    for name, case in found["cases"].items():
        version = versions.get(case.get("protocol"), case.get("protocol_version"))
        if case.get("protocol_version") != version:
            raise RecordError(
                f"The baseline of {name} is of another version of the protocol",
                got=f"version {case['protocol_version']} in {path}",
                expected=f"version {version}",
                remedy="make a new one with --update",
            )
    return dict(found)


def _check_runs(then: dict[str, Any], suite: Suite, path: Path) -> None:
    """Refuse the baseline of a suite that has changed since in more than its bands."""
    changed = [name for name in {**then, **suite.runs} if then.get(name) != suite.runs.get(name)]
    if changed:
        raise RecordError(
            f"The suite {suite.name!r} has changed since its baseline was made",
            got=f"another run {', '.join(map(repr, changed))} than in {path}",
            remedy="undo the change, or make a new baseline with --update",
        )


def _is_baseline(found: dict[str, Any]) -> bool:
    """Tell whether everything that is compared has the type that it is compared as."""
    cases = found.get("cases")
    return (
        isinstance(found.get("runs"), dict)
        and isinstance(cases, dict)
        and all(isinstance(case, dict) and _is_case(case, name == SOLVER) for name, case in cases.items())
    )


def _is_case(case: dict[str, Any], is_solver: bool) -> bool:
    """Tell whether the numbers of a run are numbers, and its curve a table of them."""
    texts = {"protocol", "dataset_fingerprint", "weights_sha256", "preprocessing", "pooling"}
    curve = case.get("curve", {"": 0.0})
    numbers = [value for key, value in case.items() if key not in {*texts, "curve"}]
    run = {"score", "score_band", "score_band_at_another_C", "C", "curve", "curve_band"}
    return (
        isinstance(curve, dict)
        and len(curve) > 0
        and all(type(value) in (int, float) for value in [*numbers, *curve.values()])
        and all(isinstance(case.get(key), str | None) for key in texts)
        and (is_solver or run <= case.keys())
    )


def judge(found: dict[str, Any], baseline: dict[str, Any], suite: Suite | None = None) -> list[Measure]:
    """Compare a run of a suite with its baseline, number by number.

    Parameters
    ----------
    found, baseline : dict
        From :func:`run_suite` and :func:`load_baseline`.
    suite : Suite or None
        Whose bands are meant; None is the usual ones.
    """
    cases = {} if suite is None else suite.cases
    bands = {name: cases[name].bands if name in cases else Bands() for name in found["cases"]}
    return [
        measure
        for name, case in found["cases"].items()
        for measure in _judge_case(name, case, baseline["cases"], bands[name])
    ]


def _judge_case(name: str, case: dict[str, Any], expected: dict[str, Any], bands: Bands) -> Iterator[Measure]:
    """Compare one run."""
    if "error" in case:
        yield Measure(name, "run", case["error"], "no error", "", False)
        return
    if name not in expected:
        yield Measure(name, "run", "not in the baseline", "a baseline", "", False)
        return
    kept = {"protocol", "protocol_version", "num_draws"} | ({"weights_sha256"} if bands.weights == "any" else set())
    for key, value in case.items():
        if key not in kept and "_band" not in key:
            yield _measure(name, key, value, case, expected[name], bands)


def _measure(name: str, key: str, value: Any, case: dict[str, Any], baseline: dict[str, Any], bands: Bands) -> Measure:
    """Compare one number by the rule for its kind."""
    known = baseline.get(key)
    if key == "objective_to_liblinear":
        return Measure(name, key, value, 1.0, f"±{OBJECTIVE_BAND:g}", abs(value - 1) <= OBJECTIVE_BAND)
    if key == "duality_gap":
        return Measure(name, key, value, known, f"at most {bands.gap:g}", value <= bands.gap)
    if key == "score":
        usual = baseline["score_band" if case["C"] == baseline["C"] else "score_band_at_another_C"]
        band = usual if bands.score is None else bands.score
        return Measure(name, key, value, known, f"±{100 * band:.2f} points", abs(value - known) <= band + _ROUNDING)
    if key in ("curve", "C"):
        band = baseline["curve_band"] if bands.validation is None else bands.validation
        return _choice_measure(name, key, value, baseline, band + _ROUNDING)
    if key.startswith(("time", "memory")):
        factor = bands.memory if key.startswith("memory") else bands.time
        # The baseline is made without a cache, so that features out of one have nothing to be compared with.
        passed = key.endswith("_cached") if known is None else value <= factor * known
        return Measure(name, key, value, known, f"at most {factor:g} times", passed)
    return Measure(name, key, value, known, "equal", value == known)


def _choice_measure(name: str, key: str, value: Any, baseline: dict[str, Any], band: float) -> Measure:
    """Compare the scores on validation rows, or the C that they chose."""
    curve = baseline["curve"]
    if key == "curve":
        largest = max((abs(value[C] - curve[C]) for C in value.keys() & curve.keys()), default=math.inf)
        name_, allowed = "largest change on validation rows", f"{100 * band:.2f} points"
        return Measure(name, name_, largest, 0.0, allowed, largest <= band)
    tied = curve.get(f"{value:g}", 0.0) >= max(curve.values()) - band
    allowed = f"within {100 * band:.2f} points of the best on validation rows"
    return Measure(name, key, value, baseline.get(key), allowed, tied)
