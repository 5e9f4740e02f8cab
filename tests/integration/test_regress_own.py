"""The gate for a user's own runs: a TOML file, a baseline beside it, planted damages, sentences for what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_eval.cli.suite import load_suite
from dcgan_eval.data import readers
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import SuiteError
from dcgan_eval.protocols import regress

SUITE = """
[[run]]
name = "mine"
protocol = "images"
encoder = "gate_mine:network"
layer = ["0"]
pool = "avg1"
normalise = "imagenet"

[run.bands]
score = 5
time = inf
memory = inf
"""
# Channels 0 to 2 are the image's: their means tell red from green from blue.
ENCODER = """
import torch

def network(damage=0.0):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1))
    with torch.no_grad():
        module[0].weight *= 1 - damage
        module[0].bias *= 1 - damage
    return module
"""


@pytest.fixture
def own(run, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Images of three colours, an encoder and a suite; the fixed work that times are held against is left out."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = Path("images", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 120, (8, 8, 3))
                pixels[..., channel] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    Path("gate_mine.py").write_text(ENCODER)
    Path("mine.toml").write_text(SUITE)
    monkeypatch.setattr(regress, "_reference_time", lambda: 1.0)
    monkeypatch.delitem(sys.modules, "gate_mine", raising=False)
    # Bytecode is told old by size and second alone: a change within one second would not be seen.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return run


def damage(old: str, new: str) -> None:
    """Change the encoder, and let it be imported anew."""
    code = Path("gate_mine.py").read_text()
    assert code.count(old) == 1
    Path("gate_mine.py").write_text(code.replace(old, new))
    sys.modules.pop("gate_mine", None)


def test_the_gate_opens_closes_and_opens_again(own) -> None:  # type: ignore[no-untyped-def]
    missing = own("regress", "--suite", "mine.toml")
    assert (missing.exit_code, "--update" in missing.stderr) == (2, True)
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    baseline = json.loads(Path("mine.baseline.json").read_text())
    assert baseline["cases"]["mine"]["score"] > 0.9  # so that there is something to lose
    assert baseline["runs"]["mine"]["normalise"] == "imagenet"
    good = own("regress", "--suite", "mine.toml")
    assert (good.exit_code, good.stdout.splitlines()[0]) == (0, "mine: no regression"), good.output
    damage("damage=0.0", "damage=1.0")
    bad = own("regress", "--suite", "mine.toml", "--junit", "j.xml", "--json", "r.json", "--markdown", "m.md")
    assert bad.exit_code == 1
    assert "FAILS  mine: score" in bad.stdout
    assert "±5.00 points" in bad.stdout
    assert json.loads(Path("r.json").read_text())["passed"] is False
    assert "**FAILS** | mine | score" in Path("m.md").read_text()
    assert 'classname="mine" name="score"' in Path("j.xml").read_text()
    damage("damage=1.0", "damage=0.0")
    assert own("regress", "--suite", "mine.toml").exit_code == 0


def test_a_normalisation_swapped_in_code_fails_although_the_score_holds(own) -> None:  # type: ignore[no-untyped-def]
    Path("mine.toml").write_text(SUITE.replace('normalise = "imagenet"\n', "").replace('pool = "avg1"\n', ""))
    damage("import torch", "import torch\nfrom dcgan_eval import Encoder")
    damage("return module", 'return Encoder(module, ["0"], normalise="imagenet", pooling="avg1")')
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    damage('"imagenet"', '"paper"')
    bad = own("regress", "--suite", "mine.toml")
    assert bad.exit_code == 1
    assert "FAILS  mine: preprocessing" in bad.stdout
    damage('"paper"', '"imagenet"')
    damage('"avg1"', '"gem"')
    assert "FAILS  mine: pooling" in own("regress", "--suite", "mine.toml").stdout


@pytest.mark.parametrize(("band", "code"), [("any", 0), ("equal", 1)])
def test_other_weights_with_the_same_numbers(own, band: str, code: int) -> None:  # type: ignore[no-untyped-def]
    """A checkpoint trained anew is what such a gate judges: its hash counts where the bands say so."""
    Path("mine.toml").write_text(SUITE + f'weights = "{band}"\n')
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    damage("damage=0.0", "damage=1e-4")
    result = own("regress", "--suite", "mine.toml")
    assert result.exit_code == code, result.output
    assert ("weights_sha256" in result.stdout) == bool(code)


def test_a_band_may_be_changed_a_run_not(own) -> None:  # type: ignore[no-untyped-def]
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    Path("mine.toml").write_text(SUITE.replace("score = 5", "score = 0"))
    assert own("regress", "--suite", "mine.toml").exit_code == 0
    Path("mine.toml").write_text(SUITE.replace('"avg1"', '"gem"'))
    changed = own("regress", "--suite", "mine.toml")
    assert changed.exit_code == 2
    for words in ("has changed", "'mine'", "mine.baseline.json", "--update"):
        assert words in changed.stderr
    assert own("regress", "--suite", "mine.toml", "--update", "--baseline", "other.json").exit_code == 0
    assert own("regress", "--suite", "mine.toml", "--baseline", "other.json").exit_code == 0
    Path("mine.toml").write_text(SUITE.replace("[[run]]", '[[run]]\nname="two"\nprotocol="digits"\n[[run]]'))
    assert "another run 'two'" in own("regress", "--suite", "mine.toml").stderr


def test_a_time_is_measured_where_it_has_a_band_and_missed_where_the_baseline_lacks_it(own, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with monkeypatch.context() as nobody_asks:
        nobody_asks.setattr(regress, "_reference_time", lambda: pytest.fail("the fixed work takes seconds"))
        assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
        assert own("regress", "--suite", "mine.toml").exit_code == 0
    Path("mine.toml").write_text(SUITE.replace("time = inf", "time = 100"))
    missed = own("regress", "--suite", "mine.toml")
    assert (missed.exit_code, "FAILS  mine: time" in missed.stdout) == (1, True), missed.output
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    assert own("regress", "--suite", "mine.toml").exit_code == 0


def test_a_run_that_fails_is_a_failure_and_no_baseline(own) -> None:  # type: ignore[no-untyped-def]
    Path("mine.toml").write_text(SUITE.replace('["0"]', '["body"]'))
    update = own("regress", "--suite", "mine.toml", "--update")
    assert update.exit_code == 1
    assert "no layer" in update.stderr
    assert not Path("mine.baseline.json").exists()


def test_images_that_changed_fail(own) -> None:  # type: ignore[no-untyped-def]
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    path = Path("images/test/red/0.png")
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert "FAILS  mine: dataset_fingerprint" in own("regress", "--suite", "mine.toml").stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pool =", "pol =", "key of a run named 'pol'. Remedy: did you mean pool"),
        ("normalise =", "normalize =", ""),
        ("score = 5", "scores = 5", "band named 'scores'. Remedy: did you mean score"),
        ("[[run]]", "[[runs]]", "named 'runs'. Remedy: did you mean run"),
        ("[[run]]", "[run]", "[[run]]"),
        ("[[run]]", "[[run]", "cannot be read"),
        ('"images"', '"image"', "Run 'mine' of mine.toml: There is no protocol named 'image'"),
        ('"images"', "7", "no protocol"),
        ('name = "mine"', "", "Run 1 of mine.toml has no name"),
        ('name = "mine"', 'name = "solver"', "the gate's own"),
        ('"avg1"', "4", "pool has a value of another type. Got: 4. Expected: a text in quotes"),
        ('pool = "avg1"', "seed = true", "seed has a value of another type"),
        ('pool = "avg1"', 'seed = "1"', "seed has a value of another type"),
        ('pool = "avg1"', "seed = -1", "out of range"),
        ('pool = "avg1"', "seed = 1.5", "integer"),
        ('pool = "avg1"', 'compute = "bfloat"', "did you mean bfloat16"),
        ('pool = "avg1"', "allow-unconverged = 1", "true or false"),
        ('pool = "avg1"', 'pool = ""', "pool has a value of another type"),
        ('pool = "avg1"', 'normalize = "paper"', "given twice"),
        ('["0"]', '["0", 1]', "layer has a value of another type. Got: 1"),
        ("score = 5", "score = -5", "band of score"),
        ("score = 5", "score = nan", "band of score"),
        ("score = 5", "score = true", "band of score"),
        ("score = 5", 'weights = "same"', "'any' or 'equal'"),
    ],
)
def test_what_is_wrong_in_a_suite_is_said(own, old: str, new: str, words: str) -> None:  # type: ignore[no-untyped-def]
    Path("mine.toml").write_text(SUITE.replace(old, new))
    if not words:
        assert load_suite("mine.toml").runs["mine"]["normalise"] == "imagenet"
        return
    result = own("regress", "--suite", "mine.toml")
    assert result.exit_code == 2
    assert words in result.stderr


def test_the_suite_in_the_documents(own) -> None:  # type: ignore[no-untyped-def]
    page = (Path(__file__).parents[2] / "docs" / "howto" / "ci.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    Path("mine.toml").write_text(text)
    (case,) = load_suite("mine.toml").cases.values()
    assert (case.protocol.id, case.bands.score, case.bands.weights) == ("own_l2svm", 0.005, "any")


def test_features_made_elsewhere(own) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(0)
    for name, count in (("train", 90), ("test", 60)):
        y = np.arange(count) % 3
        X = np.eye(3, 8)[y] + 0.1 * draw.normal(size=(count, 8))
        np.savez(f"{name}.npz", features=X.astype(np.float32), labels=y)
    text = '[[run]]\nname = "given"\nprotocol = "own"\nfeatures = ["train.npz", "test.npz"]\nbands = {time = inf}\n'
    Path("mine.toml").write_text(text)
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    assert json.loads(Path("mine.baseline.json").read_text())["cases"]["given"]["score"] == 1.0
    assert own("regress", "--suite", "mine.toml").exit_code == 0
    np.savez("test.npz", features=np.roll(X, 1, axis=0).astype(np.float32), labels=y)
    assert "FAILS  given: score" in own("regress", "--suite", "mine.toml").stdout
    for old, new, words in (
        ('["train.npz", "test.npz"]', '["train.npz"]', "a list of 2"),
        ("[[run]]", '[[run]]\npool = "avg1"', "pool"),
        ('"test.npz"', '"none.npz"', "none.npz"),
    ):
        Path("mine.toml").write_text(text.replace(old, new))
        wrong = own("regress", "--suite", "mine.toml")
        assert (wrong.exit_code, words in wrong.stderr) == (2, True), wrong.output


def test_two_runs_of_one_name(own) -> None:  # type: ignore[no-untyped-def]
    Path("mine.toml").write_text(SUITE + SUITE)
    assert "name of run 2 of mine.toml is an earlier run's" in own("regress", "--suite", "mine.toml").stderr


@pytest.mark.parametrize("name", ["smok", "mine", "none.toml"])
def test_a_suite_that_is_not_there(own, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SuiteError, match="cannot be read" if "toml" in name else "no suite named"):
        load_suite(name)


def test_every_option_of_a_run_reaches_it(own) -> None:  # type: ignore[no-untyped-def]
    """The suite says what the command line says: one word for each key."""
    keys = """
train-split = "test"
test_split = "train"
per-class = 5
draws = 3
seed = 7
tol = 1e-3
solver = "gram"
image-size = 16
compute = "float32"
store-dtype = "float32"
batch-norm = "running"
"""
    Path("mine.toml").write_text(SUITE.replace('pool = "avg1"', 'pool = "avg1"' + keys))
    case = load_suite("mine.toml").cases["mine"]
    assert case.protocol.splits == ("test", "train")
    assert (case.protocol.per_class, case.protocol.num_draws) == (5, 3)
    assert (case.settings.seed, case.settings.tol, case.settings.solver) == (7, 1e-3, "gram")
    assert case.bands.gap == 1e-3
    source = case.source()
    assert source.layers == ("0",)
    assert source.encoder.rules == {"normalise": "imagenet", "image_size": 16, "pooling": "avg1", "layout": None}
    assert (source.options.compute, source.options.store_dtype) == ("float32", "float32")


def test_runs_on_the_same_images_decode_them_once(own, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    second = SUITE.replace('"mine"', '"gem"').replace('"avg1"', '"gem"')
    other = SUITE.replace('"mine"', '"others"').replace('"images"', '"others"')
    Path("mine.toml").write_text(SUITE + second + other)
    shutil.copytree("images", "others")
    seen, read = [], readers.read

    def reading(source: Any, split: str, name: str, *rest: Any, **options: Any) -> ImageSet:
        seen.append((name, split))
        return read(source, split, name, *rest, **options)

    monkeypatch.setattr(readers, "read", reading)
    assert own("regress", "--suite", "mine.toml", "--update").exit_code == 0
    assert seen == [(name, split) for name in ("images", "others") for split in ("train", "test")]
    cases = json.loads(Path("mine.baseline.json").read_text())["cases"]
    assert (cases["mine"]["pooling"], cases["gem"]["pooling"]) == ("avg1", "gem")
