"""An encoder's features: calibrate, fold, run, pool; and the options that say how."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.imageset import ImageSet
from ..devices import COMPUTE_TYPES, exact_float32, has_fast_bfloat16, resolve_device, to_device
from ..errors import DcganEvalError, StoreError, WeightsError, counted, unknown_name
from ..models.weights import read_tensors, save_tensors
from ..progress import Progress, no_progress
from ..ranks import ALONE, Team
from ..seeding import rng
from .batchnorm import (
    CALIBRATION_BATCH,
    Statistics,
    frozen,
    mean_statistics,
    minibatch_statistics,
    norm_layers,
    spread_against_training,
)
from .behaviour import behaviour
from .fill import Filler, fill, shape_to_ask, short_hash
from .isolated import isolated
from .layers import layer_widths
from .store import FeatureStore
from .store_file import BLOCK_ROWS, Answers, StoreIdentity
from .taps import Encoder, tapped

BATCH_NORM_MODES = ("auto", "dataset", "running")
FEATURE_TYPES = ("float16", "float32")
_TWO_SIZES = ((300, 400), (500, 350))
_FEW_IMAGES, _FAR = 32, 4.0  # a mean and deviation left out of ImageNet's rule change the spread by a factor of 4.4
# On a CPU the first layers' maps of 32 images fit the cache, those of 256 do not: measured 8 % faster.
_BATCH_IMAGES = {"cpu": 32, "cuda": BLOCK_ROWS, "mps": BLOCK_ROWS}


@dataclass(frozen=True)
class ExtractOptions:
    """How features are made.

    Attributes
    ----------
    layers : tuple of str or None
        Layers to tap; None means all of the encoder's.
    batch_norm : str
        ``"dataset"`` (the paper's: statistics of the target's training images) or ``"running"`` (the checkpoint's);
        ``"auto"`` is the paper's for its discriminators and ``"running"`` for every other encoder.
    compute : str
        ``"float32"``, ``"bfloat16"`` or ``"auto"``: for the discriminators, whose error budget is known, bfloat16 where
        the device has it; for every other encoder float32.
    store_dtype : str
        ``"float16"`` or ``"float32"``.
    device : str
        As :func:`~dcgan_eval.devices.resolve_device` takes it.
    batch_size : int or None
        Images that go through the encoder at once; None is what suits the device. No number depends on it beyond
        rounding.
    """

    layers: tuple[str, ...] | None = None
    batch_norm: str = "auto"
    compute: str = "auto"
    store_dtype: str = "float16"
    device: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("batch-norm mode", self.batch_norm, BATCH_NORM_MODES),
            ("compute type", self.compute, ("auto", *COMPUTE_TYPES)),
            ("store dtype", self.store_dtype, FEATURE_TYPES),
        ):
            if value not in known:
                raise unknown_name(kind, value, known, DcganEvalError)
        resolve_device(self.device)  # a device that is not there is an error

    def resolved(self, encoder: Encoder) -> ExtractOptions:
        """Return the options with what ``auto`` means for an encoder put in."""
        paper = encoder.is_discriminator
        batch_norm = ("dataset" if paper else "running") if self.batch_norm == "auto" else self.batch_norm
        compute = "float32" if self.compute == "auto" and not paper else self.compute_name
        return replace(self, batch_norm=batch_norm, compute=compute)

    @property
    def torch_device(self) -> torch.device:
        """The device to run on."""
        return resolve_device(self.device)

    @property
    def compute_name(self) -> str:
        """The compute type with ``auto`` resolved for the device, for a discriminator."""
        if self.compute != "auto":
            return self.compute
        return "bfloat16" if has_fast_bfloat16(self.torch_device) else "float32"


def extract(
    encoder: Encoder,
    images: ImageSet,
    *,
    calibration: ImageSet | None = None,
    options: ExtractOptions | None = None,
    cache_dir: Path | str = "cache",
    out: Path | str | None = None,
    wait: bool = True,
    progress: Progress = no_progress,
) -> FeatureStore:
    """Return the features of a set of images, computing only what the cache does not hold.

    Parameters
    ----------
    encoder : Encoder
        What to measure.
    images : ImageSet
        uint8, of the encoder's size. Labels are not looked at, only kept beside the features.
    calibration : ImageSet or None
        Training images behind the batch-norm statistics in mode ``"dataset"``; None means ``images`` themselves.
    options : ExtractOptions or None
        How; None means the paper's protocol.
    cache_dir : Path or str
        Folder of the stores.
    out : Path, str or None
        Write to this very file instead of a file in ``cache_dir``.
    wait : bool
        Wait for another process that writes the same store, else raise.
    progress : callable
        Called after each block.

    Returns
    -------
    FeatureStore
        A matrix with a row for each of ``images``. Attribute ``reused`` tells whether it was cached.

    Raises
    ------
    DcganEvalError
        Images that do not fit the encoder, features that are not finite, a damaged or mismatching store, a full disk.

    Source: arXiv:1511.06434, section 5.1, and the 2016 release.
    """
    features = EncoderFeatures(encoder, options)
    features.learn(calibration or images, Path(cache_dir), progress)
    return fill(features, images, Path(cache_dir), out=Path(out) if out else None, wait=wait, progress=progress)


class EncoderFeatures(Filler):
    """Features of an encoder, see :class:`~dcgan_eval.features.fill.Filler`.

    Parameters
    ----------
    encoder : Encoder
        What to measure.
    options : ExtractOptions or None
        How; None means the paper's protocol.
    """

    def __init__(self, encoder: Encoder, options: ExtractOptions | None = None):
        self.encoder, self.options = encoder, (options or ExtractOptions()).resolved(encoder)
        self.name, self.layers = encoder.name, encoder.choose(self.options.layers)
        self.notes = list(encoder.notes)
        self._identity: StoreIdentity | None = None

    def learn(self, train: ImageSet, cache_dir: Path, progress: Progress) -> None:
        """Keep the images behind the batch-norm statistics, which are computed once they are needed."""
        self._calibration, self._cache_dir = train.without_labels(), cache_dir
        if self.options.batch_norm == "running":
            _check_images(self.encoder, train)
            found = _scale_note(self.encoder, self._calibration)
            self.notes = [*self.encoder.notes, *found]
            for note in found:
                warnings.warn(note, stacklevel=2)

    def identity(self, images: ImageSet) -> StoreIdentity:
        """Return what decides the features of a set of images.

        Raises
        ------
        DcganEvalError
            The encoder does not take such images.
        """
        _check_images(self.encoder, images)
        pixels = images.without_labels()
        self._identity = store_identity(self.encoder, pixels, self._calibration, self.options, self.layers)
        return self._identity

    def behaviour(self, image_shape: tuple[int, int, int]) -> Answers:
        """Return the features of a few fixed images."""
        self._answers = behaviour(self.encoder, self.layers, image_shape)
        return self._answers

    def ready(self, progress: Progress) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Return the frozen encoder."""
        assert self._identity is not None, "a store is named before it is filled"
        statistics = None
        if self._identity.calibration_fingerprint:
            statistics = self._statistics(short_hash(self._answers), progress)
        options = self.options
        return Extractor(self.encoder, self._identity, statistics, options.torch_device, options.batch_size)

    def _statistics(self, answers: str, progress: Progress) -> Statistics:
        """Return the batch-norm statistics of the calibration images, from the cache when they are there."""
        encoder, calibration, compute = self.encoder, self._calibration, self.options.compute_name
        key = f"{encoder.weights_sha256[:16]}-{answers}-{calibration.fingerprint[:16]}-{compute}"
        path = self._cache_dir / f"batchnorm-{key}.safetensors"
        header = {
            "format": "dcgan-eval-batchnorm-2",
            "weights_sha256": encoder.weights_sha256,
            "answers": answers,
            "calibration_fingerprint": calibration.fingerprint,
            "preprocessing": encoder.preprocessing,
            "compute": compute,
            **({"architecture": encoder.architecture} if encoder.architecture else {}),
        }
        kept = self.team.decided(lambda: _kept_statistics(path, header))
        if kept is not None:
            return kept
        statistics = compute_statistics(encoder, calibration, self.options, progress, self.team)
        self.team.decided(lambda: _keep_statistics(statistics, path, header))
        return statistics

    def served(self, store: FeatureStore) -> FeatureStore:
        """Return the layers asked for; the store may hold more."""
        return store.only(self.layers)

    def describe(self) -> dict[str, Any]:
        """Return what decided the numbers."""
        assert self._identity is not None, "described after it was used"
        made = self._identity
        return {
            "kind": "encoder",
            "name": self.name,
            "layers": list(self.layers),
            "all_layers": self.layers == self.encoder.layers,
            "preset": getattr(getattr(self.encoder.module, "preset", None), "name", None),
            "weights_sha256": made.weights_sha256,
            "objective": self.encoder.objective,
            "preprocessing": made.preprocessing,
            "pooling": made.pooling,
            "rules": self.encoder.rules,
            "batch_norm": made.batch_norm,
            "compute": made.compute,
            "store_dtype": made.store_dtype,
            "device": str(self.options.torch_device),
        }


def _check_images(encoder: Encoder, images: ImageSet) -> None:
    """Raise unless the images fit the encoder, or its rule brings them to one size."""
    if not images.image_shape[0] and not _brings_to_one_size(encoder, images.image_shape[2]):
        raise DcganEvalError(
            f"The images of {images.name} differ in size, and the encoder {encoder.name!r} takes them as they are",
            got=f"{counted(images.num_images, 'images')} of mixed sizes",
            remedy="give the size to bring them to with --image-size",
        )
    if images.image_shape[0] and not encoder.takes(images.image_shape):
        raise DcganEvalError(
            f"The images of {images.name} do not fit the encoder {encoder.name!r}",
            got=f"{counted(images.num_images, 'images')} of shape {images.image_shape}",
            expected=f"shape {encoder.image_shape} (height, width, channels)",
            remedy="resize them with --image-size, or choose an encoder of their size with --weights or --encoder",
        )


def _scale_note(encoder: Encoder, images: ImageSet) -> list[str]:
    """Say when a few images come to the first batch norm on another scale than its weights were trained on."""
    if not norm_layers(encoder.module):
        return []
    rows = images.canonical_order[:_FEW_IMAGES]
    module = isolated(encoder.module, "cpu", torch.float32)
    spread = spread_against_training(module, preprocessed(encoder, images.images[rows], torch.device("cpu")))
    if spread is None or 1 / _FAR < spread < _FAR:
        return []
    return [
        f"the first batch norm sees values {spread:.2g} times as spread as those its weights were trained on: "
        "--normalise is probably wrong for them"
    ]


def _brings_to_one_size(encoder: Encoder, channels: int) -> bool:
    """Tell whether an encoder's preprocessing gives images of different sizes one size."""
    shapes = [encoder.preprocess(torch.zeros(1, *size, channels, dtype=torch.uint8)).shape for size in _TWO_SIZES]
    return shapes[0] == shapes[1]


def store_identity(
    encoder: Encoder, images: ImageSet, calibration: ImageSet, options: ExtractOptions, layers: tuple[str, ...]
) -> StoreIdentity:
    """Describe the store that a call of :func:`extract` with these arguments reads or writes.

    Parameters
    ----------
    encoder, images, calibration, options
        As for :func:`extract`; both sets without labels.
    layers : tuple of str
        Layers of the store, in the encoder's order.
    """
    options = options.resolved(encoder)
    widths = layer_widths(encoder, layers, shape_to_ask(images))
    calibrated = options.batch_norm == "dataset" and bool(norm_layers(encoder.module))
    return StoreIdentity(
        encoder=encoder.name,
        weights_sha256=encoder.weights_sha256,
        layers=tuple(widths.items()),
        preprocessing=encoder.preprocessing_of(images.image_shape),
        batch_norm=options.batch_norm,
        compute=options.compute_name,
        store_dtype=options.store_dtype,
        calibration_fingerprint=calibration.fingerprint if calibrated else "",
        data=f"{images.name}-{images.split}",
        data_fingerprint=images.fingerprint,
        num_rows=images.num_images,
        pooling=encoder.pooling.identity,
        architecture=encoder.architecture,
    )


class Extractor:
    """Frozen encoder that maps uint8 images to pooled features.

    Parameters
    ----------
    encoder : Encoder
        What to run.
    identity : StoreIdentity
        Layers and compute type.
    statistics : dict or None
        Batch-norm statistics; None keeps the checkpoint's.
    device : torch.device
        Where to run.
    batch_size : int or None
        Images at once; None is what suits the device.
    """

    def __init__(
        self,
        encoder: Encoder,
        identity: StoreIdentity,
        statistics: Statistics | None,
        device: torch.device,
        batch_size: int | None = None,
    ):
        self.encoder, self.device = encoder, device
        self.batch_size = batch_size or _BATCH_IMAGES[device.type]
        self.layers = tuple(name for name, _ in identity.layers)
        self.dtype = COMPUTE_TYPES[identity.compute]
        module = frozen(encoder.module, statistics, keep=self.layers)
        self.module = module.to(device, self.dtype).to(memory_format=torch.channels_last)

    def __call__(self, images: np.ndarray | list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return layer -> float32 features (N, width) for uint8 images (N, H, W, C), or a list of (H, W, C)."""
        size = self.batch_size
        taps = tapped(self.module, self.layers, self.encoder.pooling)
        with torch.inference_mode(), exact_float32(), taps as outputs:
            batches = [
                self._run(preprocessed(self.encoder, images[start : start + size], self.device), outputs)
                for start in range(0, len(images), size)
            ]
        return {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in self.layers}

    def _run(self, x_NCHW: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pooled features of one batch of the module's input."""
        self.module(x_NCHW.to(self.dtype))
        return {name: outputs[name].float() for name in self.layers}


def preprocessed(encoder: Encoder, images: np.ndarray | list[np.ndarray], device: torch.device) -> Tensor:
    """Return an encoder's input (N, C, H, W) on a device; images of different sizes go through its rule one by one."""
    if isinstance(images, np.ndarray):
        return encoder.preprocess(to_device(torch.from_numpy(images), device))
    return torch.cat([encoder.preprocess(to_device(torch.tensor(image)[None], device)) for image in images])


def _kept_statistics(path: Path, header: dict[str, str]) -> Statistics | None:
    """Return the statistics in a file, if it is there and has the header."""
    if not path.exists():
        return None
    statistics, found = read_tensors(path, sealed=header["format"])
    return statistics if found == header else None


def _keep_statistics(statistics: Statistics, path: Path, header: dict[str, str]) -> None:
    """Write statistics to the cache."""
    try:
        save_tensors(statistics, path, header)
    except WeightsError as error:
        raise StoreError(
            "The batch-norm statistics cannot be cached", got=error.got, remedy="give another --cache-dir"
        ) from error


def compute_statistics(
    encoder: Encoder,
    calibration: ImageSet,
    options: ExtractOptions,
    progress: Progress = no_progress,
    team: Team = ALONE,
) -> Statistics:
    """Compute the batch-norm statistics of a data set (see :func:`~dcgan_eval.features.batchnorm.dataset_statistics`).

    Minibatches of 128 are cut from an order that depends on the pixels alone; the rest is left out unless it is all.

    Parameters
    ----------
    encoder : Encoder
        Its module is run in the compute type of ``options``, normalising by minibatch.
    calibration : ImageSet
        Unlabelled training images.
    options : ExtractOptions
        Device and compute type.
    progress : callable
        Called after each minibatch.
    team : Team
        Processes that share the minibatches; no number depends on them.
    """
    # By hash, then shuffled: independent of the file's order, and no structure is left in a minibatch.
    order = rng(0, "batch-norm minibatches").permutation(calibration.without_labels().canonical_order)
    size = min(CALIBRATION_BATCH, len(order))
    batches = [order[i * size : (i + 1) * size] for i in range(len(order) // size)]
    device, dtype = options.torch_device, COMPUTE_TYPES[options.compute_name]
    module = isolated(encoder.module, device, torch.float32).to(memory_format=torch.channels_last)

    def statistics_of(rows: np.ndarray) -> Statistics:
        found = measured(preprocessed(encoder, calibration.images[rows], device))
        return found if team.size == 1 else {key: value.cpu() for key, value in found.items()}

    def on_done(count: int) -> None:
        progress("batch-norm statistics", count * size, len(batches) * size)

    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with torch.no_grad(), autocast, minibatch_statistics(module) as measured:
        statistics = mean_statistics(team.each(batches, statistics_of, on_done))
    return {key: value.cpu() for key, value in statistics.items()}
