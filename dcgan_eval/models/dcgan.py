"""One ladder, one discriminator, one generator.

Source: Radford, Metz & Chintala, arXiv:1511.06434, section 3, and the parameters released in 2016.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..seeding import torch_generator
from .presets import GRID, Ladder

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
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS) if normalise else None
        self.act = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, h_NCHW: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        h_NCHW = self.conv(h_NCHW)
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
        h_NCHW = self.conv(h_NCHW)
        return self.act(h_NCHW if self.norm is None else self.norm(h_NCHW))


class Discriminator(nn.Module):
    """DCGAN discriminator: the ladder upwards, then one linear unit without bias.

    Parameters
    ----------
    ladder : Ladder
        Row of the preset table. The layers are the attributes ``conv1``, ``conv2``, ...
    num_layers : int or None
        Build only this many leading convolutions and no linear unit: what is left of an incomplete model. It has
        features but no logit. None builds all.
    """

    def __init__(self, ladder: Ladder, num_layers: int | None = None):
        super().__init__()
        self.ladder = ladder
        self.layer_names = ladder.layer_names[:num_layers]
        for i, name in enumerate(self.layer_names):
            rung = ladder.rungs[i]
            block = ConvRung(ladder.input_channels[i], rung.channels, rung.stride, ladder.kernel, normalise=i > 0)
            self.add_module(name, block)
        width = ladder.rungs[-1].channels * GRID * GRID
        self.linear = nn.Linear(width, 1, bias=False) if num_layers is None else None
        self.apply(initialise)

    def blocks(self) -> list[ConvRung]:
        """Return the convolutional layers in order."""
        return [self.get_submodule(name) for name in self.layer_names]  # type: ignore[misc]

    def trunk(self, x_NCHW: Tensor) -> Tensor:
        """Return the maps of the last convolutional layer for images (N, C, H, W) scaled to [-1, 1]."""
        h_NCHW = x_NCHW
        for block in self.blocks():
            h_NCHW = block(h_NCHW)
        return h_NCHW

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logit of "real", (N,), for images (N, C, H, W) scaled to [-1, 1]; without a linear unit, maps."""
        h_NCHW = self.trunk(x_NCHW)
        if self.linear is None:
            return h_NCHW
        return self.linear(h_NCHW.flatten(1)).squeeze(1)  # (N, channels * 16) -> (N,)


class Generator(nn.Module):
    """DCGAN generator: a projection of z to a 4x4 map, then the ladder downwards.

    Parameters
    ----------
    ladder : Ladder
        Row of the preset table. The layers are ``project``, ``project_norm`` (over all units of the projection,
        before the reshape, as released) and ``deconv1``, ``deconv2``, ...
    """

    def __init__(self, ladder: Ladder):
        super().__init__()
        self.ladder = ladder
        width = ladder.rungs[-1].channels * GRID * GRID
        self.project = nn.Linear(ladder.z_dim, width, bias=False)
        self.project_norm = nn.BatchNorm1d(width, eps=BATCH_NORM_EPS)
        steps = list(zip(ladder.rungs, ladder.input_channels, strict=True))[::-1]
        for i, (rung, out_channels) in enumerate(steps, start=1):
            last = i == len(steps)
            block = DeconvRung(rung.channels, out_channels, rung.stride, ladder.kernel, last=last)
            self.add_module(f"deconv{i}", block)
        self.apply(initialise)

    def forward(self, z_NZ: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1) for latent vectors (N, z_dim)."""
        h_NU = torch.relu(self.project_norm(self.project(z_NZ)))  # (N, channels * 16)
        h_NCHW = h_NU.unflatten(1, (-1, GRID, GRID))
        for i in range(1, len(self.ladder.rungs) + 1):
            h_NCHW = self.get_submodule(f"deconv{i}")(h_NCHW)
        return h_NCHW


def initialise(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02), batch-norm gains from N(1, 0.02), and set batch-norm biases to 0.

    Source: section 4 (weights) and the 2016 release (gains). The global torch generator is used, so callers fork it:
    see :func:`build`.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, INIT_STD)
        nn.init.zeros_(module.bias)


def build(ladder: Ladder, seed: int) -> tuple[Discriminator, Generator]:
    """Build an untrained pair from a seed, leaving torch's global random state as it was.

    Parameters
    ----------
    ladder : Ladder
        Row of the preset table.
    seed : int
        Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(ladder), Generator(ladder)


def norm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers of a module by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}


def drop_running_statistics(module: nn.Module) -> None:
    """Leave every batch norm without running statistics, so that it always normalises by its minibatch."""
    for norm in norm_layers(module).values():
        norm.running_mean = norm.running_var = None


def lacks_running_statistics(module: nn.Module) -> bool:
    """Tell whether some batch norm of a module has no running statistics to freeze."""
    return any(norm.running_mean is None for norm in norm_layers(module).values())


def sample_prior(ladder: Ladder, count: int, generator: torch.Generator) -> Tensor:
    """Draw latent vectors (count, z_dim), float32, on the generator's device from the ladder's prior."""
    shape = (count, ladder.z_dim)
    if ladder.prior == "gaussian":
        return torch.randn(shape, generator=generator, device=generator.device)
    return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1


@torch.no_grad()
def draw_samples(G: Generator, count: int, seed: int = 0) -> np.ndarray:
    """Draw images from fixed z with the statistics of their own minibatch, as the 2016 release does.

    Parameters
    ----------
    G : Generator
        Left as it is.
    count : int
        Images, all in one minibatch.
    seed : int
        Root seed of z.

    Returns
    -------
    ndarray
        uint8 (count, H, W, C).
    """
    G = copy.deepcopy(G).train()  # a copy, because training mode moves the running averages
    z_NZ = sample_prior(G.ladder, count, torch_generator(seed, "sample grid"))
    return to_uint8(G(z_NZ.to(G.project.weight.device)))


def to_uint8(x_NCHW: Tensor) -> np.ndarray:
    """Return images (N, C, H, W) in [-1, 1] as uint8 (N, H, W, C) on the host."""
    return ((x_NCHW + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


def to_unit_range(images_NHWC: Tensor) -> Tensor:
    """Scale uint8 images (N, H, W, C) to float32 (N, C, H, W) in [-1, 1], laid out channels-last (x / 127.5 - 1)."""
    return images_NHWC.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
