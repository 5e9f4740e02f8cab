"""The error budget of docs/precision.md, stage by stage, on real images and the bundled weights.

Relative errors are Frobenius norms, ``|a - b| / |b|``; b is computed in float32 or float64. Networks of whitened
kernels answer to smooth images, such as enlarged digits, with differences of large products: a wider budget.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.batchnorm import Statistics, frozen, norm_layers
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, compute_statistics
from dcgan_eval.features.pooling import pool_to_grid
from dcgan_eval.features.taps import Encoder, tapped
from dcgan_eval.models.dcgan import to_unit_range

BUDGET = {
    "scaling": 1e-7,  # one rounding of float32, 2**-24, relative to values near 1
    "statistics-bfloat16": 1e-2,  # per-layer means and variances from bfloat16 convolutions
    "folding": 1e-5,  # a few float32 roundings per kernel, through six layers
    "forward-bfloat16": 3e-2,  # 8 significant bits per map and kernel, averaged over thousands of products
    "store-float16": 5e-4,  # 11 significant bits: at most 2**-11
    "weights-float16": 2e-3,  # the same on kernels, through six layers that whiten what they see
}
ON_DIGITS = 6
"""Times the budget, for the stages that run the network."""


def pieces_of_photographs() -> ImageSet:
    """Return 32 pieces of two photographs, 64x64 pixels averaged to 32x32."""
    corners = [(top, left) for top in (40, 140, 240, 340) for left in (20, 160, 300, 440)]
    pieces = [p[top : top + 64, left : left + 64] for p in load_sample_images().images for top, left in corners]
    small = np.stack(pieces).reshape(-1, 32, 2, 32, 2, 3).mean((2, 4)).round().astype(np.uint8)
    return ImageSet(small, np.arange(len(small)) % 2, name="photographs")


@pytest.fixture(scope="module", params=["photographs", "digits"])
def images(request: pytest.FixtureRequest) -> ImageSet:
    if request.param == "photographs":
        return pieces_of_photographs()
    return load_data("digits", "all").take(np.arange(0, 1_536, 48))


def budget(stage: str, images: ImageSet) -> float:
    return BUDGET[stage] * (ON_DIGITS if images.name == "digits" else 1)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


@pytest.fixture(scope="module")
def statistics(encoder: Encoder, images: ImageSet) -> Statistics:
    return compute_statistics(encoder, images, ExtractOptions(compute="float32", device="cpu"))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def pooled(module: nn.Module, layers: tuple[str, ...], x_NCHW: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), tapped(module, layers) as outputs:
        module(x_NCHW)
        return {name: pool_to_grid(outputs[name]).float() for name in layers}


@pytest.fixture(scope="module")
def exact(encoder: Encoder, images: ImageSet, statistics: Statistics) -> dict[str, Tensor]:
    """Features in float32, batch norm not folded."""
    module = copy.deepcopy(encoder.module)
    for name, norm in norm_layers(module).items():
        norm.running_mean.copy_(statistics[f"{name}.mean"])
        norm.running_var.copy_(statistics[f"{name}.var"])
    return pooled(module, encoder.layers, encoder.preprocess(torch.from_numpy(images.images)))


def test_stage_scaling() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    expected = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    assert float((to_unit_range(values).flatten().double() - expected).abs().max()) <= BUDGET["scaling"]


def test_stage_statistics_bfloat16(encoder: Encoder, images: ImageSet, statistics: Statistics) -> None:
    rough = compute_statistics(encoder, images, ExtractOptions(compute="bfloat16", device="cpu"))
    assert rough.keys() == statistics.keys()
    for key, value in statistics.items():
        assert relative(rough[key], value) <= budget("statistics-bfloat16", images), key


def test_stage_folding(encoder: Encoder, images: ImageSet, statistics: Statistics, exact: dict[str, Tensor]) -> None:
    folded = frozen(encoder.module, statistics)
    found = pooled(folded, encoder.layers, encoder.preprocess(torch.from_numpy(images.images)))
    for name in encoder.layers:
        assert relative(found[name], exact[name]) <= budget("folding", images), name


def test_stage_forward_bfloat16(
    encoder: Encoder, images: ImageSet, statistics: Statistics, exact: dict[str, Tensor]
) -> None:
    module = frozen(encoder.module, statistics).to(torch.bfloat16)
    x_NCHW = encoder.preprocess(torch.from_numpy(images.images)).bfloat16()
    found = pooled(module, encoder.layers, x_NCHW)
    for name in encoder.layers:
        error = relative(found[name], exact[name])
        assert 1e-4 < error <= budget("forward-bfloat16", images), (name, error)  # above zero: bfloat16 really ran


def test_stage_store_float16(exact: dict[str, Tensor]) -> None:
    for name, f_ND in exact.items():
        assert relative(f_ND.half(), f_ND) <= BUDGET["store-float16"], name


def test_stage_weights_float16(
    encoder: Encoder, images: ImageSet, statistics: Statistics, exact: dict[str, Tensor]
) -> None:
    # the bundled kernels are float16 already, so they are moved off its grid before being rounded again
    module = copy.deepcopy(encoder.module)
    draw = torch.Generator().manual_seed(0)
    kernels = [block.conv.weight for block in module.blocks()]
    with torch.no_grad():
        for w in kernels:
            w.mul_(1 + 1e-3 * torch.rand(w.shape, generator=draw))
    x_NCHW = encoder.preprocess(torch.from_numpy(images.images))
    before = pooled(frozen(module, statistics), encoder.layers, x_NCHW)
    with torch.no_grad():
        for w in kernels:
            w.copy_(w.half().float())
    after = pooled(frozen(module, statistics), encoder.layers, x_NCHW)
    for name in encoder.layers:
        assert relative(after[name], before[name]) <= budget("weights-float16", images), name


def test_the_document_states_this_budget() -> None:
    text = (Path(__file__).parents[2] / "docs" / "precision.md").read_text()
    stated = dict(re.findall(r"\| `([a-z0-9-]+)` \|[^|]*\| ([0-9.e-]+) \|", text))
    assert {stage: float(bound) for stage, bound in stated.items()} == BUDGET
    for stage in BUDGET:
        assert f"test_stage_{stage.replace('-', '_')}" in text
