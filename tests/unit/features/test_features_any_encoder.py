"""Encoders that are no DCGAN: specs, pooling rules, preprocessing, and everything that makes features meaningless."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.v2 import functional

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DcganEvalError, EncoderError
from dcgan_eval.features.batchnorm import spread_against_training
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import EncoderFeatures, ExtractOptions, extract
from dcgan_eval.features.layers import layer_widths, list_layers
from dcgan_eval.features.pooling import Pooling, pool_to_grid, tokens_to_map
from dcgan_eval.features.preprocess import Preprocess
from dcgan_eval.features.taps import Encoder
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def small() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
    return ImageSet(pixels, np.arange(40) % 2, name="small", split="train")


def convolutions(seed: int = 0) -> nn.Sequential:
    """Convolution, batch norm, a ReLU that works in place, and a strided convolution to 7x7."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 6, 3, stride=2))


def lopsided(*shape: int) -> Tensor:
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).view(shape) ** 1.3


def test_adaptive_pooling_is_the_papers_where_four_divides_and_covers_every_position_elsewhere() -> None:
    assert torch.equal(Pooling("max4-adaptive")(lopsided(2, 3, 8, 8)), pool_to_grid(lopsided(2, 3, 8, 8)))
    h = lopsided(1, 1, 7, 6)
    windows = [(0, 2), (1, 4), (3, 6), (5, 7)], [(0, 2), (1, 3), (3, 5), (4, 6)]  # floor(i n / 4) to ceil((i+1) n / 4)
    expected = [h[0, 0, a:b, c:d].max() for a, b in windows[0] for c, d in windows[1]]
    assert torch.equal(Pooling("max4-adaptive")(h)[0], torch.stack(expected))


def test_other_rules() -> None:
    h = lopsided(2, 3, 6, 6)
    assert torch.equal(Pooling("avg1")(h), h.mean((2, 3)))
    assert torch.equal(Pooling("avg4-adaptive")(h), adaptive_avg_pool2d(h, 4).flatten(1))
    assert torch.equal(Pooling("none")(h), h.flatten(1))
    assert torch.equal(
        Pooling()(lopsided(2, 3, 2, 2)), lopsided(2, 3, 2, 2).flatten(1)
    )  # too small: kept, not repeated
    assert torch.equal(Pooling()(lopsided(2, 5)), lopsided(2, 5))
    with pytest.raises(EncoderError, match="neither a map"):
        Pooling()(lopsided(2, 3, 4, 4, 4))
    with pytest.raises(EncoderError, match="did you mean max4"):
        Pooling("max5")


def test_tokens_become_a_map_row_by_row_without_the_class_token() -> None:
    h_NTC = lopsided(2, 17, 3)
    map_NCHW = tokens_to_map(h_NTC)
    assert map_NCHW.shape == (2, 3, 4, 4)
    assert torch.equal(map_NCHW[1, 2, 0, 1], h_NTC[1, 2, 2])  # first row, second column: token 1 + 1
    assert torch.equal(map_NCHW[1, 2, 3, 0], h_NTC[1, 13, 2])
    assert torch.equal(tokens_to_map(lopsided(2, 16, 3))[0, 1, 1, 0], lopsided(2, 16, 3)[0, 4, 1])
    assert tokens_to_map(lopsided(1, 21, 3), prefix_tokens=5).shape == (1, 3, 4, 4)
    with pytest.raises(EncoderError, match="no square grid"):
        tokens_to_map(lopsided(1, 21, 3))


@pytest.mark.parametrize("name", ["max4-adaptive", "avg1", "none"])
@pytest.mark.parametrize(("shape", "prefix"), [((2, 2, 6), 1), ((2, 6, 6), 5), ((2, 5, 1), 1), ((2, 3, 1, 1), None)])
def test_what_is_kept_is_never_a_view(name: str, shape: tuple[int, ...], prefix: int | None) -> None:
    h = lopsided(*shape)
    f_ND = Pooling(name, prefix)(h)
    before = f_ND.clone()
    h += 100
    assert torch.equal(f_ND, before)


def test_preprocessing_rules_against_pillow_and_by_hand(small: ImageSet) -> None:
    x = torch.from_numpy(small.images[:2])
    imagenet = Preprocess("imagenet")(x)
    by_hand = (small.images[1, 2, 3] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(imagenet[1, :, 2, 3], by_hand, rtol=1e-5)  # float32
    smooth = np.asarray(Image.fromarray(small.images[0]).resize((32, 32), Image.Resampling.BICUBIC))
    resized = Preprocess("0/1", 32)(torch.from_numpy(small.images[:1]))[0] * 255
    # both round to uint8 after each of two passes, in another order
    assert np.abs(resized.permute(1, 2, 0).numpy() - smooth).max() <= 2
    assert Preprocess("0.5/0.25", 8)(torch.zeros(1, 10, 20, 3, dtype=torch.uint8)).unique() == -2
    assert Preprocess("imagenet", 32).words != Preprocess("imagenet").words != Preprocess("paper").words


@pytest.mark.parametrize("sides", [(20, 16), (16, 20), (7, 50), (33, 16), (1, 3), (16, 16), (16, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_as_torchvision_resizes_them(sides: tuple[int, int], channels: int) -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, *sides, channels), dtype=np.uint8))
    theirs = functional.resize(images.permute(0, 3, 1, 2), [16], functional.InterpolationMode.BICUBIC)
    theirs = functional.center_crop(theirs, [16, 16]).float() / 127.5 - 1
    assert torch.equal(Preprocess(image_size=16)(images), theirs)


@pytest.mark.parametrize("rule", ["imagnet", "0.5", "0.5/0", "0.5,0.5/0.1", "a/b"])
def test_normalisations_that_cannot_be_read(rule: str) -> None:
    with pytest.raises(EncoderError, match="MEAN/STD"):
        Preprocess(rule)


def test_sizes_and_channels_that_cannot_be() -> None:
    with pytest.raises(EncoderError, match="at least 1"):
        Preprocess(image_size=0)
    with pytest.raises(EncoderError, match="one for each channel"):
        Preprocess("imagenet")(torch.zeros(1, 4, 4, 1, dtype=torch.uint8))


def test_a_module_and_layers_are_enough(small: ImageSet, tmp_path: Path) -> None:
    module = convolutions().eval()
    store = extract(Encoder(module, layers=["1", "3"]), small, cache_dir=tmp_path)
    assert store.identity.layers == (("1", 64), ("3", 96))
    assert (store.identity.batch_norm, store.identity.compute) == ("running", "float32")
    x = torch.from_numpy(small.images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        norm = module[1](module[0](x))  # before the ReLU that overwrites it
        expected = torch.cat([pool_to_grid(norm), Pooling()(module(x))], 1)
    # float16 in the store
    np.testing.assert_allclose(store.read(), expected, rtol=2e-3, atol=1e-3)


def test_layers_of_a_discriminator_inside_its_blocks(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    images, encoder = ImageSet(pixels), load_encoder("untrained:svhn32:3")
    options = ExtractOptions(("conv2", "conv2.norm"), compute="float32", store_dtype="float32")
    X = extract(encoder, images, options=options, cache_dir=tmp_path).read()
    block, norm = X[:, :2048], X[:, 2048:]
    # pooling by maximum and LeakyReLU commute, as both keep the order of values
    np.testing.assert_allclose(block, np.where(norm > 0, norm, 0.2 * norm), rtol=1e-5, atol=1e-6)


def test_everything_that_decides_features_is_in_the_identity(small: ImageSet, tmp_path: Path) -> None:
    layers = ["3"]
    rectified, leaky = convolutions(), convolutions()
    leaky[2] = nn.LeakyReLU(0.3)
    made = {
        "base": Encoder(rectified, layers),
        "same weights, other module": Encoder(leaky, layers),
        "weights": Encoder(convolutions(1), layers),
        "normalise": Encoder(rectified, layers, normalise="imagenet"),
        "size": Encoder(rectified, layers, image_size=20),
        "pool": Encoder(rectified, layers, pooling="avg4"),
        "vector": Encoder(rectified, layers, pooling="avg1"),
        "prefix": Encoder(rectified, layers, prefix_tokens=2),
    }
    stores = {key: extract(encoder, small, cache_dir=tmp_path) for key, encoder in made.items()}
    assert len({store.path for store in stores.values()}) == len(made)
    assert not any(store.reused for store in stores.values())
    assert extract(Encoder(convolutions(), layers, name="renamed"), small, cache_dir=tmp_path).reused
    calibrated = extract(made["base"], small, options=ExtractOptions(batch_norm="dataset"), cache_dir=tmp_path)
    assert not calibrated.reused


def test_how_far_a_batch_norms_input_is_from_what_it_was_trained_on() -> None:
    norm = nn.BatchNorm2d(2).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    module, x = nn.Sequential(norm, nn.Flatten()), torch.full((3, 2, 4, 4), 8.0)
    assert spread_against_training(module, x) is None  # as it was made
    norm.running_mean.fill_(2.0), norm.running_var.fill_(9.0)
    assert spread_against_training(module, x) == pytest.approx((8 - 2) / 3, rel=1e-4)
    assert spread_against_training(nn.Flatten(), x) is None
    assert not norm._forward_pre_hooks


@pytest.mark.parametrize(
    ("rule", "said"), [("imagenet", False), ("0,0,0/0.004,0.004,0.004", True), ("0,0,0/1,1,1", True), ("paper", False)]
)
def test_pixels_on_another_scale_than_the_weights_were_trained_on_are_said(
    small: ImageSet, tmp_path: Path, rule: str, said: bool
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    x = torch.from_numpy(small.images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for _ in range(200):
        module((x - mean) / std)  # running statistics settle
    found = EncoderFeatures(Encoder(module.eval(), ["2"], normalise=rule), ExtractOptions(batch_norm="running"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found.learn(small, tmp_path, lambda *_: None)
    for texts in (found.notes, [str(warning.message) for warning in caught]):  # in the record, and at once
        assert any("--normalise is probably wrong" in text for text in texts) == said


def test_globs_stay_within_a_part_of_the_name() -> None:
    encoder = load_encoder("torchvision:resnet18")
    assert encoder.layers == ("layer1", "layer2", "layer3", "layer4")
    assert encoder.choose(("layer*",)) == encoder.layers
    assert encoder.choose(("layer[34].*",)) == ("layer3.0", "layer3.1", "layer4.0", "layer4.1")
    assert encoder.choose(("output,layer4",)) == ("layer4", "output")
    with pytest.raises(EncoderError, match="did you mean layer"):
        encoder.choose(("layer5",))


def test_untrained_models_are_the_same_every_time() -> None:
    first, second = load_encoder("torchvision:resnet18"), load_encoder("untrained:torchvision:resnet18")
    assert first.weights_sha256 == second.weights_sha256
    assert first.architecture == second.architecture
    assert first.name == second.name == "untrained:torchvision:resnet18"
    with pytest.raises(EncoderError, match="resnet18"):
        load_encoder("torchvision:resnet8")
    with pytest.raises(EncoderError, match="choose one of DEFAULT, IMAGENET1K_V1"):
        load_encoder("torchvision:resnet18:NO_SUCH_WEIGHTS")


def test_layers_with_shapes() -> None:
    listed = {layer.name: layer for layer in list_layers(load_encoder("torchvision:resnet18"), (32, 32, 3))}
    assert (listed["layer1"].shape, listed["layer1"].width) == ((64, 8, 8), 1024)
    assert (listed["layer4"].shape, listed["layer4"].width) == ((512, 1, 1), 512)
    assert (listed["output"].shape, listed["output"].width) == ((1000,), 1000)


def test_a_vision_transformer_of_timm() -> None:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'dcgan-eval[encoders]'")
    encoder = load_encoder("timm:vit_tiny_patch16_224", image_size=64)
    assert len(encoder.layers) == 12
    assert encoder.pooling.identity == "max4-adaptive-drop1"
    assert layer_widths(encoder, encoder.layers[:1], (32, 32, 3)) == {"blocks.0": 192 * 16}
    with pytest.raises(EncoderError, match="timm model"):
        load_encoder("timm:vit_tinny")


class Returns(nn.Module):
    """A module whose output is what a function makes of its input."""

    def __init__(self, function):  # type: ignore[no-untyped-def]
        super().__init__()
        self.inner, self.function = nn.Identity(), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.inner(x))


def too_small(x: Tensor) -> Tensor:
    raise RuntimeError("Output size is too small")


@pytest.mark.parametrize(
    ("module", "layer", "message"),
    [
        (Returns(lambda x: (0, "x")), "output", "returns no tensor"),
        (Returns(lambda x: x.flatten(2).permute(2, 0, 1)), "output", "changes with the batch"),
        (Returns(lambda x: x.flatten()[None]), "output", "changes with the batch"),
        (Returns(lambda x: x - x.mean(0)), "output", "images beside it"),
        (Returns(lambda x: x + torch.randn(x.shape)), "output", "from call to call"),
        (
            Returns(too_small),
            "inner",
            "cannot run images of 16x16x3.*Output size is too small.*not because of their size",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), "1", r"cannot run.*--image-size; 32 is one"),
        (nn.Sequential(nn.Conv2d(5, 4, 3)), "0", "cannot run images.*not because of their size"),
        (nn.ModuleDict({"unused": nn.Linear(3, 3)}), "unused", "cannot run images"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "0", "keeps no statistics"),
    ],
)
def test_encoders_that_cannot_be_measured(small: ImageSet, module: nn.Module, layer: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        layer_widths(Encoder(module, [layer]), [layer], small.image_shape)


def test_a_layer_that_does_not_run() -> None:
    module = Returns(lambda x: x)
    module.head = nn.Linear(3, 3)
    with pytest.raises(EncoderError, match=r"'head'.*does not run"):
        layer_widths(Encoder(module, ["head"]), ["head"], SHAPE)


def test_features_that_are_not_finite(small: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(DcganEvalError, match="largest magnitude nan"):
        extract(Encoder(Returns(lambda x: x * float("nan")), ["output"]), small, cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("stored", ["float16", "float32"])
@pytest.mark.parametrize("last", [1e6, float("inf"), float("nan")])
def test_the_remedy_for_values_beyond_the_type_can_work(tmp_path: Path, stored: str, last: float) -> None:
    """Only an image of the second block is beyond it, so that a block is written before."""
    pixels = np.random.default_rng(0).integers(0, 200, (400, 4, 4, 3), dtype=np.uint8)
    pixels[0] = 249
    images = ImageSet(pixels)
    assert images.canonical_rank[0] >= 256

    def beyond(x: Tensor) -> Tensor:
        f_ND = x.flatten(1)
        return torch.where((f_ND > 0.9).all(1, keepdim=True), torch.full_like(f_ND, last), f_ND)

    encoder, options = Encoder(Returns(beyond), ["output"]), ExtractOptions(store_dtype=stored)
    if last == 1e6 and stored == "float32":
        assert extract(encoder, images, cache_dir=tmp_path, options=options).read().max() == 1e6
        return
    with pytest.raises(DcganEvalError, match="largest magnitude") as caught:
        extract(encoder, images, cache_dir=tmp_path, options=options)
    assert ("--store-dtype float32" in str(caught.value)) == (last == 1e6)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_constructions_that_cannot_be() -> None:
    with pytest.raises(EncoderError, match="no module"):
        Encoder("resnet18", ["layer1"])  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match="in words"):
        Encoder(convolutions(), ["0"], preprocess=lambda x: x)
    with pytest.raises(EncoderError, match="name them with --layer"):
        Encoder(convolutions()).choose(None)


FACTORIES = """
import torch
from torch import nn
from dcgan_eval import Encoder

def module():
    return nn.Sequential(nn.Conv2d(3, 4, 3))

def encoder():
    return Encoder(module(), layers=["0"], name="mine", pooling="avg1")

def nothing():
    return {"state_dict": 1}

def fails():
    raise ValueError("no checkpoint here")

number = 3
"""


def test_factories_in_the_users_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factories_of_a_user.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    name = "factories_of_a_user"
    assert load_encoder(f"{name}:module").name == f"{name}:module"
    assert load_encoder(f"{name}:module").weights_sha256 == load_encoder(f"{name}:module").weights_sha256
    assert load_encoder(f"{name}:encoder").layers == ("0",)
    for attribute, message in {
        "nothing": "returns no module.*dict",
        "fails": "cannot be built.*ValueError: no checkpoint here",
        "number": "is no function",
        "absent": "cannot be imported.*absent",
    }.items():
        with pytest.raises(EncoderError, match=message):
            load_encoder(f"{name}:{attribute}")
    with pytest.raises(EncoderError, match=r"cannot be imported.*ModuleNotFoundError"):
        load_encoder("no.such.module:encoder")
    with pytest.raises(EncoderError, match="its own rules"):
        load_encoder(f"{name}:encoder", pooling="avg4")


@pytest.mark.parametrize(
    ("card", "objective"),
    [
        ({"config": {"objective": "contrastive"}}, "contrastive"),
        ({"config": {"flip": True}}, "adversarial"),  # from before there was a second one
        ({"objective": "adversarial"}, "adversarial"),
        ({}, None),
        ({"config": {"objective": 3}}, None),
    ],
)
def test_a_record_says_what_the_weights_were_trained_for(
    card: dict[str, Any], objective: str | None, tmp_path: Path
) -> None:
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8))
    path = tmp_path / "mine.safetensors"
    save_network(build(get_preset("svhn32"), 0)[0], path, card=card)
    features = EncoderFeatures(load_encoder(path))
    features.prepare(images, images, cache_dir=tmp_path)
    assert features.describe()["objective"] == objective


def test_a_discriminator_can_be_given_other_rules(tmp_path: Path) -> None:
    encoder = load_encoder("untrained:svhn32", image_size=32, pooling="avg4")
    pixels = np.random.default_rng(2).integers(0, 256, (12, 28, 28, 3), dtype=np.uint8)
    store = extract(encoder, ImageSet(pixels), options=ExtractOptions(device="cpu"), cache_dir=tmp_path)
    assert (store.identity.pooling, store.identity.batch_norm) == ("avg4-adaptive", "dataset")
    assert replace(store.identity, pooling="max4").base_hash != store.identity.base_hash
    with pytest.raises(EncoderError, match=r"cannot run images of 64x64x3.*--image-size; 32 is one"):
        extract(load_encoder("untrained:svhn32", image_size=64), ImageSet(pixels), cache_dir=tmp_path)


def test_weights_of_this_toolkit_need_no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import of it fails
    assert load_encoder("imagenet32-plus").layers == load_encoder(None).layers
