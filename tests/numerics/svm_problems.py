"""Problems with known answers, and an independent certificate, for the solver tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Known:
    """A problem whose exact optimum is known: data, signs, cost, weights."""

    X: np.ndarray
    signs: np.ndarray
    C: float
    w: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Class labels: 1 where the sign is positive."""
        return (self.signs > 0).astype(int)


def known_optimum(num_rows: int, num_features: int, C: float, seed: int, spread: float = 1.0) -> Known:
    """Construct data for which a chosen w is the optimum of the L2-SVM without intercept.

    Margins m and signs y are chosen; a = 2 C max(0, 1 - m) must be the dual optimum, so w = sum a_i y_i x_i and
    y_i w.x_i = m_i must both hold, which two rank-one corrections of random rows arrange.
    """
    rng = np.random.default_rng(seed)
    signs = np.where(rng.random(num_rows) < 0.5, -1.0, 1.0)
    signs[:2] = [-1.0, 1.0]
    margins = rng.uniform(0.1, 1.6, num_rows)
    a = 2 * C * np.maximum(0, 1 - margins)
    w = rng.standard_normal(num_features)
    w *= np.sqrt(a @ margins / (w @ w))
    Z = spread * rng.standard_normal((num_rows, num_features))
    Z -= np.outer(Z @ w, w) / (w @ w)
    Z -= np.outer(a, a @ Z) / (a @ a)
    return Known(signs[:, None] * (Z + np.outer(margins, w) / (w @ w)), signs, C, w)


def dual_gap(X: np.ndarray, signs: np.ndarray, C: float | np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Recompute (primal, relative gap) of one problem from the definitions of primal and dual, in float64.

    Written out from the dual ``sum a - 1/2 ||sum a_i y_i x_i||^2 - sum a^2 / (4 C)``, not from the closed form of the
    gap that the package uses.
    """
    X = X.astype(np.float64)
    hinge = np.maximum(0, 1 - signs * (X @ w))
    primal = 0.5 * w @ w + np.sum(C * hinge**2)
    a = 2 * C * hinge
    v = (a * signs) @ X
    dual = a.sum() - 0.5 * v @ v - np.sum(a**2 / (4 * C))
    return primal, (primal - dual) / primal


def with_constant(X: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Append the constant feature, in float64."""
    return np.column_stack([X.astype(np.float64), np.full(len(X), scale)])


def correlated(num_rows: int, num_features: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw features like a discriminator's: a large mean, a 1/k spectrum, classes that overlap; labels 0..K-1."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_rows) % num_classes
    rank = min(num_rows, num_features, 64)
    scale = np.arange(1, rank + 1) ** -0.5
    latent = rng.standard_normal((num_rows, rank)) + rng.standard_normal((num_classes, rank))[y]
    X = (latent * scale) @ rng.standard_normal((rank, num_features)) + 3.0
    X += 0.3 * rng.standard_normal(X.shape)
    return np.where(X > 0, X, 0.2 * X), y


class Watch(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that an operation returned, and the precision of products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.precisions = 0, set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel() * result.element_size())
        if "mm" in str(function):
            self.precisions.add(torch.get_float32_matmul_precision())
        return result


def features_like(num_rows: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose spectrum falls by powers around a common mean, and classes that overlap: many rows cross hinges."""
    rng = np.random.default_rng(seed)
    y = np.arange(num_rows) % classes
    X = 1 + rng.standard_normal((num_rows, 700)) * 6 / (1 + np.arange(700)) ** 0.6
    return (X + 0.7 * np.eye(classes, 700, 30)[y]).astype(np.float32), y
