"""Where images are kept on disk: which forms a place holds, and a reader for each that returns an ImageSet.

Nothing here is unpickled; the official files that torchvision downloads are read in ``official``.
"""

from __future__ import annotations

import dataclasses
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dcgan_eval.data import official, pack, parquet
from dcgan_eval.data.decoding import IMAGE_SUFFIXES, decode_many, stack
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DataError

SPLIT_NAMES = ("train", "test", "val", "valid", "validation", "extra")
WHOLE = "all"  # the split of data that have none
DIGITS_SIZE = 32

_KEY_PATTERNS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_x", "{}_y"))
_SPLIT_KEYS = [("images", "labels", WHOLE)] + [
    (images.format(split), labels.format(split), split) for split in SPLIT_NAMES for images, labels in _KEY_PATTERNS
]
# what NumPy and zipfile raise on damaged archives, besides ValueError: an encrypted member is a RuntimeError, a header
# that claims a huge array a MemoryError
_NPZ_ERRORS = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Data in one form at one place.

    Parameters
    ----------
    form : str
        ``"CIFAR10"``, ``"SVHN"``, ``"MNIST"`` (torchvision's layouts), ``"parquet"``, ``"folders"``, ``"npz"``,
        ``"pack"`` or ``"bundled"`` (scikit-learn's digits).
    path : Path, optional
        Folder or file; None for bundled data.
    splits : tuple of str
        Splits that are there; ``("all",)`` for data without splits.
    """

    form: str
    path: Path | None
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.form} in {self.path or 'scikit-learn'} (splits: {', '.join(self.splits)})"


def find_torchvision(place: Path, layout: str) -> Source | None:
    """Look for one of torchvision's layouts in a folder.

    Parameters
    ----------
    place : Path
        Folder to look in, not below.
    layout : str
        ``"CIFAR10"``, ``"SVHN"`` or ``"MNIST"``.

    Returns
    -------
    Source or None
        None if it is not there.
    """
    splits = official.splits_at(place, layout)
    return Source(layout, place, splits) if splits else None


def find_parquet(place: Path, levels: int = 2, prefer: str | None = None) -> Source | None:
    """Look for Parquet splits in a folder and down to ``levels`` below it.

    Parameters
    ----------
    place : Path
        Folder to look in.
    levels : int
        How far down to look; 0 is the folder alone.
    prefer : str, optional
        Name of the subfolder to take where several hold splits.

    Returns
    -------
    Source or None
        None if there are none.

    Raises
    ------
    DataError
        If several folders hold splits, so that two data sets could be mixed up.
    """
    pattern = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
    folders = sorted({path.parent for depth in range(levels + 1) for path in place.glob(pattern[depth])})
    found = {folder: splits for folder in folders if (splits := parquet.split_files(folder))}
    if len(found) > 1:
        found = {folder: splits for folder, splits in found.items() if folder.name == prefer} or found
    if len(found) > 1:
        raise DataError(
            f"{place} holds Parquet files of more than one data set",
            got=", ".join(str(folder) for folder in found),
            expected="the splits of one data set in one folder",
            remedy="give one of these folders instead",
        )
    return next((Source("parquet", folder, tuple(splits)) for folder, splits in found.items()), None)


def find_folders(place: Path, split_names_only: bool = False) -> Source | None:
    """Look for images in ``split/class/``, ``split/``, ``class/`` or directly in a folder.

    Parameters
    ----------
    place : Path
        Folder to look in.
    split_names_only : bool
        Accept only folders named as splits (train, test, val, valid, validation, extra).

    Returns
    -------
    Source or None
        None if there are no images.
    """
    splits = tuple(split for split in SPLIT_NAMES if _class_files(place / split) or _images_in(place / split))
    if splits:
        return Source("folders", place, splits)
    whole = not split_names_only and (_class_files(place) or _images_in(place))
    return Source("folders", place, (WHOLE,)) if whole else None


def find_npz(path: Path) -> Source | None:
    """Look at which splits an ``.npz`` file holds.

    Returns
    -------
    Source or None
        None if there is no such file.

    Raises
    ------
    DataError
        If the file is damaged, or has none of the keys that :func:`read_npz` knows.
    """
    if not path.is_file():
        return None
    with _open_npz(path) as file:
        keys = set(file.files)
    splits = tuple(dict.fromkeys(split for images, _, split in _SPLIT_KEYS if images in keys))
    if not splits:
        raise DataError(
            f"{path} has no array of images",
            got=f"keys {', '.join(sorted(keys)) or '(none)'}",
            expected="images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels, ...",
            remedy="save it with numpy.savez(path, images=..., labels=...)",
        )
    return Source("npz", path, splits)


def detect(path: Path) -> Source | None:
    """Find out in which form a user's own file or folder holds images.

    Parameters
    ----------
    path : Path
        A ``.npz`` or ``.parquet`` file, a pack (``.h5``), or a folder. In a folder the first of these counts:
        torchvision's layouts, Parquet (down to two levels below), class folders, an ``.npz`` file if there is exactly
        one.

    Returns
    -------
    Source or None
        None if nothing is recognised.

    Raises
    ------
    DataError
        If what is there is damaged or ambiguous.
    """
    if path.suffix == ".npz":
        return find_npz(path)
    if path.suffix == ".h5" and path.is_file():
        return Source("pack", path, (WHOLE,))
    if path.is_file():
        return Source("parquet", path, (parquet.split_of(path) or WHOLE,)) if path.suffix == ".parquet" else None
    if path.name == official.CIFAR_FOLDER:
        return find_torchvision(path.parent, "CIFAR10")
    layouts = (find_torchvision(path, layout) for layout in ("CIFAR10", "SVHN", "MNIST"))
    archives = sorted(path.glob("*.npz"))
    return (
        next(filter(None, layouts), None)
        or find_parquet(path)
        or find_folders(path)
        or (find_npz(archives[0]) if len(archives) == 1 else None)
    )


def read(source: Source, split: str, name: str, class_names: tuple[str, ...] | None = None) -> ImageSet:
    """Read one split of a source.

    Parameters
    ----------
    source : Source
        As found by :func:`detect` or one of the finders.
    split : str
        One of ``source.splits``.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers, where the source itself does not say.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        If the data are damaged, incomplete or unusable.
    """
    if source.path is None:
        return read_digits()
    if source.form == "parquet":
        files = [source.path] if source.path.is_file() else parquet.split_files(source.path)[split]
        return parquet.read_parquet(files, name=name, split=split, class_names=class_names)
    if source.form == "pack":
        return pack.read_pack(source.path, name=name)
    if source.form in ("folders", "npz"):
        reader = read_folders if source.form == "folders" else read_npz
        return reader(source.path, split, name=name, class_names=class_names)
    return official.read_torchvision(source.path, source.form, split, name=name, class_names=class_names)


def read_folders(
    place: Path, split: str, *, name: str = "images", class_names: tuple[str, ...] | None = None
) -> ImageSet:
    """Read images from ``split/class/*.png`` (also jpg, jpeg, webp, bmp), or ``class/*.png`` for the split ``all``.

    Parameters
    ----------
    place : Path
        The folder above.
    split : str
        Name of the split's folder, or ``"all"`` for data without splits.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers, if the folders bear these names; otherwise the classes are the class
        folders of all splits, sorted, so that a class absent from one split does not shift the numbers of the rest.

    Returns
    -------
    ImageSet
        Without labels where the images lie in no class folders.

    Raises
    ------
    DataError
        If there are no images, one is damaged, or they differ in size.
    """
    folder = place if split == WHOLE else place / split
    files = _class_files(folder)
    if not files:
        return _read_files(_images_in(folder), None, (), name, split)
    siblings = [folder] if split == WHOLE else [place / sibling for sibling in SPLIT_NAMES]
    found = sorted({class_name for sibling in siblings for class_name in _class_files(sibling)})
    names = class_names if class_names and set(found) <= set(class_names) else tuple(found)
    labels = [names.index(class_name) for class_name, paths in files.items() for _ in paths]
    paths = [path for class_paths in files.values() for path in class_paths]
    return _read_files(paths, np.array(labels, np.int64), names, name, split)


def read_npz(path: Path, split: str, *, name: str = "images", class_names: tuple[str, ...] | None = None) -> ImageSet:
    """Read arrays of images and labels from an ``.npz`` file, without ever unpickling.

    Parameters
    ----------
    path : Path
        File with ``images`` and ``labels`` (split ``all``), or for each split ``x_train`` and ``y_train``, or
        ``train_images`` and ``train_labels``. Images are uint8 (N, H, W, C) or, grey, (N, H, W); labels are integers
        (N,) or (N, 1), and may be absent.
    split : str
        Which split.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers; None names them by number.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        If the file is damaged, holds Python objects, or lacks the split.
    """
    with _open_npz(path) as file:
        present = [keys for keys in _SPLIT_KEYS if keys[2] == split and keys[0] in file.files]
        if not present:
            raise DataError(f"{path} has no {split} split", got=f"keys {', '.join(file.files)}")
        image_key, label_key, _ = present[0]
        images = file[image_key]
        labels = file[label_key] if label_key in file.files else None
    if images.ndim == 3:
        images = images[..., None]
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return ImageSet(images, labels, class_names or () if labels is not None else (), name, split)


def read_digits() -> ImageSet:
    """Read the digits that come with scikit-learn.

    Returns
    -------
    ImageSet
        1,797 images (32, 32, 3), split ``all``: the 8x8 grey images, 0 to 16, scaled to 0 to 255, enlarged with
        Pillow's bicubic filter and repeated over three channels.

    Source
    ------
    Test part of the UCI data set of optical recognition of handwritten digits, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    size = (DIGITS_SIZE, DIGITS_SIZE)
    enlarged = np.stack([np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in grey])
    return ImageSet(np.repeat(enlarged[..., None], 3, axis=3), digits.target, (), "digits", WHOLE)


def _visible(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries and what archive programs leave behind; empty if it is none."""
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"{folder} cannot be listed", got=str(error), remedy="check its permissions") from error
    return sorted(path for path in entries if not path.name.startswith((".", "__")))


def _images_in(folder: Path) -> list[Path]:
    """List the image files directly in a folder, sorted by name."""
    return [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES]


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """List the image files of each class folder that has any."""
    return {sub.name: files for sub in _visible(folder) if sub.is_dir() and (files := _images_in(sub))}


def _read_files(
    paths: list[Path], labels: npt.NDArray[np.int64] | None, class_names: tuple[str, ...], name: str, split: str
) -> ImageSet:
    """Decode image files."""

    def where(position: int) -> str:
        return str(paths[position])

    images = stack(decode_many(paths, where), f"{name} ({split})", where)
    return ImageSet(images, labels, class_names, name, split)


@contextmanager
def _open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an archive of arrays, turning whatever a damaged one raises into a DataError."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an archive of named arrays")
        with file:
            yield file
    except ValueError as error:
        holds_objects = "allow_pickle" in str(error) and zipfile.is_zipfile(path)
        raise _npz_error(path, error, holds_objects) from error
    except _NPZ_ERRORS as error:
        raise _npz_error(path, error, False) from error


def _npz_error(path: Path, error: Exception, holds_objects: bool) -> DataError:
    """Build the error for an unreadable archive."""
    if holds_objects:
        return DataError(
            f"{path} holds an array of Python objects, which only unpickling could read",
            expected="numeric arrays: images uint8 (N, H, W, C), labels int64 (N,)",
            remedy="save it again with numpy.savez from numeric arrays; images must all have one size",
        )
    return DataError(
        f"{path} cannot be read as an .npz file",
        got=str(error) or type(error).__name__,
        remedy="the file is probably truncated or of another kind: fetch it again, or save it with numpy.savez",
    )
