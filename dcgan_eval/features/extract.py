"""From images to a complete feature store: calibrate, fold, run, pool, write; resumable at every block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.imageset import ImageSet
from ..errors import DcganEvalError, StoreError, WeightsError, unknown_name
from ..models.weights import read_tensors, save_tensors
from ..seeding import rng
from .batchnorm import CALIBRATION_BATCH, Statistics, dataset_statistics, frozen, norm_layers
from .isolated import isolated
from .layers import layer_widths
from .store import (
    BLOCK_ROWS,
    FeatureStore,
    StoreIdentity,
    StoreWriter,
    check_identity,
    find_store,
)
from .taps import Encoder, tapped

BATCH_NORM_MODES = ("auto", "dataset", "running")
COMPUTE_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STORE_TYPES = ("float16", "float32")
FLOAT16_MAX = float(np.finfo(np.float16).max)
# On a CPU the first layers' maps of 32 images fit the cache, those of 256 do not: measured 8 % faster.
BATCH_IMAGES = {"cpu": 32, "cuda": BLOCK_ROWS}


class Progress(Protocol):
    """Called with what is going on, how many images are done and how many there are."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


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
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    """

    layers: tuple[str, ...] | None = None
    batch_norm: str = "auto"
    compute: str = "auto"
    store_dtype: str = "float16"
    device: str = "auto"

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("batch-norm mode", self.batch_norm, BATCH_NORM_MODES),
            ("compute type", self.compute, ("auto", *COMPUTE_TYPES)),
            ("store dtype", self.store_dtype, STORE_TYPES),
            ("device", self.device, ("auto", "cpu", "cuda")),
        ):
            if value not in known:
                raise unknown_name(kind, value, known, DcganEvalError)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DcganEvalError("There is no CUDA device", got="--device cuda", remedy="use --device cpu or auto")

    def resolved(self, encoder: Encoder) -> ExtractOptions:
        """Return the options with what ``auto`` means for an encoder put in."""
        paper = encoder.is_discriminator
        batch_norm = ("dataset" if paper else "running") if self.batch_norm == "auto" else self.batch_norm
        compute = "float32" if self.compute == "auto" and not paper else self.compute_name
        return replace(self, batch_norm=batch_norm, compute=compute)

    @property
    def torch_device(self) -> torch.device:
        """The device to run on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def compute_name(self) -> str:
        """The compute type with ``auto`` resolved for the device, for a discriminator."""
        if self.compute != "auto":
            return self.compute
        return "bfloat16" if has_fast_bfloat16(self.torch_device) else "float32"


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def extract(
    encoder: Encoder,
    images: ImageSet,
    *,
    calibration: ImageSet | None = None,
    options: ExtractOptions | None = None,
    cache_dir: Path | str = "cache",
    out: Path | str | None = None,
    progress: Progress = _no_progress,
) -> FeatureStore:
    """Return the features of a set of images, computing only what the cache does not hold.

    Parameters
    ----------
    encoder : Encoder
        What to measure.
    images : ImageSet
        uint8, of the encoder's size. Labels are not looked at.
    calibration : ImageSet or None
        Training images behind the batch-norm statistics in mode ``"dataset"``; None means ``images`` themselves.
    options : ExtractOptions or None
        How; None means the paper's protocol.
    cache_dir : Path or str
        Folder of the stores.
    out : Path, str or None
        Write to this very file instead of a file in ``cache_dir``.
    progress : callable
        Called after each block.

    Returns
    -------
    FeatureStore
        Its :meth:`~FeatureStore.read` takes rows of ``images``. Attribute ``reused`` tells whether it was cached.

    Raises
    ------
    DcganEvalError
        Images that do not fit the encoder, features that are not finite, a damaged or mismatching store, a full disk.

    Source: arXiv:1511.06434, section 5.1, and the 2016 release.
    """
    options = (options or ExtractOptions()).resolved(encoder)
    pixels = images.without_labels()
    _check_images(encoder, pixels)
    calibration = (calibration or images).without_labels()
    layers = encoder.choose(options.layers)
    identity = store_identity(encoder, pixels, calibration, options, layers)
    path = Path(out) if out else Path(cache_dir) / identity.file_name
    found = _existing(path, identity, None if out else Path(cache_dir))
    if found is None:
        _write(encoder, pixels, calibration, options, path, identity, Path(cache_dir), progress)
    store = FeatureStore(found or path, pixels.canonical_rank)
    store.reused = found is not None
    return store


def _check_images(encoder: Encoder, images: ImageSet) -> None:
    """Raise unless the images fit the encoder."""
    if encoder.image_shape is not None and images.image_shape != encoder.image_shape:
        raise DcganEvalError(
            f"The images of {images.name} do not fit the encoder {encoder.name!r}",
            got=f"{images.num_images} images of shape {images.image_shape}",
            expected=f"shape {encoder.image_shape} (height, width, channels)",
            remedy="resize them with --image-size, or choose an encoder of their size with --weights or --encoder",
        )


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
    widths = layer_widths(encoder, layers, images.image_shape)
    calibrated = options.batch_norm == "dataset" and bool(norm_layers(encoder.module))
    return StoreIdentity(
        encoder=encoder.name,
        weights_sha256=encoder.weights_sha256,
        layers=tuple(widths.items()),
        preprocessing=encoder.preprocessing,
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


def _existing(path: Path, identity: StoreIdentity, cache_dir: Path | None) -> Path | None:
    """Return a complete store that can be used, checked; None when it must be computed."""
    if path.exists():
        check_identity(path, identity)
        return path
    return None if cache_dir is None else find_store(cache_dir, identity)


def _write(
    encoder: Encoder,
    images: ImageSet,
    calibration: ImageSet,
    options: ExtractOptions,
    path: Path,
    identity: StoreIdentity,
    cache_dir: Path,
    progress: Progress,
) -> None:
    """Compute the missing blocks of a store and complete it."""
    writer = StoreWriter(path, identity)
    try:
        missing = writer.missing_blocks()
        statistics = None
        if missing and identity.calibration_fingerprint:
            statistics = _statistics(encoder, calibration, options, cache_dir, progress)
        extractor = Extractor(encoder, identity, statistics, options.torch_device)
        order = images.canonical_order
        done = images.num_images - sum(min(BLOCK_ROWS, images.num_images - b * BLOCK_ROWS) for b in missing)
        for block in missing:
            rows = order[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            writer.write(block, extractor(images.images[rows]))
            done += len(rows)
            progress(f"features of {identity.data}", done, images.num_images)
    except BaseException:
        writer.close()
        raise
    writer.finish()


class Extractor:
    """Frozen encoder that maps uint8 images to pooled features in the store's dtype.

    Parameters
    ----------
    encoder : Encoder
        What to run.
    identity : StoreIdentity
        Layers, compute type and store dtype.
    statistics : dict or None
        Batch-norm statistics; None keeps the checkpoint's.
    device : torch.device
        Where to run.
    """

    def __init__(self, encoder: Encoder, identity: StoreIdentity, statistics: Statistics | None, device: torch.device):
        self.encoder, self.device = encoder, device
        self.layers = tuple(name for name, _ in identity.layers)
        self.dtype = COMPUTE_TYPES[identity.compute]
        self.store_dtype = np.dtype(identity.store_dtype)
        module = frozen(encoder.module, statistics, keep=self.layers)
        self.module = module.to(device, self.dtype).to(memory_format=torch.channels_last)

    def __call__(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """Return layer -> features (N, width) for uint8 images (N, H, W, C).

        Raises
        ------
        DcganEvalError
            A feature is not finite, or too large for float16.
        """
        images = torch.from_numpy(images_NHWC).to(self.device)
        with torch.inference_mode(), tapped(self.module, self.layers, self.encoder.pooling) as outputs:
            batches = [self._run(batch, outputs) for batch in images.split(BATCH_IMAGES[self.device.type])]
        return {name: self._stored(name, torch.cat([batch[name] for batch in batches])) for name in self.layers}

    def _run(self, images_NHWC: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pooled features of one batch."""
        self.module(self.encoder.preprocess(images_NHWC).to(self.dtype))
        return dict(outputs)

    def _stored(self, name: str, f_ND: Tensor) -> np.ndarray:
        """Convert one layer's features to the store's dtype, refusing what it cannot hold."""
        f_ND = f_ND.float()
        largest = float(f_ND.abs().max())
        if not largest <= (FLOAT16_MAX if self.store_dtype == np.float16 else np.finfo(np.float32).max):
            raise DcganEvalError(
                f"Features of layer {name!r} cannot be stored as {self.store_dtype.name}",
                got=f"largest magnitude {largest}",
                expected="finite values within the type's range",
                remedy="check the weights, or use --store-dtype float32",
            )
        return f_ND.cpu().numpy().astype(self.store_dtype)


def _statistics(
    encoder: Encoder, calibration: ImageSet, options: ExtractOptions, cache_dir: Path, progress: Progress
) -> Statistics:
    """Return the batch-norm statistics of the calibration images, from the cache when they are there."""
    key = f"{encoder.weights_sha256[:16]}-{calibration.fingerprint[:16]}-{options.compute_name}"
    header = {
        "format": "dcgan-eval-batchnorm-1",
        "weights_sha256": encoder.weights_sha256,
        "calibration_fingerprint": calibration.fingerprint,
        "preprocessing": encoder.preprocessing,
        "compute": options.compute_name,
        **({"architecture": encoder.architecture} if encoder.architecture else {}),
    }
    path = cache_dir / f"batchnorm-{key}.safetensors"
    if path.exists():
        statistics, found = read_tensors(path)
        if found == header:
            return statistics
    statistics = compute_statistics(encoder, calibration, options, progress)
    try:
        save_tensors(statistics, path, header)
    except WeightsError as error:
        raise StoreError(
            "The batch-norm statistics cannot be cached", got=error.got, remedy="give another --cache-dir"
        ) from error
    return statistics


def compute_statistics(
    encoder: Encoder, calibration: ImageSet, options: ExtractOptions, progress: Progress = _no_progress
) -> Statistics:
    """Compute the batch-norm statistics of a data set (see :func:`dataset_statistics`).

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
    """
    # By hash, then shuffled: independent of the file's order, and no structure is left in a minibatch.
    order = rng(0, "batch-norm minibatches").permutation(calibration.without_labels().canonical_order)
    size = min(CALIBRATION_BATCH, len(order))
    batches = [order[i * size : (i + 1) * size] for i in range(len(order) // size)]
    device, dtype = options.torch_device, COMPUTE_TYPES[options.compute_name]
    module = isolated(encoder.module, device, torch.float32).to(memory_format=torch.channels_last)

    def preprocessed() -> Iterable[Tensor]:
        for i, rows in enumerate(batches):
            yield encoder.preprocess(torch.from_numpy(calibration.images[rows]).to(device))
            progress("batch-norm statistics", (i + 1) * size, len(batches) * size)

    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return {key: value.cpu() for key, value in dataset_statistics(module, preprocessed()).items()}
