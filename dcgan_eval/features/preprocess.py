"""From uint8 images to an encoder's input: resize, scale, normalise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import EncoderError
from ..models.dcgan import to_unit_range

IMAGENET = "0.485,0.456,0.406/0.229,0.224,0.225"


@dataclass(frozen=True)
class Preprocess:
    """What happens to images before an encoder sees them.

    Attributes
    ----------
    normalise : str
        ``"paper"`` (to [-1, 1]), ``"imagenet"`` (that data set's channel means and deviations), or ``"MEAN/STD"``: one
        number or one per channel, comma-separated, for values in [0, 1].
    image_size : int or None
        Shorter side after resizing (bicubic, antialiased), of which the centre square is taken; None keeps the size.
    channels : int or None
        That the encoder takes; where they are three, grey images are repeated. None leaves images as they are.

    Raises
    ------
    EncoderError
        A rule that cannot be read, or a size under 1.
    """

    normalise: str = "paper"
    image_size: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise EncoderError("Images cannot be resized", got=f"--image-size {self.image_size}", expected="at least 1")
        if self.normalise != "paper":
            self._mean_and_std()

    @property
    def words(self) -> str:
        """The rule in words, for records and the identity of feature stores."""
        scaled = "x / 127.5 - 1"
        if self.normalise != "paper":
            mean, std = (",".join(f"{v:g}" for v in values) for values in self._mean_and_std())
            scaled = f"(x / 255 - {mean}) / {std}"
        if self.image_size is None:
            return scaled
        return f"bicubic to {self.image_size}, centre square, {scaled}"

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """Map uint8 (N, H, W, C) to float32 (N, C, H, W)."""
        if self.image_size is not None:
            images_NHWC = _resize(images_NHWC, self.image_size)
        if self.channels == 3 and images_NHWC.shape[-1] == 1:
            images_NHWC = images_NHWC.expand(-1, -1, -1, 3)
        if self.normalise == "paper":
            return to_unit_range(images_NHWC)
        channels = images_NHWC.shape[-1]
        mean, std = (torch.tensor(v, device=images_NHWC.device) for v in self._mean_and_std())
        if len(mean) not in (1, channels):
            raise EncoderError(
                f"--normalise {self.normalise} has {len(mean)} channels",
                got=f"images of {channels}",
                remedy="give one value, or one for each channel",
            )
        x_NCHW = images_NHWC.permute(0, 3, 1, 2).float().div_(255)
        return x_NCHW.sub_(mean[:, None, None]).div_(std[:, None, None])

    def _mean_and_std(self) -> tuple[list[float], list[float]]:
        """Read the two lists of numbers."""
        text = IMAGENET if self.normalise == "imagenet" else self.normalise
        try:
            mean, std = ([float(v) for v in part.split(",")] for part in text.split("/"))
        except ValueError:
            mean, std = [], []
        if not mean or len(mean) != len(std) or not all(s > 0 for s in std):
            raise EncoderError(
                "The normalisation cannot be read",
                got=f"--normalise {self.normalise}",
                expected="paper, imagenet, or MEAN/STD such as 0.5/0.25 or 0.49,0.48,0.45/0.25,0.24,0.26",
                remedy="give as many deviations, above 0, as means",
            )
        return mean, std


@dataclass(frozen=True)
class ByImage:
    """A library's own preprocessing, image by image, as its makers ran it.

    Attributes
    ----------
    transform : callable
        Maps a PIL image in RGB to a float tensor (C, H, W).
    """

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """Map uint8 (N, H, W, C) to float32 (N, C, H', W'); grey images are repeated to three channels."""
        arrays = images_NHWC.expand(-1, -1, -1, 3).cpu().numpy()
        return torch.stack([self.transform(Image.fromarray(image)) for image in arrays]).to(images_NHWC.device)


def _resize(images_NHWC: Tensor, size: int) -> Tensor:
    """Resize the shorter side and cut out the centre square, with torchvision's rule for the sides and the corner."""
    height, width = images_NHWC.shape[1:3]
    shorter = min(height, width)
    sides = [int(size * side / shorter) for side in (height, width)]
    x_NCHW = images_NHWC.permute(0, 3, 1, 2)
    if sides != [height, width]:
        in_bytes = x_NCHW.device.type == "cpu"  # elsewhere uint8 cannot be interpolated
        x_NCHW = functional.interpolate(
            x_NCHW if in_bytes else x_NCHW.float(), sides, mode="bicubic", align_corners=False, antialias=True
        )
        x_NCHW = x_NCHW if in_bytes else x_NCHW.clamp_(0, 255).round_().to(torch.uint8)
    top, left = (round((side - size) / 2) for side in sides)
    return x_NCHW[..., top : top + size, left : left + size].permute(0, 2, 3, 1)
