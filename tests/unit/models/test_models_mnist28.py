"""The digit pairs: parameters by hand, labels at every layer, Keras' padding, and what they return."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import EncoderError, WeightsError
from dcgan_eval.features.encoders import discriminator_encoder, load_encoder
from dcgan_eval.features.extract import extract
from dcgan_eval.features.taps import tapped
from dcgan_eval.models.dcgan import build, draw_samples, sample_prior
from dcgan_eval.models.mnist28 import KerasConv, keras_norm
from dcgan_eval.models.networks import with_planes
from dcgan_eval.models.presets import get_ladder, get_preset
from dcgan_eval.models.weights import blank_network, load_network, read_card, save_network

NAMES = ("mnist28_cond", "mnist28_keras", "mnist28_tanh")

# inputs x outputs x kernel (+ biases) + batch norm, layer by layer
PARAMETERS = {
    "mnist28_cond": (
        11 * 64 * 25 + (74 * 128 * 25 + 256) + (6282 * 1024 + 2048) + 1034,
        (110 * 1024 + 2048) + (1034 * 6272 + 12544) + (138 * 64 * 25 + 128) + 74 * 25,
    ),
    "mnist28_keras": (
        (9 * 32 + 32) + (288 * 64 + 64 + 128) + (576 * 128 + 128 + 256) + (1152 * 256 + 256 + 512) + 4096,
        (100 * 6272 + 6272) + (1152 * 128 + 128 + 256) + (1152 * 64 + 64 + 128) + (576 + 1),
    ),
    "mnist28_tanh": (
        (25 * 64 + 64) + (1600 * 128 + 128) + (3200 * 1024 + 1024) + 1024,
        (100 * 1024 + 1024) + (1024 * 6272 + 6272 + 12544) + (3200 * 64 + 64) + (1600 + 1),
    ),
}
# side of each layer that features tap
SIDES = {"mnist28_cond": (14, 7), "mnist28_keras": (14, 8, 4, 4), "mnist28_tanh": (28, 10)}


def z_of(name: str, count: int) -> torch.Tensor:
    return sample_prior(get_preset(name), count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_maps_are_those_counted_by_hand(name: str) -> None:
    preset = get_preset(name)
    D, G = build(preset, seed=0)
    assert tuple(sum(p.numel() for p in network.parameters()) for network in (D, G)) == PARAMETERS[name]
    x_NCHW = G(z_of(name, 2))
    assert x_NCHW.shape == (2, 1 + preset.num_classes, 28, 28)
    with tapped(D, D.layer_names) as outputs:
        assert D(x_NCHW).shape == (2,)
    found = [tuple(outputs[layer].shape[1:]) for layer in D.layer_names]
    assert found == [(c, side, side) for c, side in zip(preset.conv_channels, SIDES[name], strict=True)]
    assert D.trunk(x_NCHW).flatten(1).shape == (2, D.trunk_width)


def layer_inputs(network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what every convolution and every fully connected layer is given."""
    inputs: dict[str, torch.Tensor] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_pre_hook(lambda _, given, name=name: inputs.__setitem__(name, given[0]))
    network.eval()(x)
    return inputs


@pytest.mark.parametrize("network", [0, 1])
def test_the_label_reaches_every_layer_of_the_conditional_pair(network: int) -> None:
    preset = get_preset("mnist28_cond")
    module = build(preset, seed=0)[network]
    labels_N = torch.tensor([3, 8])
    y_NK = nn.functional.one_hot(labels_N, 10).float()
    given = torch.rand(2, 1, 28, 28) if network == 0 else torch.rand(2, 100)
    x = with_planes(given, y_NK) if network == 0 else torch.cat([given, y_NK], 1)
    inputs = layer_inputs(module, x)
    assert len(inputs) == 4
    for h in inputs.values():
        entries = h[:, -10:].flatten(2).amin(2) if h.dim() == 4 else h[:, -10:]
        assert torch.equal(entries, y_NK)
        assert torch.equal(entries, h[:, -10:].flatten(2).amax(2) if h.dim() == 4 else entries)


def test_the_conditional_pair_shows_images_in_minus_one_to_one_and_sees_them_in_zero_to_one() -> None:
    D, G = build(get_preset("mnist28_cond"), seed=0)
    z_NZ = z_of("mnist28_cond", 64)
    x_NCHW = G(z_NZ).detach()
    assert torch.equal(x_NCHW[:, 1:], with_planes(x_NCHW[:, :1], z_NZ[:, 100:])[:, 1:])
    assert torch.equal(G.images(z_NZ), G(z_NZ)[:, :1])
    assert -1 <= float(x_NCHW[:, 0].min()) < 0 < float(x_NCHW[:, 0].max()) <= 1
    extremes = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 28, 28)
    seen = layer_inputs(D, with_planes(extremes, z_NZ[:2, 100:]))["conv1.conv"]
    assert [seen[0, 0].unique().tolist(), seen[1, 0].unique().tolist()] == [[0.0], [1.0]]


def by_hand(x: np.ndarray, w: np.ndarray, stride: int, before: int, after: int) -> np.ndarray:
    """Convolve one lopsided map, zeros before and after, in plain loops."""
    padded = np.pad(x, (before, after))
    side = (len(padded) - 3) // stride + 1
    window = lambda i, j: padded[stride * i : stride * i + 3, stride * j : stride * j + 3]  # noqa: E731
    return np.array([[(window(i, j) * w).sum() for j in range(side)] for i in range(side)])


@pytest.mark.parametrize(
    ("side", "stride", "before", "after"), [(4, 2, 0, 1), (28, 2, 0, 1), (7, 2, 1, 1), (4, 1, 1, 1)]
)
def test_same_padding_is_that_of_keras(side: int, stride: int, before: int, after: int) -> None:
    x = np.arange(side * side, dtype=np.float32).reshape(side, side) + 1
    w = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 10]], np.float32)
    block = KerasConv(1, 1, stride, normalise=False, extra=side == 28).eval()
    block.conv.weight.data, block.conv.bias.data = torch.from_numpy(w)[None, None], torch.tensor([0.5])
    found = block(torch.from_numpy(x)[None, None])[0, 0].detach().numpy()
    expected = by_hand(x, w, stride, before, after) + 0.5
    if side == 28:  # a row of zeros below and a column of zeros at the right, without bias
        expected = np.pad(expected, (0, 1))
    np.testing.assert_array_equal(found, expected)  # small integers and a half are exact


def test_batch_norm_and_upsampling_are_those_of_keras() -> None:
    norm = keras_norm(1, 0.8)
    norm(torch.tensor([4.0, 6.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.2 * 5.0]))
    D, G = build(get_preset("mnist28_keras"), seed=0)
    assert {m.eps for m in [*D.modules(), *G.modules()] if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert [m.p for m in D.modules() if isinstance(m, nn.Dropout)] == [0.25] * 4
    h_NCHW = torch.arange(4.0).view(1, 1, 2, 2)
    assert G.upsample(h_NCHW)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_the_disk_and_samples_are_drawn_from_them(name: str, tmp_path: Path) -> None:
    pair = build(get_preset(name), seed=0)
    for network, kind in zip(pair, ("discriminator", "generator"), strict=True):
        path = tmp_path / f"{kind}.safetensors"
        save_network(network, path)
        found = load_network(path, kind)
        assert read_card(path)["preset"] == name
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())
    images = draw_samples(found, 20, seed=1, columns=10)  # type: ignore[arg-type]
    assert (images.shape, images.dtype) == ((20, 28, 28, 1), np.uint8)
    assert np.array_equal(images, draw_samples(pair[1], 20, seed=1, columns=10))


def test_columns_show_the_classes() -> None:
    _, G = build(get_preset("mnist28_cond"), seed=0)
    seen: list[torch.Tensor] = []
    G.forward = lambda z_NZ: seen.append(z_NZ) or torch.zeros(len(z_NZ), 11, 28, 28)  # type: ignore[assignment, func-returns-value]
    draw_samples(G, 24, columns=12)
    assert seen[0][:, 100:].argmax(1).tolist() == 2 * [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize("name", ["mnist28_keras", "mnist28_tanh"])
def test_features_of_digits(name: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = ImageSet(draw.integers(0, 256, (12, 28, 28, 1), dtype=np.uint8), np.arange(12) % 3)
    store = extract(load_encoder(f"untrained:{name}:0"), images, cache_dir=tmp_path)
    assert store.read().shape == (12, get_preset(name).feature_width)


def test_a_conditional_discriminator_is_no_encoder() -> None:
    with pytest.raises(EncoderError, match="no unsupervised encoder"):
        discriminator_encoder(build(get_preset("mnist28_cond"), seed=0)[0], "digits")


def test_what_needs_a_ladder_says_so() -> None:
    with pytest.raises(WeightsError, match=r"ladder.*mnist28_tanh.*imagenet32"):
        get_ladder("mnist28_tanh")
    with pytest.raises(WeightsError, match="ladder"):
        blank_network(get_preset("mnist28_keras"), "discriminator", 2)
