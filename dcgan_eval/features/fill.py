"""One way to fill a feature store, whatever the features are: found again, or written block by block and checked."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.imageset import ImageSet
from ..errors import DcganEvalError, counted
from ..progress import Progress, no_progress
from ..ranks import ALONE, Team
from .behaviour import behaves_alike
from .store import FeatureStore, check_identity, find_partial, find_store
from .store_file import Answers, RowKeys, StoreIdentity
from .store_writer import StoreWriter

_ROUNDING = 5e-4
"""Relative error of a layer's features that storing them may cost: half a unit in the last place of float16."""


_USUAL_SIDE = 256  # of an image that stands for a set of mixed sizes


class Filler(ABC):
    """Features of one kind: what a store of them is called, and how a block of images becomes a block of numbers.

    Attributes
    ----------
    name : str
        For tables and records.
    stores : tuple of FeatureStore
        Of the training and the test images, once prepared.
    team : Team
        Processes that make the features together, each some of the blocks.
    notes : list of str
        What a reader of a score should know of the features.
    """

    name: str
    notes: Sequence[str] = ()
    team: Team = ALONE
    stores: tuple[FeatureStore, FeatureStore]

    @abstractmethod
    def identity(self, images: ImageSet) -> StoreIdentity:
        """Return what decides the features of a set of images."""

    @abstractmethod
    def ready(self, progress: Progress) -> Callable[[Any], dict[str, np.ndarray]]:
        """Return the function from uint8 images to each layer's features, (N, width).

        The images are an array (N, H, W, C), or a list of (H, W, C) where they differ in size.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return ``kind``, ``name``, ``weights_sha256`` and what else decided the numbers, for a record."""

    def learn(self, train: ImageSet, cache_dir: Path, progress: Progress) -> None:  # noqa: B027 - pixels learn nothing
        """Take what the features need of unlabelled training images: nothing, unless a kind says otherwise."""

    def matched(self, train: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Return the sets that features are made of: the images, unless a kind has rows in their place."""
        return train, test

    def behaviour(self, image_shape: tuple[int, int, int]) -> Answers:
        """Return what the features of a few fixed images are; nothing where the identity says it all."""
        return {}

    def served(self, store: FeatureStore) -> FeatureStore:
        """Return the matrix that classifiers see."""
        return store

    def prepare(
        self,
        train: ImageSet,
        test: ImageSet,
        progress: Progress | None = None,
        cache_dir: Path | str = "cache",
        *,
        wait: bool = True,
    ) -> None:
        """Make the features of both sets available as :attr:`stores`; only training images are learned from.

        Parameters
        ----------
        train, test : ImageSet
            Labels are not looked at, only kept beside the features.
        progress, cache_dir, wait
            As for :func:`fill`.
        """
        progress, folder = progress or no_progress, Path(cache_dir)
        train, test = self.matched(train, test)
        self.learn(train, folder, progress)
        self.stores = (
            fill(self, train, folder, wait=wait, progress=progress),
            fill(self, test, folder, wait=wait, progress=progress),
        )

    def train(self, rows: Any) -> np.ndarray:
        """Return the features of some training images, (len(rows), D), float32."""
        return self.stores[0][rows]

    def test(self) -> np.ndarray:
        """Return the features of all test images, (N, D), float32."""
        return self.stores[1].read()


def fill(
    filler: Filler,
    images: ImageSet,
    cache_dir: Path,
    *,
    out: Path | None = None,
    wait: bool = True,
    progress: Progress = no_progress,
) -> FeatureStore:
    """Return the features of a set of images, computing only what the cache does not hold.

    Parameters
    ----------
    filler : Filler
        What makes them.
    images : ImageSet
        uint8. Labels and names, where there are any, are kept beside the features.
    cache_dir : Path
        Folder of the stores.
    out : Path or None
        Write to this very file instead of one in ``cache_dir``.
    wait : bool
        Wait for another process that writes the same store, else raise.
    progress : callable
        Called after each block.

    Returns
    -------
    FeatureStore
        Rows as in ``images``. Attribute ``reused`` tells whether it was there before.

    Raises
    ------
    DcganEvalError
        Images that do not fit, features that are not finite or that the store's type cannot hold, a damaged or
        mismatching store, a full disk.
    """
    team, identity, answers = filler.team, filler.identity(images), filler.behaviour(shape_to_ask(images))

    def is_alike(stored: Answers) -> bool:
        return behaves_alike(stored, answers)

    def find() -> tuple[Path, bool]:
        """Return the store's file, and whether it is complete."""
        if out is not None:
            return out, out.exists()
        if found := find_store(cache_dir, identity, is_alike):
            return found, True
        begun = find_partial(cache_dir, identity, is_alike)
        return begun or cache_dir / f"{identity.file_stem}-{short_hash(answers)}.h5", False

    path, reused = team.decided(find)
    if not reused:
        _write(filler, images, path, identity, answers, wait, progress)
    store = FeatureStore(path, images.canonical_rank)
    if out is not None or not reused:  # one that was found in the cache has been compared, and may hold more layers
        check_identity(store, identity, is_alike=is_alike(store.behaviour))
    if team.decided(lambda: _renew_keys(store, _keys(images), wait)):
        store = FeatureStore(path, images.canonical_rank)
    store.reused = reused
    return filler.served(store)


def shape_to_ask(images: ImageSet) -> tuple[int, int, int]:
    """Return the shape of images with which an encoder is tried: the set's, or a usual one where sizes differ."""
    height, width, channels = images.image_shape
    return (height, width, channels) if height else (_USUAL_SIDE, _USUAL_SIDE, channels)


def refuse_mixed(images: ImageSet, name: str) -> None:
    """Raise where images differ in size and the features need one.

    Raises
    ------
    DcganEvalError
        They do.
    """
    if not images.image_shape[0]:
        raise DcganEvalError(
            f"Features of {name} need images of one size",
            got=f"{counted(images.num_images, 'images')} of mixed sizes in {images.name}",
            remedy="bring them to one with `dcgan-eval data pack`, or choose an encoder that resizes them",
        )


def find_filled(filler: Filler, images: ImageSet, cache_dir: Path) -> FeatureStore | None:
    """Return what :func:`fill` would find in the cache; None where it would compute something."""
    answers = filler.behaviour(shape_to_ask(images))
    path = find_store(cache_dir, filler.identity(images), lambda stored: behaves_alike(stored, answers))
    return None if path is None else filler.served(FeatureStore(path, images.canonical_rank))


def _write(
    filler: Filler,
    images: ImageSet,
    path: Path,
    identity: StoreIdentity,
    answers: Answers,
    wait: bool,
    progress: Progress,
) -> None:
    """Compute the missing blocks of a store and complete it; processes of a team take the blocks in turn."""
    what, order, team = f"features of {identity.data}", images.canonical_order, filler.team
    waiting = f"waiting for another process that writes the {what}"

    def make(block: int) -> None:
        assert featurise is not None, "made where blocks are missing"
        features = featurise(images.images[order[identity.rows_of(block)]])
        scaled = {
            name: f_ND if writer.scale(name) == 1 else f_ND * writer.scale(name) for name, f_ND in features.items()
        }
        try:
            stored = {name: _stored(name, f_ND, identity.store_dtype) for name, f_ND in scaled.items()}
        except DcganEvalError:  # comes again whenever these features are made
            writer.discard()
            raise
        writer.write(block, stored)

    def on_done(count: int) -> None:
        left = sum(len(order[identity.rows_of(block)]) for block in missing[count:])
        progress(what, images.num_images - left, images.num_images)

    on_wait = partial(progress, waiting, 0, images.num_images)
    with StoreWriter(path, identity, _keys(images), answers, wait=wait, on_wait=on_wait, team=team) as writer:
        if not writer.is_complete():
            missing = team.decided(writer.missing_blocks)
            featurise = filler.ready(progress) if missing else None
            for _ in team.each(missing, make, on_done):
                pass
            writer.finish()


def _stored(name: str, f_ND: np.ndarray, store_dtype: str) -> np.ndarray:
    """Convert one layer's features to the store's type, refusing what it cannot hold."""
    stored = _converted(f_ND, store_dtype)
    if stored.dtype == f_ND.dtype and stored.dtype.kind != "f":
        return stored
    error = _distance(stored, f_ND)
    if not np.isfinite(error):  # as where a number stored is not
        with np.errstate(over="ignore"):
            fits = bool(np.isfinite(f_ND.astype(np.float32)).all())  # in the widest type there is
        raise DcganEvalError(
            f"Features of layer {name!r} cannot be stored as {store_dtype}",
            got=f"largest magnitude {float(np.abs(f_ND).max())}",
            expected="finite values within the type's range",
            remedy="use --store-dtype float32"
            if fits
            else "check the weights, and what the encoder does to the images",
        )
    if error > _ROUNDING * np.linalg.norm(f_ND):
        raise DcganEvalError(
            f"Features of layer {name!r} are too small to be stored as {store_dtype}",
            got=f"largest magnitude {float(np.abs(f_ND).max()):.1e}, relative error {error / np.linalg.norm(f_ND):.1e}",
            expected=f"a relative error of at most {_ROUNDING}",
            remedy="use --store-dtype float32",
        )
    return stored


def _converted(f_ND: np.ndarray, store_dtype: str) -> np.ndarray:
    """Convert features, infinite where they are too large; torch gives the same bits as NumPy 14 times as fast."""
    if store_dtype == "float16" and _is_plain(f_ND):
        return torch.from_numpy(f_ND).half().numpy()
    with np.errstate(over="ignore"):
        return f_ND.astype(store_dtype)


def _distance(stored: np.ndarray, f_ND: np.ndarray) -> float:
    """Return the length of what rounding took away; not finite where the features or what is stored are not."""
    if _is_plain(f_ND):
        return float((torch.from_numpy(stored) - torch.from_numpy(f_ND)).norm())  # in float32
    with np.errstate(invalid="ignore"):
        return float(np.linalg.norm(stored.astype(np.float32) - f_ND))


def _is_plain(f_ND: np.ndarray) -> bool:
    """Tell whether torch can take features as they lie in memory: float32, writeable, in plain order."""
    return f_ND.dtype == np.float32 and f_ND.flags.carray


def _keys(images: ImageSet) -> RowKeys:
    """Return which image each row will be."""
    order = images.canonical_order
    labels = None if images.labels is None else images.labels[order]
    names = None if images.names is None else images.names[order]
    return RowKeys(images.pixel_hashes[order], labels, names, images.class_names)


def _renew_keys(store: FeatureStore, keys: RowKeys, wait: bool) -> bool:
    """Copy a store's features beside the labels and names at hand where it lacks them; tell whether it did."""
    kept = store.keys
    wanted = RowKeys(
        kept.sha256,
        kept.labels if keys.labels is None else keys.labels,
        kept.names if keys.names is None else keys.names,
        kept.class_names if keys.labels is None else keys.class_names,
    )
    if _same(wanted.labels, kept.labels) and _same(wanted.names, kept.names):
        return False
    path = store.path.with_name(f".{store.path.stem}-{short_hash(vars(wanted))}.h5")
    with StoreWriter(path, store.identity, wanted, store.behaviour, wait=wait) as writer:
        if not writer.is_complete():
            for block in writer.missing_blocks():
                writer.write(block, {layer: store.part(layer, block) for layer, _ in store.identity.layers})
            writer.finish()
        path.replace(store.path)
    return True


def _same(wanted: np.ndarray | None, kept: np.ndarray | None) -> bool:
    """Compare two arrays that may be missing."""
    if wanted is None or kept is None:
        return wanted is kept
    return bool(np.array_equal(wanted, kept))


def short_hash(arrays: Mapping[str, Any]) -> str:
    """Return 8 hex digits for named arrays."""
    data = b"".join(name.encode() + np.ascontiguousarray(array).tobytes() for name, array in arrays.items())
    return hashlib.sha256(data).hexdigest()[:8]
