"""Guided backpropagation: which part of an image a unit of the discriminator answers to.

Source: Springenberg et al., arXiv:1412.6806, section 3.4; arXiv:1511.06434, section 6.2 and figure 5.

The rule. Going back through a ReLU, y = max(0, x), a gradient passes where x was positive (the rule of
backpropagation) and where the gradient itself is positive (that of the deconvolution network). D has leaky rectifiers,
which the source does not treat: here the gradient's positive part is passed on times the rectifier's own derivative,
max(0, g) * (1 if x > 0 else slope). With slope 0 that is the source's rule, and with any slope it still lets through
nothing but what raises the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import DcganEvalError
from .drawing import from_uint8

Maps = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> maps (N, K, h, w)
STRONGEST = 0.1  # share of the pixels that the concentration counts
_RELUS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_LEAKY = {F.leaky_relu, F.leaky_relu_}
_LEAST_SIDE = 8  # pixels of a crop


class _GuidedRectifier(torch.autograd.Function):
    """A rectifier whose gradient keeps its positive part only, before the rectifier's own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return torch.where(x > 0, x, slope * x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0].clamp_min(0) * torch.where(x > 0, 1.0, ctx.slope), None


class _Guiding(TorchFunctionMode):
    """Replaces every rectifier that is called, as a module or as a function, by the guided one."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _RELUS | _LEAKY:
            return func(*args, **kwargs)
        self.replaced += 1
        slope = (kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01)) if func in _LEAKY else 0.0
        return _GuidedRectifier.apply(args[0] if args else kwargs["input"], slope)


def guided_gradients(maps: Maps, x_NCHW: Tensor, units: Sequence[tuple[int, int, int]]) -> Tensor:
    """Return the guided gradient of one unit of each image, (N, C, H, W).

    Parameters
    ----------
    maps : callable
        Images to the maps of a layer, by rectifiers of torch; its batch norm must be frozen.
    x_NCHW : Tensor
        Images.
    units : sequence of (int, int, int)
        For each image the map, row and column of the unit.

    Raises
    ------
    DcganEvalError
        There is no rectifier in it, so there is nothing to guide.
    """
    x_NCHW = x_NCHW.detach().clone().requires_grad_()
    with _Guiding() as guiding:
        h_NKHW = maps(x_NCHW)
    if not guiding.replaced:
        raise DcganEvalError(
            "Guided backpropagation needs rectifiers, and this network has none",
            expected="ReLU or LeakyReLU",
            remedy="choose another with --weights",
        )
    total = torch.stack([h_NKHW[i, k, row, column] for i, (k, row, column) in enumerate(units)]).sum()
    return torch.autograd.grad(total, x_NCHW)[0]


def concentration(gradient_NCHW: Tensor) -> np.ndarray:
    """Return what share of each gradient's energy lies in the strongest tenth of the image's pixels, (N,).

    Evenly spread energy gives 0.1, a single pixel 1; no energy at all NaN.
    """
    energy_NP = gradient_NCHW.double().square().sum(1).flatten(1).cpu()
    strongest = max(1, round(STRONGEST * energy_NP.shape[1]))
    return (energy_NP.topk(strongest).values.sum(1) / energy_NP.sum(1)).numpy()


@dataclass(frozen=True)
class Responses:
    """The strongest responses of some units to a data set's images.

    Attributes
    ----------
    units : tuple of int
        Maps of the layer.
    images : ndarray
        uint8 (U, N, H, W, C), strongest first.
    gradients : ndarray
        float32 (U, N, H, W, C), guided.
    boxes : ndarray
        (U, N, 4): x0, y0, x1, y1 of the pixels that the response depends on.
    concentration : ndarray
        (U, N).
    """

    units: tuple[int, ...]
    images: np.ndarray
    gradients: np.ndarray
    boxes: np.ndarray
    concentration: np.ndarray

    @property
    def mean_concentration(self) -> float:
        """Mean over all responses that have a gradient."""
        return float(np.nanmean(self.concentration))


@torch.no_grad()
def strongest(
    maps: Maps, images_NHWC: np.ndarray, units: Sequence[int], count: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each unit the images with the largest value at any position.

    Returns
    -------
    rows : ndarray
        (U, count), the largest first.
    places : ndarray
        (U, count, 2): row and column in the map.
    """
    values, spots = [], []
    for start in range(0, len(images_NHWC), 256):
        h_NUP = maps(from_uint8(images_NHWC[start : start + 256], device))[:, list(units)]
        width = h_NUP.shape[3]
        top = h_NUP.flatten(2).max(2)
        values.append(top.values.cpu())
        spots.append(top.indices.cpu())
    rows_UN = torch.cat(values).T.topk(min(count, len(images_NHWC))).indices
    spots_UN = torch.cat(spots).T.gather(1, rows_UN)
    return rows_UN.numpy(), torch.stack([spots_UN // width, spots_UN % width], 2).numpy()


def responses(
    maps: Maps, images_NHWC: np.ndarray, units: Sequence[int], count: int = 6, device: torch.device | str = "cpu"
) -> Responses:
    """Find the strongest responses of units and what in the images they answer to.

    Parameters
    ----------
    maps : callable
        See :func:`guided_gradients`.
    images_NHWC : ndarray
        uint8.
    units : sequence of int
        Maps of the layer.
    count : int
        Responses of each unit.
    device : torch.device or str
        Where to compute.

    Raises
    ------
    DcganEvalError
        A unit that the layer does not have, or no rectifier.
    """
    place = torch.device(device)
    num_maps = maps(from_uint8(images_NHWC[:1], place)).shape[1]
    missing = [unit for unit in units if not 0 <= unit < num_maps]
    if missing:
        raise DcganEvalError(
            "The layer has no such units",
            got=", ".join(map(str, missing)),
            expected=f"0 to {num_maps - 1}",
            remedy="choose others with --units",
        )
    rows_UN, places_UN2 = strongest(maps, images_NHWC, units, count, place)
    x_MCHW = from_uint8(images_NHWC[rows_UN.ravel()], place)
    wanted = [(unit, *spot) for unit, spots in zip(units, places_UN2.tolist(), strict=True) for spot in spots]
    gradients = guided_gradients(maps, x_MCHW, wanted)
    shape = rows_UN.shape
    return Responses(
        tuple(units),
        images_NHWC[rows_UN],
        gradients.permute(0, 2, 3, 1).cpu().numpy().reshape(*shape, *images_NHWC.shape[1:]),
        _fields(maps, x_MCHW, wanted).reshape(*shape, 4),
        concentration(gradients).reshape(shape),
    )


def _fields(maps: Maps, x_MCHW: Tensor, units: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return the box of pixels that each unit depends on, (M, 4): where its ordinary gradient is not zero."""
    x_MCHW = x_MCHW.detach().clone().requires_grad_()
    h_MKHW = maps(x_MCHW)
    total = torch.stack([h_MKHW[i, k, row, column] for i, (k, row, column) in enumerate(units)]).sum()
    seen_MHW = (torch.autograd.grad(total, x_MCHW)[0] != 0).any(1).cpu().numpy()
    boxes = []
    for seen_HW in seen_MHW:
        ys, xs = np.flatnonzero(seen_HW.any(1)), np.flatnonzero(seen_HW.any(0))
        whole = (0, 0, seen_HW.shape[1], seen_HW.shape[0])
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1) if len(xs) else whole)
    return np.array(boxes)


def crops(found: Responses, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of the images that a unit depends on and their gradients, uint8, of one size: (N, H, W, C) each.

    Crops are padded with white to the largest; gradients are grey where they are zero, scaled by their largest value.
    """
    boxes = found.boxes[unit]
    height, width = (int((boxes[:, i + 2] - boxes[:, i]).max()) for i in (1, 0))
    images: list[np.ndarray] = []
    gradients: list[np.ndarray] = []
    for image, gradient, (x0, y0, x1, y1) in zip(found.images[unit], found.gradients[unit], boxes, strict=True):
        grey = 127.5 + 127.5 * gradient / max(float(np.abs(gradient).max()), 1e-30)
        for cut, whole in ((images, image), (gradients, grey.round().astype(np.uint8))):
            part = whole[y0:y1, x0:x1]
            missing = (
                (0, max(height, _LEAST_SIDE) - part.shape[0]),
                (0, max(width, _LEAST_SIDE) - part.shape[1]),
                (0, 0),
            )
            cut.append(np.pad(part, missing, constant_values=255))
    return np.stack(images), np.stack(gradients)
