"""Pooling, batch norm at feature time, folding and taps, each against an independent computation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dcgan_eval.errors import DcganEvalError
from dcgan_eval.features import batchnorm
from dcgan_eval.features.batchnorm import dataset_statistics, frozen, norm_layers
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.pooling import pool_to_grid
from dcgan_eval.features.taps import Encoder, tapped


def test_pooling_against_a_loop_on_a_lopsided_map() -> None:
    # every value differs, so that a transposed, shifted or averaged window cannot give the same result
    h_NCHW = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8) ** 1.5
    expected = [
        h_NCHW[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max()
        for n in range(2)
        for c in range(3)
        for i in range(4)
        for j in range(4)
    ]
    assert torch.equal(pool_to_grid(h_NCHW).flatten(), torch.stack(expected))


def test_a_map_of_the_grids_size_passes_unchanged() -> None:
    h_NCHW = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pool_to_grid(h_NCHW), h_NCHW.flatten(1))


@pytest.mark.parametrize("shape", [(2, 10), (2, 3, 6, 6), (2, 3, 8, 10)])
def test_a_map_that_the_grid_does_not_divide_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DcganEvalError, match="cannot be pooled"):
        pool_to_grid(torch.zeros(shape))


def test_statistics_are_means_over_minibatches_with_biased_variance(encoder: Encoder) -> None:
    draw = torch.Generator().manual_seed(1)
    batches = [torch.rand(8, 3, 32, 32, generator=draw) * 2 - 1 for _ in range(3)]
    before = copy.deepcopy(encoder.module.state_dict())
    found = dataset_statistics(encoder.module, batches)
    expected = {}
    for x_NCHW in batches:
        h_NCHW = x_NCHW
        for name, block in zip(encoder.layers, encoder.module.blocks(), strict=True):
            h_NCHW = block.conv(h_NCHW).detach()
            if block.norm is not None:
                mean, var = h_NCHW.mean((0, 2, 3)), h_NCHW.var((0, 2, 3), correction=0)
                expected.setdefault(name, []).append((mean, var))
                scale = block.norm.weight / torch.sqrt(var + 1e-8)
                h_NCHW = (h_NCHW - mean[:, None, None]) * scale[:, None, None] + block.norm.bias[:, None, None]
            h_NCHW = nn.functional.leaky_relu(h_NCHW, 0.2)
    for name, rows in expected.items():
        mean, var = (torch.stack(column).mean(0) for column in zip(*rows, strict=True))
        # float32 forward passes whose sums run in another order
        assert torch.allclose(found[f"{name}.norm.mean"], mean, rtol=1e-4, atol=1e-6)
        assert torch.allclose(found[f"{name}.norm.var"], var, rtol=1e-4, atol=1e-8)
    after = encoder.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items() if "num_batches" not in key)


def test_folding_changes_nothing_but_rounding(encoder: Encoder) -> None:
    draw = torch.Generator().manual_seed(2)
    x_NCHW = torch.rand(4, 3, 32, 32, generator=draw) * 2 - 1
    statistics = {
        f"{name}.{kind}": torch.rand(norm.num_features, generator=draw) + 0.5 * (kind == "var")
        for name, norm in norm_layers(encoder.module).items()
        for kind in ("mean", "var")
    }
    unfolded = copy.deepcopy(encoder.module)
    for name, norm in norm_layers(unfolded).items():
        norm.running_mean.copy_(statistics[f"{name}.mean"])
        norm.running_var.copy_(statistics[f"{name}.var"])
    folded = frozen(encoder.module, statistics)
    assert norm_layers(folded) == {}
    with torch.no_grad(), tapped(unfolded, encoder.layers) as a, tapped(folded, encoder.layers) as b:
        unfolded(x_NCHW)
        folded(x_NCHW)
        for layer in encoder.layers:
            # float32: three layers of sums over up to 3,200 products
            assert torch.allclose(a[layer], b[layer], rtol=1e-4, atol=1e-5)


def test_layers_are_chosen_in_the_encoders_order(encoder: Encoder) -> None:
    assert encoder.choose(None) == encoder.choose(("all",)) == ("conv1", "conv2", "conv3")
    assert encoder.choose(("conv3,conv1",)) == encoder.choose(("conv1", "conv3")) == ("conv1", "conv3")
    with pytest.raises(DcganEvalError, match="did you mean conv"):
        encoder.choose(("conv9",))


def test_the_hash_covers_every_tensor(encoder: Encoder) -> None:
    changed = copy.deepcopy(encoder.module)
    changed.conv2.norm.running_var[3] += 1e-3
    other = Encoder(changed, encoder.layers, image_shape=encoder.image_shape)
    assert other.weights_sha256 != encoder.weights_sha256
    assert load_encoder("untrained:svhn32:3").weights_sha256 == encoder.weights_sha256


def test_any_module_is_an_encoder() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    encoder = Encoder(module, ["1", "2"], image_shape=(16, 16, 3))
    with torch.no_grad(), tapped(module, encoder.layers) as outputs:
        module(encoder.preprocess(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)))
    assert [tuple(outputs[name].shape) for name in encoder.layers] == [(2, 4, 16, 16), (2, 4, 8, 8)]
    with pytest.raises(DcganEvalError, match="no layer named '7'"):
        Encoder(module, ["7"], image_shape=(16, 16, 3))


def test_untrained_seed_must_be_a_number() -> None:
    with pytest.raises(DcganEvalError, match="no number"):
        load_encoder("untrained:svhn32:x")
    assert np.isfinite(float(load_encoder("untrained:svhn32").module.linear.weight.detach().sum()))


@pytest.mark.parametrize("shape", [(37, 5), (33, 6, 50), (50, 8, 9, 7)], ids=["rows", "sequences", "maps"])
@pytest.mark.parametrize("cached", [1, 700, 1 << 20], ids=["an image at a time", "uneven parts", "all at once"])
def test_moments_of_a_minibatch_are_those_of_numpy(shape, cached, monkeypatch):
    monkeypatch.setattr(batchnorm, "_CACHED", cached)
    h = np.random.default_rng(0).normal(30, 2, shape).astype(np.float32)
    mean, var = batchnorm._moments(torch.from_numpy(h))
    dims = tuple(d for d in range(h.ndim) if d != 1)
    np.testing.assert_allclose(mean, h.astype(np.float64).mean(dims), rtol=1e-12)
    np.testing.assert_allclose(var, h.astype(np.float64).var(dims), rtol=1e-6)


@pytest.mark.parametrize("images", [1, 6])
def test_moments_do_not_depend_on_the_layout_in_memory(images):
    h = torch.randn(images, 24, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    for ours, theirs in zip(
        batchnorm._moments(h), batchnorm._moments(h.to(memory_format=torch.channels_last)), strict=True
    ):
        assert torch.equal(ours, theirs)
