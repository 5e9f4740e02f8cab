"""A perceptron with one hidden layer on standardised features: what a linear classifier leaves in them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..devices import seeded
from ..seeding import derive, torch_generator
from ..svm.objective import check_finite, linear_scores
from ..svm.rows import Rows
from ..svm.targets import encode


@dataclass(frozen=True)
class MlpOptions:
    """What a perceptron is and how it is trained; fixed, and kept in the record.

    Attributes
    ----------
    width : int
        Hidden units.
    epochs : int
        Passes over the training rows, at least.
    least_steps : int
        Of few rows there are more passes, so that there are this many steps.
    minibatch : int
        Rows of a step.
    learning_rate : float
        Of AdamW at the start; it falls to 0 along a half cosine.
    seed : int
        Root seed of the start and of the order of the rows.
    """

    width: int = 256
    epochs: int = 20
    least_steps: int = 400
    minibatch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class MlpFit:
    """A trained perceptron, the standardisation folded into its first layer.

    Attributes
    ----------
    value : float
        Weight decay.
    num_rows : int
        Training rows.
    layers : tuple of (ndarray, ndarray)
        Weights and biases of both layers, float64: (H, D), (H,) and (K, H), (K,).
    classes : ndarray
        Labels in order, (K,).
    status : str
        ``"trained"`` for the stated time (no optimum is claimed), or ``"non_finite"``.
    loss : float
        Mean cross-entropy of the last epoch, in nats.
    time_s : float
        Wall time.
    """

    value: float
    num_rows: int
    layers: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    classes: np.ndarray
    status: str
    loss: float
    time_s: float
    duality_gap: float | None = None

    def details(self) -> dict[str, Any]:
        """Return how the fit ended."""
        return {"loss": self.loss, "time_s": self.time_s}

    def without_rows(self) -> MlpFit:
        """Return the fit: it holds weights alone."""
        return self


class MlpClassifier:
    """``softmax(W2 relu(W1 x + b1) + b2)`` trained on cross-entropy by AdamW; its weight decay is chosen.

    Rows are read at random, so features that memory does not hold take long.

    Parameters
    ----------
    options : MlpOptions
        What else decides the numbers.
    """

    name, parameter, keeps_rows, probabilities = "mlp", "weight_decay", False, True
    values: tuple[float, ...] = (1e-1, 1.0, 10.0)
    patience = len(values)

    def __init__(self, options: MlpOptions | None = None):
        self.options = options or MlpOptions()

    def path(self, X: Any, y: np.ndarray, X_val: Any) -> Iterator[tuple[MlpFit, np.ndarray]]:
        """Yield fits, each from the same start, and validation predictions for ascending weight decay."""
        for value in self.values:
            fit = self.fit(X, y, value)
            yield fit, self.predict([fit], X_val)[0]

    def fit(self, X: Any, y: np.ndarray, value: float) -> MlpFit:
        """Return the perceptron trained with one weight decay."""
        began = time.perf_counter()
        rows = Rows(X, 0.0, memory_bytes=0)
        mean, spread = _moments(rows)
        classes, index = encode(y, rows.num_rows)
        net, loss = _trained(X, index, len(classes), mean, spread, value, self.options)
        W1, b1, W2, b2 = (parameter.detach().double() for parameter in net.parameters())
        W1 = W1 / spread  # W1 (x - mean) / spread + b1
        layers = ((W1.numpy(), (b1 - W1 @ mean).numpy()), (W2.numpy(), b2.numpy()))
        status = "trained" if math.isfinite(loss) else "non_finite"
        return MlpFit(value, rows.num_rows, layers, classes, status, loss, time.perf_counter() - began)

    def predict(self, fits: Sequence[MlpFit], X: Any) -> list[np.ndarray]:
        """Return the most probable labels of every fit."""
        return [fit.classes[s.argmax(1)] for fit, s in zip(fits, self.scores(fits, X), strict=True)]

    def scores(self, fits: Sequence[MlpFit], X: Any) -> list[np.ndarray]:
        """Return the logits (N, K) of every fit."""
        hidden = (np.maximum(linear_scores(X, *fit.layers[0]), 0) for fit in fits)
        return [h @ fit.layers[1][0].T + fit.layers[1][1] for fit, h in zip(fits, hidden, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Return what decides the numbers."""
        return asdict(self.options)


def _moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every feature, (D,) float64; 1 for features that do not vary."""
    check_finite(rows)
    ones = torch.ones(rows.num_rows, 1, dtype=torch.float64)
    mean = rows.adjoint(ones, torch.float64)[0, :-1] / rows.num_rows
    squares = torch.zeros_like(mean)
    for _, block in rows.blocks(torch.float64):
        squares += (block - mean).square_().sum(0)
    spread = (squares / rows.num_rows).sqrt()
    return mean, torch.where(spread > 0, spread, 1.0)


def _trained(
    X: Any, index: Tensor, num_classes: int, mean: Tensor, spread: Tensor, decay: float, options: MlpOptions
) -> tuple[nn.Sequential, float]:
    """Train on standardised rows; return the network and the mean loss of its last epoch."""
    with seeded(derive(options.seed, "mlp")):
        net = nn.Sequential(nn.Linear(len(mean), options.width), nn.ReLU(), nn.Linear(options.width, num_classes))
    shuffle, losses = torch_generator(options.seed, "mlp rows"), list[float]()
    mean, spread = mean.float(), spread.float()
    steps_per_epoch = -(-len(index) // options.minibatch)
    epochs = max(options.epochs, -(-options.least_steps // steps_per_epoch))
    adam = torch.optim.AdamW(net.parameters(), options.learning_rate, weight_decay=decay, fused=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs * steps_per_epoch)
    for _ in range(epochs):
        losses.clear()
        for rows in torch.randperm(len(index), generator=shuffle).split(options.minibatch):
            x_BD = (torch.as_tensor(X[rows.numpy()], dtype=torch.float32) - mean) / spread
            loss = nn.functional.cross_entropy(net(x_BD), index[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            falling.step()
            losses.append(float(loss.detach()) * len(rows))
    return net, sum(losses) / len(index)
