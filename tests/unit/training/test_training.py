"""Training: the recipe's phases, and a run that is stopped or killed and resumed equals one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

from dcgan_eval.errors import TrainingError
from dcgan_eval.models.dcgan import build, sample_prior, to_unit_range
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import load_network, read_card
from dcgan_eval.seeding import rng
from dcgan_eval.training import checkpoint, health, loop
from dcgan_eval.training.checkpoint import find_checkpoints, read_state
from dcgan_eval.training.config import TrainingConfig, paper_recipe
from dcgan_eval.training.contrad import ContraDTrainer
from dcgan_eval.training.contrastive import ContrastiveTrainer
from dcgan_eval.training.estimate import flops_per_round
from dcgan_eval.training.feed import Feed, augmented
from dcgan_eval.training.log import Table, read_table
from dcgan_eval.training.loop import RunOptions, train
from dcgan_eval.training.neighbours import nearest_distances, neighbour_score
from dcgan_eval.training.phases import (
    discriminator_loss,
    rotation_loss,
    step_discriminator,
    step_generator,
    untracked_statistics,
)
from dcgan_eval.training.schedule import Measurement
from dcgan_eval.training.start import load_start
from dcgan_eval.training.trainer import Trainer

CONFIG = TrainingConfig(
    preset="svhn32", width=16, total_images=16 * 6, batch_size=8, seed=1, flip=True, shift=2, rotation=0.5
)
EVERY_ROUND = RunOptions(checkpoint_minutes=0.0)
RESUME = RunOptions(resume=True)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(checkpoint._read(find_checkpoints(folder)[-1]))


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.fixture(scope="module")
def uninterrupted(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(Trainer(CONFIG, images), folder)["status"] == "finished"
    return folder


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rounds", [1, 4])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    images: np.ndarray, uninterrupted: Path, tmp_path: Path, rounds: int, signal_number: int
) -> None:
    trainer = Trainer(CONFIG, images)
    original = trainer.step

    def step() -> dict[str, torch.Tensor]:
        if trainer.rounds_done == rounds - 1:
            os.kill(os.getpid(), signal_number)
        return original()

    trainer.step = step  # type: ignore[method-assign]
    result = train(trainer, tmp_path)
    assert (result["status"], result["rounds_done"]) == ("interrupted", rounds)
    resumed = train(Trainer(CONFIG, images), tmp_path, RESUME)
    assert (resumed["status"], resumed["seen_images"]) == ("finished", CONFIG.total_images)
    assert_same_bits(final_tensors(tmp_path), final_tensors(uninterrupted))


# Kills itself in the middle of a round, or in the middle of writing a checkpoint's nth file.
_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from dcgan_eval.training import checkpoint, loop, trainer
from dcgan_eval.training.config import TrainingConfig

folder, where, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = 0

def dying(function):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == at:
            if where == "write":
                data = arguments[1].encode() if isinstance(arguments[1], str) else arguments[1]
                arguments[0].write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

if where == "write":
    checkpoint.write_file = dying(checkpoint.write_file)
else:
    trainer.step_generator = dying(trainer.step_generator)
images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
config = dict(width=16, total_images=96, batch_size=8, seed=1, flip=True, shift=2, rotation=0.5)
options = loop.RunOptions(checkpoint_minutes=0.0, part_bytes=512 << 10)
loop.train(trainer.Trainer(TrainingConfig(preset="svhn32", **config), images), folder, options)
"""


@pytest.mark.parametrize(("where", "last"), [("round", 6), ("write", 18)])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    images: np.ndarray, uninterrupted: Path, tmp_path: Path, where: str, last: int
) -> None:
    at = int(np.random.default_rng(7).integers(2, last))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = [sys.executable, "-c", _KILLED, str(tmp_path), where, str(at)]
    killed = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(Trainer(CONFIG, images), tmp_path, RESUME)
    assert resumed["status"] == "finished"
    assert_same_bits(final_tensors(tmp_path), final_tensors(uninterrupted))


def test_a_time_limit_stops_cleanly_and_two_checkpoints_are_kept(images: np.ndarray, tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        result = train(Trainer(CONFIG, images), tmp_path, RunOptions(resume=True, max_minutes=0.0))
        assert (result["status"], result["rounds_done"]) == ("time limit", expected)
    assert [read_state(p)["rounds_done"] for p in find_checkpoints(tmp_path)] == [2, 3]


def test_export_is_what_was_trained_and_its_card_says_how(uninterrupted: Path) -> None:
    tensors = final_tensors(uninterrupted)
    D = load_network(uninterrupted / "discriminator.safetensors")
    G = load_network(uninterrupted / "generator.safetensors", "generator")
    assert torch.equal(D.conv3.conv.weight, tensors["D.conv3.conv.weight"])
    assert torch.equal(G.project.weight, tensors["G.project.weight"])
    assert json.loads((uninterrupted / "config.json").read_text()) == CONFIG.as_dict()
    card = read_card(uninterrupted / "discriminator.safetensors")["card"]
    assert card["seen_images"] == 96
    assert {"flip", "shift", "rotation", "batch_size"} <= card["departures"].keys()


def test_log_and_measurements_grow_and_survive_a_kill(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_ROUNDS", 2)
    scores = iter([0.3, 0.5, 0.4, 0.9])
    probe = Measurement("probe", 32, lambda trainer: {"score": next(scores)})
    train(Trainer(replace(CONFIG, total_images=96), images), tmp_path, measurements=[probe])
    log = read_table(tmp_path / "log.csv")
    assert [row["seen_images"] for row in log] == [32, 64, 96]
    assert log[0]["d_grad_norm"] > 0
    assert [row["score"] for row in read_table(tmp_path / "probe.csv")] == [0.3, 0.5, 0.4]
    assert read_card(tmp_path / "best" / "discriminator.safetensors")["card"]["probe"]["score"] == 0.5
    with open(tmp_path / "log.csv", "a") as file:
        file.write("8,128,")  # cut short
    assert read_table(tmp_path / "log.csv") == log
    table = Table(tmp_path / "log.csv", rounds_done=4)  # continued from an earlier checkpoint
    assert [row["round"] for row in table.rows] == [2, 4]
    assert read_table(tmp_path / "log.csv") == log[:2]


def test_a_started_folder_is_not_overwritten(images: np.ndarray, uninterrupted: Path) -> None:
    with pytest.raises(TrainingError, match=r"already holds a run.*--resume"):
        train(Trainer(CONFIG, images), uninterrupted)


def test_a_changed_configuration_is_refused_unless_told(images: np.ndarray, tmp_path: Path) -> None:
    train(Trainer(CONFIG, images), tmp_path, RunOptions(max_minutes=0.0))
    changed = replace(CONFIG, learning_rate=0.1)
    with pytest.raises(TrainingError, match=r"another configuration. Got: learning_rate=0.1.*--allow-changes"):
        train(Trainer(changed, images), tmp_path, RESUME)
    with pytest.raises(TrainingError, match="seed cannot change"):
        train(Trainer(replace(CONFIG, seed=2), images), tmp_path, RunOptions(resume=True, allow_changes=True))
    train(Trainer(changed, images), tmp_path, RunOptions(resume=True, allow_changes=True, max_minutes=0.0))
    history = read_state(find_checkpoints(tmp_path)[-1])["history"]
    assert history == [{"rounds_done": 1, "changed": {"learning_rate": [CONFIG.learning_rate, 0.1]}}]


def spoil(folder: Path) -> None:
    part = next(folder.glob("state.*"))
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)


def test_damaged_checkpoints_are_seen_and_the_one_before_is_taken(images: np.ndarray, tmp_path: Path) -> None:
    for _ in range(2):
        train(Trainer(CONFIG, images), tmp_path, RunOptions(resume=True, max_minutes=0.0, part_bytes=64 << 10))
    older, newest = find_checkpoints(tmp_path)
    assert len(list(newest.glob("state.safetensors.*"))) > 5
    assert all(path.stat().st_size <= 1 << 20 for path in newest.iterdir())
    spoil(newest)
    said: list[str] = []
    train(Trainer(CONFIG, images), tmp_path, RunOptions(resume=True, max_minutes=0.0), on_event=said.append)
    assert said == [f"The newest checkpoint is damaged; continuing from {older.name}"]
    for folder in find_checkpoints(tmp_path):
        spoil(folder)
    with pytest.raises(TrainingError, match="does not match its hash"):
        train(Trainer(CONFIG, images), tmp_path, RESUME)


def broken(trainer: Trainer, at: int, spoil_pair: Callable[[Trainer], None]) -> Trainer:
    original = trainer.step

    def step() -> dict[str, torch.Tensor]:
        if trainer.rounds_done == at:
            spoil_pair(trainer)
        return original()

    trainer.step = step  # type: ignore[method-assign]
    return trainer


@torch.no_grad()
def fill_with_nan(trainer: Trainer) -> None:
    trainer.D.linear.weight.fill_(float("nan"))


def test_divergence_is_said_and_the_last_good_state_kept(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_ROUNDS", 1)
    with pytest.raises(TrainingError, match=r"diverged: a loss is not finite after 48 images.*round-00000002"):
        train(broken(Trainer(CONFIG, images), 2, fill_with_nan), tmp_path, EVERY_ROUND)
    assert torch.isfinite(final_tensors(tmp_path)["D.linear.weight"]).all()
    monkeypatch.setattr(loop, "LOG_EVERY_ROUNDS", 100)  # a checkpoint is due before the log would see it
    with pytest.raises(TrainingError, match="weights are not finite"):
        train(broken(Trainer(CONFIG, images), 2, fill_with_nan), tmp_path / "other", EVERY_ROUND)
    assert read_state(find_checkpoints(tmp_path / "other")[-1])["rounds_done"] == 2


def test_collapse_is_said_and_no_checkpoint_written_meanwhile(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_ROUNDS", 1)
    monkeypatch.setattr(health, "COLLAPSED_LOSS", 100.0)  # so that any pair counts as collapsed
    monkeypatch.setattr(health, "COLLAPSED_ROWS", 3)
    with pytest.raises(TrainingError, match=r"collapsed.*D's loss"):
        train(Trainer(CONFIG, images), tmp_path, EVERY_ROUND)
    assert find_checkpoints(tmp_path) == []


def test_a_run_starts_from_networks_of_an_earlier_one(images: np.ndarray, uninterrupted: Path, tmp_path: Path) -> None:
    start = load_start(str(uninterrupted), get_preset("svhn32", 16))
    alone = load_start(str(uninterrupted / "discriminator.safetensors"), get_preset("svhn32", 16))
    assert alone.G is None
    assert all(torch.equal(a, b) for a, b in zip(alone.D.parameters(), start.D.parameters(), strict=True))
    config = replace(CONFIG, start=start.sha256)
    trainer = Trainer(config, images, start=start)
    assert torch.equal(trainer.D.conv2.conv.weight, final_tensors(uninterrupted)["D.conv2.conv.weight"])
    train(trainer, tmp_path, RunOptions(max_minutes=0.0), about=start.about)
    card = read_card(tmp_path / "generator.safetensors")["card"]
    assert card["started_from"] == {"name": uninterrupted.name, "seen_images": 96}
    seen = read_card(tmp_path / "discriminator.safetensors")["card"]["seen_images"]
    third = load_start(str(tmp_path), get_preset("svhn32", 16)).about["started_from"]
    assert third == {"name": tmp_path.name, "seen_images": 96 + seen}
    resumed = Trainer(config, images, start=load_start(str(uninterrupted), get_preset("svhn32", 16)))
    assert train(resumed, tmp_path, RESUME)["status"] == "finished"
    with pytest.raises(TrainingError, match="start cannot change"):
        train(Trainer(CONFIG, images), tmp_path, RESUME)
    with pytest.raises(TrainingError, match="another preset"):
        load_start(str(uninterrupted), get_preset("imagenet32"))


def test_both_phases_use_their_own_minibatches(images: np.ndarray) -> None:
    # 5 minibatches of 8: D gets numbers 0, 2, 4 of the first epoch, G's 1 and 3 are only counted
    feed = Feed(replace(CONFIG, flip=False, shift=0), images, torch.device("cpu"))
    epoch = rng(1, "order", epoch=0).permutation(40)
    for round_number, position in enumerate((0, 2, 4)):
        expected = to_unit_range(torch.from_numpy(images[epoch[8 * position : 8 * position + 8]]))
        assert torch.equal(feed.minibatch(round_number), expected)


def test_held_out_images_are_never_trained_on(images: np.ndarray) -> None:
    feed = Feed(replace(CONFIG, held_out=8, flip=False, shift=0), images, torch.device("cpu"))
    trained = torch.cat([feed.rows(number) for number in range(20)]).unique()
    assert feed.num_images == 32
    assert len(trained) == 32
    kept = {images[row].tobytes() for row in trained.tolist()}
    assert kept.isdisjoint(image.numpy().tobytes() for image in feed.held_out_NHWC)


def test_shifts_and_flips_are_crops_of_the_reflected_image() -> None:
    x_NCHW = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = augmented(x_NCHW, torch.Generator().manual_seed(1), flip=True, shift=2)
    padded = torch.nn.functional.pad(x_NCHW, (2, 2, 2, 2), mode="reflect")
    crops = [padded[:, :, top : top + 16, left : left + 16] for top in range(5) for left in range(5)]
    hits = torch.stack([(moved == crop).flatten(1).all(1) for crop in crops + [crop.flip(3) for crop in crops]])
    assert (hits.sum(0) == 1).all()  # each is exactly one of the 50
    assert len(hits.int().argmax(0).unique()) > 20  # and they differ
    assert torch.equal(augmented(x_NCHW, torch.Generator().manual_seed(1), flip=False, shift=0), x_NCHW)


def test_quarter_turns_are_told_apart_by_their_number() -> None:
    # Each image has one bright quadrant, upper left; a network that sees only where it is now must be right.
    class Quadrants(torch.nn.Module):
        def trunk(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x_NCHW[:, :1], 2)

    head = torch.nn.Linear(4, 4, bias=False)
    # counter-clockwise: upper left, lower left, lower right, upper right, as indices of the flattened quadrants
    head.weight.data = 50 * torch.eye(4)[[0, 2, 3, 1]]
    x_NCHW = torch.zeros(10, 3, 8, 8)
    x_NCHW[:, :, :4, :4] = 1
    found = rotation_loss(Quadrants(), head, x_NCHW)  # type: ignore[arg-type]
    assert float(found["rotation_accuracy"]) == 1.0
    assert float(found["rotation_loss"]) < 1e-6


def test_nearest_distances_are_those_of_brute_force() -> None:
    draws = torch.Generator().manual_seed(0)
    held_out, samples = torch.randn(7, 5, generator=draws), torch.randn(11, 5, generator=draws)
    expected = torch.stack([(samples - row).norm(dim=1).min() for row in held_out])
    torch.testing.assert_close(nearest_distances(held_out, samples), expected)
    first = nearest_distances(held_out, samples[:4])
    torch.testing.assert_close(nearest_distances(held_out, samples[4:], first), expected)


def test_the_neighbour_score_falls_with_more_samples_and_leaves_the_pair_alone(images: np.ndarray) -> None:
    trainer = Trainer(replace(CONFIG, held_out=8), images)
    before = {key: value.clone() for key, value in trainer.G.state_dict().items() if value.dim()}
    scores = neighbour_score(trainer, counts=(20, 600))
    assert scores["nearest_600"] < scores["nearest_20"]
    assert_same_bits(before, {key: value for key, value in trainer.G.state_dict().items() if value.dim()})


def test_operations_are_counted_by_hand() -> None:
    # svhn32: multiply-adds per image of D and of G, each convolution at its output's size (input's for transposed ones)
    conv = [(3, 64, 16), (64, 128, 8), (128, 256, 4)]
    layers = [2 * 25 * a * b * size**2 for a, b, size in conv]
    D, G = sum(layers) + 2 * 4096, sum(layers) + 2 * 100 * 4096
    first = layers[0]
    D_update = G + 2 * D + 2 * (2 * D - first)  # no gradient for the images
    G_update = G + D + D + (2 * G - 2 * 100 * 4096)  # D's weights get none, nor does z
    assert flops_per_round(TrainingConfig(preset="svhn32", batch_size=64)) == 64 * (D_update + G_update)


def test_losses_follow_their_formulas() -> None:
    ladder = get_preset("svhn32")
    D, G = build(ladder, seed=0)
    x_NCHW = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z_NZ = sample_prior(ladder, 4, torch.Generator().manual_seed(1))
    found = discriminator_loss(D, G, x_NCHW, z_NZ)
    real, fake = D(x_NCHW).sigmoid(), D(G(z_NZ)).sigmoid()
    expected = -torch.log(real).mean() - torch.log(1 - fake).mean()
    # float32, logs of values near one half
    torch.testing.assert_close(found["d_loss"], expected, rtol=1e-4, atol=1e-5)
    assert float(softplus(torch.zeros(()))) == pytest.approx(np.log(2))


def test_each_step_changes_its_own_network_only() -> None:
    ladder = get_preset("svhn32")
    D, G = build(ladder, seed=0)
    adam_D, adam_G = torch.optim.Adam(D.parameters(), 1e-3), torch.optim.Adam(G.parameters(), 1e-3)
    x_NCHW, z_NZ = torch.zeros(4, 3, 32, 32), sample_prior(ladder, 4, torch.Generator().manual_seed(1))
    d_before, g_before = D.linear.weight.clone(), G.project.weight.clone()
    step_discriminator(D, G, adam_D, x_NCHW, z_NZ)
    assert not torch.equal(D.linear.weight, d_before)
    assert torch.equal(G.project.weight, g_before)
    d_before = D.linear.weight.clone()
    step_generator(D, G, adam_G, z_NZ)
    assert torch.equal(D.linear.weight, d_before)
    assert not torch.equal(G.project.weight, g_before)
    assert all(p.requires_grad for p in D.parameters())


def test_generated_images_leave_the_running_statistics_alone() -> None:
    D, _ = build(get_preset("svhn32"), seed=0)
    before = D.conv2.norm.running_mean.clone()
    with untracked_statistics(D):
        D(torch.ones(4, 3, 32, 32))
    assert torch.equal(D.conv2.norm.running_mean, before)
    D(torch.ones(4, 3, 32, 32))
    assert not torch.equal(D.conv2.norm.running_mean, before)


def test_the_learning_rate_is_constant_and_then_falls_to_zero() -> None:
    config = replace(CONFIG, total_images=1_000, decay_images=500, learning_rate=2e-4)
    assert config.learning_rate_at(0) == config.learning_rate_at(500) == 2e-4
    assert config.learning_rate_at(750) == pytest.approx(1e-4)
    assert config.learning_rate_at(1_000) == 0.0
    assert TrainingConfig().learning_rate_at(30_000_000) == 2e-4


def test_each_preset_has_the_papers_recipe() -> None:
    assert paper_recipe("imagenet32") == TrainingConfig()
    svhn = paper_recipe("svhn32", flip=True, shift=None)
    assert (svhn.learning_rate, svhn.batch_size, svhn.total_images // 73_257) == (5e-4, 64, 200)
    assert svhn.departures() == {"flip": True}
    assert paper_recipe("dcgan64").weight_decay == 1e-5


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("batch_size", 1, "--batch-size"),
        ("total_images", 3, "--images"),
        ("learning_rate", 0.0, "--learning-rate"),
        ("decay_images", -1, "--decay-images"),
        ("compute", "int8", "--compute"),
        ("shift", 16, "--shift"),
        ("rotation", -1.0, "--rotation"),
    ],
)
def test_unusable_values_name_their_flag(field: str, value: object, flag: str) -> None:
    with pytest.raises(TrainingError, match=flag):
        replace(CONFIG, **{field: value})


def test_images_that_do_not_fit() -> None:
    with pytest.raises(TrainingError, match="do not fit the preset"):
        Trainer(CONFIG, np.zeros((40, 28, 28, 1), np.uint8))
    with pytest.raises(TrainingError, match="at least 8 images"):
        Trainer(CONFIG, np.zeros((4, 32, 32, 3), np.uint8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_resumes_and_follows_the_cpu(images: np.ndarray, tmp_path: Path) -> None:
    on_cpu, on_gpu = Trainer(CONFIG, images), Trainer(CONFIG, images, "cuda")
    first = {key: float(value) for key, value in on_gpu.step().items()}
    # latents and augmentation come from another generator, so the two agree only in size
    assert first["d_loss"] == pytest.approx(float(on_cpu.step()["d_loss"]), rel=0.5)
    train(Trainer(CONFIG, images, "cuda"), tmp_path, RunOptions(max_minutes=0.0))
    assert train(Trainer(CONFIG, images, "cuda"), tmp_path, RESUME)["status"] == "finished"
    assert load_network(tmp_path / "discriminator.safetensors").linear.weight.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Trainer, {"preset": "svhn32", "width": 16, "rotation": 1.0}),
        (Trainer, {"preset": "mnist28_cond"}),
        (ContrastiveTrainer, {"preset": "imagenet32", "width": 16, "objective": "contrastive", "view_size": 12}),
        (ContraDTrainer, {"preset": "imagenet32", "width": 16, "objective": "contrad", "view_size": 12}),
    ],
    ids=["rotation", "conditional", "contrastive", "contrad"],
)
def test_operations_are_those_that_torch_counts(kind: type[Trainer], options: dict[str, Any]) -> None:
    config = TrainingConfig(batch_size=8, **options)
    images = np.zeros((8, *config.architecture.image_shape), np.uint8)
    trainer = kind(config, images, labels_N=np.zeros(8, np.int64))
    with FlopCounterMode(display=False) as counted:
        for _ in range(trainer.cycle):
            trainer.step()
    assert flops_per_round(config, kind) == counted.get_total_flops() / trainer.cycle > 0
