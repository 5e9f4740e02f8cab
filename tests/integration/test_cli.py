"""What a user types, and what a user mistypes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from dcgan_eval.cli.main import main
from dcgan_eval.models.presets import get_ladder
from dcgan_eval.models.release import released_parts
from dcgan_eval.protocols.spec import SealedTest
from dcgan_eval.records import load_record
from dcgan_eval.report.tables import markdown_results


def all_commands(command: click.Command = main, name: str = "dcgan-eval") -> list[tuple[str, click.Command]]:
    found = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found += all_commands(command.get_command(context, child), f"{name} {child}")  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=lambda v: v if isinstance(v, str) else "")
def test_the_help_of_every_command_ends_with_an_example(name: str, command: click.Command) -> None:
    lines = CliRunner().invoke(main, [*name.split()[1:], "--help"]).output.rstrip().splitlines()
    assert lines[-2].strip() == "Example:"
    assert "dcgan-eval " in lines[-1]


def test_help_and_completion_of_every_command_need_no_torch() -> None:
    code = """if True:
        import sys, click
        from dcgan_eval.cli.main import main
        context = click.Context(main)
        for name in main.list_commands(context):
            main.get_command(context, name)
        print(sorted({"torch", "torchvision", "sklearn", "scipy", "pandas", "matplotlib"} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_completion(run) -> None:  # type: ignore[no-untyped-def]
    assert run("--version").output.startswith("dcgan-eval, version ")
    for shell in ("zsh", "fish"):
        assert "_DCGAN_EVAL_COMPLETE" in run("completion", shell).output


def test_svm_digits_prints_the_record_alone(run, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("svm", "digits", "--weights", small_weights, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    wanted = (
        "protocol spec settings features classifier data metric score spread ci95 num_draws status duality_gap made"
    )
    assert set(wanted.split()) | {"digest"} <= values.keys()
    assert values["status"] == "converged"
    assert values["duality_gap"] <= 1e-4
    assert values["features"]["num_features"] == 896
    assert values["score"] > 0.9
    (path,) = Path("records").glob("digits_l2svm-*.json")
    assert json.loads(path.read_text()) == values
    shown = run("show", path)
    assert "chosen" in shown.output
    assert f"{100 * values['score']:.2f}" in shown.output
    again = run(
        *("svm", "digits", "--weights", small_weights, "--layer", "conv3", "--solver", "primal", "--explain", "--json"),
        *("--record", "conv3.json"),
    )
    assert "solver primal (asked for)" in again.stderr
    values = json.loads(again.stdout)
    assert values["features"]["cached"] == [True, True]
    assert values["features"]["num_features"] == 512
    compared = json.loads(run("compare", path, "conv3.json", "--json").stdout)
    assert compared["difference"] == pytest.approx(load_record(path).score - values["score"])
    assert compared["ci95"][0] <= compared["difference"] <= compared["ci95"][1]
    assert 0 <= compared["mcnemar_p"] <= 1
    assert "exact McNemar" in run("compare", path, "conv3.json").stdout
    committed = Path(__file__).parents[2] / "benchmarks" / "results" / "cifar10-small.json"
    says(run("compare", path, committed), "different test images")


def test_features_are_cached_and_the_second_call_says_so(run, small_weights: Path, npz: Path) -> None:  # type: ignore[no-untyped-def]
    arguments = ("features", "--data", npz, "--weights", small_weights)
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert "Computed" in first.stderr
    assert "60 x 896 features" in first.stdout
    second = run(*arguments, "--json", "--layer", "conv1,conv2")
    assert json.loads(second.stdout)["reused"] is True
    assert json.loads(second.stdout)["num_features"] == 384
    assert "Found in the cache" in run(*arguments).stderr


def test_baseline_pixels(run) -> None:  # type: ignore[no-untyped-def]
    result = run("baseline", "pixels", "digits", "--record", "p.json")
    assert result.exit_code == 0, result.output
    record = load_record("p.json")
    assert record.num_features == 3_072
    assert 0.9 < record.score < 1.0


def test_baseline_kmeans(run) -> None:  # type: ignore[no-untyped-def]
    small = ("--centroids", 30, "--patches", 5_000, "--iterations", 3, "--json")
    values = json.loads(run("baseline", "kmeans", "digits", *small).stdout)
    assert values["score"] > 0.9
    assert values["features"]["name"] == "kmeans-30"
    fixed = json.loads(run("baseline", "kmeans", "digits", *small, "--published-c").stdout)
    assert fixed["features"]["cached"] == [True, True]
    assert (fixed["protocol"], fixed["classifier"]["value"]) == ("digits_l2svm_mean_loss", 100.0)


def test_baseline_knn_and_probes(run, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    pixels = json.loads(run("baseline", "knn", "digits", "--json").stdout)
    assert (pixels["protocol"], pixels["classifier"]["parameter"]) == ("digits_knn", "k")
    shown = run("probe", "knn", "digits", "--weights", small_weights, "--record", "knn.json")
    assert "chosen k" in shown.output
    logistic = run("probe", "logistic", "digits", "--weights", small_weights, "--layer", "conv3", "--tol", 1e-2)
    assert "digits_logistic" in logistic.output
    assert "logistic" in run("show", *Path("records").glob("*.json"), "knn.json").output
    assert load_record("knn.json").status == "exact"


def test_baseline_supervised_never_opens_the_test_set(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(SealedTest, "score", lambda *_: pytest.fail("the seal was opened"))
    result = run("baseline", "supervised", "digits", "--preset", "svhn32", "--trials", 1, "--epochs", 1, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["metric"], values["status"]) == ("validation accuracy", "finished")
    assert values["selection"][0].keys() >= {"learning_rate", "dropout", "weight_decay", "curve"}
    assert "(validation)" in markdown_results([(Path("r.json"), load_record(next(Path("records").glob("*.json"))))])


def test_weights_commands(run) -> None:  # type: ignore[no-untyped-def]
    manifest = json.loads(run("weights", "list", "--json").stdout)
    card = json.loads(run("weights", "show", "--json").stdout)
    assert card["sha256"] == manifest["weights"][manifest["default"]]["discriminator"]["sha256"]
    assert card["preset"] == "imagenet32"
    assert manifest["default"] in run("weights", "list").output
    assert "seen_images" in run("weights", "show").output


def test_samples(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("samples", "--out", "grid.png", "--rows", 1, "--columns", 3)
    assert result.exit_code == 0, result.output
    assert Image.open("grid.png").size == (3 * 64 + 2 * 2, 64)  # two pixels between
    says(run("samples", "--weights", "imagenet"), "no bundled weights")
    says(run("samples", "--out", "grid.jpg"), "suffix")
    Path("grid.png").write_text('{"a": "record"}')
    says(run("samples", "--out", "grid.png"), "another kind")


def test_weights_import_replaces_weights_only(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    Path("record.safetensors").write_text('{"a": "record"}')
    says(run("weights", "import", "dcgan-code", tmp_path, "--out", "record.safetensors"), "another kind")
    says(run("weights", "import", "dcgan-code", tmp_path, "--out", "record.json"), "suffix")
    says(run("weights", "import", "dcgan-code", tmp_path, "--out", ""), "--out")


def test_table_takes_the_records_of_the_folder(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    empty = json.loads(run("table", "cifar10", "--format", "json").stdout)["rows"]
    assert all(row["ours"] is None for row in empty)
    Path("records").mkdir()
    committed = Path(__file__).parents[2] / "benchmarks" / "results"
    Path("records/cifar10.json").write_text((committed / "cifar10.json").read_text())
    Path("records/other.json").write_text("[]")
    found = [row for row in json.loads(run("table", "cifar10", "--format", "json").stdout)["rows"] if row["ours"]]
    assert [(row["record"], row["published"]) for row in found] == [
        ("records/cifar10.json", None)
    ]  # not the paper's way
    given = run("table", "cifar10", committed / "cifar10-small.json", "--format", "markdown")
    assert "cifar10\\_small\\_l2svm v1" in given.stdout
    says(run("table", "cifar10", "none.json"), "record cannot be read")


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Two classes of noise around a grey level, as class folders with a training and a test split."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for level, name in enumerate(("dark", "light")):
            folder = tmp_path / "own" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(60 * level, 190 + 60 * level, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "own"


def test_own_data_with_draws_of_any_size(run, own_data: Path, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    arguments = ("svm", own_data, "--weights", small_weights, "--json")
    whole = json.loads(run(*arguments).stdout)
    assert (whole["protocol"], whole["num_draws"], whole["draws"][0]["num_rows"]) == ("own_l2svm", 1, 40)
    low = json.loads(run(*arguments, "--per-class", 5, "--draws", 4).stdout)
    assert (low["protocol"], low["num_draws"], low["spec"]["paper"]) == ("own_l2svm_5_per_class_4_draws", 4, None)
    assert [len(low["rows_sha256"][stream]) for stream in ("validation", "selection", "test")] == [1, 3, 4]
    assert low["features"]["cached"] == [True, True]
    says(run(*arguments, "--per-class", 17), "too few images", "'dark'")
    says(run(*arguments, "--draws", 4), "--per-class")


def test_ablate(run, own_data: Path, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("ablate", own_data, "--weights", small_weights, "--out", "ablation")
    assert result.exit_code == 0, result.output
    assert {path.stem for path in Path("ablation").glob("*.json")} >= {"all", "alone-conv2", "without-conv2"}
    assert Path("ablation/ablation.png").is_file()
    assert "(conv1+conv3)" in run("show", *sorted(Path("ablation").glob("*.json"))).stdout.replace("\n", "")


def test_import_of_released_weights(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(0)
    for number, part in enumerate(released_parts(get_ladder("svhn32"), "discriminator"), start=1):
        np.save(f"200_discrim_params.jl_{number:02d}.npy", draw.normal(0, 0.05, part.shape).astype(np.float32))
    imported = ("weights", "import", "dcgan-code", "200_discrim_params.jl", "--out", "d.safetensors")
    assert "svhn32 discriminator, layers conv1, conv2, conv3" in run(*imported).output
    assert "MIT" in run("weights", "show", "d.safetensors").output
    says(run("svm", "digits", "--weights", "d.safetensors", "--batch-norm", "running"), "--batch-norm dataset")
    says(run(*imported, "--preset", "imagenet32"), "preset imagenet32", "--preset")
    Path("200_discrim_params.jl_08.npy").unlink()
    says(run(*imported), "incomplete", "conv1, conv2, conv3 can still be used", "--allow-partial")
    assert "svhn32 discriminator, layers conv1" in run(*imported, "--allow-partial").output


def test_weights_of_another_image_size(run, own_data: Path) -> None:  # type: ignore[no-untyped-def]
    says(run("svm", own_data, "--weights", "untrained:dcgan64"), "do not fit the encoder", "(64, 64, 3)", "--weights")


def test_data_commands(run) -> None:  # type: ignore[no-untyped-def]
    assert "cifar10" in run("data", "list").output
    assert json.loads(run("data", "list", "--json").stdout)["cifar10"] is None
    report = json.loads(run("data", "check", "digits", "--json").stdout)
    assert report["splits"]["all"]["num_images"] == 1_797


def test_training_in_slices(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    np.savez("train.npz", images=images)
    small = ("--width", 16, "--images", 8, "--batch-size", 2)
    arguments = ("train-imagenet", "--data", "train.npz", "--out", "run", *small, "--json")
    first = run(*arguments, "--max-minutes", 0)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["status"] == "time limit"
    second = run(*arguments, "--resume")
    assert json.loads(second.stdout)["status"] == "finished"
    assert json.loads(second.stdout)["seen_images"] == 8
    used = run("features", "--data", "train.npz", "--weights", "run/discriminator.safetensors", "--json")
    assert json.loads(used.stdout)["num_features"] == 28_672 * 16 // 128


def test_a_pack_is_trained_on_and_the_curves_are_drawn(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    packed = run("data", "pack", "photos", "--out", "photos.h5", "--processes", 1, "--json")
    assert json.loads(packed.stdout)["num_images"] == 10
    common = ("--data", "photos.h5", "--batch-size", 2, "--flip", "--compute", "float32", "--json")
    plan = json.loads(run("train", "svhn32", *common, "--dry-run").stdout)
    assert plan["config"]["learning_rate"] == 5e-4
    assert plan["departures"] == {"batch_size": 2, "flip": True}
    assert plan["parameters"]["D"] == 3 * 64 * 25 + 64 * 128 * 25 + 128 * 256 * 25 + 2 * (128 + 256) + 4096
    assert plan["expected_hours"] > 0
    trained = run("train", "svhn32", *common, "--out", "run", "--images", 88, "--samples-every", 40)
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["figure"] == "run/curves.png"
    drawn_at = sorted(int(path.stem) for path in Path("run/samples").glob("*.png"))
    assert drawn_at == [40, 80, 88], "on schedule, and at the end"
    drawn = run("samples", "--weights", "run/generator.safetensors", "--rows", 2, "--columns", 3, "--out", "grid.png")
    assert drawn.exit_code == 0, drawn.output
    assert Image.open("grid.png").size == (3 * 64 + 2 * 2, 2 * 64 + 2)


def test_digits_of_28_pixels_from_training_to_a_record(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (40, 28, 28, 1), dtype=np.uint8), np.arange(40) % 2
    np.savez("own.npz", x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    common = ("--data", "own.npz", "--batch-size", 4, "--images", 16, "--out", "run")
    trained = run("train", "mnist28_keras", *common, "--probe", "own.npz", "--probe-every", 8)
    assert trained.exit_code == 0, trained.output
    assert len(Path("run/probe.csv").read_text().splitlines()) == 3
    shown = run("weights", "show", "run/generator.safetensors", "--network", "generator", "--json")
    assert json.loads(shown.stdout)["preset"] == "mnist28_keras"
    measured = run("svm", "own.npz", "--weights", "run/discriminator.safetensors", "--json")
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout)["features"]["num_features"] == 480 * 16
    np.savez("unlabelled.npz", images=images)
    says(run("train", "mnist28_cond", "--data", "unlabelled.npz", "--batch-size", 4), "no labels", "--data")
    says(run("train", "mnist28_cond", "--data", "own.npz", "--probe", "own.npz"), "told labels", "--probe")
    says(run("svm", "own.npz", "--weights", "untrained:mnist28_cond:0"), "no unsupervised encoder", "--weights")


def says(result: Result, *words: str) -> None:
    """A mistake is one line on standard error with the remedy, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Remedy:" in lines[0]
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("svm", "cifar11"), ("no protocol", "cifar10")),
        (("svm", "digits", "--weights", "imagenet32-papre"), ("no bundled weights",)),
        (("svm", "digits", "--weights", "untrained:imagenet23"), ("no preset", "imagenet32")),
        (("svm", "digits", "--layer", "conv7"), ("no layer", "conv6")),
        (("svm", "digits", "--batch-norm", "batch"), ("no batch-norm mode", "dataset")),
        (("svm", "digits", "--compute", "float64"), ("no compute type", "float32")),
        (("svm", "cifar10"), ("--data-dir", "DCGAN_EVAL_DATA", "--download")),
        (("features", "--data", "no/such/folder"), ("no/such/folder",)),
        (("features", "--data", "digits", "--weights", "none.safetensors"), ("does not exist", "--weights")),
        (("baseline", "kmeans", "digits", "--centroids", "1"), ("--centroids", "at least 2")),
        (("baseline", "supervised", "digits", "--trials", "0"), ("--trials", "at least 1")),
        (("show", "none.json"), ("record cannot be read",)),
        (("data", "check", "cifar10"), ("--data-dir",)),
    ],
)
def test_mistyped_names(run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    says(run(*arguments), *words)


def test_debug_shows_the_traceback(run) -> None:  # type: ignore[no-untyped-def]
    result = run("--debug", "svm", "cifar11")
    assert result.exception is not None
    assert type(result.exception).__name__ == "ProtocolError"


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (np.zeros((4, 28, 28, 3), np.uint8), "do not fit the encoder"),
        (np.zeros((4, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((0, 32, 32, 3), np.uint8), ""),
        (np.zeros((32, 32, 3), np.uint8), ""),
        (np.array([{}], dtype=object), "object"),
    ],
)
def test_images_that_cannot_be_used(run, small_weights: Path, images: np.ndarray, word: str) -> None:  # type: ignore[no-untyped-def]
    np.savez("bad.npz", images=images)
    says(run("features", "--data", "bad.npz", "--weights", small_weights), word)


def test_weights_that_cannot_be_used(run, npz: Path, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    tensors = load_file(small_weights)
    header = {"format": "dcgan-eval-weights-1", "preset": "svhn32", "width": "8", "network": "discriminator"}
    broken = {**tensors, "linear.weight": torch.full_like(tensors["linear.weight"], float("nan"))}
    save_file(broken, "nan.safetensors", metadata=header)
    Path("cut.safetensors").write_bytes(small_weights.read_bytes()[:5_000])
    torch.save(tensors, "torch.pt")
    for name, word in (("nan.safetensors", "not finite"), ("cut.safetensors", "complete"), ("torch.pt", "--arch")):
        says(run("features", "--data", npz, "--weights", name), word)


def test_a_damaged_cache_is_an_error_and_is_kept(run, npz: Path, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("features", "--data", npz, "--weights", small_weights).exit_code == 0
    (store,) = Path("cache").glob("*.h5")
    cut = store.read_bytes()[:10_000]
    store.write_bytes(cut)
    says(run("features", "--data", npz, "--weights", small_weights), "truncated")
    assert store.read_bytes() == cut


def test_a_cache_folder_that_cannot_be_made(run, npz: Path, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    Path("occupied").write_text("a file")
    says(run("features", "--data", npz, "--weights", small_weights, "--cache-dir", "occupied/here"), "--cache-dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write to read-only folders")
def test_a_read_only_cache_folder(run, npz: Path, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    Path("frozen").mkdir(mode=0o500)
    says(run("features", "--data", npz, "--weights", small_weights, "--cache-dir", "frozen"), "--cache-dir")


def test_a_record_that_cannot_be_written(run, small_weights: Path) -> None:  # type: ignore[no-untyped-def]
    Path("occupied").write_text("a file")
    says(run("svm", "digits", "--weights", small_weights, "--record", "occupied/r.json"), "--record")
