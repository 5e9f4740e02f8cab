"""A small encoder and small images, so that features take milliseconds."""

from __future__ import annotations

import numpy as np
import pytest

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.taps import Encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("untrained:svhn32:3")


@pytest.fixture(scope="session")
def images() -> ImageSet:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    return ImageSet(pixels, np.arange(600) % 3, name="noise", split="train")
