"""ContraD: its losses against NumPy, and which gradient reaches what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan_eval.models.dcgan import build, sample_prior
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import load_network
from dcgan_eval.training.config import contrad_recipe
from dcgan_eval.training.contrad import EVERY, ContraDTrainer, apart_loss, unit_loss
from dcgan_eval.training.contrastive import ContrastiveTrainer
from dcgan_eval.training.loop import RunOptions, train

CONFIG = contrad_recipe("svhn32", width=8, total_images=8 * 8, batch_size=8, warmup_images=0, start="", seed=1)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)


def test_the_loss_of_generated_images_is_the_published_one() -> None:
    draw = np.random.default_rng(0)
    fake, real = draw.normal(size=(3, 5)), draw.normal(size=(4, 5))
    views = [v / np.sqrt((v**2).sum()) for v in (*fake, *real)]
    terms = []
    for i in range(3):
        others = [np.exp(views[i] @ other / 0.4) for j, other in enumerate(views) if j != i]
        shares = [np.log(np.exp(views[i] @ views[j] / 0.4) / np.sum(others)) for j in range(3) if j != i]
        terms.append(-np.mean(shares))
    found = apart_loss(torch.from_numpy(fake), torch.from_numpy(real), 0.4)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_gans_loss_reaches_the_linear_unit_alone() -> None:
    preset = get_preset("svhn32", 8)
    D, G = build(preset, seed=0)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {name: value.clone() for name, value in D.named_buffers()}
    fake = G(sample_prior(preset, 4, torch.Generator().manual_seed(1)))
    losses = unit_loss(D, x, fake)
    losses["d_loss"].backward()
    assert {name for name, p in D.named_parameters() if p.grad is not None} == {"linear.weight"}
    assert all(p.grad is None for p in G.parameters())
    assert all(torch.equal(value, before[name]) for name, value in D.named_buffers() if value.dim())
    assert D.training
    with torch.no_grad():
        real, drawn = (D.eval()(images).sigmoid() for images in (x, fake))
    expected = float(-torch.log(real).mean() - torch.log(1 - drawn).mean())
    assert float(losses["d_loss"].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_generator_learns_through_unit_and_trunk() -> None:
    trainer = ContraDTrainer(CONFIG, IMAGES)
    seen: dict[str, float] = {}
    adam = trainer.adam["G"]
    original = adam.step

    def step() -> None:
        seen.update({name: float(p.grad.abs().sum()) for name, p in trainer.G.named_parameters()})  # type: ignore[union-attr]
        original()

    adam.step = step  # type: ignore[method-assign, assignment]
    before = trainer.G.project.weight.clone()
    for _ in range(EVERY - 1):
        assert "g_loss" not in trainer.step()
    assert torch.equal(trainer.G.project.weight, before)
    losses = trainer.step()
    assert all(seen.values())
    assert not torch.equal(trainer.G.project.weight, before)
    assert {"contrastive_loss", "apart_loss", "d_loss", "g_loss", "d_grad_norm", "g_grad_norm"} <= losses.keys()
    assert all(p.requires_grad for p in trainer.D.parameters())
    assert adam.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_the_unit_learns_faster_than_the_generator() -> None:
    trainer = ContraDTrainer(CONFIG, IMAGES)
    assert trainer.D.linear is not None
    before = trainer.D.linear.weight.clone()
    for _ in range(EVERY):
        trainer.step()
    moved = (trainer.D.linear.weight - before).detach().abs()
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-3)  # the length of Adam's first step is its rate


def test_what_is_said_of_an_image_does_not_depend_on_its_minibatch() -> None:
    preset = get_preset("svhn32", 8)
    D, G = build(preset, seed=0)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fake = G(sample_prior(preset, 4, torch.Generator().manual_seed(1))).detach()
    halves = [float(unit_loss(D, x, half)["d_fake"]) for half in fake.split(2)]
    assert float(unit_loss(D, x, fake)["d_fake"]) == pytest.approx(np.mean(halves), rel=1e-5)
    trainer, alone = ContraDTrainer(CONFIG, IMAGES), dict[str, bool]()
    for _ in range(EVERY - 1):
        trainer.step()
    trainer.G.register_forward_hook(lambda *_: alone.update(G=trainer.D.training))
    trainer.step()
    assert alone == {"G": False}
    assert trainer.D.training


def test_real_and_generated_views_are_normalised_together() -> None:
    trainer, sizes = ContraDTrainer(CONFIG, IMAGES), list[int]()
    for _ in range(EVERY - 1):
        trainer.step()
    trainer.D.conv1.register_forward_hook(lambda _, __, maps: sizes.append(len(maps)) if trainer.D.training else None)
    trainer.step()
    assert sizes == [2 * 8, 2 + 2]  # two views of eight real images; two generated and two real ones


def test_rounds_without_generated_images_are_contrastive_ones() -> None:
    pair, alone = ContraDTrainer(CONFIG, IMAGES), ContrastiveTrainer(replace(CONFIG, objective="contrastive"), IMAGES)
    for _ in range(EVERY - 1):
        assert float(pair.step()["contrastive_loss"]) == float(alone.step()["contrastive_loss"])
    assert torch.equal(pair.D.conv2.conv.weight, alone.D.conv2.conv.weight)
    pair.step(), alone.step()
    assert not torch.equal(pair.D.conv2.conv.weight, alone.D.conv2.conv.weight)


def test_a_stopped_and_resumed_pair_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(ContraDTrainer(CONFIG, IMAGES), tmp_path / "whole")
    for _ in range(5):
        train(ContraDTrainer(CONFIG, IMAGES), tmp_path / "cut", RunOptions(resume=True, max_minutes=0.0))
    cut = train(ContraDTrainer(CONFIG, IMAGES), tmp_path / "cut", RunOptions(resume=True))
    assert cut["rounds_done"] == whole["rounds_done"] == 8
    for kind in ("discriminator", "generator"):
        expected, found = (load_network(Path(result[kind]), kind).state_dict() for result in (whole, cut))
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
