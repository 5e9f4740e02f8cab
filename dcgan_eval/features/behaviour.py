"""What an encoder answers to a few fixed images: the part of its identity that neither weights nor source can tell.

Closures, compiled code, files read in a forward pass and libraries of another version change features without a trace
in any hash. So the answers are kept with the features, and asked for again before the features are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..seeding import torch_generator
from .layers import pooled, ready_to_run
from .taps import Encoder

# In float64, or without oneDNN's kernels, single features of nine networks moved by at most 6e-6 of their size and
# their layer's root mean square (measured); a gain changed by 1 % moves all above a ninth of that by more than this.
TOLERANCE = 1e-3


def behaviour(encoder: Encoder, layers: Sequence[str], image_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return an encoder's pooled features of three fixed noise images, in float32 on the CPU.

    Parameters
    ----------
    encoder : Encoder
        What to ask; left as it is, wherever and in whatever type it computes.
    layers : sequence of str
        Names as :meth:`~dcgan_eval.features.taps.Encoder.choose` returns them.
    image_shape : tuple of int
        (H, W, C) of the images.

    Returns
    -------
    dict
        For each layer float32 (3, width), to be kept and given to :func:`behaves_alike`.

    Raises
    ------
    EncoderError
        The images cannot be run, or a layer does not run or cannot be pooled.
    """
    draw = torch_generator(0, "behaviour")
    images_NHWC = torch.randint(0, 256, (3, *image_shape), dtype=torch.uint8, generator=draw)
    images_NHWC[1] = images_NHWC[1] // 8 + 112  # little contrast
    height, width = (torch.arange(side) // 4 * 4 for side in image_shape[:2])
    images_NHWC[2] = images_NHWC[2][height][:, width]  # squares of four pixels
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        answers = pooled(ready_to_run(encoder), layers, images_NHWC)
    finally:
        torch.set_float32_matmul_precision(precision)
    return {name: answers[name].float().numpy() for name in layers}


def behaves_alike(stored: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> bool:
    """Tell whether an encoder still answers as it did when features were stored, but for rounding.

    Parameters
    ----------
    stored : mapping
        What :func:`behaviour` returned then, of at least the layers that are wanted now.
    now : mapping
        What it returns now.

    Returns
    -------
    bool
        False if any feature of any layer moved by more than ``TOLERANCE`` of its size and its layer's root mean square
        for that image, or if a layer is missing or of another width.
    """
    return all(name in stored and _alike(np.asarray(stored[name]), f_ND) for name, f_ND in now.items())


def _alike(then_ND: np.ndarray, now_ND: np.ndarray) -> bool:
    """Compare one layer's answers feature by feature, so that no large channel hides a small one."""
    if then_ND.shape != now_ND.shape:
        return False
    then_ND = then_ND.astype(np.float64)  # squares of large float32 values overflow
    finite_ND = np.where(np.isfinite(then_ND), then_ND, 0)
    scale_N1 = np.sqrt(np.mean(finite_ND**2, axis=1, keepdims=True))
    with np.errstate(invalid="ignore"):  # inf - inf
        near_ND = np.abs(now_ND - then_ND) <= TOLERANCE * (np.abs(finite_ND) + scale_N1)
    return bool((near_ND | (now_ND == then_ND) | (np.isnan(now_ND) & np.isnan(then_ND))).all())
