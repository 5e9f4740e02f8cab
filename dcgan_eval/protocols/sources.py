"""Where a protocol's feature matrices come from: an encoder behind the store, or the pixels themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.imageset import ImageSet
from ..features.extract import ExtractOptions, Progress, extract
from ..features.store import FeatureStore
from ..features.taps import Encoder


class FeatureSource(Protocol):
    """Features of a training and of a test set, as float32 matrices."""

    num_features: int

    def prepare(self, train: ImageSet, test: ImageSet, progress: Progress) -> None:
        """Make the features of both sets available; labels are not looked at."""

    def train(self, rows: np.ndarray) -> np.ndarray:
        """Return the training features of the rows, (len(rows), num_features), float32."""

    def test(self) -> np.ndarray:
        """Return all test features, (num_test, num_features), float32."""

    def describe(self) -> dict[str, Any]:
        """Return ``name``, ``weights_sha256`` and what else decided the numbers."""


class EncoderFeatures:
    """Features of an encoder, cached in feature stores.

    Parameters
    ----------
    encoder : Encoder
        What to measure.
    options : ExtractOptions
        How.
    cache_dir : Path
        Folder of the stores.
    """

    num_features: int
    _stores: tuple[FeatureStore, FeatureStore]

    def __init__(self, encoder: Encoder, options: ExtractOptions, cache_dir: Path):
        self.encoder, self.options, self.cache_dir = encoder, options, cache_dir
        self.layers = encoder.choose(options.layers)

    def prepare(self, train: ImageSet, test: ImageSet, progress: Progress) -> None:
        """Extract what the cache does not hold; batch-norm statistics come from the training images."""
        stores = [
            extract(
                self.encoder,
                images,
                calibration=train,
                options=self.options,
                cache_dir=self.cache_dir,
                progress=progress,
            )
            for images in (train, test)
        ]
        self._stores = (stores[0], stores[1])
        self.num_features = stores[0].width(self.layers)

    def train(self, rows: np.ndarray) -> np.ndarray:
        """Return the training features of the rows, (len(rows), num_features), float32."""
        return self._stores[0].read(rows, self.layers)

    def test(self) -> np.ndarray:
        """Return all test features, (num_test, num_features), float32."""
        return self._stores[1].read(None, self.layers)

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers."""
        identity = self._stores[0].identity
        return {
            "name": self.encoder.name,
            "layers": list(self.layers),
            "all_layers": self.layers == self.encoder.layers,
            "preset": getattr(getattr(self.encoder.module, "preset", None), "name", None),
            "weights_sha256": identity.weights_sha256,
            "preprocessing": identity.preprocessing,
            "pooling": identity.pooling,
            "rules": self.encoder.rules,
            "batch_norm": identity.batch_norm,
            "compute": identity.compute,
            "store_dtype": identity.store_dtype,
            "cached": [store.reused for store in self._stores],
        }


class PixelFeatures:
    """Raw pixels scaled to [-1, 1], the simplest baseline."""

    num_features: int

    def prepare(self, train: ImageSet, test: ImageSet, progress: Progress) -> None:
        """Keep the images."""
        self._images = (train.images, test.images)
        self.num_features = int(np.prod(train.image_shape))

    def train(self, rows: np.ndarray) -> np.ndarray:
        """Return the training pixels of the rows, (len(rows), H * W * C), float32."""
        return _flat(self._images[0][rows])

    def test(self) -> np.ndarray:
        """Return all test pixels, (num_test, H * W * C), float32."""
        return _flat(self._images[1])

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers."""
        return {"name": "pixels", "weights_sha256": None, "preprocessing": "x / 127.5 - 1"}


def _flat(images_NHWC: np.ndarray) -> np.ndarray:
    """Scale and flatten images."""
    return images_NHWC.reshape(len(images_NHWC), -1).astype(np.float32) / np.float32(127.5) - np.float32(1)
