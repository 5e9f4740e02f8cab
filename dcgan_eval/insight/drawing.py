"""What the experiments look at: a generator that draws each image by itself, and D's features of any image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import to_device
from ..errors import DcganEvalError, WeightsError
from ..features.batchnorm import CALIBRATION_BATCH, dataset_statistics, frozen
from ..features.pooling import Pooling
from ..files import sha256_of
from ..models.bundled import read_manifest, resolve
from ..models.dcgan import Discriminator, Generator, grid_latents, sample_prior
from ..models.presets import Preset
from ..models.weights import load_network
from ..seeding import torch_generator

Draw = Callable[[Tensor], Tensor]  # latent vectors (N, Z) -> images (N, C, H, W) in [-1, 1]
Features = Callable[[Tensor], Tensor]  # images (N, C, H, W) in [-1, 1] -> (N, F)
CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class Pair:
    """A generator and, where there is one, its discriminator.

    Attributes
    ----------
    G, D : Generator, Discriminator or None
        On the device, in evaluation mode, as loaded.
    hashes : dict
        SHA-256 of their files.
    """

    G: Generator
    D: Discriminator | None
    hashes: dict[str, str]

    @property
    def preset(self) -> Preset:
        """Row of the preset table."""
        return self.G.preset

    def unconditional(self, experiment: str) -> Pair:
        """Return the pair, or raise where its generator has to be told classes."""
        if self.preset.num_classes:
            raise WeightsError(
                f"The generator needs labels, and {experiment} moves through latent vectors without any",
                got=self.preset.name,
                expected="a generator that is not told the class",
                remedy="choose another with --weights",
            )
        return self


def load_pair(weights: str | None, discriminator: str | None, device: torch.device) -> Pair:
    """Load a generator and its discriminator.

    Parameters
    ----------
    weights : str or None
        Bundled name or generator file; None is the bundled default's.
    discriminator : str or None
        Bundled name or discriminator file; None takes the one bundled under the same name, or the file beside the
        generator's whose name says ``discriminator`` instead of ``generator``; there need not be one.
    device : torch.device
        Where to put them.

    Raises
    ------
    WeightsError
        No such weights, or a discriminator of another preset.
    """
    path = resolve(weights, "generator")
    G = load_network(path, "generator")
    beside = _discriminator_path(path, weights, discriminator)
    D = None if beside is None else load_network(beside, "discriminator")
    assert isinstance(G, Generator), "load_network checks the header"
    assert D is None or isinstance(D, Discriminator), "load_network checks the header"
    if D is not None and D.preset != G.preset:
        raise WeightsError(
            "Generator and discriminator are not of one preset",
            got=f"{G.preset.name} and {D.preset.name}",
            remedy="choose its discriminator with --discriminator",
        )
    hashes = {"generator": sha256_of(path)} | ({} if beside is None else {"discriminator": sha256_of(beside)})
    return Pair(G.to(device), None if D is None else D.to(device), hashes)


def _discriminator_path(generator: Path, weights: str | None, discriminator: str | None) -> Path | None:
    """Find the discriminator of a generator."""
    if discriminator is not None:
        return resolve(discriminator)
    for entry in read_manifest()["weights"].values():
        if entry.get("generator", {}).get("file") == generator.name and "discriminator" in entry:
            return resolve(str(generator.with_name(entry["discriminator"]["file"])))
    beside = generator.with_name(generator.name.replace("generator", "discriminator"))
    return beside if beside != generator and beside.is_file() else None


def settled(G: Generator, seed: int) -> Draw:
    """Return what draws images with :func:`settled_generator`."""
    return settled_generator(G, seed).images


@torch.no_grad()
def settled_generator(G: Generator, seed: int) -> Generator:
    """Return a copy whose batch norm is frozen, so that an image depends on its own latent vector alone.

    Parameters
    ----------
    G : Generator
        Left as it is.
    seed : int
        Root seed of the latent vectors whose minibatch statistics are averaged and kept.

    Source: ours; the 2016 release draws with the statistics of the minibatch, where every image of a walk would depend
    on all others. The averages are taken as :func:`~dcgan_eval.features.batchnorm.dataset_statistics` does for D.
    """
    device = next(G.parameters()).device
    z = torch_generator(seed, "settle the generator")
    batches = (sample_prior(G.preset, CALIBRATION_BATCH, z).to(device) for _ in range(CALIBRATION_BATCHES))
    still = frozen(G, dataset_statistics(G, batches))
    assert isinstance(still, Generator), "a copy of one"
    return still


@torch.no_grad()
def feature_maker(D: Discriminator, images_NHWC: np.ndarray) -> Features:
    """Return the paper's features of D, with batch-norm statistics of some images.

    Parameters
    ----------
    D : Discriminator
        Left as it is; not conditional.
    images_NHWC : ndarray
        uint8, the images whose statistics are kept; the first 1,024 are used.

    Raises
    ------
    WeightsError
        D has to be told classes.
    """
    if D.preset.num_classes:
        raise WeightsError(
            "The discriminator needs labels, so it has no features of images alone",
            got=D.preset.name,
            remedy="choose another with --discriminator",
        )
    still = settled_discriminator(D, images_NHWC)
    pooling = Pooling()

    def features(x_NCHW: Tensor) -> Tensor:
        maps, h_NCHW = [], x_NCHW
        for block in still.blocks():
            h_NCHW = block(h_NCHW)
            maps.append(pooling(h_NCHW))  # (N, C * 16); a copy, because blocks work in place
        return torch.cat(maps, 1)

    return features


@torch.no_grad()
def settled_discriminator(D: Discriminator, images_NHWC: np.ndarray) -> Discriminator:
    """Return a copy of D whose batch norm keeps the statistics of some images, in minibatches of up to 128."""
    x_NCHW = from_uint8(images_NHWC[: CALIBRATION_BATCH * CALIBRATION_BATCHES], next(D.parameters()).device)
    size = min(CALIBRATION_BATCH, len(x_NCHW))
    batches = [batch for batch in x_NCHW.split(size) if len(batch) == size]
    still = frozen(D, dataset_statistics(D, batches))
    assert isinstance(still, Discriminator), "a copy of one"
    return still


def from_uint8(images_NHWC: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 images (N, H, W, C) as float32 (N, C, H, W) in [-1, 1] on a device."""
    x_NHWC = to_device(torch.from_numpy(np.ascontiguousarray(images_NHWC)), device).float()
    return (x_NHWC / 127.5 - 1).permute(0, 3, 1, 2)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device, size: int = 256) -> Tensor:
    """Apply a function to a tensor in batches on a device, and return all of the result on the CPU."""
    return torch.cat([function(to_device(batch, device)).float().cpu() for batch in x.split(size)])


def chosen_latents(text: str, preset: Preset, num_samples: int, seed: int) -> Tensor:
    """Return the latent vectors that an option names.

    Parameters
    ----------
    text : str
        Indices of a sample grid, ``"3,17,40"``, or a file that :func:`read_latents` reads.
    preset : Preset
        Of the generator.
    num_samples, seed : int
        Of the grid, see :func:`~dcgan_eval.models.dcgan.grid_latents`.

    Raises
    ------
    DcganEvalError
        Indices outside the grid, none at all, or a file that does not hold latent vectors of the width.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        return read_latents(Path(text), preset)
    outside = [part for part in parts if int(part) >= num_samples]
    if outside:
        raise DcganEvalError(
            "There are no such samples",
            got=", ".join(outside),
            expected=f"indices from 0 to {num_samples - 1}",
            remedy="look at `dcgan-eval samples --numbered`, or raise --samples",
        )
    return grid_latents(preset, num_samples, seed)[[int(part) for part in parts]]


def read_latents(path: Path, preset: Preset) -> Tensor:
    """Read latent vectors from a ``.npy`` or ``.json`` file.

    Returns
    -------
    Tensor
        (N, z_dim + num_classes), float32.

    Raises
    ------
    DcganEvalError
        No such file, another form, an empty list, another width, or values that are not finite.
    """
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_text())
        z_NZ = np.atleast_2d(np.asarray(values, np.float32))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DcganEvalError(
            "Latent vectors cannot be read",
            got=f"{path}: {error}",
            expected="indices such as 3,17,40, or a .npy or .json file of one row for each vector",
        ) from error
    width = preset.z_dim + preset.num_classes
    if z_NZ.ndim != 2 or z_NZ.shape[1] != width or not len(z_NZ) or not np.isfinite(z_NZ).all():
        raise DcganEvalError(
            f"The latent vectors in {path} do not fit the generator",
            got=f"shape {tuple(z_NZ.shape)}" + ("" if np.isfinite(z_NZ).all() else ", not all finite"),
            expected=f"(N, {width}) finite numbers, N at least 1",
        )
    return torch.from_numpy(z_NZ)


def outside_prior(preset: Preset, z_NZ: Tensor) -> dict[str, Any]:
    """Return how far latent vectors are outside the prior: the share of entries beyond +-1 and the largest size.

    A Gaussian prior has no outside: there the share counts entries beyond three standard deviations.
    """
    bound = 1.0 if preset.prior == "uniform" else 3.0
    return {"share_outside_prior": float((z_NZ.abs() > bound).float().mean()), "largest_z": float(z_NZ.abs().max())}
