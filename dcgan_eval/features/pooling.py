"""Pooling of feature maps to a small grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, max_pool2d

from ..errors import DcganEvalError, EncoderError, unknown_name
from ..models.presets import GRID

_RULES: dict[str, tuple[Callable[[Tensor, int], Tensor] | None, int]] = {
    "max4-adaptive": (adaptive_max_pool2d, GRID),
    "avg4-adaptive": (adaptive_avg_pool2d, GRID),
    "avg1": (adaptive_avg_pool2d, 1),
    "none": (None, 0),
}
POOLINGS = ("max4", "avg4", "avg1", "none")  # as asked for; ``Pooling.name`` says what is done


def pool_to_grid(h_NCHW: Tensor, grid: int = GRID) -> Tensor:
    """Max-pool feature maps without overlap to a grid and flatten, channel by channel.

    Parameters
    ----------
    h_NCHW : Tensor
        Feature maps (N, C, H, W), any floating type; H and W are multiples of ``grid`` (32 -> windows of 8, 16 -> 4,
        8 -> 2, 4 -> 1).
    grid : int
        Side of the grid.

    Returns
    -------
    Tensor
        (N, C * grid * grid), of the same type.

    Raises
    ------
    DcganEvalError
        No feature maps, or a size that the grid does not divide.

    Source: arXiv:1511.06434, section 5.1. Deviations: none.
    """
    if h_NCHW.dim() != 4 or h_NCHW.shape[2] % grid or h_NCHW.shape[3] % grid:
        raise DcganEvalError(
            "A layer cannot be pooled to the grid",
            got=f"output of shape {tuple(h_NCHW.shape)}",
            expected=f"(N, C, H, W) with H and W multiples of {grid}",
            remedy="choose another layer with --layer",
        )
    window = (h_NCHW.shape[2] // grid, h_NCHW.shape[3] // grid)
    if window != (1, 1):
        h_NCHW = max_pool2d(h_NCHW, window)  # (N, C, grid, grid)
    return torch.flatten(h_NCHW, 1)  # (N, C * grid * grid)


@dataclass(frozen=True)
class Pooling:
    """How the output of any layer becomes a vector per image; the name is part of a feature store's identity.

    Attributes
    ----------
    name : str
        ``"max4"``: the paper's windows, for maps that 4 divides. ``"max4-adaptive"``, ``"avg4-adaptive"``: windows that
        cover maps of any size, equal to the paper's where 4 divides; a side under 4 is kept as it is. ``"avg1"``: mean
        over positions. ``"none"``: every value.
    prefix_tokens : int or None
        Tokens before the image's in (N, T, C): class token, registers; dropped. None drops one where that leaves a
        square, none where T is one.
    """

    name: str = "max4-adaptive"
    prefix_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.name != "max4" and self.name not in _RULES:
            raise unknown_name("pooling", self.name, ["max4", *_RULES], EncoderError)

    @property
    def identity(self) -> str:
        """The rule in one word, with the number of dropped tokens where it was given."""
        return self.name if self.prefix_tokens is None else f"{self.name}-drop{self.prefix_tokens}"

    def __call__(self, h: Tensor) -> Tensor:
        """Return (N, width), never a view of ``h``; maps (N, C, H, W), tokens (N, T, C) or vectors (N, C) come in.

        Raises
        ------
        EncoderError
            An output of another shape, or tokens that are no square.
        """
        f_ND = self._pooled(h)
        # Modules that work in place would change a view after it was taken.
        shared = f_ND.untyped_storage().data_ptr() == h.untyped_storage().data_ptr()
        return f_ND.clone() if shared else f_ND

    def _pooled(self, h: Tensor) -> Tensor:
        """Return (N, width)."""
        if self.name == "max4":
            return pool_to_grid(h)
        if h.dim() == 2:
            return h
        h_NCHW = tokens_to_map(h, self.prefix_tokens) if h.dim() == 3 else h
        if h_NCHW.dim() != 4:
            raise EncoderError(
                "A layer's output can be neither a map, nor tokens, nor a vector",
                got=f"shape {tuple(h.shape)}",
                expected="(N, C, H, W), (N, T, C) or (N, C)",
                remedy="choose another layer with --layer; --list-layers shows the shapes",
            )
        function, side = _RULES[self.name]
        if function is not None and min(h_NCHW.shape[2:]) >= side:
            h_NCHW = function(h_NCHW, side)
        return torch.flatten(h_NCHW, 1)


def tokens_to_map(h_NTC: Tensor, prefix_tokens: int | None = None) -> Tensor:
    """Drop the class token (and registers) and lay the image's tokens out as a map.

    Parameters
    ----------
    h_NTC : Tensor
        Tokens (N, T, C), row by row.
    prefix_tokens : int or None
        How many to drop; None: see :class:`Pooling`.

    Returns
    -------
    Tensor
        (N, C, side, side).

    Raises
    ------
    EncoderError
        What is left is no square.
    """
    total = h_NTC.shape[1]
    # T and T - 1 are never both squares of a side above 1, so the shape tells.
    dropped = int(math.isqrt(total) ** 2 != total) if prefix_tokens is None else prefix_tokens
    side = math.isqrt(max(total - dropped, 0))
    if side == 0 or side * side != total - dropped:
        raise EncoderError(
            f"{total} tokens less {dropped} in front make no square grid",
            got=f"output of shape {tuple(h_NTC.shape)}",
            expected="(N, T, C), with T a square once class token and registers are dropped",
            remedy="choose another layer with --layer, square images, or Encoder(prefix_tokens=...) in Python",
        )
    return h_NTC[:, dropped:].transpose(1, 2).unflatten(2, (side, side))
