"""Score against images seen: a law fitted to validation scores of training runs, its interval, and what it predicts.

    python benchmarks/learning_curve.py                       # the committed runs
    python benchmarks/learning_curve.py runs/mine --at 5e6

The law is ``error = floor + scale * (images / first)^-exponent``, which learning curves follow over decades (Hestness
et al., arXiv:1712.00409). The interval is a parametric bootstrap: scores drawn anew around the fit, each fitted again.
It says what the law cannot know from these points, not whether the law still holds where nothing was measured. What the
first part of a run would have foretold of its end stands in the record too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from dcgan_eval.errors import TrainingError
from dcgan_eval.files import write_file
from dcgan_eval.seeding import rng
from dcgan_eval.training.log import read_table

RESULTS = Path(__file__).resolve().parent / "results" / "training"
RUNS = ("imagenet32-paper", "imagenet32-plus")
AT = (1_000_000, 5_000_000, 38_435_010)
EARLY = 5  # a law fitted to the first fifth of the images foretells the end
NUM_REFITS = 400
NOISE = 0.004
"""Standard deviation of a score over seeds, measured in the studies of docs/log.md; the least that is assumed."""


@dataclass(frozen=True)
class Law:
    """A fitted learning curve.

    Attributes
    ----------
    first : float
        Images at which the error is ``floor + scale``.
    parameters : ndarray
        Floor, scale, exponent.
    refits : ndarray
        The same of each bootstrap sample, (NUM_REFITS, 3).
    noise : float
        Standard deviation of a score around the law.
    """

    first: float
    parameters: np.ndarray
    refits: np.ndarray
    noise: float

    def score(self, images: float) -> tuple[float, float, float]:
        """Return the score after so many images, and the ends of its 95 % interval."""
        low, high = np.quantile([1 - _error(p, images / self.first) for p in self.refits], (0.025, 0.975))
        return float(1 - _error(self.parameters, images / self.first)), float(low), float(high)


def fit_law(images: np.ndarray, scores: np.ndarray, seed: int = 0) -> Law:
    """Fit the law to scores (fractions) after so many images.

    Raises
    ------
    TrainingError
        Fewer than four points: the law has three parameters.
    """
    if len(images) < 4:
        raise TrainingError(
            "A learning curve needs more points than the law has parameters",
            got=f"{len(images)} points",
            expected="at least 4",
            remedy="train longer, or with a smaller --probe-every",
        )
    first, x = float(images[0]), images / images[0]
    best = _fit(x, 1 - scores)
    residuals = 1 - scores - _error(best, x)
    noise = max(NOISE, float(np.sqrt((residuals**2).sum() / (len(x) - 3))))
    draw = rng(seed, "learning curve")
    drawn = _error(best, x) + noise * draw.standard_normal((NUM_REFITS, len(x)))
    return Law(first, best, np.array([_fit(x, errors) for errors in drawn]), noise)


def _error(parameters: np.ndarray, x: Any) -> Any:
    """Return the law's error after ``x`` times the first point's images."""
    floor, scale, exponent = parameters
    return floor + scale * np.asarray(x, float) ** -exponent


def _fit(x: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the parameters of least squares: the best exponent, with the best floor and scale for each."""

    def linear(exponent: float) -> np.ndarray:
        """Floor and scale enter linearly; a floor below 0 would be a score above 100 %."""
        powers = x**-exponent
        spread = powers - powers.mean()
        scale = spread @ errors / (spread @ spread)
        floor = errors.mean() - scale * powers.mean()
        if floor < 0:
            floor, scale = 0.0, powers @ errors / (powers @ powers)
        return np.array([floor, scale, exponent])

    def loss(exponent: float) -> float:
        return float(((_error(linear(exponent), x) - errors) ** 2).sum())

    return linear(minimize_scalar(loss, bounds=(0.01, 2.0), method="bounded").x)


def report(folder: Path, at: tuple[float, ...]) -> tuple[dict[str, Any], Law, np.ndarray, np.ndarray]:
    """Fit the law to a run's ``probe.csv``; return what goes into the JSON, the law, and its points."""
    rows = read_table(folder / "probe.csv")
    images, scores = (np.array([row[key] for row in rows]) for key in ("seen_images", "score"))
    law = fit_law(images, scores)
    floor, scale, exponent = law.parameters.tolist()
    predictions = {f"{count:.0f}": dict(zip(("score", "low", "high"), law.score(count), strict=True)) for count in at}
    facts = {"points": len(images), "last_images": images[-1], "last_score": scores[-1], "noise": law.noise}
    early = images <= images[-1] / EARLY
    if early.sum() >= 4:
        end = fit_law(images[early], scores[early]).score(images[-1])
        facts["foretold"] = {"from_points": int(early.sum()), "up_to_images": images[early][-1]}
        facts["foretold"] |= dict(zip(("score", "low", "high"), end, strict=True))
    return {**facts, "floor": floor, "scale": scale, "exponent": exponent, "at": predictions}, law, images, scores


def draw(curves: dict[str, tuple[Law, np.ndarray, np.ndarray]], end: float, path: Path) -> None:
    """Draw points, laws and their intervals over a logarithmic axis of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (law, images, scores) in curves.items():
        grid = np.geomspace(images[0], end, 60)
        score, low, high = 100 * np.array([law.score(count) for count in grid]).T
        (line,) = axes.plot(grid, score, label=name)
        axes.fill_between(grid, low, high, alpha=0.2, color=line.get_color())
        axes.plot(images, 100 * scores, "o", color=line.get_color())
    axes.set(xscale="log", xlabel="images seen", ylabel="validation score %", title="Fitted law, 95 % interval")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Fit, print, and write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, default=[RESULTS / name for name in RUNS])
    parser.add_argument("--at", nargs="+", type=float, default=AT, help="images to predict the score at")
    parser.add_argument("--out", type=Path, default=RESULTS / "learning_curve.json")
    arguments = parser.parse_args()
    found, curves = {}, {}
    for folder in arguments.runs:
        found[folder.name], *curve = report(folder, tuple(arguments.at))
        curves[folder.name] = (curve[0], curve[1], curve[2])
        if foretold := found[folder.name].get("foretold"):
            interval = f"{100 * foretold['low']:.1f} to {100 * foretold['high']:.1f}"
            end = f"{found[folder.name]['last_images']:,.0f} images"
            print(f"{folder.name:>20}  {end}: foretold after {foretold['up_to_images']:,.0f} {interval}, "
                  f"found {100 * found[folder.name]['last_score']:.1f} %")  # fmt: skip
        for count, values in found[folder.name]["at"].items():
            interval = f"{100 * values['low']:.1f} to {100 * values['high']:.1f}"
            print(f"{folder.name:>20}  {int(count):>12,} images  {100 * values['score']:.1f} %  ({interval})")
    write_file(arguments.out, json.dumps(found, indent=1) + "\n")
    draw(curves, max(arguments.at), arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
