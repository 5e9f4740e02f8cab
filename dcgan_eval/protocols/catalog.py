"""The protocols that the toolkit knows, and the images each of them uses."""

from __future__ import annotations

from pathlib import Path

from ..data.catalog import load_data
from ..data.imageset import ImageSet
from ..data.splits import first_per_class, stratified_split
from ..errors import ProtocolError, unknown_name
from .spec import Protocol, Published, SealedTest

_PAPER = "arXiv:1511.06434, table 1"
_GRID = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_SPLIT_SEED = 0  # what belongs to a protocol, not to a run: small-suite and digits test sets

# fmt: off
_TABLE = (
    Protocol("cifar10_l2svm_full", 1, "cifar10", "CIFAR-10, all 50,000 labels", "cifar10",
             num_validation=10_000, Cs=_GRID, paper=Published(0.828, None, True, _PAPER)),
    Protocol("cifar10_l2svm_400", 1, "cifar10-400", "CIFAR-10, 400 labels per class", "cifar10",
             num_validation=10_000, Cs=_GRID, per_class=400, selection_draws=3, num_draws=10,
             paper=Published(0.738, 0.004, False, _PAPER)),
    Protocol("cifar10_small_l2svm", 1, "cifar10-small", "CIFAR-10 small suite, 4,000 / 2,000 images", "cifar10",
             num_validation=1_000, Cs=_GRID, subset=(400, 200)),
    Protocol("digits_l2svm", 1, "digits", "scikit-learn digits, 1,297 / 500 images", "digits",
             num_validation=300, Cs=_GRID, num_test=500),
)
# fmt: on

PROTOCOLS = {protocol.command: protocol for protocol in _TABLE}


def get_protocol(name: str) -> Protocol:
    """Return the protocol called ``name`` on the command line.

    Raises
    ------
    ProtocolError
        No such protocol; the closest names are given.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS, ProtocolError)
    return PROTOCOLS[name]


def load_protocol_data(
    protocol: Protocol, data_dir: Path | None = None, *, download: bool = False
) -> tuple[ImageSet, SealedTest]:
    """Load a protocol's training images and its sealed test set, both in canonical order.

    Parameters
    ----------
    protocol : Protocol
        What to run.
    data_dir : Path or None
        Where data sets lie; None uses ``DCGAN_EVAL_DATA``.
    download : bool
        Let torchvision fetch what is missing.

    Raises
    ------
    DataError
        The data cannot be found or read.
    """
    if protocol.num_test is not None:
        train, test = _split_off_test(load_data(protocol.dataset, "all", data_dir), protocol.num_test)
    else:
        train = load_data(protocol.dataset, "train", data_dir, download=download)
        test = load_data(protocol.dataset, "test", data_dir, download=download)
    if protocol.subset is not None:
        train = train.take(first_per_class(train, protocol.subset[0]), split="train-small")
        test = test.take(first_per_class(test, protocol.subset[1]), split="test-small")
    return train.take(train.canonical_order), SealedTest(test.take(test.canonical_order))


def _split_off_test(images: ImageSet, num_test: int) -> tuple[ImageSet, ImageSet]:
    """Split a stratified test set off a data set without an official one."""
    kept, held_out = stratified_split(images, num_test, _SPLIT_SEED, "test")
    return images.take(kept, split="train"), images.take(held_out, split="test")
