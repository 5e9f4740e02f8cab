"""Make a generator forget an object: find the maps that draw it from boxes around it, and leave them out.

Source: arXiv:1511.06434, section 6.3.1 and figure 6. Which layer is the second-highest: the paper dropped about 200
maps of it, and of the layers of its generator (1,024, 512, 256 and 128 maps) the last has too few; so it is what the
last but one convolution reads, after batch norm and rectifier. Deviations: the penalty is an elastic net on
standardised activations, where the paper names none. With a squared penalty every map has a weight, and half of those
that have nothing to do with the object a positive one; with absolute weights one of several maps that agree is left
behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ..errors import DcganEvalError
from ..models.dcgan import to_uint8
from ..models.networks import Generator
from ..models.presets import Preset
from ..seeding import derive, rng
from .drawing import in_batches

_FOLDS = 5
_FLOOR = 1e-9  # of the pixel change outside the boxes: a change inside alone has a finite ratio
_PENALTY = {"l1_ratio": 0.5, "C": 0.1, "solver": "saga", "tol": 1e-3, "max_iter": 1_000}
_DRAW_THEM = "draw them on the page that `dcgan-eval forget --annotate --out boxes.html` writes"


@dataclass(frozen=True)
class Forgotten:
    """What dropping maps did.

    Attributes
    ----------
    dropped : ndarray
        Indices of the maps with a positive weight.
    num_maps : int
        Maps of the layer.
    accuracy : float
        Of the logistic regression on images that it was not fitted to; half of the positions are positive.
    rows : int
        Positions that it was fitted to.
    images, without, without_random : ndarray
        uint8 (N, H, W, C): images with boxes as they are, without these maps, and without as many random others.
    ratio, ratio_random : float
        Mean absolute change of the pixels inside boxes over that outside; the second for the random maps.
    """

    dropped: np.ndarray
    num_maps: int
    accuracy: float
    rows: int
    images: np.ndarray
    without: np.ndarray
    without_random: np.ndarray
    ratio: float
    ratio_random: float

    def measured(self) -> dict[str, Any]:
        """Return the numbers of a finding."""
        return {
            "inside_over_outside": self.ratio,
            "inside_over_outside_random": self.ratio_random,
            "held_out_accuracy": self.accuracy,
            "positions": self.rows,
            "maps_dropped": len(self.dropped),
            "maps": self.num_maps,
            "dropped": self.dropped.tolist(),
        }


def forget(
    G: Generator, z_NZ: Tensor, boxes_B5: np.ndarray, seed: int = 0, device: torch.device | str = "cpu"
) -> Forgotten:
    """Find the maps that answer to boxes, and draw the images with boxes again without them.

    Parameters
    ----------
    G : Generator
        On the device, its batch norm frozen (:func:`~dcgan_eval.insight.drawing.settled_generator`); left as it is.
    z_NZ : Tensor
        Latent vectors of all samples.
    boxes_B5 : ndarray
        As :func:`read_boxes` returns them.
    seed : int
        Root seed of the negatives, the folds and the random maps.
    device : torch.device or str
        Where to draw.

    Raises
    ------
    DcganEvalError
        Boxes on one image alone, boxes that leave nothing outside, or no map with a positive weight.
    """
    place, rows = torch.device(device), np.unique(boxes_B5[:, 0])
    if len(rows) < 2:
        raise DcganEvalError(
            "Accuracy is measured on images that the fit has not seen",
            got="boxes on one image",
            expected="on two or more",
        )
    z_NZ = z_NZ[rows]
    marked = [boxes_B5[boxes_B5[:, 0] == row, 1:] for row in rows]
    h_NKHW = in_batches(lambda z: _read(G, z), z_NZ, place)
    x_MK, y_M, image_M = _positions(h_NKHW, marked, G.preset, seed)
    accuracy = _held_out_accuracy(x_MK, y_M, image_M, seed)
    weights_K = _regression(seed).fit(x_MK, y_M)[-1].coef_[0]
    dropped, num_maps = np.flatnonzero(weights_K > 0), len(weights_K)
    if not len(dropped):
        raise DcganEvalError(
            "No map answers to the boxes", remedy="draw more of them, or closer ones, around one object"
        )
    random = rng(seed, "random maps").permutation(num_maps)[: len(dropped)]
    before, *after = (in_batches(_without(G, maps), z_NZ, place) for maps in (random[:0], dropped, random))
    inside_NHW = np.stack([_pixels_inside(own_B4, G.preset) for own_B4 in marked])
    changes = [(x - before).abs().mean(1).double().numpy() for x in after]
    ratio, ratio_random = (float(c[inside_NHW].mean() / max(c[~inside_NHW].mean(), _FLOOR)) for c in changes)
    images, without, without_random = (to_uint8(x) for x in (before, *after))
    return Forgotten(
        dropped, num_maps, accuracy, len(y_M), images, without, without_random, ratio=ratio, ratio_random=ratio_random
    )


def _last_but_one(G: nn.Module) -> nn.Module:
    """Return the convolution that reads the second-highest layer."""
    return [m for m in G.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)][-2]


@contextmanager
def _watching(
    G: nn.Module, hook: Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]
) -> Iterator[None]:
    """Call a hook with the maps of the second-highest layer; what it returns is read instead of them."""
    handle = _last_but_one(G).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _read(G: Generator, z_NZ: Tensor) -> Tensor:
    """Return the maps of the second-highest layer, (N, K, h, w)."""
    kept: list[Tensor] = []
    with _watching(G, lambda _, inputs: kept.append(inputs[0].clone())):
        G.images(z_NZ)
    return kept[0]


def _without(G: Generator, maps: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Return what draws images with some maps at 0 everywhere."""

    def drop(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_fill(1, torch.from_numpy(maps).to(inputs[0].device), 0),)

    def draw(z_NZ: Tensor) -> Tensor:
        with _watching(G, drop):
            return G.images(z_NZ)

    return draw


def _positions(
    h_NKHW: Tensor, marked: list[np.ndarray], preset: Preset, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return activations of all positions in boxes and of as many random ones outside, (M, K); which; their images."""
    picks, rows, labels, images = rng(seed, "negatives"), [], [], []
    for i, (own_B4, h_KHW) in enumerate(zip(marked, h_NKHW.numpy(), strict=True)):
        inside_P = cells_inside(own_B4, preset, h_KHW.shape[1:]).ravel()
        outside = np.flatnonzero(~inside_P)
        if not len(outside):
            raise DcganEvalError("The boxes leave nothing outside them on an image", remedy="draw closer ones")
        count = min(int(inside_P.sum()), len(outside))
        chosen = np.concatenate([np.flatnonzero(inside_P), picks.choice(outside, count, replace=False)])
        rows.append(h_KHW.reshape(len(h_KHW), -1).T[chosen])
        labels.append(inside_P[chosen])
        images.append(np.full(len(chosen), i))
    return np.concatenate(rows), np.concatenate(labels), np.concatenate(images)


def cells_inside(boxes_B4: np.ndarray, preset: Preset, shape: tuple[int, ...]) -> np.ndarray:
    """Tell which positions of a map lie in a box: those whose middle does, and the one below the box's own middle.

    Parameters
    ----------
    boxes_B4 : ndarray
        x0, y0, x1, y1 in pixels, the last two exclusive.
    preset : Preset
        Of the generator, for the size of the images.
    shape : tuple of int
        Height and width of the map.
    """
    pixels_a_cell = preset.image_size / np.array(shape)
    y_H, x_W = ((np.arange(n) + 0.5) * size for n, size in zip(shape, pixels_a_cell, strict=True))
    inside_HW = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes_B4:
        inside_HW |= np.outer((y_H >= y0) & (y_H < y1), (x_W >= x0) & (x_W < x1))
        inside_HW[int((y0 + y1) / 2 / pixels_a_cell[0]), int((x0 + x1) / 2 / pixels_a_cell[1])] = True
    return inside_HW


def _pixels_inside(boxes_B4: np.ndarray, preset: Preset) -> np.ndarray:
    """Tell which pixels lie in a box, (H, W)."""
    return cells_inside(boxes_B4, preset, preset.image_shape[:2])


def _regression(seed: int) -> Pipeline:
    """Return the logistic regression on standardised activations."""
    return make_pipeline(StandardScaler(), LogisticRegression(random_state=derive(seed, "forget") % 2**32, **_PENALTY))


def _held_out_accuracy(x_MK: np.ndarray, y_M: np.ndarray, image_M: np.ndarray, seed: int) -> float:
    """Return the accuracy over all positions, each predicted by a fit without its image."""
    right_M = np.zeros(len(y_M), bool)
    for fit, test in GroupKFold(min(_FOLDS, len(np.unique(image_M)))).split(x_MK, y_M, image_M):
        right_M[test] = _regression(seed).fit(x_MK[fit], y_M[fit]).predict(x_MK[test]) == y_M[test]
    return float(right_M.mean())


def read_boxes(path: Path, preset: Preset, num_samples: int, made_from: Mapping[str, Any]) -> np.ndarray:
    """Read boxes around an object in numbered samples.

    Parameters
    ----------
    path : Path
        JSON: ``{"boxes": [[sample, x0, y0, x1, y1], ...]}`` in pixels, x1 and y1 exclusive, and what they lie on.
    preset : Preset
        Of the generator.
    num_samples : int
        Samples that there are.
    made_from : mapping
        What the samples are drawn from (``generator``, ``seed``): must be the file's, where the file says it.

    Returns
    -------
    ndarray
        int64 (B, 5).

    Raises
    ------
    DcganEvalError
        No such file, another form, no boxes, boxes of other samples or outside the images, or indices out of range.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        boxes = np.array(values["boxes"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DcganEvalError("The boxes cannot be read", got=f"{path}: {error!r}", remedy=_DRAW_THEM) from error
    for key, ours in made_from.items():
        if values.get(key, ours) != ours:
            raise DcganEvalError(
                "The boxes were drawn on other samples",
                got=f"{key} {values[key]}",
                expected=f"{key} {ours}",
                remedy="give the --weights and the --seed of the page that they were drawn on",
            )
    if not boxes.size:
        raise DcganEvalError("There are no boxes", got=str(path), remedy=_DRAW_THEM)
    if boxes.ndim != 2 or boxes.shape[1] != 5 or boxes.dtype.kind != "i":
        raise DcganEvalError(
            "The boxes have another form", got=str(path), expected="[sample, x0, y0, x1, y1] each, whole numbers"
        )
    _check_boxes(boxes, preset, num_samples)
    return boxes


def _check_boxes(boxes_B5: np.ndarray, preset: Preset, num_samples: int) -> None:
    """Raise unless all boxes lie on samples that there are."""
    samples, corners = boxes_B5[:, 0], boxes_B5[:, 1:]
    absent = samples[(samples < 0) | (samples >= num_samples)]
    if len(absent):
        raise DcganEvalError(
            "There are no such samples",
            got=", ".join(map(str, np.unique(absent))),
            expected=f"indices from 0 to {num_samples - 1}",
            remedy="raise --samples",
        )
    outside = ((corners < 0) | (corners > preset.image_size)).any(1) | (corners[:, :2] >= corners[:, 2:]).any(1)
    if outside.any():
        raise DcganEvalError(
            "A box is empty or lies outside its image",
            got=str(boxes_B5[outside][0].tolist()),
            expected=f"[sample, x0, y0, x1, y1] with 0 <= x0 < x1 <= {preset.image_size}, and so for y",
        )
