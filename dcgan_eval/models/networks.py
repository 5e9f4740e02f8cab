"""What the networks of the family are made of, and what they have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .presets import Preset

BATCH_NORM_EPS = 1e-8  # 2016 release
LEAKY_SLOPE = 0.2
INIT_STD = 0.02


class ConvRung(nn.Module):
    """Strided convolution, batch norm (except on the first rung) and LeakyReLU; its output is what features tap.

    Parameters
    ----------
    in_channels, out_channels, stride, kernel : int
        Geometry; the padding is ``kernel // 2``, so (H, W) becomes (H / stride, W / stride).
    normalise : bool
        Whether batch norm follows the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kernel: int, *, normalise: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS) if normalise else None  # not on the first layer
        self.act = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, h_NCHW: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        h_NCHW = self.conv(h_NCHW)  # (N, out_channels, H / stride, W / stride), as kernels are odd
        return self.act(h_NCHW if self.norm is None else self.norm(h_NCHW))


class DeconvRung(nn.Module):
    """Fractionally strided convolution, batch norm and ReLU, or tanh alone on the last rung.

    The convolution is the adjoint of a :class:`ConvRung`'s with the same kernel, stride and padding.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kernel: int, *, last: bool):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, kernel, stride, kernel // 2, output_padding=stride - 1, bias=False
        )
        self.norm = None if last else nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS)
        self.act: nn.Module = nn.Tanh() if last else nn.ReLU(inplace=True)

    def forward(self, h_NCHW: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H * stride, W * stride)."""
        h_NCHW = self.conv(h_NCHW)  # (N, out_channels, H * stride, W * stride)
        return self.act(h_NCHW if self.norm is None else self.norm(h_NCHW))


class Discriminator(nn.Module):
    """What every discriminator has: convolutional layers by name, then one linear unit without bias.

    Parameters
    ----------
    preset : Preset
        Row of the preset table.

    Attributes
    ----------
    layer_names : tuple of str
        The layers that features tap; each is an attribute: ``conv1``, ``conv2``, ...
    trunk_width : int
        Values per image that :meth:`trunk` returns.
    linear : nn.Linear or None
        The linear unit; None in what is left of an incomplete model.
    """

    trunk_width: int
    linear: nn.Linear | None

    def __init__(self, preset: Preset):
        super().__init__()
        self.preset = preset
        self.layer_names = preset.layer_names

    def blocks(self) -> list[nn.Module]:
        """Return the convolutional layers in order."""
        return [self.get_submodule(name) for name in self.layer_names]

    def trunk(self, x_NCHW: Tensor) -> Tensor:
        """Return the maps of the last convolutional layer for images (N, C, H, W) scaled to [-1, 1]."""
        h_NCHW = x_NCHW
        for block in self.blocks():
            h_NCHW = block(h_NCHW)  # (N, channels, H / stride, W / stride)
        return h_NCHW

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logit of "real", (N,), for images (N, C, H, W) scaled to [-1, 1]; without a linear unit, maps.

        A conditional discriminator takes :func:`with_planes` of images and labels.
        """
        h_NCHW = self.trunk(x_NCHW)
        if self.linear is None:
            return h_NCHW
        return self.linear(h_NCHW.flatten(1)).squeeze(1)  # (N, trunk_width) -> (N,)


class Generator(nn.Module):
    """What every generator has: it maps latent vectors to what its discriminator takes.

    Parameters
    ----------
    preset : Preset
        Row of the preset table.
    """

    def __init__(self, preset: Preset):
        super().__init__()
        self.preset = preset

    def images(self, z_NZ: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] for latent vectors, without the planes of their labels."""
        return self(z_NZ)[:, : self.preset.image_channels]


def with_planes(h_NCHW: Tensor, y_NK: Tensor) -> Tensor:
    """Return maps (N, C, H, W) followed by a constant plane for each of K label entries, (N, C + K, H, W)."""
    planes_NKHW = y_NK[:, :, None, None].expand(-1, -1, *h_NCHW.shape[2:])  # a view: nothing is copied
    return torch.cat([h_NCHW, planes_NKHW.to(h_NCHW.dtype)], 1)


def initialise(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02), batch-norm gains from N(1, 0.02), and set batch-norm biases to 0.

    Source: section 4 (weights) and the 2016 release (gains). The global torch generator is used, so callers fork it:
    see :func:`~dcgan_eval.models.dcgan.build`.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, INIT_STD)
        nn.init.zeros_(module.bias)
