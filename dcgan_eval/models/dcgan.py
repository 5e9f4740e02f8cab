"""One ladder, one discriminator, one generator; and building and sampling any pair of the family.

Source: Radford, Metz & Chintala, arXiv:1511.06434, section 3, and the parameters released in 2016.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.modules.batchnorm import _BatchNorm

from ..devices import seeded
from ..seeding import torch_generator
from .mnist28 import MNIST28_NETWORKS
from .networks import BATCH_NORM_EPS, ConvRung, DeconvRung, Discriminator, Generator, initialise
from .presets import GRID, Ladder, Preset


class LadderDiscriminator(Discriminator):
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
        super().__init__(ladder)
        self.layer_names = ladder.layer_names[:num_layers]
        for i, name in enumerate(self.layer_names):
            rung = ladder.rungs[i]
            block = ConvRung(ladder.input_channels[i], rung.channels, rung.stride, ladder.kernel, normalise=i > 0)
            self.add_module(name, block)
        self.trunk_width = ladder.rungs[-1].channels * GRID * GRID
        self.linear = nn.Linear(self.trunk_width, 1, bias=False) if num_layers is None else None
        self.apply(initialise)


class LadderGenerator(Generator):
    """DCGAN generator: a projection of z to a 4x4 map, then the ladder downwards.

    Parameters
    ----------
    ladder : Ladder
        Row of the preset table. The layers are ``project``, ``project_norm`` (over all units of the projection,
        before the reshape, as released) and ``deconv1``, ``deconv2``, ...
    """

    def __init__(self, ladder: Ladder):
        super().__init__(ladder)
        width = ladder.rungs[-1].channels * GRID * GRID
        self.project = nn.Linear(ladder.z_dim, width, bias=False)
        self.project_norm = nn.BatchNorm1d(width, eps=BATCH_NORM_EPS)
        steps = list(zip(ladder.rungs, ladder.input_channels, strict=True))[::-1]
        for i, (rung, out_channels) in enumerate(steps, start=1):
            last = i == len(steps)
            block = DeconvRung(rung.channels, out_channels, rung.stride, ladder.kernel, last=last)
            self.add_module(f"deconv{i}", block)
        self.num_deconvs = len(steps)
        self.apply(initialise)

    def forward(self, z_NZ: Tensor) -> Tensor:
        """Return images (N, C, H, W) in (-1, 1) for latent vectors (N, z_dim)."""
        h_NU = torch.relu(self.project_norm(self.project(z_NZ)))  # (N, channels * 16)
        h_NCHW = h_NU.unflatten(1, (-1, GRID, GRID))  # (N, channels, 4, 4)
        for i in range(1, self.num_deconvs + 1):
            h_NCHW = self.get_submodule(f"deconv{i}")(h_NCHW)  # (N, out_channels, H * stride, W * stride)
        return h_NCHW


def networks_of(preset: Preset) -> tuple[type[Discriminator], type[Generator]]:
    """Return the classes that a preset's discriminator and generator are built from."""
    return MNIST28_NETWORKS.get(preset.name, (LadderDiscriminator, LadderGenerator))


def build(preset: Preset, seed: int) -> tuple[Discriminator, Generator]:
    """Build an untrained pair from a seed, leaving torch's global random state as it was.

    Parameters
    ----------
    preset : Preset
        Row of the preset table.
    seed : int
        Seed of the initial weights.
    """
    D_class, G_class = networks_of(preset)
    with seeded(seed):
        return D_class(preset), G_class(preset)


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


def sample_prior(preset: Preset, count: int, generator: torch.Generator, labels_N: Tensor | None = None) -> Tensor:
    """Draw latent vectors (count, z_dim + num_classes), float32, on the generator's device from the preset's prior.

    Parameters
    ----------
    preset : Preset
        Row of the preset table.
    count : int
        How many.
    generator : torch.Generator
        Where the random numbers come from.
    labels_N : Tensor or None
        Classes, int64, appended one-hot if the preset is conditional; None draws them uniformly, after z.
    """
    shape, device = (count, preset.z_dim), generator.device
    if preset.prior == "gaussian":
        z_NZ = torch.randn(shape, generator=generator, device=device)
    else:
        z_NZ = torch.rand(shape, generator=generator, device=device) * 2 - 1  # U(-1, 1), section 4
    if not preset.num_classes:
        return z_NZ
    if labels_N is None:
        labels_N = torch.randint(preset.num_classes, (count,), generator=generator, device=device)
    return torch.cat([z_NZ, one_hot(labels_N, preset.num_classes).to(z_NZ)], 1)


def grid_latents(preset: Preset, count: int, seed: int = 0, columns: int | None = None) -> Tensor:
    """Return the fixed latent vectors of a grid of samples, (count, z_dim + num_classes), float32 on the CPU.

    Parameters
    ----------
    preset : Preset
        Row of the preset table.
    count : int
        Images of the grid.
    seed : int
        Root seed of z.
    columns : int or None
        Of the grid: the classes of a conditional preset go from left to right and begin again in every row. None means
        one row.
    """
    labels_N = torch.arange(count) % (columns or count) % max(1, preset.num_classes)
    return sample_prior(preset, count, torch_generator(seed, "sample grid"), labels_N)


@torch.no_grad()
def draw_samples(G: Generator, count: int, seed: int = 0, columns: int | None = None) -> np.ndarray:
    """Draw the images of :func:`grid_latents` with the statistics of their own minibatch, as the 2016 release does.

    Parameters
    ----------
    G : Generator
        Left as it is.
    count, seed, columns : int, int, int or None
        See :func:`grid_latents`.

    Returns
    -------
    ndarray
        uint8 (count, H, W, C).
    """
    G = copy.deepcopy(G).train()  # a copy, because training mode moves the running averages
    z_NZ = grid_latents(G.preset, count, seed, columns)
    return to_uint8(G.images(z_NZ.to(next(G.parameters()).device)))


def to_uint8(x_NCHW: Tensor) -> np.ndarray:
    """Return images (N, C, H, W) in [-1, 1] as uint8 (N, H, W, C) on the host."""
    return ((x_NCHW + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


def to_unit_range(images_NHWC: Tensor) -> Tensor:
    """Scale uint8 images (N, H, W, C) to float32 (N, C, H, W) in [-1, 1], laid out channels-last (x / 127.5 - 1)."""
    return images_NHWC.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
