"""Models of libraries with their own preprocessing, checkpoints under any prefix, and names that are misspelt."""

from __future__ import annotations

import collections
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models._api import WeightsEnum

from dcgan_eval.cli.main import main
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DcganEvalError, EncoderError, WeightsError
from dcgan_eval.features import libraries
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.features.preprocess import Preprocess
from dcgan_eval.features.taps import Encoder

EXACT = ExtractOptions(store_dtype="float32", device="cpu")


@pytest.fixture
def images() -> ImageSet:
    return ImageSet(np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8), name="five")


@pytest.fixture
def untrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's weights hold random tensors, so that nothing is downloaded."""

    def random(self: WeightsEnum, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return models.squeezenet1_1().state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", random)


@pytest.mark.usefixtures("untrained_weights")
def test_torchvisions_weights_bring_their_own_preprocessing(images: ImageSet, tmp_path: Path) -> None:
    spec = "torchvision:squeezenet1_1:IMAGENET1K_V1"
    encoder = load_encoder(spec, pooling="avg1")
    assert (encoder.name, encoder.notes) == (spec, [])
    assert "crop_size=[224]" in encoder.preprocessing
    found = extract(encoder, images, options=EXACT, cache_dir=tmp_path).read()
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    model = models.squeezenet1_1(weights=weights).eval()
    with torch.no_grad():
        x = torch.stack([weights.transforms()(Image.fromarray(image)) for image in images.images])
        expected = model.features(x).mean((2, 3)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32 sums in another memory layout


@pytest.mark.usefixtures("untrained_weights")
def test_other_rules_than_the_weights_own_are_noted() -> None:
    spec = "torchvision:squeezenet1_1:DEFAULT"
    small = load_encoder(spec, image_size=32)
    assert small.preprocessing.startswith("bicubic to 32, centre square, (x / 255 - 0.485,0.456,0.406)")
    assert small.rules["image_size"] == 32
    assert any("made for 224, which is probably wrong" in note for note in small.notes)
    other = load_encoder(spec, normalise="paper")
    assert other.preprocessing == "bicubic to 224, centre square, x / 127.5 - 1"
    assert any("--normalise paper instead of" in note for note in other.notes)
    with pytest.raises(EncoderError, match="did you mean IMAGENET1K_V1"):
        load_encoder("torchvision:squeezenet1_1:IMAGENET_V1")


def test_timm_weights_bring_their_own_preprocessing(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'dcgan-eval[encoders]'")
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", pretrained=False).eval()
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: model)
    encoder = load_encoder("timm:resnet10t:pretrained", pooling="avg1")
    found = extract(encoder, images, options=EXACT, cache_dir=tmp_path).read(None, ["layer4"])
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        x = torch.stack([transform(Image.fromarray(image)) for image in images.images])
        expected = model.forward_features(x).mean((2, 3)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32 sums in another memory layout


def test_random_weights_are_said_and_printed() -> None:
    assert load_encoder("torchvision:squeezenet1_1").notes == ["random weights: torchvision:squeezenet1_1 names none"]
    result = CliRunner().invoke(main, ["svm", "digits", "--encoder", "torchvision:squeezenet1_1", "--list-layers"])
    assert "random weights" in result.output


class Clip(nn.Module):
    """What an adapter needs of OpenCLIP's models."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten())
        self.visual.image_size, self.visual.image_mean, self.visual.image_std = (16, 16), (0.5,) * 3, (0.25,) * 3


def test_open_clip_gives_its_image_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(
        list_models=lambda: ["ViT-B-32", "RN50"],
        list_pretrained_tags_by_model=lambda name: ["openai", "laion2b"],
        create_model_and_transforms=lambda name, pretrained: (Clip(), None, lambda image: torch.ones(3, 16, 16)),
    )
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    encoder = load_encoder("open_clip:ViT-B-32:openai")
    assert isinstance(encoder.module[0], nn.Conv2d)
    assert encoder.preprocess(torch.zeros(2, 9, 7, 3, dtype=torch.uint8)).shape == (2, 3, 16, 16)
    assert " at 0x" not in encoder.preprocessing
    with pytest.raises(EncoderError, match="did you mean openai"):
        load_encoder("open_clip:ViT-B-32:opnai")


def test_transformers_give_features_of_the_vision_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(nn.Module):
        config = types.SimpleNamespace(num_register_tokens=4)

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            tokens = pixel_values[:, :, :4, :4].flatten(2).transpose(1, 2)
            return {"last_hidden_state": torch.cat([torch.zeros_like(tokens[:, :5]), tokens], 1)}

    class Processor:
        image_mean, image_std, size = (0.5,) * 3, (0.5,) * 3, {"height": 8, "width": 8}

        def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
            return {
                "pixel_values": torch.from_numpy(np.asarray(images.resize((8, 8))) / 255.0)
                .permute(2, 0, 1)[None]
                .float()
            }

    fake = types.SimpleNamespace(
        AutoImageProcessor=types.SimpleNamespace(from_pretrained=lambda name: Processor()),
        AutoModel=types.SimpleNamespace(from_pretrained=lambda name, use_safetensors: Model()),
    )
    monkeypatch.setitem(sys.modules, "transformers", fake)
    encoder = load_encoder("hf:org/vit")
    assert encoder.pooling.prefix_tokens == 5
    from dcgan_eval.features.layers import layer_widths

    assert layer_widths(encoder, ("output.last_hidden_state",), (9, 9, 3)) == {"output.last_hidden_state": 3 * 16}


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [("hf:a/b", "transformers", "transformers"), ("open_clip:a:b", "open_clip", "open_clip_torch")],
)
def test_libraries_that_are_not_installed(spec: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EncoderError, match=rf"{package} is not installed.*pip install {extra}"):
        load_encoder(spec)


def test_encoders_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = types.SimpleNamespace(load=lambda: lambda rest: nn.Sequential(nn.Conv2d(3, int(rest), 3)))
    monkeypatch.setattr(
        libraries,
        "entry_points",
        lambda group, name: [offered] if (group, name) == ("dcgan_eval.encoders", "mine") else [],
    )
    assert load_encoder("mine:7").module[0].out_channels == 7


def resnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return models.resnet18(num_classes=10)


PACKED = {
    "bare": lambda t: t,
    "lightly": lambda t: {"state_dict": {f"backbone.{k}": v for k, v in t.items()}, "epoch": 3},
    "solo-learn": lambda t: {
        "state_dict": {**{f"backbone.{k}": v for k, v in t.items()}, "projector.0.weight": torch.ones(2)}
    },
    "moco": lambda t: {
        "state_dict": {f"module.encoder_{side}.{k}": v * (side == "q") for side in "qk" for k, v in t.items()}
    },
    "vissl": lambda t: {
        "classy_state_dict": {"base_model": {"model": {"trunk": {f"_feature_blocks.{k}": v for k, v in t.items()}}}}
    },
    "dino": lambda t: {
        "student": {f"module.backbone.{k}": v for k, v in t.items()},
        "args": collections.OrderedDict(lr=0.1),
    },
    "flat dino": lambda t: {f"student.backbone.{k}": v for k, v in t.items()},
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED.keys())
def test_checkpoints_under_the_prefixes_of_training_scripts(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    trained = {k: v for k, v in resnet(7).state_dict().items() if not k.startswith("fc.")}
    torch.save(pack(trained), tmp_path / "c.pth")
    encoder = load_encoder("torchvision:resnet18", checkpoint=tmp_path / "c.pth")
    for key, value in trained.items():
        if "num_batches" not in key:
            assert torch.equal(encoder.module.state_dict()[key], value), key
    assert any("left random: fc.bias, fc.weight" in note for note in encoder.notes)
    again = load_encoder(encoder.name)  # as a record names it
    assert again.weights_sha256 == encoder.weights_sha256


def test_checkpoints_that_do_not_fit_or_hold_code(tmp_path: Path) -> None:
    save_file(resnet(1).state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit.*of its 52 tensors.*missing .*and \d+ more.*--arch"):
        load_encoder("torchvision:squeezenet1_1", checkpoint=tmp_path / "resnet.safetensors")
    torch.save({"model": resnet(1)}, tmp_path / "module.pth")
    with pytest.raises(WeightsError, match="without running code"):
        load_encoder("torchvision:resnet18", checkpoint=tmp_path / "module.pth")
    with pytest.raises(WeightsError, match="does not exist"):
        load_encoder("torchvision:resnet18:none.pth")
    for name in ("resnet.safetensors", "module.pth"):
        with pytest.raises(EncoderError, match="--arch torchvision:resnet50 --checkpoint"):
            load_encoder(tmp_path / name)
    with pytest.raises(EncoderError, match="name the checkpoint's network"):
        load_encoder(checkpoint=tmp_path / "resnet.safetensors")


def test_misspelt_names_give_the_closest_three_alone() -> None:
    for spec, close in (
        ("resnet18", "torchvision:resnet18"),
        ("imagenet32-plsu", "imagenet32-plus"),
        ("torchvision:resnet8", "resnet18"),
    ):
        with pytest.raises(DcganEvalError, match=close) as caught:
            load_encoder(spec)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "untrained:svhn32"])
def test_grey_images_are_repeated_for_encoders_of_colour(spec: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 1), dtype=np.uint8)
    encoder = load_encoder(spec)
    options = ExtractOptions(store_dtype="float32", device="cpu", batch_norm="dataset" if "svhn" in spec else "running")
    store = extract(encoder, ImageSet(grey), options=options, cache_dir=tmp_path)
    colour = extract(encoder, ImageSet(grey.repeat(3, 3)), options=options, cache_dir=tmp_path)
    assert store.identity.preprocessing == colour.identity.preprocessing + ", grey repeated to 3 channels"
    # batch-norm statistics of equal pixels in another memory layout
    np.testing.assert_allclose(store.read(), colour.read(), rtol=1e-4, atol=1e-5)
    one = Encoder(nn.Sequential(nn.Conv2d(1, 4, 3)), ["0"])
    assert one.preprocess(torch.zeros(2, 8, 8, 1, dtype=torch.uint8)).shape == (2, 1, 8, 8)
    assert Preprocess("imagenet", None, 3)(torch.zeros(2, 8, 8, 1, dtype=torch.uint8)).shape == (2, 3, 8, 8)


def test_help_and_documents_name_every_library() -> None:
    text = " ".join(CliRunner().invoke(main, ["svm", "--help"]).output.split())
    page = (Path(__file__).parents[3] / "docs/howto/own-encoder.md").read_text()
    for library in libraries.LIBRARIES.values():
        for form in library.form.split(", "):
            assert form in text
            assert f"`{form}`" in page
