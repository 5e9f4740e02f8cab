"""Training of the digit pairs: seeded dropout, labels beside images, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from dcgan_eval.errors import ProtocolError, TrainingError
from dcgan_eval.models.presets import get_preset
from dcgan_eval.protocols.validation_score import ValidationScore
from dcgan_eval.training import checkpoint
from dcgan_eval.training.checkpoint import find_checkpoints
from dcgan_eval.training.config import TrainingConfig, paper_recipe
from dcgan_eval.training.estimate import flops_per_round
from dcgan_eval.training.feed import Feed
from dcgan_eval.training.loop import RunOptions, train
from dcgan_eval.training.neighbours import neighbour_score
from dcgan_eval.training.trainer import Trainer

LABELS = np.arange(24) % 10
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 28, 28, 1), dtype=np.uint8)
STOP_AT_ONCE = RunOptions(resume=True, max_minutes=0.0)


def config_of(name: str) -> TrainingConfig:
    return TrainingConfig(preset=name, total_images=16, batch_size=4, seed=1)


def trainer_of(name: str) -> Trainer:
    return Trainer(config_of(name), IMAGES, labels_N=LABELS)


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(checkpoint._read(find_checkpoints(folder)[-1]))


@pytest.mark.parametrize("name", ["mnist28_cond", "mnist28_keras"])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    assert train(trainer_of(name), tmp_path / "whole")["status"] == "finished"
    for _ in range(2):
        torch.manual_seed(2)  # whatever others do with the global generator
        train(trainer_of(name), tmp_path / "parts", STOP_AT_ONCE)
    whole, parts = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_dropout_is_at_work_and_leaves_the_global_generator_alone() -> None:
    with_dropout, without = trainer_of("mnist28_keras"), trainer_of("mnist28_keras")
    for layer in without.D.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    before = torch.random.get_rng_state()
    losses = [float(with_dropout.step()["d_loss"]), float(without.step()["d_loss"])]
    assert losses[0] != losses[1]
    assert torch.equal(before, torch.random.get_rng_state())
    masks = []
    for rounds_done in (0, 0, 1):
        with_dropout.rounds_done = rounds_done
        with with_dropout._seeded_dropout():
            masks.append(torch.rand(8))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_every_image_carries_its_own_label() -> None:
    images = np.broadcast_to(LABELS.astype(np.uint8)[:, None, None, None] * 20, (24, 28, 28, 1)).copy()
    config = replace(config_of("mnist28_cond"), flip=True, shift=2, held_out=4)
    feed = Feed(config, images, torch.device("cpu"), LABELS)
    for round_number in range(6):
        x_NCHW = feed.minibatch(round_number)
        assert x_NCHW.shape == (4, 11, 28, 28)
        told = x_NCHW[:, 1:].amin((2, 3)).argmax(1)
        assert torch.equal(((x_NCHW[:, 0, 5, 5] + 1) * 127.5 / 20).round().long(), told)
        assert torch.equal(x_NCHW[:, 1:].sum((1, 2, 3)), torch.full((4,), 28.0 * 28.0))


@pytest.mark.parametrize(
    ("labels", "got"), [(None, "no labels"), (np.arange(24), "from 0 to 23"), (LABELS - 1, "from -1 to 8")]
)
def test_a_conditional_preset_needs_labels(labels: np.ndarray | None, got: str) -> None:
    with pytest.raises(TrainingError, match=f"told the class of every image.*{got}"):
        Trainer(config_of("mnist28_cond"), IMAGES, labels_N=labels)


def test_rotation_neighbours_and_operations_work_for_the_conditional_pair() -> None:
    config = replace(config_of("mnist28_cond"), rotation=0.5, held_out=4)
    trainer = Trainer(config, IMAGES, labels_N=LABELS)
    assert "rotation_loss" in trainer.step()
    assert neighbour_score(trainer, counts=(5,))["nearest_5"] > 0
    # multiply-adds of one image: D's and G's layers, as in the ladders' count
    first, fc_g = 11 * 64 * 25 * 14**2, 110 * 1024
    D = 2 * (first + 74 * 128 * 25 * 7**2 + 6282 * 1024 + 1034)
    G = 2 * (fc_g + 1034 * 6272 + 138 * 64 * 25 * 7**2 + 74 * 25 * 14**2)
    expected = G + 2 * D + 2 * (2 * D - 2 * first) + G + D + D + (2 * G - 2 * fc_g)
    assert flops_per_round(config_of("mnist28_cond")) == 4 * expected


def test_recipes_are_those_of_their_sources() -> None:
    keras, cond = paper_recipe("mnist28_keras"), paper_recipe("mnist28_cond")
    assert (keras.total_rounds, keras.batch_size, keras.learning_rate, keras.beta1) == (4_000, 32, 2e-4, 0.5)
    assert (cond.batch_size, cond.total_images, cond.weight_decay) == (128, 5_000_000, 2.5e-5)


def test_one_image_is_told_as_one() -> None:
    with pytest.raises(TrainingError, match=r"1 image of shape \(28, 28, 1\)"):
        Trainer(config_of("mnist28_keras"), IMAGES[:1])


def test_a_probe_whose_images_do_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"mnist28_keras.*\(32, 32, 3\)"):
        ValidationScore("digits").check(get_preset("mnist28_keras"))
    path = tmp_path / "own.npz"
    np.savez(path, x_train=IMAGES[:20], y_train=LABELS[:20] % 2, x_test=IMAGES[20:], y_test=LABELS[20:] % 2)
    probe = ValidationScore(str(path))
    probe.check(get_preset("mnist28_keras"))
    assert 0 <= probe(trainer_of("mnist28_keras").networks()[0])["score"] <= 1
    with pytest.raises(ProtocolError, match="told labels"):
        probe.check(get_preset("mnist28_cond"))
