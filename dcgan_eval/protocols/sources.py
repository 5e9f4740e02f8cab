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

__all__ = ["EncoderFeatures", "Filler", "GivenFeatures", "PixelFeatures", "constant_note"]

_ROWS_SEEN = 512  # enough to see that features are constant


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


def constant_note(store: FeatureStore) -> list[str]:
    """Say when the features do not tell images apart, or hardly, as seen on the first of them."""
    X = store.read(np.arange(min(_ROWS_SEEN, len(store))))
    same = int((X[0] == X).all(axis=0).sum()) if len(X) > 1 else 0
    if same == X.shape[1]:
        what = "zero" if not X.any() else "the same for every image: they do not depend on it"
        return [f"all features are {what}; look at the encoder, its layer and its normalisation"]
    return [f"{same:,} of {X.shape[1]:,} features are the same for every image"] if 2 * same > X.shape[1] else []
