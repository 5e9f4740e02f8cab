"""Which axes of a map are the image's, and layers whose modules return more than one tensor."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import EncoderError
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.features.layers import layer_widths, list_layers
from dcgan_eval.features.pooling import Pooling
from dcgan_eval.features.taps import Encoder

SQUARE = (16, 16, 3)
EXACT = ExtractOptions(store_dtype="float32", device="cpu")


@pytest.fixture
def square() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (12, *SQUARE), dtype=np.uint8)
    return ImageSet(pixels, np.arange(12) % 2, name="square", split="train")


class Last(nn.Module):
    """A convolution whose map has the channels behind, as Swin's."""

    def __init__(self, channels: int, **options: int):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, channels, 3, padding=1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).permute(0, 2, 3, 1)


class OneSize(Last):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (16, 16):
            raise ValueError("only 16x16")
        return super().forward(x)


@pytest.mark.parametrize("channels", [5, 16])  # 16: as many as rows, so that the shape alone does not tell
@pytest.mark.parametrize("rule", ["max4", "avg1", "none"])
def test_channels_behind_are_pooled_over_positions(square: ImageSet, tmp_path: Path, channels: int, rule: str) -> None:
    module = Last(channels)
    found = extract(Encoder(module, ["output"], pooling=rule), square, options=EXACT, cache_dir=tmp_path).read()
    with torch.no_grad():
        h_NCHW = module.conv(torch.from_numpy(square.images).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
    by_hand = {
        "max4": h_NCHW.reshape(12, channels, 4, 4, 4, 4).max((3, 5)).reshape(12, -1),
        "avg1": h_NCHW.mean((2, 3)),
        "none": h_NCHW.reshape(12, -1),
    }
    np.testing.assert_allclose(found, by_hand[rule], rtol=1e-5, atol=1e-5)  # float32 convolutions in two memory layouts


def test_where_nothing_tells_the_layout_it_is_asked_for_and_told() -> None:
    with pytest.raises(EncoderError, match=r"cannot be told.*--layout nchw"):
        layer_widths(Encoder(OneSize(16), ["output"]), ["output"], SQUARE)
    assert layer_widths(Encoder(OneSize(16), ["output"], layout="nhwc", pooling="avg1"), ["output"], SQUARE)
    assert layer_widths(Encoder(OneSize(5), ["output"], pooling="avg1"), ["output"], SQUARE) == {"output": 5}
    told = Encoder(Last(5), ["output"], layout="nhwc"), Encoder(Last(5), ["output"], layout="nchw")
    assert [e.pooling.identity for e in told] == ["max4-adaptive-nhwc", "max4-adaptive-nchw"]
    assert layer_widths(told[1], ["output"], SQUARE) == {"output": 16 * 4 * 4}  # as it was said
    with pytest.raises(EncoderError, match="did you mean nhwc"):
        Encoder(Last(5), ["output"], layout="nwhc")


def test_images_that_are_no_square() -> None:
    shape = (12, 20, 3)
    assert layer_widths(Encoder(Last(7), ["conv", "output"]), ["conv", "output"], shape) == {"conv": 112, "output": 112}
    halved = Last(7, stride=7)  # (2, 3), no longer in proportion
    assert layer_widths(Encoder(halved, ["output"], pooling="avg1"), ["output"], shape) == {"output": 7}


# Last maps and tokens of the published architectures for images of 64 pixels: channels from their papers' tables.
@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [
        ("swin_t", "features.1", 96 * 16),
        ("swin_t", "features.7", 768 * 4),
        ("swin_t", "norm", 768 * 4),
        ("swin_v2_t", "features.3", 192 * 16),
        ("convnext_tiny", "features.7", 768 * 4),
        ("convnext_tiny", "features.1.0.block.3", 384 * 16),  # a linear layer, channels behind
        ("efficientnet_b0", "features.8", 1280 * 4),
        ("resnet18", "layer4", 512 * 4),
    ],
)
def test_torchvision_models(name: str, layer: str, width: int) -> None:
    encoder = Encoder(models.get_model(name, weights=None), [layer], image_size=64)
    assert layer_widths(encoder, [layer], (32, 32, 3)) == {layer: width}


def test_vision_transformers_with_and_without_class_token() -> None:
    vit = models.VisionTransformer(64, 16, 2, 2, 24, 48)
    encoder = Encoder(vit, ["encoder.layers.*"], image_size=64)
    assert layer_widths(encoder, encoder.layers, (32, 32, 3)) == dict.fromkeys(encoder.layers, 24 * 16)
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'dcgan-eval[encoders]'")
    for options, dropped in (({"class_token": True}, 1), ({"class_token": False, "global_pool": "avg"}, 0)):
        model = timm.models.VisionTransformer(64, 16, embed_dim=24, depth=1, num_heads=2, **options)
        encoder = Encoder(model, ["blocks.0"], image_size=64)
        assert encoder.pooling.prefix_tokens == dropped
        assert layer_widths(encoder, encoder.layers, (32, 32, 3)) == {"blocks.0": 24 * 16}
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64)
    assert layer_widths(Encoder(swin, ["layers.0"], image_size=64), ["layers.0"], (32, 32, 3)) == {"layers.0": 96 * 16}


def test_rules_of_tokens_and_powers_against_numpy() -> None:
    h_NTC = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))
    t = h_NTC.numpy()
    np.testing.assert_array_equal(Pooling("cls")(h_NTC), t[:, 0])
    np.testing.assert_allclose(Pooling("avg1")(h_NTC), t[:, 1:].mean(1), rtol=1e-6)
    joined = np.concatenate([t[:, 0], t[:, 5:].mean(1)], 1)  # class token and four registers
    np.testing.assert_allclose(Pooling("cls+avg1", 5)(h_NTC), joined, rtol=1e-6)
    h_NCHW = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(Pooling("gem")(h_NCHW), (h_NCHW.numpy() ** 3).mean((2, 3)) ** (1 / 3), rtol=1e-5)
    with pytest.raises(EncoderError, match="no class token"):
        Pooling("cls")(h_NCHW)
    with pytest.raises(EncoderError, match="no class token"):
        Pooling("cls+avg1", 0)(h_NTC)


@dataclass
class Outputs:
    maps: Tensor
    pooled: Tensor


Pair = namedtuple("Pair", ["maps", "pooled"])


class Inner(nn.Module):
    def __init__(self, pack):  # type: ignore[no-untyped-def]
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pack = nn.Conv2d(3, 4, 3, padding=1), pack

    def forward(self, x: Tensor) -> object:
        h = self.conv(x)
        return self.pack(h, h.mean((2, 3)))


@pytest.mark.parametrize(
    ("pack", "maps", "pooled"),
    [
        (lambda a, b: (a, b), "0", "1"),
        (lambda a, b: {"maps": a, "pooled": b}, "maps", "pooled"),
        (lambda a, b: Outputs(a, b), "maps", "pooled"),
        (lambda a, b: Pair(a, b), "maps", "1"),
        (lambda a, b: ([a], {"x": {"y": b}}), "0.0", "1.x.y"),
    ],
    ids=["tuple", "dict", "dataclass", "named tuple", "nested"],
)
def test_layers_with_several_outputs(square: ImageSet, tmp_path: Path, pack, maps: str, pooled: str) -> None:  # type: ignore[no-untyped-def]
    module = nn.ModuleDict({"inner": Inner(pack)})
    module.forward = lambda x: module["inner"](x)  # type: ignore[method-assign]
    layers = ["inner", f"inner.{maps}", f"inner.{pooled}"]
    encoder = Encoder(module, layers, pooling="none")
    store = extract(encoder, square, options=EXACT, cache_dir=tmp_path)
    assert dict(store.identity.layers) == dict(zip(layers, (1024, 1024, 4), strict=True))
    with torch.no_grad():
        x = torch.from_numpy(square.images).permute(0, 3, 1, 2) / 127.5 - 1
        h = module["inner"].conv(x).numpy()
    np.testing.assert_allclose(store.read(None, layers[2:]), h.mean((2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(store.read(None, layers[:1]), h.reshape(12, -1), rtol=1e-4, atol=1e-6)
    with pytest.raises(EncoderError, match=r"named 'inner\.pool'.*did you mean"):
        layer_widths(encoder, ["inner.pool"], SQUARE)
    with pytest.raises(EncoderError, match="no layer named 'iner'"):
        Encoder(module, ["iner"])


def test_parts_are_listed_with_the_layers() -> None:
    listed = {layer.name: layer for layer in list_layers(Encoder(Inner(lambda a, b: {"a": a, "b": b})), SQUARE)}
    assert listed.keys() == {"conv", "output", "output.a", "output.b"}
    assert (listed["output.b"].shape, listed["output.b"].width) == ((4,), 4)
    swin = load_encoder("torchvision:swin_t", image_size=32)
    assert {layer.name: layer.width for layer in list_layers(swin, SQUARE)}["features.1"] == 96 * 16


def test_compiled_and_scripted_modules(square: ImageSet, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.Dropout(0.5)).train()
    want = extract(Encoder(net, ["0", "output"]), square, options=EXACT, cache_dir=tmp_path)
    parts = nn.Sequential(torch.compile(net[0]), *net[1:])
    for module in (torch.compile(net), parts):
        store = extract(Encoder(module, ["0", "output"]), square, options=EXACT, cache_dir=tmp_path)
        assert store.path == want.path
    scripted = torch.jit.script(net)
    store = extract(Encoder(scripted, ["output"]), square, options=EXACT, cache_dir=tmp_path / "scripted")
    np.testing.assert_allclose(store.read(), want.read(None, ["output"]), rtol=1e-5, atol=1e-6)
    assert all(m.training for m in (*net.modules(), *scripted.modules()))
    with pytest.raises(EncoderError, match="scripted"):
        layer_widths(Encoder(scripted, ["0"]), ["0"], SQUARE)
    half = extract(Encoder(net.bfloat16(), ["output"]), square, options=EXACT, cache_dir=tmp_path / "half").read()
    np.testing.assert_allclose(half, want.read(None, ["output"]), atol=0.05)  # weights rounded to eight bits
    assert net[0].weight.dtype == torch.bfloat16
