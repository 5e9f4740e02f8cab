"""Data sets in the layout in which torchvision downloads them.

Nothing is unpickled, with one exception: the official CIFAR batches, by torchvision, after the checksum of every one of
them was found right.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .collection import Files, Listing, printable
from .imageset import ImageSet
from .items import Item


@dataclass(frozen=True)
class Layout:
    """How torchvision lays out a data set.

    Attributes
    ----------
    marker : str
        What lies below the folder if the set is there; may hold ``{}`` for the split.
    splits : dict of str to dict
        Arguments of torchvision's class for each of our splits.
    in_memory : bool
        Whether it is read as arrays; else as image files.
    marks : dict of str to str
        What stands for a split in the marker.
    """

    marker: str
    splits: dict[str, dict[str, Any]]
    in_memory: bool = False
    marks: dict[str, str] = field(default_factory=dict)


def _named(*splits: str, **others: str) -> dict[str, dict[str, Any]]:
    """Splits that torchvision calls by the same names, or by others."""
    return {split: {"split": split} for split in splits} | {split: {"split": name} for split, name in others.items()}


_BY_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_IDX = {"train": "train", "test": "t10k"}
_GTSRB = {"train": "Training", "test": "Final_Test"}

# fmt: off
LAYOUTS: dict[str, Layout] = {
    "CIFAR10":       Layout("cifar-10-batches-py", _BY_FLAG, True),
    "CIFAR100":      Layout("cifar-100-python", _BY_FLAG, True),
    "SVHN":          Layout("{}_32x32.mat", _named("train", "test", "extra"), True),
    "MNIST":         Layout("MNIST/raw/{}-images-idx3-ubyte", _BY_FLAG, True, _IDX),
    "FashionMNIST":  Layout("FashionMNIST/raw/{}-images-idx3-ubyte", _BY_FLAG, True, _IDX),
    "STL10":         Layout("stl10_binary", _named("train", "test", extra="unlabeled"), True),
    "EuroSAT":       Layout("eurosat/2750", {"all": {}}),
    "Imagenette":    Layout("imagenette2", _named("train", "val")),
    "Flowers102":    Layout("flowers-102/jpg", _named("train", "val", "test")),
    "OxfordIIITPet": Layout("oxford-iiit-pet/images", _named("test", train="trainval")),
    "DTD":           Layout("dtd/dtd", _named("train", "val", "test")),
    "Food101":       Layout("food-101/images", _named("train", "test")),
    "Caltech101":    Layout("caltech101/101_ObjectCategories", {"all": {}}),
    "GTSRB":         Layout("gtsrb/GTSRB/{}", _named("train", "test"), False, _GTSRB),
}
# fmt: on
FOLDERS = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100", "stl10_binary": "STL10"}


def splits_at(place: Path, layout: str) -> tuple[str, ...]:
    """Return the splits of a layout, a key of :data:`LAYOUTS`, that lie in a folder, not below."""
    about = LAYOUTS[layout]
    return tuple(s for s in about.splits if (place / about.marker.format(about.marks.get(s, s))).exists())


def read_torchvision(
    place: Path, layout: str, split: str, *, name: str, class_names: tuple[str, ...] | None = None
) -> ImageSet:
    """Read a set that torchvision keeps as arrays.

    Parameters
    ----------
    place : Path
        Folder that holds what the layout's marker names.
    layout : str
        A key of :data:`LAYOUTS`.
    split : str
        One of its splits.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers; None takes torchvision's or numbers them.

    Returns
    -------
    ImageSet
        Without labels where torchvision has none.

    Raises
    ------
    DataError
        If a file is missing or its checksum is wrong; nothing is unpickled then.
    """
    readers: dict[str, Callable[[Path, str, str], tuple[np.ndarray, np.ndarray]]] = {
        "SVHN": _read_svhn,
        "MNIST": _read_idx,
        "FashionMNIST": _read_idx,
        "STL10": _read_stl10,
    }
    images, labels = readers.get(layout, _read_cifar)(place, layout, split)
    labelled = bool((labels >= 0).all())
    names = class_names or () if labelled else ()
    return ImageSet(np.ascontiguousarray(images), labels if labelled else None, names, name, split)


def list_torchvision(place: Path, layout: str, split: str, class_names: tuple[str, ...] | None = None) -> Listing:
    """List the image files of a set that torchvision keeps as files, with its official split and labels.

    Parameters
    ----------
    place, layout, split, class_names
        As for :func:`read_torchvision`.

    Returns
    -------
    Listing

    Raises
    ------
    DataError
        If torchvision does not find the set, or its files are damaged.
    """
    dataset = _dataset(place, layout, LAYOUTS[layout].splits[split])
    paths, labels = _files_of(dataset)
    names = tuple(printable(os.path.relpath(path, place)) for path in paths)
    given = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    classes = class_names or tuple(each if isinstance(each, str) else each[0] for each in given or ())
    units = Files.in_units([Item(Path(path)) for path in paths])
    numbers = np.array(labels, np.int64)
    classes = classes or tuple(str(number) for number in range(int(numbers.max(initial=0)) + 1))
    return Listing(units, names, numbers, classes, lambda row: str(paths[row]))


def download(layout: str, place: Path, split: str) -> None:
    """Download a data set through torchvision.

    Parameters
    ----------
    layout : str
        A key of :data:`LAYOUTS`.
    place : Path
        Folder to put it in; made if need be.
    split : str
        Split to fetch; most come whole.

    Raises
    ------
    DataError
        If the network or the disk fails, or what came has the wrong checksum.
    """
    import torchvision.datasets

    processed = place / layout / "processed"
    if layout.endswith("MNIST") and processed.exists():
        # torchvision would load these old files of unknown content instead of downloading
        raise DataError(f"{processed} is in the way", remedy="delete that folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, layout)(place, download=True, **LAYOUTS[layout].splits[split])
    except Exception as error:  # network, proxy, disk, archive and checksum each have their own type
        raise DataError(
            f"{layout} could not be downloaded to {place}",
            got=str(error) or type(error).__name__,
            remedy="check the network, or put the files there by hand and point --data-dir at them",
        ) from error


def _dataset(place: Path, layout: str, arguments: dict[str, Any]) -> Any:
    """Build torchvision's object for files that are there; its items are paths where it lets us choose the loader."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, layout)
    takes_loader = "loader" in inspect.signature(kind).parameters
    try:
        return kind(str(place), download=False, **arguments, **({"loader": str} if takes_loader else {}))
    except Exception as error:  # each class has its own checks and raises what it likes
        raise DataError(
            f"torchvision cannot read {layout} in {place}",
            got=str(error) or type(error).__name__,
            remedy="delete that folder and load again with --download",
        ) from error


def _files_of(dataset: Any) -> tuple[list[str], list[int]]:
    """Return the path and the label of each item of a set of image files."""
    if hasattr(dataset, "_images"):  # OxfordIIITPet
        return [str(path) for path in dataset._images], list(dataset._labels)
    if hasattr(dataset, "categories"):  # Caltech101
        root = Path(dataset.root) / "101_ObjectCategories"
        files = zip(dataset.y, dataset.index, strict=True)
        return [str(root / dataset.categories[y] / f"image_{number:04d}.jpg") for y, number in files], list(dataset.y)
    if hasattr(dataset, "_samples"):  # GTSRB, Imagenette
        return [str(path) for path, _ in dataset._samples], [label for _, label in dataset._samples]
    pairs = [dataset[row] for row in range(len(dataset))]  # the loader left the paths as they are
    return [path for path, _ in pairs], [label for _, label in pairs]


def _read_cifar(place: Path, layout: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official Python batches once every checksum is found right."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, layout)
    meta = (kind.meta["filename"], kind.meta["md5"])
    # torchvision checks the batches, but reads the names file's checksum only after it has unpickled them
    for filename, md5 in [*kind.train_list, *kind.test_list, meta]:
        _check_md5(place / LAYOUTS[layout].marker / filename, md5)
    batches = kind(str(place), train=split == "train", download=False)
    return batches.data, np.array(batches.targets)


def _read_svhn(place: Path, layout: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official MATLAB file; torchvision maps its label 10 to the digit 0."""
    from torchvision.datasets import SVHN

    _check_md5(place / SVHN.split_list[split][1], SVHN.split_list[split][2])
    digits = SVHN(str(place), split=split, download=False)
    return digits.data.transpose(0, 2, 3, 1), digits.labels


def _read_stl10(place: Path, layout: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official binary files, which torchvision checks; the unlabelled images have label -1."""
    images = _dataset(place, layout, LAYOUTS[layout].splits[split])
    return images.data.transpose(0, 2, 3, 1), np.asarray(images.labels)


def _read_idx(place: Path, layout: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official IDX files."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    raw = place / layout / "raw"
    image_file, label_file = (raw / f"{_IDX[split]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    try:
        return read_image_file(str(image_file)).numpy()[..., None], read_label_file(str(label_file)).numpy()
    except Exception as error:  # the readers assert, index and reshape without checks of their own
        raise DataError(
            f"{image_file} and {label_file.name} cannot be read as MNIST",
            got=str(error) or type(error).__name__,
            remedy=f"delete {place / layout} and load again with --download",
        ) from error


def _check_md5(path: Path, md5: str) -> None:
    """Refuse a file that is not the official one."""
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(path), md5):
        raise DataError(
            f"{path} is {'not the official file' if path.exists() else 'missing'}, so nothing was read",
            expected=f"MD5 {md5}",
            remedy="delete it and load again with --download",
        )
