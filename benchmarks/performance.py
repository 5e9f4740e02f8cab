"""The tables of docs/performance.md, and README's, from the records of the benchmarks that have a peer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LINK = "benchmarks/results/"
AVX2 = "avx2/"  # folder of the records of a processor that is kept to AVX2
Row = tuple[str, str, str, str, str]  # what was timed, our side, the peer, how many times faster ours is, the record
IN_README = (
    "ten L2-SVMs, 4,000 real rows",
    "ten L2-SVMs, 1,000 easy rows, beside a busy process",
    "logistic regression, C = 0.0001, 4,000 rows, equal objective",
    "exact 50 nearest of 50,000 rows for 10,000 queries",
    "features, float32",
    "an update of D and G",
    "contrastive training",
    "`dcgan-eval svm cifar10`",
)


def load(name: str) -> dict[str, Any]:
    """Return a benchmark's record."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def machine(record: dict[str, Any]) -> str:
    """Return a record's processor, instruction set and threads in words."""
    found = record["environment"]
    bfloat16 = "-BF16" if found.get("bfloat16_in_hardware") else ""
    return f"{found['cpu']}, {found['instructions']}{bfloat16}, {found['num_threads']} threads"


def table(folder: str = "") -> str:
    """Return all rows, with links to their records."""
    lines = ["| | dcgan-eval | beside it | times faster | record |", "|---|---|---|---:|---|"]
    lines += [
        f"| {what} | {ours} | {peer} | {ratio} | [{name.split('/')[-1]}](../{LINK}{name}.json) |"
        for what, ours, peer, ratio, name in rows(folder)
    ]
    return "\n".join([*lines, "", f"{machine(load(f'{folder}svm/vs_liblinear'))}.", ""])


def avx2_table() -> str:
    """Return the rows of a processor that is kept to AVX2."""
    return table(AVX2)


def short_table() -> str:
    """Return README's rows."""
    lines = ["| | dcgan-eval | beside it | times faster |", "|---|---|---|---:|"]
    found = {what: (ours, peer, ratio) for what, ours, peer, ratio, _ in rows()}
    lines += [f"| {what} | {' | '.join(found[what])} |" for what in IN_README]
    where = machine(load("svm/vs_liblinear"))
    note = f"{where}; each row and its peer in one run. More rows, what grows how, and what was missed: "
    return "\n".join([*lines, "", f"{note}[docs/performance.md](docs/performance.md).", ""])


def svm_table() -> str:
    """Return what ``svm_vs_liblinear.py`` tells beside times."""
    record = load("svm/vs_liblinear")
    head = ["rows", "features", "solver", "time, s", "relative duality gap", "sum of objectives", "peak memory, GB"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in record["results"]:
        data = row["data"] + (", beside a busy process" if row["busy_neighbour"] else "")
        lines.append(
            f"| {row['num_rows']:,} | {data} | {row['side']} | {row['median_s']:.2f} | {row['gap']:.0e} | "
            f"{row['objective']:.6f} | {row['peak_bytes'] / 1e9:.1f} |"
        )
    repeats = min(len(row["times_s"]) for row in record["results"] if "path" not in row["side"])
    C = f"C = {record['C']:g}, on paths 1e-6 to 1e-3"
    note = f"Ten classes, 28,672 features, {C}; medians of {repeats} runs, of one for paths."
    return "\n".join([*lines, "", note, ""])


def slopes() -> str:
    """Return how times grow: the slope between the two largest sizes of each curve."""
    record = load("throughput/growth")
    lines = ["| | from | to | time, s | slope | peak memory, GB |", "|---|---:|---:|---:|---:|---:|"]
    for name, curve in record["growth"].items():
        sizes, took, peaks = curve["sizes"], curve["time_s"], curve["peak_bytes"]
        lines.append(
            f"| {name} | {sizes[0]:,} | {sizes[-1]:,} | {took[0]:.2f}–{took[-1]:.2f} | {curve['slope']:.2f} | "
            f"{peaks[0] / 1e9:.1f}–{peaks[-1] / 1e9:.1f} |"
        )
    return "\n".join([*lines, "", f"{machine(record)}.", ""])


def imagenet_table() -> str:
    """Return the fits of ``imagenet_probe.py`` and what they say of all of ImageNet-1k."""
    record = load("svm/imagenet-probe")
    lines = ["| probe | rows | one fit, s | peak memory, GB | relative duality gap |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {run['probe']} | {run['num_rows']:,} | {run['time_s']:,.0f} | {run['peak_bytes'] / 1e9:.1f} | "
        f"{run['gap']:.0e} |"
        for run in record["runs"]
    ]
    found = [
        f"{probe}: slope {whole['slopes'][-1]:.2f}, so one fit of {whole['full_rows']:,} rows would take "
        f"{whole['one_fit_s'] / 3600:.1f} h"
        for probe, whole in record["extrapolated"].items()
    ]
    what = f"{record['num_features']:,} features, {record['num_classes']:,} classes, {record['memory_gb']:g} GB allowed"
    return "\n".join([*lines, "", f"{what}; {machine(record)}. Extrapolated: {'; '.join(found)}.", ""])


def rows(folder: str = "") -> list[Row]:
    """Return what was timed, our side, the peer, how many times faster ours is, and the record's name."""
    parts: dict[str, Callable[[str], list[Row]]] = {
        "svm/vs_liblinear": of_the_svm,
        "svm/logistic_vs_lbfgs": of_logistic_regression,
        "throughput/knn_vs_faiss": of_neighbours,
        "throughput/features": of_features,
        "throughput/train": of_training,
        "throughput/contrastive": of_contrast,
        "throughput/commands": of_commands,
    }
    return [row for name, part in parts.items() for row in part(folder + name)]


def of_the_svm(name: str) -> list[Row]:
    """Return the rows of ``svm_vs_liblinear.py``."""
    found = []
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in load(name)["results"]:
        cases.setdefault((row["data"], row["num_rows"], row["busy_neighbour"]), {})[row["side"]] = row
    for (data, count, busy), sides in cases.items():
        ours, what = sides["ours"], "real" if data == "cifar10" else "easy"
        where = ", beside a busy process" if busy else ""
        if peer := sides.get("LinearSVC"):
            case = f"ten L2-SVMs, {count:,} {what} rows{where}"
            found.append((case, seconds(ours), f"`LinearSVC` {seconds(peer)}", times(ours["times_faster"]), name))
        elif path := sides.get("path of 7 C"):
            case = f"path of seven C, {count:,} rows"
            found.append((case, seconds(path), f"one fit {seconds(ours)}", times(1 / path["times_one_fit"]), name))
    return found


def of_logistic_regression(name: str) -> list[Row]:
    """Return the rows of ``logistic_vs_lbfgs.py``."""
    found = []
    for fit in load(name)["fits"]:
        case = f"logistic regression, C = {fit['C']:g}, 4,000 rows, equal objective"
        ours, theirs = seconds(fit["ours"]), f"`LogisticRegression` {seconds(fit['lbfgs'][-1])}"
        found.append((case, ours, theirs, times(fit["times_faster"]), name))
    return found


def of_neighbours(name: str) -> list[Row]:
    """Return the row of ``knn_vs_faiss.py``."""
    knn = load(name)
    ours, theirs = (knn["sides"][side][-1] for side in ("ours", "faiss"))
    case = f"exact {knn['k']} nearest of {knn['rows']:,} rows for {knn['queries']:,} queries"
    return [(case, seconds(ours), f"`faiss` flat {seconds(theirs)}", times(1 / knn["times_as_long"]), name)]


def of_features(name: str) -> list[Row]:
    """Return the rows of ``features_throughput.py``."""
    speeds, peer = load(name)["images_per_s"], "create_feature_extractor, float32"
    theirs = f"`create_feature_extractor` {per_s(speeds[peer])}"
    return [
        (f"features, {side.split(', ')[1]}", per_s(speed), theirs, times(speed / speeds[peer]), name)
        for side, speed in speeds.items()
        if side != peer
    ]


def of_training(name: str) -> list[Row]:
    """Return the rows of ``train_throughput.py``."""
    train = load(name)
    speeds = train["real_images_per_s"]
    cases = {"common": "an update of D and G", "common, memory kept": "an update of D and G, both keep freed memory"}
    ours = speeds["ours"]
    return [
        (case, per_s(ours), f"the usual loop {per_s(speeds[side])}", times(ours / speeds[side]), name)
        for side, case in cases.items()
        if side in speeds
    ]


def of_contrast(name: str) -> list[Row]:
    """Return the row of ``contrastive_throughput.py``."""
    contrast = load(name)
    speeds = contrast["images_per_s"]
    theirs = f"the usual loop {per_s(speeds['usual'])}"
    return [("contrastive training", per_s(speeds["ours"]), theirs, times(contrast["times_faster"]["usual"]), name)]


def of_commands(name: str) -> list[Row]:
    """Return the rows of whole commands; the short ones stand beside the import of PyTorch."""
    record, found = load(name), []
    least = record["short"]["import torch"]["median_s"]
    for command, row in record["short"].items():
        if command != "import torch":
            shown = command if command == "TAB" else f"`{command}`"
            took = row["median_s"]
            found.append((shown, f"{took:.2f} s", f"`import torch` {least:.1f} s", times(least / took), name))
    for command, row in record["long"].items():
        stages = ", ".join(f"{stage} {took:.0f}" for stage, took in row["timings_s"].items() if took >= 1)
        found.append((f"`dcgan-eval {command}`", f"{row['wall_s']:.0f} s", f"of it: {stages}", "", name))
    return found


def limits() -> str:
    """Return how near features and training are to what the processor multiplies, with AVX512 and kept to AVX2."""
    lines = ["| | arithmetic | GFLOP/s | a large product | share | record |", "|---|---|---:|---:|---:|---|"]
    for folder in ("", AVX2):
        for what, compute, rate, peak, name in rates(folder):
            link = f"[{name.split('/')[-1]}](../{LINK}{name}.json)"
            where = ", AVX2" if folder else ""
            lines.append(
                f"| {what}{where} | {compute} | {rate / 1e9:.0f} | {peak / 1e9:.0f} | {rate / peak:.0%} | {link} |"
            )
    return "\n".join([*lines, "", f"{machine(load('throughput/features'))}.", ""])


def rates(folder: str) -> list[tuple[str, str, float, float, str]]:
    """Return what was timed, its arithmetic, its operations a second, those of a large product, the record's name."""
    name = f"{folder}throughput/features"
    made, found = load(name), []
    for side, rate in made["flops_per_s"].items():
        who, compute = side.split(", ")
        what = "features" if who == "ours" else f"`{who}`"
        found.append((what, compute, rate, made["peak_flops_per_s"][side], name))
    if folder:  # training there was measured beside PyTorch's own product alone, which is slower in float32
        return found
    for what, record in (("an update of D and G", "train"), ("contrastive training", "contrastive")):
        made = load(f"throughput/{record}")
        found.append((what, "bfloat16", made["flops_per_s"], made["peak_flops_per_s"], f"throughput/{record}"))
    return found


def seconds(row: dict[str, Any]) -> str:
    """Return a time, the median where there are several."""
    took = row.get("median_s", row["time_s"])
    return f"{took:.2f} s" if took < 10 else f"{took:.0f} s"


def per_s(speed: float) -> str:
    """Return a speed."""
    return f"{speed:,.0f} images/s"


def times(ratio: float) -> str:
    """Return how many times faster ours is; what takes longer is a fraction."""
    if ratio < 1:
        return f"1/{1 / ratio:.1f}"
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"
