"""The official files of CIFAR-10, SVHN and MNIST, in the layout in which torchvision downloads them.

Nothing is unpickled, with one exception: the official CIFAR-10 batches, by torchvision, after the checksum of every one
of them was found right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DataError

_MNIST_PREFIXES = {"train": "train", "test": "t10k"}
CIFAR_FOLDER = "cifar-10-batches-py"


def splits_at(place: Path, layout: str) -> tuple[str, ...]:
    """Return the splits of a layout (``"CIFAR10"``, ``"SVHN"`` or ``"MNIST"``) that lie in a folder, not below."""
    if layout == "CIFAR10":
        return ("train", "test") if (place / CIFAR_FOLDER).is_dir() else ()
    if layout == "SVHN":
        return tuple(split for split in ("train", "test", "extra") if (place / f"{split}_32x32.mat").is_file())
    return tuple(split for split in _MNIST_PREFIXES if _mnist_file(place, split, "images-idx3").is_file())


def read_torchvision(
    place: Path, layout: str, split: str, *, name: str, class_names: tuple[str, ...] | None = None
) -> ImageSet:
    """Read the files that torchvision downloads.

    Parameters
    ----------
    place : Path
        Folder that holds ``cifar-10-batches-py/``, ``train_32x32.mat`` or ``MNIST/raw/``.
    layout : str
        ``"CIFAR10"``, ``"SVHN"`` or ``"MNIST"``.
    split : str
        ``"train"`` or ``"test"``; also ``"extra"`` for SVHN.
    name : str
        What to call the result.
    class_names : tuple of str, optional
        Classes in the order of their numbers; None takes torchvision's or numbers them.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        If a file is missing or its checksum is wrong (CIFAR-10 and SVHN); nothing is unpickled then.
    """
    readers: dict[str, Callable[[Path, str], tuple[np.ndarray, np.ndarray]]] = {
        "CIFAR10": _read_cifar10,
        "SVHN": _read_svhn,
        "MNIST": _read_mnist,
    }
    images, labels = readers[layout](place, split)
    return ImageSet(np.ascontiguousarray(images), labels, class_names or (), name, split)


def download(layout: str, place: Path, split: str) -> None:
    """Download a data set through torchvision.

    Parameters
    ----------
    layout : str
        ``"CIFAR10"``, ``"SVHN"`` or ``"MNIST"``.
    place : Path
        Folder to put it in; made if need be.
    split : str
        Split to fetch; CIFAR-10 and MNIST come whole.

    Raises
    ------
    DataError
        If the network or the disk fails, or what came has the wrong checksum.
    """
    import torchvision.datasets

    if layout == "MNIST" and (place / "MNIST" / "processed").exists():
        # torchvision would load these old files of unknown content instead of downloading
        raise DataError(f"{place / 'MNIST' / 'processed'} is in the way", remedy="delete that folder")
    choice = {"split": split} if layout == "SVHN" else {"train": split == "train"}
    try:
        getattr(torchvision.datasets, layout)(place, download=True, **choice)
    except Exception as error:  # network, proxy, disk, archive and checksum each have their own type
        raise DataError(
            f"{layout} could not be downloaded to {place}",
            got=str(error) or type(error).__name__,
            remedy="check the network, or put the files there by hand and point --data-dir at them",
        ) from error


def _read_cifar10(place: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official Python batches once every checksum is found right."""
    from torchvision.datasets import CIFAR10

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    # torchvision checks the batches, but reads the names file's checksum only after it has unpickled them
    for filename, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, meta]:
        _check_md5(place / CIFAR_FOLDER / filename, md5)
    batches = CIFAR10(str(place), train=split == "train", download=False)
    return batches.data, np.array(batches.targets)


def _read_svhn(place: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official MATLAB file; torchvision maps its label 10 to the digit 0."""
    from torchvision.datasets import SVHN

    _check_md5(place / SVHN.split_list[split][1], SVHN.split_list[split][2])
    digits = SVHN(str(place), split=split, download=False)
    return digits.data.transpose(0, 2, 3, 1), digits.labels


def _read_mnist(place: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official IDX files."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    image_file, label_file = (_mnist_file(place, split, kind) for kind in ("images-idx3", "labels-idx1"))
    try:
        return read_image_file(str(image_file)).numpy()[..., None], read_label_file(str(label_file)).numpy()
    except Exception as error:  # the readers assert, index and reshape without checks of their own
        raise DataError(
            f"{image_file} and {label_file.name} cannot be read as MNIST",
            got=str(error) or type(error).__name__,
            remedy=f"delete {place / 'MNIST'} and load again with --download",
        ) from error


def _mnist_file(place: Path, split: str, kind: str) -> Path:
    """Name one of MNIST's IDX files."""
    return place / "MNIST" / "raw" / f"{_MNIST_PREFIXES[split]}-{kind}-ubyte"


def _check_md5(path: Path, md5: str) -> None:
    """Refuse a file that is not the official one."""
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(path), md5):
        raise DataError(
            f"{path} is {'not the official file' if path.exists() else 'missing'}, so nothing was read",
            expected=f"MD5 {md5}",
            remedy="delete it and load again with --download",
        )
