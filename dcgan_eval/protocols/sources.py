"""What a protocol measures: an encoder's features or the pixels themselves, of a training and of a test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..data.imageset import ImageSet
from ..features.extract import EncoderFeatures
from ..features.fill import Filler, refuse_mixed
from ..features.given import GivenFeatures
from ..features.store import FeatureStore
from ..features.store_file import StoreIdentity
from ..progress import Progress

__all__ = ["EncoderFeatures", "Filler", "GivenFeatures", "PixelFeatures"]


class PixelFeatures(Filler):
    """Raw pixels scaled to [-1, 1], the simplest baseline, see :class:`~dcgan_eval.features.fill.Filler`."""

    name = "pixels"

    def identity(self, images: ImageSet) -> StoreIdentity:
        """Return what decides the features: the pixels."""
        refuse_mixed(images, self.name)
        return StoreIdentity(
            encoder=self.name,
            weights_sha256="",
            layers=(("pixels", int(np.prod(images.image_shape))),),
            preprocessing="x / 127.5 - 1, when read",
            batch_norm="none",
            compute="none",
            store_dtype="uint8",
            calibration_fingerprint="",
            data=f"{images.name}-{images.split}",
            data_fingerprint=images.without_labels().fingerprint,
            num_rows=images.num_images,
            pooling="none",
        )

    def ready(self, progress: Progress) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Return the function that flattens images."""
        return lambda images_NHWC: {"pixels": images_NHWC.reshape(len(images_NHWC), -1)}

    def served(self, store: FeatureStore) -> FeatureStore:
        """Return the pixels scaled."""
        return store.served_by(_scaled)

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers."""
        return {"kind": "pixels", "name": self.name, "weights_sha256": None, "preprocessing": "x / 127.5 - 1"}


def _scaled(x_ND: np.ndarray) -> np.ndarray:
    """Scale pixels from [0, 255] to [-1, 1], in place."""
    x_ND /= np.float32(127.5)
    x_ND -= np.float32(1)
    return x_ND
