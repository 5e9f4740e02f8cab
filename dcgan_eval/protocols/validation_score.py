"""The quality of a representation while it is being learned: features and SVM on training and validation rows only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..devices import device_of_fits
from ..errors import ProtocolError
from ..features.encoders import discriminator_encoder
from ..features.extract import ExtractOptions, Extractor, compute_statistics, store_identity
from ..models.dcgan import Discriminator
from ..models.presets import Preset
from .catalog import get_protocol, load_protocol_data
from .selection import best_value, validation_curve
from .settings import Settings

_TOL = 1e-3


class ValidationScore:
    """Validation accuracy of a discriminator's features in a protocol, whose test set is never opened.

    Parameters
    ----------
    protocol : str
        Name on the command line, of a protocol that uses all of its labels: ``"digits"``, ``"cifar10-small"``.
    data_dir : Path or None
        Where data sets lie.
    compute, device : str
        Arithmetic and place of the discriminator: see :mod:`~dcgan_eval.devices`.

    Raises
    ------
    DcganEvalError
        No such protocol, or its data are not there.
    """

    def __init__(self, protocol: str, data_dir: Path | None = None, *, compute: str = "auto", device: str = "auto"):
        self.protocol, self.options = get_protocol(protocol), ExtractOptions(compute=compute, device=device)
        if self.protocol.per_class is not None:
            raise ProtocolError(
                "The validation score during training uses all labels of its training images",
                got=f"--probe {protocol}, a protocol of draws",
                expected="digits, cifar10-small or cifar10",
                remedy="choose another --probe",
            )
        self.train, _ = load_protocol_data(self.protocol, data_dir)
        self.images = self.train.without_labels()

    def check(self, preset: Preset) -> None:
        """Raise unless discriminators of a preset can be measured on the protocol's images.

        Raises
        ------
        ProtocolError
            Images of another shape, or a preset that must be told their classes.
        """
        shape, name = self.images.image_shape, self.protocol.command
        if preset.num_classes or shape != preset.image_shape:
            raise ProtocolError(
                f"The preset {preset.name!r} cannot be measured on {name}",
                got=f"images of shape {shape}" + (", and a preset that is told labels" if preset.num_classes else ""),
                expected=f"images of shape {preset.image_shape} and a preset without labels",
                remedy="give labelled images of that shape to --probe, by path, or leave it out",
            )

    def __call__(self, D: Discriminator) -> dict[str, float]:
        """Return the best ``score`` (validation accuracy) over the protocol's values of C, and that ``C``."""
        features = {"kind": "encoder", "preset": D.preset.name}
        settings = Settings(tol=_TOL, allow_unconverged=True)  # a probe is not worth the training that it would end
        X, device = self._features(D), device_of_fits(self.options.torch_device)
        curve = validation_curve(self.protocol, self.train, X, features, settings, device)
        C = best_value(curve, "C")
        return {"score": next(row["score"] for row in curve if row["C"] == C), "C": C}

    def _features(self, D: Discriminator) -> np.ndarray:
        """Return the features of the training images, (N, D), float32; nothing is cached."""
        encoder = discriminator_encoder(D, "probe")
        options = self.options.resolved(encoder)
        statistics = compute_statistics(encoder, self.images, options)
        identity = store_identity(encoder, self.images, self.images, options, encoder.layers)
        extractor = Extractor(encoder, identity, statistics, options.torch_device)
        parts = np.array_split(self.images.images, max(1, self.images.num_images // 256))
        blocks = [extractor(part) for part in parts]
        return np.concatenate([np.concatenate(list(block.values()), axis=1) for block in blocks]).astype(np.float32)
