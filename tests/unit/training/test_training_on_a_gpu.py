"""What a GPU would do, without one: fake tensors on CUDA raise where devices are mixed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dcgan_eval import devices
from dcgan_eval.models.dcgan import networks_of
from dcgan_eval.models.networks import with_planes
from dcgan_eval.models.presets import PRESETS, get_preset
from dcgan_eval.training import feed
from dcgan_eval.training.config import TrainingConfig, contrastive_recipe
from dcgan_eval.training.contrad import apart_loss, unit_loss
from dcgan_eval.training.contrastive import ContrastiveTrainer, contrastive_loss, random_views
from dcgan_eval.training.layerwise import _patches, _shared_out
from dcgan_eval.training.phases import discriminator_loss, generator_loss, rotation_loss
from dcgan_eval.training.trainer import BaseTrainer, Trainer


@pytest.fixture
def fake() -> Iterator[None]:
    """Make tensors without memory, kernels or values, which still know their device."""
    with FakeTensorMode():
        yield


def pair_of(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor, torch.Tensor]:
    preset = get_preset(name)
    with torch.device("cuda"):
        D, G = (kind(preset) for kind in networks_of(preset))
        x = torch.empty(4, preset.image_channels, preset.image_size, preset.image_size)
        z = torch.empty(4, preset.z_dim + preset.num_classes)
        if preset.num_classes:
            x = with_planes(x, torch.empty(4, preset.num_classes))
    return D, G, x, z


def test_fake_tensors_tell_devices_apart(fake: None) -> None:
    with pytest.raises(RuntimeError, match="devices"):
        torch.zeros(3, device="cuda") + torch.zeros(3, device="cpu")


@pytest.mark.parametrize("name", PRESETS)
def test_the_losses_of_a_pair_stay_on_the_gpu(fake: None, name: str) -> None:
    D, G, x, z = pair_of(name)
    losses = discriminator_loss(D, G, x, z) | generator_loss(D, G, z)  # type: ignore[arg-type]
    losses |= rotation_loss(D, nn.Linear(D.trunk_width, 4, device="cuda"), x)  # type: ignore[arg-type]
    assert {value.device.type for value in losses.values()} == {"cuda"}


def test_the_contrastive_losses_stay_on_the_gpu(fake: None) -> None:
    D, G, x, z = pair_of("svhn32")
    views = random_views(x, 12, (0.1, 0.25), None)  # type: ignore[arg-type]
    embedded = D.trunk(views).mean((2, 3))  # type: ignore[operator]
    for decoupled in (False, True):
        losses = contrastive_loss(embedded, embedded, 0.2, decoupled=decoupled)
        assert losses["contrastive_loss"].device.type == "cuda"
    assert apart_loss(embedded, embedded, 0.2).device.type == "cuda"
    assert unit_loss(D, x, G(z))["d_loss"].device.type == "cuda"  # type: ignore[arg-type]


def test_a_kmeans_step_stays_on_the_gpu(fake: None) -> None:
    points, centroids = torch.empty(40, 6, device="cuda"), torch.empty(4, 6, device="cuda")
    sums, is_lost = _shared_out(points, centroids)
    assert (sums.device.type, is_lost.device.type) == ("cuda", "cuda")
    conv = nn.Conv2d(3, 4, 5, 2, 2, device="cuda")
    places = torch.empty(2, 3, 20, dtype=torch.long)
    with pytest.MonkeyPatch.context() as patch:  # a generator on the CPU draws them, which fake tensors do not take
        patch.setattr(torch, "randint", lambda *_, **__: places)
        assert _patches(torch.empty(3, 3, 12, 12, device="cuda"), conv, 20, None).device.type == "cuda"  # type: ignore[arg-type]


def test_images_are_moved_by_the_one_module_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []

    def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(device)
        return x

    monkeypatch.setattr(feed, "to_device", to_device)
    images = np.zeros((8, 32, 32, 3), np.uint8)
    found = feed.Feed(TrainingConfig(preset="svhn32", batch_size=4, total_images=16), images, torch.device("cpu"))
    found.minibatch(0)
    assert moved == [torch.device("cpu")]


def test_a_gpu_without_an_index_is_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch 2.4's mem_get_info takes no device without an index
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8, 9))
    assert devices.memory_share(torch.device("cuda")) == 4


@pytest.mark.parametrize("kind", [Trainer, ContrastiveTrainer])
def test_what_is_compiled_is_what_runs(kind: type[BaseTrainer], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiling(function):  # type: ignore[no-untyped-def]
        def call(*arguments: object) -> object:
            calls.append(function.__name__)
            return function(*arguments)

        return call

    monkeypatch.setattr(torch, "compile", compiling)
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    adversarial = TrainingConfig(preset="svhn32", width=8, batch_size=4, total_images=16)
    config = adversarial if kind is Trainer else contrastive_recipe("svhn32", width=8, batch_size=4, start="")
    kind(config, np.zeros((8, 32, 32, 3), np.uint8), compiled=True).step()
    assert calls
    assert set(calls) == {"trunk"}


def test_seeding_leaves_every_gpu_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("reseeds every GPU"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("reseeds every GPU"))
    config = TrainingConfig(preset="svhn32", width=8, batch_size=4, total_images=16, rotation=1.0)
    Trainer(config, np.zeros((8, 32, 32, 3), np.uint8)).step()
    contrastive = contrastive_recipe("svhn32", width=8, batch_size=4, start="")
    ContrastiveTrainer(contrastive, np.zeros((8, 32, 32, 3), np.uint8)).step()


def test_bfloat16_is_taken_where_it_is_fast_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for is_fast, wanted in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device, is_fast=is_fast: is_fast)
        assert devices.arithmetic("auto", cpu)[0] == wanted
        assert wanted in devices.arithmetic("auto", cpu)[1]
        chosen, said = devices.arithmetic("bfloat16", cpu)
        assert (chosen, "200 times slower" in said) == ("bfloat16", not is_fast)
    with pytest.raises(devices.DcganEvalError, match="float16"):
        devices.arithmetic("float16", cpu)


def test_the_kmeans_start_computes_as_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[bool] = set()
    original = nn.Conv2d.forward

    def forward(self: nn.Conv2d, h: torch.Tensor) -> torch.Tensor:
        seen.add(torch.is_autocast_enabled("cpu"))
        return original(self, h)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    for compute, wanted in (("float32", {False}), ("bfloat16", {True})):
        seen.clear()
        config = contrastive_recipe("svhn32", width=8, batch_size=4, compute=compute)
        images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
        ContrastiveTrainer(config, images).initialise(lambda what, done, total: None)
        assert seen == wanted
