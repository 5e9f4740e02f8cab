"""Pooling of feature maps to a small grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, max_pool2d

from ..errors import DcganEvalError, EncoderError, unknown_name
from ..models.presets import GRID

_GEM_POWER = 3  # Radenovic, Tolias & Chum, arXiv:1711.02512, equation 3, with the power that they start from
_WINDOWS: dict[str, tuple[Callable[[Tensor, int], Tensor], int]] = {
    "max4-adaptive": (adaptive_max_pool2d, GRID),
    "avg4-adaptive": (adaptive_avg_pool2d, GRID),
}
_MEANS = ("avg1", "gem", "cls+avg1")  # over positions, of which a square is not asked
POOLINGS = (
    "max4",
    "avg4",
    "avg1",
    "gem",
    "cls",
    "cls+avg1",
    "none",
)  # as asked for; ``Pooling.name`` says what is done
LAYOUTS = ("auto", "nchw", "nhwc")


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
        over positions; ``"gem"``: generalised mean over positions, of the third power; ``"cls"``: the first token;
        ``"cls+avg1"``: both, joined. ``"none"``: every value.
    prefix_tokens : int or None
        Tokens before the image's in (N, T, C): class token, registers; dropped. None drops one where that leaves a
        square, none where T is one.
    layout : str
        Axes of maps: ``"nchw"``, ``"nhwc"``, or ``"auto"``, as ``layouts`` says.
    layouts : dict
        Layer -> what was found by running it (see :func:`~dcgan_eval.features.layers.find_layouts`).
    """

    name: str = "max4-adaptive"
    prefix_tokens: int | None = None
    layout: str = "auto"
    layouts: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        known = ("max4", *_WINDOWS, *_MEANS, "cls", "none")
        if self.name not in known:
            raise unknown_name("pooling", self.name, known, EncoderError)
        if self.layout not in LAYOUTS:
            raise unknown_name("layout", self.layout, LAYOUTS, EncoderError)

    @property
    def identity(self) -> str:
        """The rule in one word, with the number of dropped tokens and the layout where they were given."""
        told = "" if self.prefix_tokens is None else f"-drop{self.prefix_tokens}"
        return f"{self.name}{told}" + ("" if self.layout == "auto" else f"-{self.layout}")

    def __call__(self, h: Tensor, layer: str = "") -> Tensor:
        """Return (N, width), never a view of ``h``; maps, tokens (N, T, C) or vectors (N, C) come in.

        Raises
        ------
        EncoderError
            An output of another shape, or tokens that are no square.
        """
        f_ND = self._pooled(h, self.layouts.get(layer, "nchw") if self.layout == "auto" else self.layout)
        # Modules that work in place would change a view after it was taken.
        shared = f_ND.untyped_storage().data_ptr() == h.untyped_storage().data_ptr()
        return f_ND.clone() if shared else f_ND

    def _pooled(self, h: Tensor, layout: str) -> Tensor:
        """Return (N, width)."""
        if self.name == "max4":
            return pool_to_grid(h)
        if h.dim() == 2:
            return h
        if h.dim() not in (3, 4):
            raise EncoderError(
                "A layer's output can be neither a map, nor tokens, nor a vector",
                got=f"shape {tuple(h.shape)}",
                expected="(N, C, H, W), (N, H, W, C), (N, T, C) or (N, C)",
                remedy="choose another layer with --layer; --list-layers shows the shapes",
            )
        if h.dim() == 4 and layout == "nhwc":
            h = h.permute(0, 3, 1, 2)  # (N, C, H, W)
        if self.name.startswith("cls"):
            first_NC = _class_token(h, self.prefix_tokens)
            return first_NC if self.name == "cls" else torch.cat([first_NC, _mean(h, self.prefix_tokens)], 1)
        if self.name in _MEANS:
            return _mean(h, self.prefix_tokens, _GEM_POWER if self.name == "gem" else 1)
        h_NCHW = tokens_to_map(h, self.prefix_tokens) if h.dim() == 3 else h
        if self.name in _WINDOWS:
            function, side = _WINDOWS[self.name]
            h_NCHW = function(h_NCHW, side) if min(h_NCHW.shape[2:]) >= side else h_NCHW
        return torch.flatten(h_NCHW, 1)


def _class_token(h: Tensor, prefix_tokens: int | None) -> Tensor:
    """Return the first token (N, C)."""
    if h.dim() != 3 or _in_front(h.shape[1], prefix_tokens) == 0:
        raise EncoderError(
            "The layer has no class token",
            got=f"output of shape {tuple(h.shape)}",
            expected="tokens (N, T, C) with at least one in front of the image's",
            remedy="choose another rule with --pool, or tell Encoder(prefix_tokens=...) in Python",
        )
    return h[:, 0]


def _mean(h: Tensor, prefix_tokens: int | None, power: int = 1) -> Tensor:
    """Return the mean over positions, (N, C), or the generalised mean of a power (which clips what is not positive)."""
    h_NCP = h[:, _in_front(h.shape[1], prefix_tokens) :].transpose(1, 2) if h.dim() == 3 else h.flatten(2)
    if power == 1:
        return h_NCP.mean(2)
    return h_NCP.clamp(min=1e-6).pow(power).mean(2).pow(1 / power)


def _in_front(total: int, prefix_tokens: int | None) -> int:
    """Return how many of the tokens are not the image's: T and T - 1 are never both squares of a side above 1."""
    return int(math.isqrt(total) ** 2 != total) if prefix_tokens is None else prefix_tokens


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
    dropped = _in_front(total, prefix_tokens)
    side = math.isqrt(max(total - dropped, 0))
    if side == 0 or side * side != total - dropped:
        raise EncoderError(
            f"{total} tokens less {dropped} in front make no square grid",
            got=f"output of shape {tuple(h_NTC.shape)}",
            expected="(N, T, C), with T a square once class token and registers are dropped",
            remedy="choose another layer with --layer, square images, or Encoder(prefix_tokens=...) in Python",
        )
    return h_NTC[:, dropped:].transpose(1, 2).unflatten(2, (side, side))
