"""What a protocol measures: an encoder's features or the pixels themselves, of a training and of a test set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.imageset import ImageSet
from ..features.extract import EncoderFeatures, ExtractOptions
from ..features.fill import Filler, fill
from ..features.store import FeatureStore
from ..features.store_file import Answers, StoreIdentity
from ..progress import Progress

__all__ = ["EncoderFeatures", "ExtractOptions", "Filler", "PixelFeatures", "fill_both"]


def fill_both(
    source: Filler, train: ImageSet, test: ImageSet, cache_dir: Path, *, wait: bool, progress: Progress
) -> tuple[FeatureStore, FeatureStore]:
    """Return the features of unlabelled training and test images; whatever is learned, is learned from the former."""
    source.learn(train, cache_dir, progress)
    stores = [fill(source, images, cache_dir, wait=wait, progress=progress) for images in (train, test)]
    return stores[0], stores[1]


class PixelFeatures:
    """Raw pixels scaled to [-1, 1], the simplest baseline, see :class:`~dcgan_eval.features.fill.Filler`."""

    name = "pixels"

    def learn(self, train: ImageSet, cache_dir: Path, progress: Progress) -> None:
        """Learn nothing."""

    def identity(self, images: ImageSet) -> StoreIdentity:
        """Return what decides the features: the pixels."""
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

    def behaviour(self, image_shape: tuple[int, int, int]) -> Answers:
        """Return nothing: the identity says it all."""
        return {}

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
