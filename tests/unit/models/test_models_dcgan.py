"""The ladder: shapes, widths, and the adjoint identity of fractionally strided convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dcgan_eval.errors import WeightsError
from dcgan_eval.models.dcgan import (
    build,
    sample_prior,
    to_unit_range,
)
from dcgan_eval.models.presets import LADDERS, get_ladder, get_preset


@pytest.mark.parametrize(("name", "width"), [("imagenet32", 28_672), ("svhn32", 7_168), ("dcgan64", 30_720)])
def test_feature_width_is_that_of_the_paper(name: str, width: int) -> None:
    assert get_preset(name).feature_width == width


@pytest.mark.parametrize("name", LADDERS)
def test_generator_mirrors_discriminator(name: str) -> None:
    ladder = get_ladder(name)
    D, G = build(ladder, seed=0)
    x_NCHW = G(sample_prior(ladder, 2, torch.Generator().manual_seed(0)))
    assert x_NCHW.shape == (2, ladder.image_channels, ladder.image_size, ladder.image_size)
    assert D(x_NCHW).shape == (2,)


@pytest.mark.parametrize("name", LADDERS)
def test_discriminator_maps_have_the_documented_sizes(name: str) -> None:
    ladder = get_ladder(name)
    D, _ = build(ladder, seed=0)
    h_NCHW, side = torch.zeros(2, ladder.image_channels, ladder.image_size, ladder.image_size), ladder.image_size
    for rung, block in zip(ladder.rungs, D.blocks(), strict=True):
        h_NCHW, side = block(h_NCHW), side // rung.stride
        assert h_NCHW.shape == (2, rung.channels, side, side)
    assert side == 4


@pytest.mark.parametrize(("stride", "kernel", "size"), [(1, 3, 8), (2, 3, 8), (2, 5, 8), (1, 5, 6), (2, 3, 16)])
def test_fractionally_strided_convolution_is_the_adjoint(stride: int, kernel: int, size: int) -> None:
    draw = torch.Generator().manual_seed(stride * 100 + kernel * 10 + size)
    conv = nn.Conv2d(3, 5, kernel, stride, kernel // 2, bias=False).double()
    transposed = nn.ConvTranspose2d(5, 3, kernel, stride, kernel // 2, stride - 1, bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=draw, dtype=torch.float64))
        transposed.weight.copy_(conv.weight)
    x = torch.randn(2, 3, size, size, generator=draw, dtype=torch.float64)
    y = torch.randn(2, 5, size // stride, size // stride, generator=draw, dtype=torch.float64)
    left, right = (conv(x) * y).sum(), (x * transposed(y)).sum()
    # float64 sums of a few thousand products of order 1: rounding stays below 1e-11
    assert abs(float((left - right).detach())) < 1e-10
    # weight gradient: d<conv(x), y>/dw equals d<x, convT(y)>/dw, so the two swap roles there as well
    (left_grad,) = torch.autograd.grad(left, conv.weight)
    (right_grad,) = torch.autograd.grad(right, transposed.weight)
    assert torch.allclose(left_grad, right_grad, rtol=1e-10, atol=1e-10)


def test_batch_norm_is_where_the_paper_puts_it() -> None:
    D, G = build(get_preset("imagenet32"), seed=0)
    assert [block.norm is not None for block in D.blocks()] == [False, True, True, True, True, True]
    assert G.project_norm.num_features == 8_192
    assert G.get_submodule("deconv6").norm is None
    assert not any(name.endswith("bias") and "norm" not in name for name, _ in [*D.named_parameters()])


def test_build_depends_on_the_seed_alone() -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first, _ = build(get_preset("svhn32"), seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(321)
    again, _ = build(get_preset("svhn32"), seed=5)
    other, _ = build(get_preset("svhn32"), seed=6)
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_initial_weights_follow_the_recipe() -> None:
    D, _ = build(get_preset("imagenet32"), seed=0)
    weight = D.get_submodule("conv6").conv.weight
    # 2.4 million draws: the standard error of their standard deviation is 1e-5
    assert abs(float(weight.std()) - 0.02) < 1e-4
    assert abs(float(D.get_submodule("conv6").norm.weight.mean()) - 1.0) < 5e-3
    assert float(D.get_submodule("conv6").norm.bias.abs().max()) == 0.0


def test_images_are_scaled_to_minus_one_and_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 2, 2, 3)
    x_NCHW = to_unit_range(images)
    assert x_NCHW.shape == (2, 3, 2, 2)
    assert x_NCHW[0].unique().tolist() == [-1.0]
    assert x_NCHW[1].unique().tolist() == [1.0]


def test_priors() -> None:
    uniform = sample_prior(get_preset("imagenet32"), 1_000, torch.Generator().manual_seed(0))
    gaussian = sample_prior(get_preset("svhn32"), 1_000, torch.Generator().manual_seed(0))
    assert float(uniform.abs().max()) <= 1.0
    assert float(gaussian.abs().max()) > 3.0


def test_unknown_preset_names_the_closest() -> None:
    with pytest.raises(WeightsError, match="did you mean imagenet32"):
        get_preset("imagenet23")


def test_a_width_scales_every_layer_and_the_preset_stays_the_papers() -> None:
    half, full = get_ladder("dcgan64").of_width(64), get_ladder("dcgan64")
    assert half.conv_channels == (64, 128, 256, 512)
    assert full.conv_channels == (128, 256, 512, 1024)
    assert get_preset("dcgan64", 128) == full
    D, G = build(get_preset("dcgan64", 16), seed=0)
    assert [block.conv.out_channels for block in D.blocks()] == [16, 32, 64, 128]
    assert G.deconv4.conv.in_channels == 16
    images = G(sample_prior(G.preset, 2, torch.Generator().manual_seed(0)))
    assert (images.shape, D(images).shape) == ((2, 3, 64, 64), (2,))


@pytest.mark.parametrize(("name", "width"), [("dcgan64", -1), ("dcgan64", 100_000), ("mnist28_tanh", 32)])
def test_widths_that_cannot_be_had(name: str, width: int) -> None:
    with pytest.raises(WeightsError, match=r"width|ladder"):
        get_preset(name, width)
