"""What a training run is: one frozen, validated, printable configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import TrainingError
from ..models.presets import get_preset

IMAGENET_EPOCH = 1_281_167  # training images of ILSVRC2012


@dataclass(frozen=True)
class TrainingConfig:
    """Configuration of a run; the defaults are the paper's recipe for ImageNet at 32x32.

    Attributes
    ----------
    preset : str
        Row of the preset table.
    total_images : int
        Real images to see, counting those of discriminator and of generator minibatches (30 ImageNet epochs).
    decay_images : int
        Length of the linear decay of the learning rate to 0 at the end of the run; 0 keeps it constant.
    batch_size : int
        Images per minibatch.
    learning_rate, beta1, beta2 : float
        Adam's parameters.
    flip : bool
        Mirror half of the real images. Not in the paper's recipe.
    seed : int
        Root seed: weights, order of the data, latent vectors, flips.
    compute : str
        ``"float32"`` or ``"bfloat16"`` (autocast; parameters and Adam stay in float32).

    Source: section 4 and 4.3 of arXiv:1511.06434 and the 2016 release.
    """

    preset: str = "imagenet32"
    total_images: int = 30 * IMAGENET_EPOCH
    decay_images: int = 0
    batch_size: int = 128
    learning_rate: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    flip: bool = False
    seed: int = 0
    compute: str = "float32"

    def __post_init__(self) -> None:
        get_preset(self.preset)
        _require(self.batch_size >= 2, "--batch-size", self.batch_size, "at least 2 (batch norm needs two images)")
        _require(self.total_images >= 2 * self.batch_size, "--images", self.total_images, "at least two minibatches")
        _require(0 <= self.decay_images <= self.total_images, "--decay-images", self.decay_images, "0 to --images")
        _require(self.learning_rate > 0, "--learning-rate", self.learning_rate, "a positive number")
        _require(self.compute in ("float32", "bfloat16"), "--compute", self.compute, "float32 or bfloat16")

    @property
    def total_rounds(self) -> int:
        """Rounds of one discriminator and one generator update."""
        return self.total_images // (2 * self.batch_size)

    def learning_rate_at(self, seen_images: int) -> float:
        """Return the learning rate after ``seen_images``: constant, then linear decay to 0."""
        left = max(0, self.total_images - seen_images)
        if left >= self.decay_images:
            return self.learning_rate
        return self.learning_rate * left / self.decay_images

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values, for JSON."""
        return asdict(self)


def _require(holds: bool, flag: str, got: object, expected: str) -> None:
    """Raise when a value cannot be used."""
    if not holds:
        raise TrainingError(f"The value of {flag} cannot be used", got=str(got), expected=expected)
