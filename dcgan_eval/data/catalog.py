"""The data sets known by name, where they are looked for, and one function that loads any of them or a user's own."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..errors import DataError, counted, looks_like_path, missing_path, unknown_name
from . import hub, official, readers
from .imageset import ImageSet
from .readers import Source
from .tree import WHOLE, rank, split_named

ENVIRONMENT_VARIABLE = "DCGAN_EVAL_DATA"
ENTRY_POINTS = "dcgan_eval.datasets"
"""Group of other packages' data: KIND is a function of the text behind the colon of KIND:TEXT and of a split's name, which
returns an :class:`~dcgan_eval.data.imageset.ImageSet`, or None where it has no such split."""


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before reading it.

    Parameters
    ----------
    name, title : str
        As typed, and as printed.
    counts : dict of str to int
        Images in each split of the official set.
    image_shape : tuple of int, or None
        Height, width, channels of the official set; None where images differ in size.
    num_classes : int
        Number of classes.
    class_names : tuple of str, optional
        Names in the order of the labels; None if the files must tell.
    torchvision_class : str, optional
        Name in ``torchvision.datasets`` that can read and download it.
    parquet_folder : str, optional
        Subfolder of the published Parquet files, where there are several.
    note : str
        Source and licence.
    """

    name: str
    title: str
    counts: dict[str, int]
    image_shape: tuple[int, int, int] | None
    num_classes: int
    class_names: tuple[str, ...] | None
    torchvision_class: str | None
    parquet_folder: str | None
    note: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the official splits."""
        return tuple(self.counts)


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_DIGITS = tuple(str(digit) for digit in range(10))
_SIGNS = tuple(str(sign) for sign in range(43))

_SVHN = {"train": 73_257, "test": 26_032, "extra": 531_131}
_STL = {"train": 5_000, "test": 8_000, "extra": 100_000}
_FLOWERS = {"train": 1_020, "val": 1_020, "test": 6_149}
_DTD = {"train": 1_880, "val": 1_880, "test": 1_880}
_NOTES = {
    "cifar10": "Krizhevsky 2009; no licence stated",
    "cifar100": "Krizhevsky 2009; no licence stated",
    "svhn": "Netzer et al. 2011; non-commercial use",
    "tiny-imagenet": "Stanford CS231n, from ImageNet-1k; non-commercial research use; train without the labels",
    "mnist": "LeCun et al. 1998; CC BY-SA 3.0",
    "fashion-mnist": "Xiao et al. 2017; MIT",
    "stl10": "Coates et al. 2011, from ImageNet; extra is unlabelled",
    "eurosat": "Helber et al. 2019; MIT",
    "imagenette": "fast.ai, from ImageNet-1k; non-commercial research use",
    "flowers102": "Nilsback and Zisserman 2008; no licence stated",
    "pets": "Parkhi et al. 2012; CC BY-SA 4.0; train is the official trainval",
    "dtd": "Cimpoi et al. 2014; research use; the first of its ten partitions",
    "food101": "Bossard et al. 2014; photographs of Foodspotting",
    "caltech101": "Fei-Fei et al. 2004; CC BY 4.0; without the background class",
    "gtsrb": "Stallkamp et al. 2012; train is what torchvision fetches",
    "imagenet-1k": "Russakovsky et al. 2015, ILSVRC 2012; non-commercial research use",
    "digits": "UCI optical recognition of handwritten digits, from scikit-learn, enlarged from 8x8; CC BY 4.0",
}

# fmt: off
# ruff: noqa: E501
_TABLE: tuple[tuple[Any, ...], ...] = (
    # name            title              images of each split                image shape  classes          torchvision     Parquet folder
    ("cifar10",       "CIFAR-10",        {"train": 50_000, "test": 10_000}, (32, 32, 3),  10, _CIFAR10,   "CIFAR10",       "plain_text"),
    ("cifar100",      "CIFAR-100",       {"train": 50_000, "test": 10_000}, (32, 32, 3), 100, None,       "CIFAR100",      "cifar100"),
    ("svhn",          "SVHN",            _SVHN,                             (32, 32, 3),  10, _DIGITS,    "SVHN",          "cropped_digits"),
    ("tiny-imagenet", "Tiny ImageNet",   {"train": 100_000, "valid": 10_000}, (64, 64, 3), 200, None,     None,            "data"),
    ("mnist",         "MNIST",           {"train": 60_000, "test": 10_000}, (28, 28, 1),  10, _DIGITS,    "MNIST",         "mnist"),
    ("fashion-mnist", "Fashion-MNIST",   {"train": 60_000, "test": 10_000}, (28, 28, 1),  10, _FASHION,   "FashionMNIST",  "fashion_mnist"),
    ("stl10",         "STL-10",          _STL,                              (96, 96, 3),  10, _STL10,     "STL10",         None),
    ("eurosat",       "EuroSAT",         {WHOLE: 27_000},                   (64, 64, 3),  10, None,       "EuroSAT",       None),
    ("imagenette",    "Imagenette",      {"train": 9_469, "val": 3_925},    None,         10, None,       "Imagenette",    None),
    ("flowers102",    "Flowers-102",     _FLOWERS,                          None,        102, None,       "Flowers102",    None),
    ("pets",          "Oxford-IIIT Pet", {"train": 3_680, "test": 3_669},   None,         37, None,       "OxfordIIITPet", None),
    ("dtd",           "DTD",             _DTD,                              None,         47, None,       "DTD",           None),
    ("food101",       "Food-101",        {"train": 75_750, "test": 25_250}, None,        101, None,       "Food101",       None),
    ("caltech101",    "Caltech-101",     {WHOLE: 8_677},                    None,        101, None,       "Caltech101",    None),
    ("gtsrb",         "GTSRB",           {"train": 26_640, "test": 12_630}, None,         43, _SIGNS,     "GTSRB",         None),
    ("imagenet-1k",   "ImageNet-1k",     {"train": 1_281_167, "val": 50_000}, None,     1000, None,       None,            "data"),
    ("digits",        "UCI digits",      {WHOLE: 1_797},                    (32, 32, 3),  10, _DIGITS,    None,            None),
)
# fmt: on

DATASETS: dict[str, DatasetInfo] = {
    row[0]: dataclasses.replace(DatasetInfo(*row), note=_NOTES[row[0]]) for row in _TABLE
}
VALIDATION = ("val", "valid", "validation")
"""Names of one split, which stand for one another."""
_LABEL_COLUMNS = {"cifar100": "fine_label"}  # where the published Parquet files have several


def dataset_info(name: str) -> DatasetInfo:
    """Return the table's row of a name.

    Raises
    ------
    DataError
        If there is none.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS, DataError)
    return DATASETS[name]


def default_data_dir() -> Path:
    """Return the data directory where none is given: ``$DCGAN_EVAL_DATA``, else ``~/.cache/dcgan-eval/data``."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "dcgan-eval" / "data"


def find(name: str, data_dir: Path | None = None, split: str | None = None) -> Source | None:
    """Find a known data set on disk.

    It is looked for in ``data_dir/<name>``, then in ``data_dir`` itself, in each as torchvision's layout, Parquet,
    class folders below split folders, ``<name>.npz``; the first form found counts. Parquet may lie up to two levels
    below ``data_dir/<name>``, but only directly in ``data_dir`` itself, where subfolders belong to other data sets.

    Parameters
    ----------
    name : str
        Name in the catalogue.
    data_dir : Path, optional
        Where to look; None means :func:`default_data_dir`.
    split : str, optional
        Pass over forms that lack this split; None takes the first form.

    Returns
    -------
    Source or None
        Form, path and splits; None if it is not there.

    Raises
    ------
    DataError
        If the name is unknown, or what is there is damaged or ambiguous.
    """
    info = dataset_info(name)
    found = _forms(info, data_dir or default_data_dir())
    return next((source for source in found if split is None or _answering_split(source, split)), None)


def load_data(
    name_or_path: str | Path,
    split: str = "train",
    data_dir: Path | None = None,
    download: bool = False,
    label_column: str | None = None,
    *,
    mixed: bool = False,
) -> ImageSet:
    """Load one split of a known data set or of the user's own images.

    Parameters
    ----------
    name_or_path : str or Path
        Name in the catalogue, or a place as :func:`~dcgan_eval.data.readers.detect` takes it, ``hf:ORG/NAME`` of
        the Hugging Face hub, or ``KIND:TEXT`` of another package (:data:`ENTRY_POINTS`). A catalogue name wins over a folder of
        the same name; write ``./cifar10`` for that folder.
    split : str
        Which split. Data without splits answer to ``"all"`` and ``"train"``, never to ``"test"``. The names val, valid
        and validation stand for one another. In a folder of one's own any subfolder may be a split.
    data_dir : Path, optional
        Where known data sets are; None means :func:`default_data_dir`. Not used for a path.
    download : bool
        Whether torchvision may fetch a missing data set to ``data_dir/<name>``.
    label_column : str, optional
        Column, field or array of the labels, where several could be meant.
    mixed : bool
        Whether images of one's own, and of a set whose images do, may differ in size, or be too many for memory; else
        that is an error.

    Returns
    -------
    ImageSet
        Named after the data set or the path. The count is not compared with the official one: see
        :func:`~dcgan_eval.data.check.check_data`.

    Raises
    ------
    DataError
        If it is missing, with the places that were looked at and the remedies, or damaged, or another data set.

    Warns
    -----
    DataNotice
        If something was found beside the images and is not used.
    """
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        info = DATASETS[name_or_path]
        return _load_known(info, split, data_dir or default_data_dir(), download, label_column, mixed)
    if _is_another_packages(name_or_path):
        return _load_offered(str(name_or_path), split)
    path = _existing_path(name_or_path)
    source = _detected(path, split, label_column)
    name = path.resolve().name if path.is_dir() else path.stem
    if hub.is_on_hub(name_or_path):
        name = _plain(str(name_or_path))
    return readers.read(
        source, _available_split(source, split, str(path)), name, label_column=label_column, mixed=mixed
    )


def is_offered(name: str | Path) -> bool:
    """Tell whether a name is one of data elsewhere: ``hf:ORG/NAME``, or ``KIND:TEXT`` that another package offers."""
    return hub.is_on_hub(name) or _is_another_packages(name)


def _is_another_packages(name: str | Path) -> bool:
    """Tell whether another installed package offers data under a name, ``KIND:TEXT``; a path that exists is a path."""
    kind, colon, _ = str(name).partition(":")
    return bool(colon and not Path(name).exists() and entry_points(group=ENTRY_POINTS, name=kind))


def _plain(name: str) -> str:
    """Return a name without what does not belong into one of a file."""
    return re.sub(r"[^\w.-]+", "-", name)


def _load_offered(name: str, split: str) -> ImageSet:
    """Return a split of what another package offers."""
    kind, _, rest = name.partition(":")
    images = next(iter(entry_points(group=ENTRY_POINTS, name=kind))).load()(rest, split)
    if images is None:
        raise DataError(
            f"{name} has no {split} split", remedy="choose another --split, or --train-split and --test-split"
        )
    if not isinstance(images, ImageSet):
        raise DataError(f"{name} returns no images", got=type(images).__name__, expected="an ImageSet, or None")
    return dataclasses.replace(images, name=_plain(name), split=split)


def _forms(info: DatasetInfo, data_dir: Path) -> Iterator[Source]:
    """Yield every form in which a known data set is on disk, the preferred one first; lazy, so only as far as asked."""
    if info.name == "digits":
        yield Source("bundled", None, (WHOLE,))
    for place, levels in ((data_dir / info.name, 2), (data_dir, 0)):
        finders: list[Callable[[Path], Source | None]] = [
            lambda place: readers.find_torchvision(place, info.torchvision_class) if info.torchvision_class else None,
            lambda place, levels=levels: readers.find_parquet(place, levels, info.parquet_folder),  # type: ignore[misc]
            # A set without official splits is all that its own folder holds.
            lambda place: readers.find_files(place, split_names_only=place == data_dir or info.splits != (WHOLE,)),
            lambda place: readers.find_npz(place / f"{info.name}.npz"),
        ]
        yield from (source for finder in finders if (source := finder(place)))


def _load_known(
    info: DatasetInfo, split: str, data_dir: Path, download: bool, label_column: str | None, mixed: bool
) -> ImageSet:
    """Find, if need be download, and read a data set of the catalogue; its images differ in size where it says so."""
    source = find(info.name, data_dir, split)
    if source is None and download and info.torchvision_class and split in info.splits:
        official.download(info.torchvision_class, data_dir / info.name, split)
        source = find(info.name, data_dir, split)
    source = source or find(info.name, data_dir)
    if source is None:
        raise _missing(info, split, data_dir)
    column = label_column or (_LABEL_COLUMNS.get(info.name) if source.form == "parquet" else None)
    available = _available_split(source, split, info.name)
    mixed = mixed and info.image_shape is None
    images = readers.read(source, available, info.name, info.class_names, column, mixed=mixed)
    return _checked_classes(images, info, source)


def _answering_split(source: Source, split: str) -> str | None:
    """Name the split that answers for the one asked for, if any; the whole never answers for a test split."""
    if split in source.splits:
        return split
    split, there = split_named(split) or split, {split_named(each) or each: each for each in source.splits}
    if split in there or split in VALIDATION:
        return next((there[other] for other in (split, *VALIDATION) if other in there), None)
    return WHOLE if source.splits == (WHOLE,) and split == "train" else None


def _available_split(source: Source, split: str, name: str) -> str:
    """Map a split that was asked for to one that is there."""
    answering = _answering_split(source, split)
    if answering:
        return answering
    if source.splits == (WHOLE,):
        remedy = "keep the images of each split in folders named train and test, or let the protocol split them"
    else:
        remedy = "choose another --split, or add the files" + (", or pass --download" if _downloadable(name) else "")
    raise DataError(f"{name} has no {split} split here", got=str(source), remedy=remedy)


def _downloadable(name: str) -> bool:
    """Whether torchvision can fetch it."""
    return name in DATASETS and DATASETS[name].torchvision_class is not None


def _missing(info: DatasetInfo, split: str, data_dir: Path) -> DataError:
    """Build the error for a known data set that is nowhere."""
    forms = [f"torchvision's layout of {info.torchvision_class}"] if info.torchvision_class else []
    forms += [f"Parquet ({split}-*.parquet)", f"class folders ({split}/<class>/*.png)", f"{info.name}.npz"]
    absent = "" if data_dir.is_dir() else " (no such folder)"
    remedies = [f"set --data-dir or the environment variable {ENVIRONMENT_VARIABLE} to the folder that holds it"]
    remedies += ["pass --download to fetch it"] if info.torchvision_class else []
    if os.path.exists(info.name):
        remedies.insert(0, f"give .{os.sep}{info.name} for the one that is in this folder")
    return DataError(
        f"{info.title} is not here",
        got=f"nothing in {data_dir / info.name} or {data_dir}{absent}",
        expected=", ".join(forms[:-1]) + " or " + forms[-1],
        remedy=", or ".join(remedies),
    )


def _checked_classes(images: ImageSet, info: DatasetInfo, source: Source) -> ImageSet:
    """Refuse another data set's files under this name, which would otherwise be evaluated in silence."""
    same_names = info.class_names is None or images.class_names == info.class_names
    if images.labels is None or (same_names and images.num_classes == info.num_classes):
        return images
    raise DataError(
        f"What was found under the name {info.name} has other classes than {info.title}",
        got=f"{counted(images.num_classes, 'classes')} from {images.class_names[0]!r} to {images.class_names[-1]!r}, {source}",
        expected=f"{info.num_classes} classes" + (f": {', '.join(info.class_names)}" if info.class_names else ""),
        remedy="correct --data-dir, or load it as your own data by giving its path instead of the name",
    )


def _existing_path(name_or_path: str | Path) -> Path:
    """Return a path that exists, a folder of the hub's included, or say that neither a name nor a path was given."""
    if hub.is_on_hub(name_or_path):
        return hub.fetch(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if isinstance(name_or_path, str) and not looks_like_path(name_or_path) and not path.suffix:
        raise unknown_name("data set or folder", name_or_path, DATASETS, DataError)
    raise missing_path(path, DataError, f"correct the path, or give a known name: {', '.join(DATASETS)}")


def _detected(path: Path, split: str | None = None, label_column: str | None = None) -> Source:
    """Return what a path holds, or say what it could hold."""
    source = readers.detect(path, split, label_column)
    if source is None:
        remedy = "correct --data"
        if path.name.lower().endswith((".zip", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar")):
            remedy = "unpack it, and give the folder; a .tar.gz can also be decompressed to a .tar"
        raise DataError(
            f"No images were recognised in {path}",
            expected="a folder of images, class folders (train/<class>/*.png), tar archives, a list of paths and labels, "
            "Parquet in the Hugging Face layout, .npz files, or torchvision's layout of a data set",
            remedy=remedy,
        )
    return source


def distinct(found: dict[str, Source]) -> list[Source]:
    """Return each source once."""
    return list({id(source): source for source in found.values()}.values())


def splits_of(
    info: DatasetInfo | None, name_or_path: str | Path, data_dir: Path, label_column: str | None
) -> dict[str, Source]:
    """Return the source of each split that is there, in the order in which loading prefers them."""
    if info is None:
        forms: Iterable[Source] = [_detected(_existing_path(name_or_path), None, label_column)]
    else:
        forms = _forms(info, data_dir)
    found: dict[str, Source] = {}
    for source in forms:
        for split in source.splits:
            found.setdefault(split, source)
    if info and not found:
        raise _missing(info, info.splits[0], data_dir)
    return dict(sorted(found.items(), key=lambda item: rank(item[0])))
