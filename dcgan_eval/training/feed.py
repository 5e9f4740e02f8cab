"""From a set of images to the minibatches of each round: order, residence, flips and shifts, all by seed and round."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from ..devices import memory_share, to_device
from ..errors import TrainingError, counted
from ..models.dcgan import to_unit_range
from ..models.networks import with_planes
from ..models.presets import Preset
from ..seeding import rng, torch_generator
from .config import TrainingConfig


class Feed:
    """Real images for training.

    Parameters
    ----------
    config : TrainingConfig
        Batch size, seed, flips and shifts.
    images_NHWC : ndarray
        uint8, (N, H, W, C), of the preset's size; a memory map will do. On a GPU they are copied to it once if they
        take no more than half of its free memory, and streamed otherwise.
    device : torch.device
        Where to train.
    labels_N : ndarray or None
        Classes of the images, int64, from 0; only conditional presets look at them.

    Attributes
    ----------
    held_out_NHWC : Tensor
        uint8 images that are never trained on.

    Raises
    ------
    TrainingError
        The images do not fit the preset, or are too few, or lack the labels that it needs.
    """

    def __init__(
        self, config: TrainingConfig, images_NHWC: np.ndarray, device: torch.device, labels_N: np.ndarray | None = None
    ):
        _check(config, images_NHWC)
        self.config, self.device = config, device
        shuffled = rng(config.seed, "held-out images").permutation(len(images_NHWC)) if config.held_out else None
        self._rows = torch.arange(len(images_NHWC)) if shuffled is None else torch.from_numpy(shuffled)
        self._held_out, self._rows = self._rows[: config.held_out], self._rows[config.held_out :].sort().values
        self._images = _resident(images_NHWC, device)
        self._labels = _one_hot_labels(config.architecture, labels_N, self._images.device)
        self._order = (-1, torch.empty(0, dtype=torch.long))

    @property
    def num_images(self) -> int:
        """Images that are trained on."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Bytes of all images."""
        return self._images.numel()

    @property
    def held_out_NHWC(self) -> Tensor:
        """The images that are never trained on, on the device."""
        return self._images[self._held_out.to(self._images.device)].to(self.device)

    def some_images(self, count: int) -> Tensor:
        """Return up to ``count`` random images of those that are trained on, uint8, (N, H, W, C)."""
        chosen = rng(self.config.seed, "some images").permutation(self.num_images)[:count]
        return self._images[self._rows[torch.from_numpy(chosen).sort().values].to(self._images.device)]

    def rows(self, rounds_done: int) -> Tensor:
        """Return D's rows in a round, (batch_size,) int64: the next minibatch of the epoch's order.

        Of an adversarial round's two it is the first; G's own is only counted, as G sees no real image.
        """
        size = self.config.batch_size
        epoch, position = divmod(self.config.minibatches_per_round * rounds_done, self.num_images // size)
        if self._order[0] != epoch:
            order = rng(self.config.seed, "order", epoch=epoch).permutation(self.num_images)
            self._order = (epoch, self._rows[torch.from_numpy(order)].to(self._images.device))
        return self._order[1][position * size : (position + 1) * size]

    def minibatch(self, rounds_done: int) -> Tensor:
        """Return D's minibatch in a round: (batch_size, C, H, W) in [-1, 1], channels-last, flipped and shifted.

        Planes of the labels follow if the preset is conditional.
        """
        rows = self.rows(rounds_done)
        images = self._images[rows]
        x_NCHW = to_unit_range(to_device(images, self.device))
        if self.config.flip or self.config.shift:
            coins = torch_generator(self.config.seed, "augmentation", device=self.device, round=rounds_done)
            x_NCHW = augmented(x_NCHW, coins, flip=self.config.flip, shift=self.config.shift)
        if self._labels is None:
            return x_NCHW
        return with_planes(x_NCHW, self._labels[rows].to(x_NCHW))


def augmented(x_NCHW: Tensor, coins: torch.Generator, *, flip: bool, shift: int) -> Tensor:
    """Mirror a random half of a minibatch, and move each image by up to ``shift`` pixels, edges reflected.

    Parameters
    ----------
    x_NCHW : Tensor
        Images (N, C, H, W).
    coins : torch.Generator
        On the images' device.
    flip : bool
        Whether to mirror.
    shift : int
        Pixels, at most, in each direction.

    Returns
    -------
    Tensor
        Of the same shape, channels-last.
    """
    count, _, height, width = x_NCHW.shape
    device = x_NCHW.device
    mirrored = torch.rand(count, 1, generator=coins, device=device) < (0.5 if flip else 0.0)
    offsets_2N = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=coins, device=device)
    rows_NH = torch.arange(height, device=device) + offsets_2N[0]
    columns_NW = torch.arange(width, device=device) + offsets_2N[1]
    columns_NW = torch.where(mirrored, columns_NW.flip(1), columns_NW)
    padded_NHWC = pad(x_NCHW, (shift,) * 4, mode="reflect").permute(0, 2, 3, 1)
    images = torch.arange(count, device=device)[:, None, None]
    return padded_NHWC[images, rows_NH[:, :, None], columns_NW[:, None, :]].permute(0, 3, 1, 2)


def _check(config: TrainingConfig, images_NHWC: np.ndarray) -> None:
    """Raise unless the images fit."""
    preset = config.architecture
    wanted = preset.image_shape
    enough = config.held_out + config.batch_size
    if images_NHWC.shape[1:] != wanted or len(images_NHWC) < enough:
        raise TrainingError(
            f"The images do not fit the preset {config.preset!r}",
            got=f"{counted(len(images_NHWC), 'images')} of shape {images_NHWC.shape[1:]}",
            expected=f"at least {enough} images of shape {wanted}",
            remedy=f"choose another preset, or resize the images with data pack --size {preset.image_size}",
        )


def _one_hot_labels(preset: Preset, labels_N: np.ndarray | None, device: torch.device) -> Tensor | None:
    """Return one-hot labels (N, num_classes) where the preset is conditional, refusing what it cannot use."""
    if not preset.num_classes:
        return None
    if labels_N is None or not 0 <= labels_N.min() <= labels_N.max() < preset.num_classes:
        found = "no labels" if labels_N is None else f"labels from {labels_N.min()} to {labels_N.max()}"
        raise TrainingError(
            f"The preset {preset.name!r} is told the class of every image",
            got=found,
            expected=f"labels from 0 to {preset.num_classes - 1}",
            remedy="choose labelled images with --data, or another preset",
        )
    return one_hot(torch.from_numpy(labels_N).long(), preset.num_classes).to(device)


def _resident(images_NHWC: np.ndarray, device: torch.device) -> Tensor:
    """Return the images on the device if they fit there, in the host's memory or on disk otherwise."""
    images = torch.from_numpy(images_NHWC)
    fits = device.type == "cuda" and images.numel() <= memory_share(device)
    return to_device(images, device) if fits else images
