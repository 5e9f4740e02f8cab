"""Single-layer K-means features of whitened patches (Coates, Ng & Lee 2011), learned from unlabelled training images.

Source: "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011, and the code its authors
published. Deviations: the random numbers, and the order of the four quadrants in the vector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.imageset import ImageSet
from ..devices import to_device
from ..errors import DcganEvalError, StoreError, WeightsError
from ..features.fill import Filler, refuse_mixed
from ..features.store import FeatureStore
from ..features.store_file import StoreIdentity
from ..models.weights import read_tensors, save_tensors
from ..progress import Progress, no_progress
from ..seeding import rng, torch_generator
from ..svm import decide

PUBLISHED_C = 100.0  # the authors minimise 1/2 ||w||^2 + C * mean(...), so our C is this over the number of rows

_FORMAT = "dcgan-eval-kmeans-2"
_CONTRAST_OFFSET = 10.0  # added to a patch's variance, on the scale of 0 to 255
_WHITENING_OFFSET = 0.1  # added to the eigenvalues of the covariance
_STANDARD_OFFSET = 0.01  # added to a feature's variance
_BLOCK_PATCHES = 512  # a block's products with 1,600 centroids stay in the cache
_GPU_PATCHES = 1 << 16  # the same on a GPU, where few large kernels count


@dataclass(frozen=True)
class KMeansOptions:
    """What decides the features; the defaults are the published setting for K = 1600.

    Attributes
    ----------
    num_centroids : int
        K; an image has 4 K features.
    hard : bool
        One-hot assignment to the nearest centroid instead of the triangle activation.
    side : int
        Side of a patch, pixels.
    num_patches : int
        Patches from which whitening and centroids are learned.
    iterations : int
        Of K-means.
    seed : int
        Of patches and initial centroids.
    """

    num_centroids: int = 1600
    hard: bool = False
    side: int = 6
    num_patches: int = 400_000
    iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--centroids", self.num_centroids, 2),
            ("--patches", self.num_patches, 2),
            ("--iterations", self.iterations, 1),
        ):
            if value < least:
                raise DcganEvalError(
                    f"The value of {flag} cannot be used",
                    got=str(value),
                    expected=f"at least {least}",
                    remedy=f"raise {flag}",
                )


@dataclass(frozen=True)
class Codebook:
    """What is learned from the patches.

    Attributes
    ----------
    mean, whitening : Tensor
        A contrast-normalised patch x (D,) becomes ``(x - mean) @ whitening``, (D,) and (D, D), float32.
    centroids : Tensor
        (K, D), float32, in whitened space.
    num_empty : int
        Centroids without a patch after the last iteration; they are zero, as in the published code.
    """

    mean: Tensor
    whitening: Tensor
    centroids: Tensor
    num_empty: int

    @property
    def sha256(self) -> str:
        """Hash of the tensors."""
        tensors = (self.mean, self.whitening, self.centroids)
        return hashlib.sha256(b"".join(t.cpu().contiguous().numpy().tobytes() for t in tensors)).hexdigest()

    def to(self, device: torch.device) -> Codebook:
        """Return the same on a device."""
        tensors = (self.mean.to(device), self.whitening.to(device), self.centroids.to(device))
        return Codebook(*tensors, num_empty=self.num_empty)

    def whiten(self, patches_ND: Tensor) -> Tensor:
        """Return normalised and whitened patches (N, D) for pixels 0 to 255."""
        return (normalise_contrast(patches_ND) - self.mean) @ self.whitening


def sample_patches(images_NHWC: np.ndarray, count: int, side: int, draw: np.random.Generator) -> Tensor:
    """Cut patches at uniformly random places, the images taken in turn.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8, (N, H, W, C).
    count, side : int
        How many patches, and how large.
    draw : Generator
        Source of the places.

    Returns
    -------
    Tensor
        float32, (count, C * side * side), pixels 0 to 255, ordered (channel, row, column).
    """
    num_images, height, width, _ = images_NHWC.shape
    rows = draw.integers(0, height - side + 1, count)[:, None, None]
    columns = draw.integers(0, width - side + 1, count)[:, None, None]
    image = (np.arange(count) % num_images)[:, None, None]
    offset = np.arange(side)
    patches = images_NHWC[image, rows + offset[:, None], columns + offset]  # (count, side, side, C)
    return torch.from_numpy(patches.transpose(0, 3, 1, 2).reshape(count, -1).astype(np.float32))


def all_patches(images_NHWC: Tensor, side: int) -> Tensor:
    """Return every patch of every image at stride 1.

    Parameters
    ----------
    images_NHWC : Tensor
        uint8, (N, H, W, C).
    side : int
        Side of a patch.

    Returns
    -------
    Tensor
        float32, (N, (H - side + 1) * (W - side + 1), C * side * side), places row by row, patches ordered as in
        :func:`sample_patches`.
    """
    return F.unfold(images_NHWC.permute(0, 3, 1, 2).float(), side).transpose(1, 2)


def normalise_contrast(patches_ND: Tensor) -> Tensor:
    """Return (x - mean) / sqrt(var + 10) of each patch (last dimension), var with N - 1 as in the published code."""
    var, mean = torch.var_mean(patches_ND, dim=-1, keepdim=True)
    return (patches_ND - mean) / (var + _CONTRAST_OFFSET).sqrt()


def fit_whitening(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and ZCA matrix (D, D) of normalised patches: V diag(1 / sqrt(eig(cov) + 0.1)) V^T, float32."""
    x_ND = x_ND.double()
    mean = x_ND.mean(0)
    values, V = torch.linalg.eigh(torch.cov(x_ND.T))  # cov = V diag(values) V^T
    return mean.float(), ((V * (values + _WHITENING_OFFSET).rsqrt()) @ V.T).float()


def run_kmeans(
    x_ND: Tensor,
    num_centroids: int,
    iterations: int,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> tuple[Tensor, int]:
    """Run Lloyd's algorithm from centroids drawn from N(0, 0.1^2); a centroid without a patch becomes zero.

    Parameters
    ----------
    x_ND : Tensor
        Whitened patches, float32, (N, D).
    num_centroids, iterations : int
        K, and how often assignment and averages alternate.
    generator : torch.Generator
        Source of the initial centroids.
    progress : callable
        Called after each iteration.

    Returns
    -------
    centroids : Tensor
        (K, D).
    num_empty : int
        Centroids that the last assignment left without a patch.
    """
    centroids = 0.1 * torch.randn(num_centroids, x_ND.shape[1], generator=generator)  # as in the published code
    centroids = centroids.to(x_ND.device)
    for iteration in range(iterations):
        sums, counts = _assign(x_ND, centroids)
        centroids = sums / counts.clamp_min(1)[:, None]  # the mean of its patches; 0 without any
        progress("k-means iterations", iteration + 1, iterations)
    return centroids, int(decide.number((counts == 0).sum()))


def _assign(x_ND: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the patches nearest to each centroid, (K, D), and their number, (K,)."""
    sums, counts = torch.zeros_like(centroids), torch.zeros(len(centroids), device=x_ND.device)
    half_norms = centroids.square().sum(1) / 2
    for x in x_ND.split(_BLOCK_PATCHES if x_ND.device.type == "cpu" else _GPU_PATCHES):
        labels = (x @ centroids.T).sub_(half_norms).argmax(1)  # argmin |x - c|^2 = argmax x.c - |c|^2 / 2
        sums.index_add_(0, labels, x)
        counts.index_add_(0, labels, torch.ones_like(x[:, 0]))  # bincount would wait for the device
    return sums, counts


def learn_codebook(
    images_NHWC: np.ndarray,
    options: KMeansOptions,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> Codebook:
    """Learn whitening and centroids from random patches of unlabelled images.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8, (N, H, W, C), in an order that does not depend on files or labels.
    options : KMeansOptions
        How.
    device : torch.device
        Where.
    progress : callable
        Called after each iteration.
    """
    patches = sample_patches(images_NHWC, options.num_patches, options.side, rng(options.seed, "k-means patches"))
    x_ND = normalise_contrast(patches.to(device))
    mean, whitening = fit_whitening(x_ND)
    x_ND = (x_ND - mean) @ whitening
    generator = torch_generator(options.seed, "k-means centroids")
    centroids, num_empty = run_kmeans(x_ND, options.num_centroids, options.iterations, generator, progress)
    return Codebook(mean, whitening, centroids, num_empty)


def distances(x_ND: Tensor, centroids: Tensor) -> Tensor:
    """Return the Euclidean distances (N, K) of patches (N, D) and centroids (K, D)."""
    # |x|^2 and |c|^2 ride along as two more columns, so that one product gives the squares.
    one = torch.ones_like(x_ND[:, :1])
    left = torch.cat([x_ND, x_ND.square().sum(1, keepdim=True), one], 1)
    right = torch.cat([-2 * centroids, one.new_ones(len(centroids), 1), centroids.square().sum(1, keepdim=True)], 1)
    return (left @ right.T).clamp_(min=0).sqrt_()


def triangle(z_NK: Tensor) -> Tensor:
    """Replace distances z (N, K) by max(0, mean(z) - z), the mean over the centroids, and return them."""
    return torch.sub(z_NK.mean(1, keepdim=True), z_NK, out=z_NK).clamp_(min=0)


def nearest(z_NK: Tensor) -> Tensor:
    """Return the one-hot code (N, K) of the smallest distance."""
    return torch.zeros_like(z_NK).scatter_(1, z_NK.argmin(1, keepdim=True), 1.0)


def quadrants(height: int, width: int) -> Tensor:
    """Return the matrix (4, height * width) that sums a map over its quadrants: top left, top right, bottom left, ...

    A middle row or column belongs to the upper or left half, as in the published code.
    """
    row = (torch.arange(height) >= (height + 1) // 2).long()[:, None]  # (H, 1)
    column = (torch.arange(width) >= (width + 1) // 2).long()  # (W,)
    return F.one_hot((2 * row + column).flatten(), 4).T.float()


class KMeansFeatures(Filler):
    """Standardised K-means features, see :class:`~dcgan_eval.features.fill.Filler`; the codebook is cached too.

    Parameters
    ----------
    options : KMeansOptions
        What to learn.
    device : torch.device
        Where to compute.
    store_dtype : str
        ``"float16"`` or ``"float32"``, which holds the sums of images of more than 500 pixels a side.
    """

    def __init__(self, options: KMeansOptions, device: torch.device | str = "cpu", store_dtype: str = "float16"):
        self.options, self.device, self.store_dtype = options, torch.device(device), store_dtype
        self.name = f"kmeans-{options.num_centroids}" + ("-hard" if options.hard else "")
        self._scale: tuple[np.ndarray, np.ndarray] | None = None

    def learn(self, train: ImageSet, cache_dir: Path, progress: Progress) -> None:
        """Learn whitening and centroids from the training images, or find them in the cache.

        Raises
        ------
        DcganEvalError
            Images smaller than a patch, or a cache that cannot be written.
        """
        refuse_mixed(train, self.name)
        if min(train.image_shape[:2]) < self.options.side + 1:
            raise DcganEvalError(
                f"The images of {train.name} are too small for patches of {self.options.side} pixels",
                got=f"shape {train.image_shape}",
                expected=f"at least {self.options.side + 1} pixels a side",
            )
        self.codebook, self._scale = self.team.decided(lambda: self._codebook(train, cache_dir, progress)), None

    def identity(self, images: ImageSet) -> StoreIdentity:
        """Return what decides the features of a set of images, before they are standardised."""
        return StoreIdentity(
            encoder=self.name,
            weights_sha256=self.codebook.sha256,
            layers=(("hard" if self.options.hard else "triangle", 4 * self.options.num_centroids),),
            preprocessing="contrast-normalised and whitened patches",
            batch_norm="none",
            compute="float32",
            store_dtype=self.store_dtype,
            calibration_fingerprint="",
            data=f"{images.name}-{images.split}",
            data_fingerprint=images.without_labels().fingerprint,
            num_rows=images.num_images,
            pooling="sum2",
        )

    def ready(self, progress: Progress) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Return the function that encodes images."""
        layer = "hard" if self.options.hard else "triangle"
        return lambda images_NHWC: {layer: self.extract(images_NHWC)}

    def served(self, store: FeatureStore) -> FeatureStore:
        """Return the features standardised by those of the first store, the training images'."""
        self._scale = self._scale or self.team.decided(lambda: _statistics(store))
        mean, sd = self._scale

        def standardised(x_ND: np.ndarray) -> np.ndarray:
            x_ND -= mean
            x_ND /= sd
            return x_ND

        return store.served_by(standardised)

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers."""
        return {
            "kind": "kmeans",
            "name": self.name,
            "weights_sha256": self.codebook.sha256,
            **asdict(self.options),
            "num_empty": self.codebook.num_empty,
            "store_dtype": self.store_dtype,
            "device": str(self.device),
        }

    def _codebook(self, train: ImageSet, cache_dir: Path, progress: Progress) -> Codebook:
        """Return the codebook from the cache, or learn and keep it."""
        learned = {key: value for key, value in asdict(self.options).items() if key != "hard"}
        header = {"format": _FORMAT, "options": json.dumps(learned), "fingerprint": train.fingerprint}
        key = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:16]
        path = cache_dir / f"kmeans-{key}.safetensors"
        if path.exists():
            tensors, found = read_tensors(path, sealed=_FORMAT)
            if header.items() <= found.items():
                return Codebook(tensors["mean"], tensors["whitening"], tensors["centroids"], int(found["num_empty"]))
        images = train.images[train.canonical_order]
        codebook = learn_codebook(images, self.options, self.device, progress)
        tensors = {name: getattr(codebook, name).cpu() for name in ("mean", "whitening", "centroids")}
        try:
            save_tensors(tensors, path, {**header, "num_empty": str(codebook.num_empty)})
        except WeightsError as error:
            raise StoreError(
                "The codebook cannot be cached", got=error.got, remedy="give another --cache-dir"
            ) from error
        return Codebook(**tensors, num_empty=codebook.num_empty)

    def extract(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Return the features (N, 4 K), float32, before standardisation, of uint8 images (N, H, W, C).

        Quadrant by quadrant, top left first, the K sums of one quadrant together.
        """
        return self._encoded(to_device(torch.from_numpy(images_NHWC), self.device)).cpu().numpy()

    def _encoded(self, images_NHWC: Tensor) -> Tensor:
        """Return the features (N, 4 K) of images on the device."""
        side = self.options.side
        pool = quadrants(images_NHWC.shape[1] - side + 1, images_NHWC.shape[2] - side + 1).to(self.device)
        num_places = pool.shape[1]
        encode = nearest if self.options.hard else triangle
        codebook = self.codebook.to(self.device)
        f_N4K = list[Tensor]()
        for images in images_NHWC.split(_images_at_once(self.device, num_places)):
            patches_ND = all_patches(images, side).flatten(0, 1)
            z_NK = distances(codebook.whiten(patches_ND), codebook.centroids)
            f_N4K += [pool @ f_PK for f_PK in encode(z_NK).split(num_places)]
        return torch.stack(f_N4K).flatten(1)


def _images_at_once(device: torch.device, num_patches: int) -> int:
    """Return how many images of so many patches are encoded together: on the processor one, for its cache."""
    return 1 if device.type == "cpu" else max(1, _GPU_PATCHES // num_patches)


def _statistics(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sqrt(variance + 0.01) of each feature over a store, float32, in one pass over blocks."""
    in_file_order = store.take(np.argsort(store.positions))
    total, squares = np.zeros(store.shape[1]), np.zeros(store.shape[1])
    first: np.ndarray | None = None
    for _, X in in_file_order.blocks():
        # Subtracted before squaring, against cancellation.
        first = X.mean(0, dtype=np.float64) if first is None else first
        shifted = X - first
        total += shifted.sum(0)
        squares += np.einsum("nd,nd->d", shifted, shifted)
    assert first is not None, "a store has rows"
    num_rows = len(store)
    var = (squares - total**2 / num_rows) / (num_rows - 1)
    return (first + total / num_rows).astype(np.float32), np.sqrt(var + _STANDARD_OFFSET).astype(np.float32)
