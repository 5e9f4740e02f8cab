"""Near-duplicates by a semantic hash: an autoencoder's code, thresholded to bits, and one pass over a hash table.

Source: arXiv:1511.06434, section 4.1.1: a 3072-128-3072 denoising, dropout-regularised ReLU autoencoder on 32x32 centre
crops, whose code layer is thresholded. Deviations: each image is first brought to mean 0 and deviation 1, so that
brightness and contrast do not count; and an image is looked up not by its code alone but also with up to three of its
ten most doubtful bits turned over (Lv et al., "Multi-probe LSH", VLDB 2007), because a bit near its threshold falls
either way. That is still one table, and the same number of look-ups for each image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from ..data.decoding import Pixels
from ..data.resize import shrink_all
from ..devices import seeded
from ..progress import Progress, no_progress
from ..seeding import derive, rng
from .drawing import from_uint8

SIDE, BITS = 32, 128
DOUBTFUL, TURNED = 10, 3  # bits of a code that may be turned over, and how many at once
_NOISE, _DROPOUT = 0.5, 0.5  # deviation of what is added to images of deviation 1; share of the code that is dropped
BATCHES = 1_000
_BATCH, _RATE = 256, 1e-3
_BLOCK = 8_192  # images at once
_FLAT = 0.05  # added to deviations in units of the white level, so that even images do not become noise


class Autoencoder(nn.Module):
    """3072-128-3072, ReLU in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(SIDE * SIDE * 3, BITS)
        self.decode = nn.Linear(BITS, SIDE * SIDE * 3)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return images as the code gives them back; in training mode from noise and with parts of the code dropped."""
        if self.training:
            x_ND = x_ND + _NOISE * torch.randn_like(x_ND)
        h_NB = nn.functional.dropout(torch.relu(self.encode(x_ND)), _DROPOUT, self.training)  # (N, 128)
        restored_ND: Tensor = self.decode(h_NB)
        return restored_ND


@dataclass(frozen=True)
class Codes:
    """Bits of images.

    Attributes
    ----------
    words : ndarray
        uint64 (N, 2): the 128 bits.
    doubtful : ndarray
        uint8 (N, 10): the bits whose activation is nearest to 0, nearest first.
    """

    words: np.ndarray
    doubtful: np.ndarray


def prepare(images_NHWC: Pixels, device: torch.device) -> Tensor:
    """Return 32x32 crops with mean 0 and deviation 1, float32 (N, 3072); grey is repeated over the channels."""
    x_NCHW = from_uint8(shrink_all(images_NHWC, SIDE), device).expand(-1, 3, -1, -1)
    x_ND = x_NCHW.flatten(1) / 2  # white less black is 1
    x_ND = x_ND - x_ND.mean(1, keepdim=True)
    return x_ND / (x_ND.std(1, keepdim=True) + _FLAT)


def train(
    images_NHWC: Pixels,
    seed: int,
    device: torch.device,
    num_batches: int = BATCHES,
    on_progress: Progress = no_progress,
) -> Autoencoder:
    """Train the autoencoder on random minibatches.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8, at least 32x32; may be mapped from a file.
    seed : int
        Root seed.
    device : torch.device
        Where to train.
    num_batches : int
        Minibatches of 256.
    on_progress : callable
        Called with (what, images seen, images in all).
    """
    picks = rng(seed, "dedup minibatches")
    with seeded(derive(seed, "dedup autoencoder"), device):
        model = Autoencoder().to(device)
        optimiser = torch.optim.Adam(model.parameters(), _RATE)
        for batch in range(1, num_batches + 1):
            rows = np.sort(picks.integers(0, len(images_NHWC), _BATCH))  # sorted: a mapped file is read forwards
            x_ND = prepare(images_NHWC[rows], device)
            loss = (model(x_ND) - x_ND).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            on_progress("training the autoencoder", batch * _BATCH, num_batches * _BATCH)
    return model.eval()


@torch.no_grad()
def encode(model: Autoencoder, images_NHWC: Pixels, device: torch.device, on_progress: Progress = no_progress) -> Codes:
    """Return the codes of all images, in blocks.

    Parameters
    ----------
    model : Autoencoder
        On the device.
    images_NHWC : ndarray
        uint8, at least 32x32; may be mapped from a file.
    device : torch.device
        Where to compute.
    on_progress : callable
        Called with (what, images done, images in all).
    """
    words = np.empty((len(images_NHWC), BITS // 64), np.uint64)
    doubtful = np.empty((len(images_NHWC), DOUBTFUL), np.uint8)
    for rows in _blocks(len(images_NHWC)):
        h_NB = model.encode(prepare(images_NHWC[rows], device))  # (N, 128), before the rectifier: the bit is its sign
        words[rows] = np.packbits(h_NB.cpu().numpy() > 0, axis=1, bitorder="little").view("<u8")
        doubtful[rows] = h_NB.abs().topk(DOUBTFUL, largest=False).indices.cpu().numpy()
        on_progress("features for the hash", rows.stop, len(images_NHWC))
    return Codes(words, doubtful)


def _blocks(count: int) -> Iterator[slice]:
    """Cut rows into blocks."""
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def first_alike(codes: Codes, *, turned: bool = True) -> np.ndarray:
    """Return for each image the first one that is taken for the same, int64 (N,): itself, if it is new.

    Parameters
    ----------
    codes : Codes
        Of all images.
    turned : bool
        Look up codes with doubtful bits turned over too; without it only equal codes are the same, as in the paper.
    """
    words, count = codes.words, len(codes.words)
    rows, others = _of_one_hash(codes, turned)
    alike = np.bitwise_count(words[rows] ^ words[others]).sum(1) <= TURNED  # two codes may share a hash of 64 bits
    rows, others = rows[alike], others[alike]
    graph = coo_array((np.ones(len(rows), bool), (rows, others)), shape=(count, count)).tocsr()
    num_groups, group = connected_components(graph, directed=False)
    return _first_rows(group, num_groups)[group]


def _of_one_hash(codes: Codes, turned: bool) -> np.ndarray:
    """Return (2, M): rows, and others whose hash is theirs, or, if turned, theirs with doubtful bits turned over."""
    marks = rng(0, "semantic hash").integers(0, 2**64, BITS, np.uint64)
    first, distinct, again = _distinct(codes.words, marks)
    edges = [again]
    if turned:
        table = pd.Index(distinct)
        edges += [_turned_over(codes, first, distinct, b, marks, table) for b in _blocks(len(first))]
    return np.concatenate(edges, axis=1)


def _distinct(words: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first row of each distinct hash, the hashes, and (2, M): rows whose hash came before, and where first.

    A hash is the XOR of a random number for each bit that is set (Zobrist), so that turning a bit over is one more XOR.
    """
    count = len(words)
    hashes = np.concatenate([np.bitwise_xor.reduce(_bits(words[b]) * marks, axis=1) for b in _blocks(count)])
    of_row, distinct = pd.factorize(hashes)
    first = _first_rows(of_row, len(distinct))
    again = np.flatnonzero(first[of_row] != np.arange(count))  # few: memory is kept for what is the same only
    return first, distinct, np.stack([again, first[of_row[again]]])


def _first_rows(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return the first row that holds each of the numbers from 0 on."""
    first = np.empty(count, np.int64)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of several values for one place the last stays
    return first


def _bits(words: np.ndarray) -> np.ndarray:
    """Return codes as 0 and 1, uint64 (N, 128)."""
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.uint64)


def _turned_over(
    codes: Codes, first: np.ndarray, distinct: np.ndarray, block: slice, marks: np.ndarray, table: pd.Index
) -> np.ndarray:
    """Return (2, M): rows of a block, and the rows whose code is theirs with one or more doubtful bits turned over."""
    rows, flips_RD = first[block], marks[codes.doubtful[first[block]]]
    found = []
    for bits in itertools.chain(*(itertools.combinations(range(DOUBTFUL), n + 1) for n in range(TURNED))):
        at = table.get_indexer(distinct[block] ^ np.bitwise_xor.reduce(flips_RD[:, bits], axis=1))
        found.append(np.stack([rows[at >= 0], first[at[at >= 0]]]))
    return np.concatenate(found, axis=1)


def closest(codes: Codes, kept: np.ndarray, count: int, seed: int, sampled: int = 1_000) -> list[tuple[int, int, int]]:
    """Return pairs of kept images whose codes differ least, nearest first, as (row, row, bits).

    Parameters
    ----------
    codes : Codes
        Of all images.
    kept : ndarray
        Rows that are kept.
    count : int
        Pairs.
    seed : int
        Root seed of the images that are compared with all others.
    sampled : int
        How many these are.
    """
    asked = np.sort(rng(seed, "closest pairs").permutation(kept)[:sampled])
    best: dict[tuple[int, int], int] = {}
    for row in asked:
        bits = np.bitwise_count(codes.words[kept] ^ codes.words[row]).sum(1, dtype=np.int64)
        bits[kept == row] = BITS + 1
        near = int(bits.argmin())
        other = int(kept[near])
        best[min(int(row), other), max(int(row), other)] = int(bits[near])
    nearest = sorted((bits, pair) for pair, bits in best.items() if bits <= BITS)
    return [(*pair, bits) for bits, pair in nearest[:count]]


def measured(first: np.ndarray, exact: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return the numbers of a finding, with the groups by name.

    Parameters
    ----------
    first, exact : ndarray
        As :func:`first_alike` gives them, with and without doubtful bits.
    names : list of str
        Of all images.
    """
    rows = np.arange(len(first))
    dropped = np.flatnonzero(first != rows)
    groups: dict[int, list[str]] = {}
    for row in dropped.tolist():
        groups.setdefault(int(first[row]), []).append(names[row])
    return {
        "dropped": len(dropped),
        "dropped_by_equal_codes": int((exact != rows).sum()),
        "images": len(first),
        "kept": len(first) - len(dropped),
        "groups": [{"kept": names[row], "dropped": others} for row, others in sorted(groups.items())],
    }
