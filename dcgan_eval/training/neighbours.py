"""The nearest-neighbour score that the authors logged: how near generated images come to images never trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.dcgan import sample_prior, to_unit_range
from ..seeding import torch_generator
from .trainer import BaseTrainer

COUNTS = (1_000, 10_000, 100_000)
_BATCH = 500


@torch.no_grad()
def nearest_distances(held_out_ND: Tensor, samples_MD: Tensor, best_N: Tensor | None = None) -> Tensor:
    """Return the Euclidean distance from each image to the nearest sample.

    Parameters
    ----------
    held_out_ND, samples_MD : Tensor
        Flat images.
    best_N : Tensor or None
        Distances to earlier samples, to be improved on.

    Returns
    -------
    Tensor
        (N,).
    """
    found_N = torch.cdist(held_out_ND.float(), samples_MD.float()).amin(1)
    return found_N if best_N is None else torch.minimum(found_N, best_N)


@torch.no_grad()
def neighbour_score(trainer: BaseTrainer, counts: tuple[int, ...] = COUNTS) -> dict[str, float]:
    """Return the mean distance from the held-out images to the nearest of 1,000, 10,000 and 100,000 samples.

    Parameters
    ----------
    trainer : BaseTrainer
        With images held out and a generator. Samples come from fixed z, with the statistics of their minibatch, and
        from a copy of the generator: one process can do this alone.
    counts : tuple of int
        Numbers of samples, ascending.

    Returns
    -------
    dict
        ``nearest_<count>``: mean Euclidean distance over images scaled to [-1, 1].

    Source: logged by the 2016 release during training. Deviations: minibatches of 500 for the statistics.
    """
    held_out_ND = to_unit_range(trainer.feed.held_out_NHWC).flatten(1)
    z = torch_generator(0, "nearest-neighbour samples", device=trainer.device)
    best_N, scores, drawn = None, {}, 0
    G = trainer.networks()[1]
    assert G is not None, "only pairs are asked for samples"
    G.train().to(trainer.device)
    while drawn < counts[-1]:
        step = min([_BATCH, *(count - drawn for count in counts if count > drawn)])
        samples = G.images(sample_prior(trainer.preset, step, z)).flatten(1)
        best_N, drawn = nearest_distances(held_out_ND, samples, best_N), drawn + step
        if drawn in counts:
            scores[f"nearest_{drawn}"] = float(best_N.mean())
    return scores
