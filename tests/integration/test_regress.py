"""The gate opens for what is unchanged, and closes for a damaged solver, cache, weight file or baseline."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dcgan_eval.errors import RecordError
from dcgan_eval.features.extract import ExtractOptions
from dcgan_eval.models import bundled
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network
from dcgan_eval.protocols import classifiers, regress
from dcgan_eval.protocols.regress import (
    SUITES,
    Measure,
    baseline_path,
    baseline_text,
    judge,
    load_baseline,
    our_suite,
    run_suite,
)
from dcgan_eval.report import gate
from dcgan_eval.svm.objective import Solution

FIXED_WORK = regress._reference_time


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed work that times are compared with takes seconds; the gate itself, which CI runs, does it."""
    monkeypatch.setattr(regress, "_reference_time", lambda: 1.0)


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A discriminator that runs in milliseconds."""
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    save_network(build(get_preset("svhn32", 8), seed=0)[0], path)
    return str(path)


@pytest.fixture
def quick(narrow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smoke suite of a small encoder and of pixels."""
    monkeypatch.setitem(SUITES, "smoke", (("digits", narrow), ("digits", "pixels")))


@pytest.fixture(scope="session")
def quick_baseline(narrow: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the quick suite gives when nothing is damaged, and the cache that it left."""
    folder = tmp_path_factory.mktemp("regress")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "smoke", (("digits", narrow), ("digits", "pixels")))
        patch.setattr(regress, "_reference_time", lambda: 1.0)
        return run_suite(our_suite("smoke"), cache_dir=folder), folder


def failures(measures: list[Measure]) -> set[tuple[str, str]]:
    return {(Path(m.case.split(", ")[-1]).stem, m.name) for m in measures if not m.passed}


def test_the_same_again_is_no_regression(quick: None, quick_baseline: tuple[dict[str, Any], Path], narrow: str) -> None:
    baseline, cache = quick_baseline
    measures = judge(run_suite(our_suite("smoke"), cache_dir=cache), baseline)
    assert failures(measures) == set()
    assert {m.name for m in measures} >= {"score", "C", "objective_to_liblinear", "weights_sha256"}
    assert {"time", "memory"} <= baseline["cases"][f"digits_l2svm, {narrow}"].keys()  # with an empty cache alone


@pytest.mark.parametrize("name", SUITES)
def test_another_C_never_narrows_the_band(name: str) -> None:
    baseline = load_baseline(baseline_path(name), our_suite(name))
    cases = [case for case in baseline["cases"].values() if "score" in case]
    assert len(cases) == len(SUITES[name])
    for case in cases:
        assert case["score_band_at_another_C"] >= case["score_band"] > 0


class _Products(TorchDispatchMode):
    """Counts matrix products by their type, and leaves them out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.mm.default:
            return func(*args, **(kwargs or {}))
        self.counts[args[0].dtype] += 1
        return args[0]


def test_the_fixed_work_is_that_of_classifiers_and_of_features(monkeypatch: pytest.MonkeyPatch) -> None:
    # By bfloat16 products alone a run on pixels, which has none, took 29 units on one processor and 9 on another.
    monkeypatch.setattr(ExtractOptions, "compute_name", "bfloat16")
    with _Products() as seen:
        assert FIXED_WORK() > 0
    assert seen.counts[torch.float32] == seen.counts[torch.bfloat16] > 0


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_damaged_solver(quick_baseline, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:  # type: ignore[no-untyped-def]
    honest = regress.fit_ovr

    def damaged(*arguments: Any, **options: Any) -> Solution:
        solution = honest(*arguments, **options)
        return replace(solution, W=factor * np.asarray(solution.W))  # the certificate goes on saying "converged"

    monkeypatch.setitem(SUITES, "smoke", ())
    monkeypatch.setattr(regress, "fit_ovr", damaged)
    assert failures(judge(run_suite(our_suite("smoke")), quick_baseline[0])) == {("solver", "objective_to_liblinear")}


def test_a_solver_that_learns_nothing(quick_baseline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    honest = classifiers.fit_ovr
    monkeypatch.setitem(SUITES, "smoke", (("digits", "pixels"),))

    def rolled(*arguments: Any, **options: Any) -> Solution:
        solution = honest(*arguments, **options)
        return replace(solution, W=np.roll(np.asarray(solution.W), 1, 0))

    monkeypatch.setattr(classifiers, "fit_ovr", rolled)
    assert ("pixels", "score") in failures(judge(run_suite(our_suite("smoke"), cache_dir=tmp_path), quick_baseline[0]))


@pytest.mark.parametrize("hidden", [False, True], ids=["checksum kept", "checksum made anew"])
def test_a_damaged_cache(
    quick_baseline: tuple[dict[str, Any], Path],
    narrow: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hidden: bool,
) -> None:
    baseline, cache = quick_baseline
    monkeypatch.setitem(SUITES, "smoke", (("digits", narrow),))
    damaged = shutil.copytree(cache, tmp_path / "cache")
    for path in damaged.glob("digits-test-*.h5"):
        with h5py.File(path, "r", locking=False) as file:
            layers = {name: file[f"layers/{name}"][:] for name in file["layers"]}
            places = {
                name: (file[f"layers/{name}"].id.get_offset(), file[f"crc32/{name}"].id.get_offset()) for name in layers
            }
        with open(path, "r+b") as file:
            for name, f_ND in layers.items():
                rolled = np.roll(f_ND, 7, axis=0)
                file.seek(places[name][0])
                file.write(rolled.tobytes())
                if hidden:
                    checks = [zlib.crc32(rolled[i : i + 256].tobytes()) for i in range(0, len(rolled), 256)]
                    file.seek(places[name][1])
                    file.write(np.array(checks, "<u4").tobytes())
    measures = judge(run_suite(our_suite("smoke"), cache_dir=damaged), baseline)
    assert failures(measures) == {("narrow", "score" if hidden else "run")}


def test_a_damaged_weight_file(
    quick_baseline: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(bundled.bundled_dir(), tmp_path / "pretrained")
    for path in copy.glob("*.discriminator.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    monkeypatch.setattr(bundled, "bundled_dir", lambda: copy)
    monkeypatch.setitem(SUITES, "smoke", (("digits", None),))
    measures = judge(run_suite(our_suite("smoke"), cache_dir=tmp_path), quick_baseline[0])
    assert failures(measures) == {("bundled", "run")}
    assert "does not match its hash" in str(next(m.value for m in measures if not m.passed))


def test_other_weights_fail_by_their_hash(
    quick_baseline: tuple[dict[str, Any], Path], narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline, cache = quick_baseline
    changed = json.loads(json.dumps(baseline))
    changed["cases"][f"digits_l2svm, {narrow}"]["weights_sha256"] = "0" * 64
    monkeypatch.setitem(SUITES, "smoke", (("digits", narrow),))
    found = run_suite(our_suite("smoke"), cache_dir=cache)
    assert failures(judge(found, changed)) == {("narrow", "weights_sha256")}


@pytest.mark.parametrize(
    ("key", "change", "fails"),
    [
        ("score", lambda v: v + 0.05, True),
        ("score", lambda v: v + 0.005, False),
        ("time", lambda v: v / 3.5, True),
        ("time", lambda v: v * 5, False),
        ("memory", lambda v: v / 2, True),
        ("num_features", lambda v: v + 1, True),
        ("dataset_fingerprint", lambda v: "0", True),
    ],
)
def test_each_number_has_its_band(quick_baseline, key: str, change, fails: bool) -> None:  # type: ignore[no-untyped-def]
    baseline, _ = quick_baseline
    name = "digits_l2svm, pixels"
    found = {"cases": {name: {"C": 1e-3, "memory": 2.0, **baseline["cases"][name]}}}
    expected = {"cases": {name: {**found["cases"][name], key: change(found["cases"][name][key])}}}
    assert failures(judge(found, expected)) == ({("pixels", key)} if fails else set())


def test_the_choice_of_C_may_move_among_ties_only(quick_baseline) -> None:  # type: ignore[no-untyped-def]
    baseline, _ = quick_baseline
    name = "digits_l2svm, pixels"
    known = baseline["cases"][name]
    best, other = f"{known['C']:g}", next(C for C in known["curve"] if float(C) != known["C"])
    for margin, fails in ((0.001, set()), (0.2, {("pixels", "C")})):
        curve = {**known["curve"], other: known["curve"][best] - margin}
        expected = {**known, "curve": curve}
        # the score at another C may be anywhere in the interval of the baseline's
        found = {**expected, "C": float(other), "score": known["score"] + 0.9 * known["score_band_at_another_C"]}
        assert failures(judge({"cases": {name: found}}, {"cases": {name: expected}})) == fails
    moved = {C: score - (0.1 if best == C else 0.0) for C, score in known["curve"].items()}
    found = {**known, "curve": moved}
    assert failures(judge({"cases": {name: found}}, {"cases": {name: known}})) == {
        ("pixels", "largest change on validation rows")
    }


def test_a_case_without_a_baseline_fails() -> None:
    assert failures(judge({"cases": {"new": {"score": 1.0}}}, {"cases": {}})) == {("new", "run")}


def test_the_command(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(SUITES, "smoke", (("digits", "pixels"),))
    assert run("regress", "--update", "--baseline", "b.json").exit_code == 0
    outputs = ("--junit", "j.xml", "--json", "r.json", "--markdown", "m.md")
    good = run("regress", "--baseline", "b.json", *outputs)
    assert good.exit_code == 0, good.output
    assert "no regression" in good.output
    baseline = json.loads(Path("b.json").read_text())
    case = baseline["cases"]["digits_l2svm, pixels"]
    moved = {**baseline, "cases": {**baseline["cases"], "digits_l2svm, pixels": {**case, "score": 0.5}}}
    Path("edited.json").write_text(json.dumps(moved))
    assert "does not fit its digest" in run("regress", "--baseline", "edited.json").stderr
    Path("moved.json").write_text(baseline_text(moved))
    bad = run("regress", "--baseline", "moved.json", *outputs)
    assert bad.exit_code == 1
    assert "smoke: 1 regression\nFAILS  digits_l2svm, pixels: score" in bad.output
    assert "0.5, ±" in bad.output
    (failed,) = ElementTree.parse("j.xml").getroot().iterfind("testcase/failure/..")
    assert failed.get("name") == "score"
    assert json.loads(Path("r.json").read_text())["passed"] is False
    assert Path("m.md").read_text().count("### dcgan-eval smoke") == 2  # appended, as CI summaries are
    assert "**FAILS**" in Path("m.md").read_text()


def test_baselines_that_cannot_be_used(run) -> None:  # type: ignore[no-untyped-def]
    missing = run("regress", "--baseline", "none.json")
    assert missing.exit_code == 2
    assert "--update" in missing.stderr
    found = json.loads(baseline_path("smoke").read_text())
    found["cases"]["digits_l2svm, pixels"]["protocol_version"] = 0
    Path("old.json").write_text(baseline_text(found))
    old = run("regress", "--baseline", "old.json")
    assert old.exit_code == 2
    assert "another version of the protocol" in old.stderr
    with pytest.raises(RecordError, match="no baseline"):
        load_baseline(Path("old.json"), our_suite("small"))


def test_a_flipped_bit_in_a_baseline_is_found(tmp_path: Path) -> None:
    data, draw = baseline_path("smoke").read_bytes(), np.random.default_rng(0)
    honest = load_baseline(baseline_path("smoke"), our_suite("smoke"))
    for position in draw.choice(8 * len(data), 300, replace=False):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        (tmp_path / "b.json").write_bytes(damaged)
        try:
            assert load_baseline(tmp_path / "b.json", our_suite("smoke")) == honest  # 1e-05 and 1E-05 are one number
        except RecordError:
            continue


def places(values: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the way to every value in nested dictionaries."""
    inner = (
        [place for key, value in values.items() for place in places(value, (*path, key))]
        if isinstance(values, dict)
        else []
    )
    return [*([path] if path else []), *inner]


HONEST = json.loads(baseline_path("smoke").read_bytes())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(places(HONEST)), value=JSON)
def test_any_value_in_a_baseline_is_a_sentence_or_a_comparison(
    tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    changed = json.loads(json.dumps(HONEST))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        (tmp_path / "b.json").write_text(baseline_text(changed))  # with a digest that fits
        baseline = load_baseline(tmp_path / "b.json", our_suite("smoke"))
    except RecordError:
        return
    measures = judge(HONEST, baseline)
    gate.markdown(measures, "smoke")
    gate.junit(measures, "smoke")


def test_deep_json_is_no_baseline(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(RecordError, match="no baseline"):
        load_baseline(tmp_path / "b.json", our_suite("smoke"))


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_has_a_baseline_of_its_cases(suite: str) -> None:
    cases = load_baseline(baseline_path(suite), our_suite(suite))["cases"]
    expected = {f"{regress.get_protocol(command).id}, {features or 'bundled'}" for command, features in SUITES[suite]}
    assert cases.keys() == expected | {"solver"}
