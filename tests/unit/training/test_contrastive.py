"""Contrastive learning of a discriminator alone, and the start from K-means."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

from dcgan_eval.cli.main import main
from dcgan_eval.errors import TrainingError, WeightsError
from dcgan_eval.files import sha256_of
from dcgan_eval.models import bundled, weights
from dcgan_eval.models.dcgan import build, to_unit_range
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import load_network, read_card
from dcgan_eval.training import checkpoint, trainer
from dcgan_eval.training.checkpoint import find_checkpoints
from dcgan_eval.training.config import contrastive_recipe
from dcgan_eval.training.contrastive import ContrastiveTrainer, contrastive_loss, random_views
from dcgan_eval.training.estimate import estimate
from dcgan_eval.training.layerwise import _patches, spherical_kmeans, start_from_kmeans
from dcgan_eval.training.loop import RunOptions, train
from dcgan_eval.training.start import load_start
from dcgan_eval.training.trainer import Trainer

CONFIG = contrastive_recipe("svhn32", total_images=16 * 6, warmup_images=32, batch_size=16, start="", seed=1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Blobs of different colours and places, so that images can be told apart."""
    draw = np.random.default_rng(0)
    coarse = torch.from_numpy(draw.uniform(0, 255, (64, 3, 4, 4)))
    smooth = nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(checkpoint._read(find_checkpoints(folder)[-1]))


def test_the_loss_is_the_published_one() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=draw), torch.randn(5, 7, generator=draw)
    losses = contrastive_loss(a, b, 0.3)
    views = [v / v.norm() for v in (*a, *b)]
    terms = []
    for i, view in enumerate(views):
        others = [math.exp(float(view @ other) / 0.3) for j, other in enumerate(views) if j != i]
        terms.append(-math.log(math.exp(float(view @ views[(i + 5) % 10]) / 0.3) / sum(others)))
    assert float(losses["contrastive_loss"]) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(contrastive_loss(a, a, 0.3)["partner_accuracy"]) == 1.0


def test_the_decoupled_loss_leaves_the_partner_out() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(5, 7)), draw.normal(size=(5, 7))
    views = [v / np.sqrt(v @ v) for v in (*a, *b)]
    terms = []
    for i, view in enumerate(views):
        partner = (i + 5) % 10
        others = [np.exp(view @ other / 0.3) for j, other in enumerate(views) if j not in (i, partner)]
        terms.append(-view @ views[partner] / 0.3 + np.log(np.sum(others)))
    found = contrastive_loss(torch.from_numpy(a), torch.from_numpy(b), 0.3, decoupled=True)
    assert float(found["contrastive_loss"]) == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_recipes_views_are_of_native_scale() -> None:
    config = contrastive_recipe("imagenet32")
    assert (config.view_size, config.decoupled, config.decay_images) == (12, True, 0)
    across = torch.linspace(-0.5, 0.5, 32).expand(400, 3, 32, 32)
    areas = (config.view_min_area, config.view_max_area)
    views = random_views(across, 12, areas, torch.Generator().manual_seed(0))
    slopes = (views[:, 0, 6, -2] - views[:, 0, 6, 1]).abs() / 9 * 31  # pixels of the image to a pixel of the view
    # sides of 10 to 16 pixels, stretched by up to sqrt(4/3), contrast and brightness changed by up to 40 % each
    assert 32 * math.sqrt(0.1 * 3 / 4) / 12 * 0.6**2 < slopes.min()
    assert slopes.max() < 32 * math.sqrt(0.25 * 4 / 3) / 12 * 1.4**2
    assert 0.9 < slopes.median() < 1.3


def test_views_show_parts_of_their_images(images: np.ndarray) -> None:
    across = torch.linspace(-0.5, 0.5, 32).expand(500, 3, 32, 32)  # grey, so only brightness and contrast change
    views = random_views(across, 16, (0.2, 1.0), torch.Generator().manual_seed(0))
    assert views.shape == (500, 3, 16, 16)
    slopes = (views[:, 0, 8, -3] - views[:, 0, 8, 2]) / (11 / 16)
    assert 0.35 < (slopes < 0).float().mean() < 0.65  # mirrored half of the time
    shares = slopes.abs()
    assert shares.max() < 1.4**2 * 32 / 31  # contrast and brightness each change a slope by up to 40 %
    assert shares.min() > 0.6**2 * math.sqrt(0.2 * 3 / 4)
    x = to_unit_range(torch.from_numpy(images))
    first, again, other = (random_views(x, 24, (0.2, 1.0), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.abs().max() <= 1
    grey = (first.amax(1) - first.amin(1)).amax((1, 2)) < 1e-6
    assert 0 < int(grey.sum()) < len(x) / 2


def test_spherical_kmeans_finds_directions() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.eye(6)[:4]
    points = truth.repeat(50, 1) * (1 + torch.rand(200, 1, generator=draw)) + 0.02 * torch.randn(200, 6, generator=draw)
    best = max(
        ((spherical_kmeans(points, 4, 20, torch.Generator().manual_seed(seed)) @ truth.T).amax(0) for seed in range(5)),
        key=lambda cosines: float(cosines.min()),
    )
    assert best.min() > 0.99


def test_patches_are_what_the_kernels_see() -> None:
    conv = nn.Conv2d(3, 4, 5, 2, 2, bias=False)
    maps = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    patches = _patches(maps, conv, 20, torch.Generator().manual_seed(1))
    assert patches.shape == (60, 75)
    answers = patches @ conv.weight.detach().flatten(1).T
    seen = conv(maps).detach().permute(0, 2, 3, 1).flatten(1, 2).repeat_interleave(20, 0).reshape(60, -1, 4)
    assert (answers[:, None] - seen).abs().amax(2).amin(1).max() < 1e-4


def test_a_start_from_kmeans_answers_evenly_and_follows_the_seed(images: np.ndarray) -> None:
    pixels = torch.from_numpy(images)
    networks = [build(get_preset("svhn32"), 0)[0].train() for _ in range(3)]
    for D, seed in zip(networks, (0, 0, 1), strict=True):
        start_from_kmeans(D, pixels, seed)
    first, again, other = (D.state_dict() for D in networks)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["conv1.conv.weight"], other["conv1.conv.weight"])
    x = to_unit_range(pixels)
    answers = networks[0].get_submodule("conv1.conv")(x).detach()
    assert 0.5 < float(answers.std()) < 2
    second = networks[0].get_submodule("conv2.conv")(networks[0].get_submodule("conv1")(x)).detach()
    norm = networks[0].get_submodule("conv2.norm")
    assert norm.training
    assert torch.allclose(norm.running_mean, second.mean((0, 2, 3)), atol=0.05 * float(second.std()))
    assert torch.equal(first["linear.weight"], build(get_preset("svhn32"), 0)[0].state_dict()["linear.weight"])


def test_learning_finds_more_partners(images: np.ndarray) -> None:
    config = replace(CONFIG, total_images=16 * 40, start="kmeans", decay_images=0)
    learner = ContrastiveTrainer(config, images)
    learner.initialise(lambda what, done, total: None)
    found = [float(learner.step()["partner_accuracy"]) for _ in range(40)]
    assert np.mean(found[-8:]) > np.mean(found[:8]) + 0.05


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(images: np.ndarray, tmp_path: Path) -> None:
    config, said = replace(CONFIG, start="kmeans"), list[str]()
    options = {"on_progress": lambda what, done, total: said.append(f"{done}/{total}")}
    whole = train(ContrastiveTrainer(config, images), tmp_path / "whole", **options)
    assert whole["status"] == "finished"
    assert (whole["rounds_done"], whole["seen_images"]) == (6, 96)
    assert "generator" not in whole
    assert not (tmp_path / "whole" / "generator.safetensors").exists()
    train(ContrastiveTrainer(config, images), tmp_path / "cut", RunOptions(max_minutes=0.0), **options)
    assert said == 2 * ["1/3", "2/3", "3/3"]
    train(ContrastiveTrainer(config, images), tmp_path / "cut", RunOptions(resume=True), **options)
    assert len(said) == 6, "a resumed run does not start again"
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    card = read_card(tmp_path / "whole" / "discriminator.safetensors")["card"]
    assert card["departures"]["objective"] == "contrastive"
    with pytest.raises(TrainingError, match="another configuration"):
        train(Trainer(replace(config, objective="adversarial"), images), tmp_path / "cut", RunOptions(resume=True))


def test_the_rate_rises_and_falls() -> None:
    config = replace(CONFIG, decay_images=48)
    rates = [config.learning_rate_at(seen) / config.learning_rate for seen in range(0, 96, 16)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 32 / 48, 16 / 48])
    assert contrastive_recipe("imagenet32", total_images=1_000).decay_images == 0


def test_what_does_not_go_together_is_refused() -> None:
    for changed, flag in (({"rotation": 1.0}, "--rotation"), ({"view_size": 40}, "--view-size")):
        with pytest.raises(TrainingError, match=flag):
            replace(CONFIG, **changed)
    with pytest.raises(TrainingError, match="preset"):
        contrastive_recipe("mnist28_tanh")


def test_a_pair_can_start_from_a_discriminator_alone(images: np.ndarray, tmp_path: Path) -> None:
    train(ContrastiveTrainer(CONFIG, images), tmp_path)
    start = load_start(str(tmp_path), get_preset("svhn32"))
    assert start.G is None
    config = trainer.TrainingConfig(preset="svhn32", total_images=32, batch_size=8, start=start.sha256, seed=4)
    pair = Trainer(config, images, start=start)
    D = load_network(tmp_path / "discriminator.safetensors")
    assert all(torch.equal(value, D.state_dict()[key]) for key, value in pair.D.state_dict().items())
    assert len(pair.step()) == 6


def test_the_cost_is_counted(images: np.ndarray) -> None:
    cost = estimate(ContrastiveTrainer(replace(CONFIG, start="kmeans", view_size=16), images))
    full = estimate(ContrastiveTrainer(replace(CONFIG, view_size=32), images))
    assert 3.5 < full["flops_per_image"] / cost["flops_per_image"] < 4.5


def test_weights_without_a_generator_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    D, G = build(get_preset("svhn32"), 0)
    entries = {}
    for name, networks in (("alone", {"discriminator": D}), ("pair", {"discriminator": D, "generator": G})):
        entries[name] = {"preset": "svhn32", "summary": ""}
        for kind, network in networks.items():
            path = tmp_path / f"{name}.{kind}.safetensors"
            weights.save_network(network, path)
            size = path.stat().st_size
            entries[name][kind] = {"file": path.name, "sha256": sha256_of(path), "size_bytes": size}
    manifest = {"default": "alone", "weights": entries}
    sealed = {**manifest, "sha256": bundled.manifest_digest(manifest)}
    (tmp_path / "manifest.json").write_text(json.dumps(sealed))
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tmp_path)
    assert bundled.resolve(None).name == "alone.discriminator.safetensors"
    with pytest.raises(WeightsError, match="no generator") as caught:
        bundled.resolve("alone", "generator")
    assert "pair" in str(caught.value)
    assert bundled.resolve(None, "generator").name == "pair.generator.safetensors"
    assert load_start("alone", get_preset("svhn32")).G is None
    assert load_start("pair", get_preset("svhn32")).G is not None


def test_the_command_trains_a_discriminator_alone(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=images)
    command = ["train", "svhn32", "--recipe", "contrastive", "--data", str(tmp_path / "own.npz"), "--images", "640"]
    command += ["--batch-size", "32", "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(main, [*command, "--neighbours"])
    assert refused.exit_code != 0
    assert "--neighbours" in refused.output
    result = CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert facts["status"] == "finished"
    assert facts["seen_images"] == 640
    assert Path(facts["figure"]).exists()
    assert "partners found" in result.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start"] == "kmeans"
    dry = CliRunner().invoke(main, [*command, "--dry-run", "--json"], catch_exceptions=False)
    assert json.loads(dry.stdout)["departures"]["start"] == "kmeans"
