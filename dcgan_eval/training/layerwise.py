"""A discriminator that starts from its data: every convolution's kernels are centroids of whitened patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..devices import computing, to_device
from ..models.dcgan import Discriminator, to_unit_range
from ..models.networks import ConvRung
from ..progress import Progress, no_progress
from ..seeding import torch_generator

NUM_IMAGES = 5_000
PATCHES_PER_IMAGE = 12
NUM_DIRECTIONS = 640
"""Strongest directions of a layer's patches that are whitened; the others are left out."""

ITERATIONS = 10
_FLOOR = 0.1  # added to the variance along each direction, as a share of their mean
_BATCH = 128
_NORM_IMAGES = 1_024


@torch.no_grad()
def start_from_kmeans(
    D: Discriminator,
    images_NHWC: Tensor,
    seed: int,
    progress: Progress = no_progress,
    compute: torch.dtype = torch.float32,
) -> None:
    """Replace the kernels of D, layer by layer, by centroids of what the layer sees of unlabelled images.

    Patches of the layer's input, of the kernel's size, are whitened along their strongest directions; spherical K-means
    gives as many centroids as the layer has channels; a kernel answers to the likeness of a whitened patch with a
    centroid. Batch norm gets gain 1, bias 0 and the images' statistics; the first layer, which has none, is scaled to
    answers of unit standard deviation.

    Parameters
    ----------
    D : Discriminator
        Of a ladder; changed in place.
    images_NHWC : Tensor
        uint8, (N, H, W, C); each layer is learned from 12 patches of each.
    seed : int
        Root seed: places of patches, first centroids.
    progress : Progress
        Called after each layer.
    compute : dtype
        Arithmetic of the convolutions: see :func:`~dcgan_eval.devices.fast_type`.

    Source: Coates & Ng, "Learning Feature Representations with K-means", 2012 (whitening and spherical K-means); for
    starting convolutional networks, Kraehenbuehl et al., arXiv:1511.06856. Deviations: a fixed number of directions.
    """
    blocks = D.blocks()
    device = next(D.parameters()).device
    h_NCHW = to_unit_range(to_device(images_NHWC, device))
    for number, block in enumerate(blocks):
        assert isinstance(block, ConvRung), "the configuration checks the preset"
        draw = torch_generator(seed, "k-means start", layer=number)
        _learn(block, _patches(h_NCHW, block.conv, PATCHES_PER_IMAGE, draw), draw)
        if block.norm is not None:
            _settle(block.norm, block.conv, h_NCHW[:_NORM_IMAGES], compute)
        block.eval()
        # Maps are kept in 16 bits whatever they are computed in: those of the first layer are 2.6 GB in float32.
        h_NCHW = torch.cat([_answers(block, x, compute).bfloat16() for x in h_NCHW.split(_BATCH)])
        block.train()
        progress("K-means start: layers", number + 1, len(blocks))


def _patches(h_NCHW: Tensor, conv: nn.Conv2d, per_image: int, draw: torch.Generator) -> Tensor:
    """Cut patches of a convolution's input at random places of its stride, inside the maps where they are large enough.

    Returns
    -------
    Tensor
        float32, (N * per_image, C * k * k), in the order of the kernel's values.
    """
    num_images, _, size, _ = h_NCHW.shape
    k, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    margin = padding if size > 2 * k else 0
    lowest, highest = -(-margin // stride), (size - 1 - margin) // stride
    places = torch.randint(lowest, highest + 1, (2, num_images, per_image), generator=draw) * stride
    rows, columns = places.to(h_NCHW.device)[..., None, None]
    padded_NHWC = nn.functional.pad(h_NCHW, (padding,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(num_images, device=h_NCHW.device)[:, None, None, None]
    offset = torch.arange(k, device=h_NCHW.device)
    found = padded_NHWC[image, rows + offset[:, None], columns + offset]  # (N, per image, k, k, C)
    return found.permute(0, 1, 4, 2, 3).flatten(2).flatten(0, 1).float()


def _learn(block: ConvRung, patches_PD: Tensor, draw: torch.Generator) -> None:
    """Set a layer's kernels."""
    centred_PD = patches_PD - patches_PD.mean(0)
    whitening_DQ = _whitening(centred_PD, draw)
    whitened_PQ = centred_PD @ whitening_DQ
    centroids_KQ = spherical_kmeans(whitened_PQ, block.conv.out_channels, ITERATIONS, draw)
    kernels_KD = centroids_KQ @ whitening_DQ.T  # c . (W x) = (W^T c) . x: whitening becomes part of the kernel
    answers_PK = patches_PD[: len(patches_PD) // 3] @ kernels_KD.T
    spread = answers_PK.std() if block.norm is None else answers_PK.std(0)[:, None]
    block.conv.weight.copy_((kernels_KD / spread).view_as(block.conv.weight))


def _whitening(x_PD: Tensor, draw: torch.Generator) -> Tensor:
    """Return the matrix (D, Q) that whitens centred points along their strongest directions, by subspace iteration."""
    basis_DQ = torch.randn(x_PD.shape[1], min(NUM_DIRECTIONS, *x_PD.shape), generator=draw).to(x_PD.device)
    for _ in range(2):
        basis_DQ = torch.linalg.qr(x_PD.T @ (x_PD @ basis_DQ)).Q  # power iteration on the covariance
    projected_PQ = x_PD @ basis_DQ
    variances, V = torch.linalg.eigh(projected_PQ.T @ projected_PQ / len(x_PD))
    return basis_DQ @ V / (variances + _FLOOR * variances.mean()).sqrt()  # PCA whitening, weak directions damped


def spherical_kmeans(x_PQ: Tensor, num_centroids: int, iterations: int, draw: torch.Generator) -> Tensor:
    """Return unit vectors that share out points by the angle to them.

    Parameters
    ----------
    x_PQ : Tensor
        Points, (P, Q); only their directions count.
    num_centroids, iterations : int
        K, and how often assignment and averages alternate.
    draw : torch.Generator
        Chooses the points that centroids start from, also when one has lost all of its points.

    Returns
    -------
    Tensor
        (K, Q).
    """
    x_PQ = normalize(x_PQ, dim=1)

    def some(count: int) -> Tensor:
        return x_PQ[torch.randint(0, len(x_PQ), (count,), generator=draw).to(x_PQ.device)]

    centroids_KQ = some(num_centroids)
    for _ in range(iterations):
        sums_KQ, is_lost = _shared_out(x_PQ, centroids_KQ)
        sums_KQ[is_lost] = some(int(is_lost.sum()))
        centroids_KQ = normalize(sums_KQ, dim=1)  # the mean direction of its points
    return centroids_KQ


def _shared_out(x_PQ: Tensor, centroids_KQ: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the points nearest to each centroid, (K, Q), and which centroids have none."""
    nearest_P = torch.cat([(x @ centroids_KQ.T).argmax(1) for x in x_PQ.split(8_192)])
    sums_KQ = torch.zeros_like(centroids_KQ).index_add_(0, nearest_P, x_PQ)
    counts_K = torch.zeros_like(centroids_KQ[:, 0]).index_add_(0, nearest_P, torch.ones_like(x_PQ[:, 0]))
    return sums_KQ, counts_K == 0


def _answers(module: nn.Module, h_NCHW: Tensor, compute: torch.dtype) -> Tensor:
    """Return what a module answers to maps, computed in a type."""
    with computing(compute, h_NCHW.device):
        return module(h_NCHW.float())


def _settle(norm: nn.BatchNorm2d, conv: nn.Conv2d, h_NCHW: Tensor, compute: torch.dtype) -> None:
    """Set a batch norm: gain 1, bias 0, and as running statistics those of the convolution's answers."""
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    found = [torch.var_mean(_answers(conv, x, compute).float(), (0, 2, 3)) for x in h_NCHW.split(_BATCH)]
    var, mean = (torch.stack(values).mean(0) for values in zip(*found, strict=True))
    norm.load_state_dict({"running_var": var, "running_mean": mean}, strict=False)
