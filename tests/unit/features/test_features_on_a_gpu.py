"""What runs on a GPU, without one: under fake tensors that know their device, mixing two of them raises."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dcgan_eval.features.encoders import discriminator_encoder
from dcgan_eval.features.extract import Extractor
from dcgan_eval.features.preprocess import Preprocess
from dcgan_eval.features.taps import Encoder, tapped
from dcgan_eval.models.dcgan import LadderDiscriminator
from dcgan_eval.models.presets import get_preset


def block_on_a_gpu(encoder: Encoder, images_NHWC: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run what an extractor runs for one batch, transfers left out."""
    extractor = object.__new__(Extractor)
    extractor.encoder, extractor.module, extractor.layers = encoder, encoder.module.eval(), encoder.layers
    extractor.dtype = torch.float32
    with torch.no_grad(), tapped(extractor.module, extractor.layers, encoder.pooling) as outputs:
        return extractor._run(encoder.preprocess(images_NHWC), outputs)


@pytest.mark.parametrize("rule", [Preprocess(), Preprocess("imagenet"), Preprocess("0.5/0.25", 32)])
def test_a_block_of_features_stays_on_its_gpu(rule: Preprocess) -> None:
    with FakeTensorMode():
        with torch.device("cuda"):
            D = LadderDiscriminator(get_preset("svhn32"))
        encoder = discriminator_encoder(D, "D")
        encoder.preprocess = rule
        sides = (32, 32) if rule.image_size is None else (47, 36)
        images = torch.zeros(4, *sides, 3, dtype=torch.uint8, device="cuda")
        features = block_on_a_gpu(encoder, images)
        assert {name: (f.device.type, tuple(f.shape)) for name, f in features.items()} == {
            "conv1": ("cuda", (4, 1_024)),
            "conv2": ("cuda", (4, 2_048)),
            "conv3": ("cuda", (4, 4_096)),
        }


def test_the_stand_in_notices_another_device() -> None:
    with FakeTensorMode():
        with torch.device("cuda"):
            D = LadderDiscriminator(get_preset("svhn32"))
        with pytest.raises(RuntimeError, match="device"):
            block_on_a_gpu(discriminator_encoder(D, "D"), torch.zeros(4, 32, 32, 3, dtype=torch.uint8))
