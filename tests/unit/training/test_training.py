"""Training: the recipe's phases, and a run that is stopped or killed and resumed equals one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import softplus

from dcgan_eval.errors import TrainingError, WeightsError
from dcgan_eval.models.dcgan import build, sample_prior, to_unit_range
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import load_network
from dcgan_eval.training import loop
from dcgan_eval.training.checkpoint import find_checkpoints, read_state
from dcgan_eval.training.config import TrainingConfig
from dcgan_eval.training.loop import Trainer, train
from dcgan_eval.training.phases import discriminator_loss, step_discriminator, step_generator, untracked_statistics

CONFIG = TrainingConfig(preset="svhn32", total_images=16 * 6, batch_size=8, seed=1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoints(folder)[-1])


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
    resumed = train(Trainer(CONFIG, images), tmp_path, resume=True)
    assert (resumed["status"], resumed["seen_images"]) == ("finished", CONFIG.total_images)
    assert_same_bits(final_tensors(tmp_path), final_tensors(uninterrupted))


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from dcgan_eval.training import loop
from dcgan_eval.training.config import TrainingConfig

loop.CHECKPOINT_EVERY_S = 0.0  # a checkpoint after every round
images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
trainer = loop.Trainer(TrainingConfig(preset="svhn32", total_images=96, batch_size=8, seed=1), images)
step = trainer.step

def step_or_die():
    if trainer.rounds_done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step()

trainer.step = step_or_die
loop.train(trainer, Path(sys.argv[1]))
"""


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    images: np.ndarray, uninterrupted: Path, tmp_path: Path
) -> None:
    at_round = int(np.random.default_rng(7).integers(2, 6))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = [sys.executable, "-c", _KILLED, str(tmp_path), str(at_round)]
    killed = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(Trainer(CONFIG, images), tmp_path, resume=True)
    assert resumed["status"] == "finished"
    assert_same_bits(final_tensors(tmp_path), final_tensors(uninterrupted))
    assert list(tmp_path.glob("*.partial")) == []


def test_a_time_limit_stops_cleanly_and_two_checkpoints_are_kept(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    for expected in (1, 2, 3):
        result = train(Trainer(CONFIG, images), tmp_path, resume=True, max_minutes=0.0)
        assert (result["status"], result["rounds_done"]) == ("time limit", expected)
    assert [read_state(p)["rounds_done"] for p in find_checkpoints(tmp_path)] == [2, 3]


def test_export_is_what_was_trained(uninterrupted: Path) -> None:
    tensors = final_tensors(uninterrupted)
    D = load_network(uninterrupted / "discriminator.safetensors")
    G = load_network(uninterrupted / "generator.safetensors", "generator")
    assert torch.equal(D.conv3.conv.weight, tensors["D.conv3.conv.weight"])
    assert torch.equal(G.project.weight, tensors["G.project.weight"])
    assert json.loads((uninterrupted / "config.json").read_text()) == CONFIG.as_dict()


def test_the_log_is_written(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_ROUNDS", 2)
    seen: list[dict[str, float]] = []
    result = train(Trainer(CONFIG, images), tmp_path, on_log=seen.append)
    assert [row["seen_images"] for row in seen] == [32, 64, 96]
    assert result["log"] == seen
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0].split(",") == list(seen[0])
    assert len(lines) == 4


def test_a_started_folder_is_not_overwritten(images: np.ndarray, uninterrupted: Path) -> None:
    with pytest.raises(TrainingError, match=r"already holds a run.*--resume"):
        train(Trainer(CONFIG, images), uninterrupted)


def test_a_changed_configuration_is_refused(images: np.ndarray, uninterrupted: Path) -> None:
    with pytest.raises(TrainingError, match=r"another configuration. Got: learning_rate=0.1"):
        train(Trainer(replace(CONFIG, learning_rate=0.1), images), uninterrupted, resume=True)


def test_a_truncated_checkpoint_is_an_error(images: np.ndarray, tmp_path: Path) -> None:
    train(Trainer(CONFIG, images), tmp_path, max_minutes=0.0)
    (path,) = find_checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="no complete safetensors"):
        train(Trainer(CONFIG, images), tmp_path, resume=True)


def test_divergence_is_said(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_ROUNDS", 1)
    trainer = Trainer(CONFIG, images)
    with torch.no_grad():
        trainer.D.linear.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="diverged"):
        train(trainer, tmp_path)


def test_both_phases_use_their_own_minibatches(images: np.ndarray) -> None:
    # 5 minibatches of 8: D gets numbers 0, 2, 4 of the first epoch, G's 1 and 3 are only counted
    trainer = Trainer(replace(CONFIG, total_images=160), images)
    epoch = np.random.default_rng(loop.derive(1, "order", epoch=0)).permutation(40)
    for position in (0, 2, 4):
        expected = to_unit_range(torch.from_numpy(images[epoch[8 * position : 8 * position + 8]]))
        assert torch.equal(trainer._minibatch(), expected)
        trainer.rounds_done += 1


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


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("batch_size", 1, "--batch-size"),
        ("total_images", 3, "--images"),
        ("learning_rate", 0.0, "--learning-rate"),
        ("decay_images", -1, "--decay-images"),
        ("compute", "int8", "--compute"),
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
