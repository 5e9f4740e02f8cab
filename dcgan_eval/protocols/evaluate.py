"""One call from a protocol's name and features to a record."""

from __future__ import annotations

from pathlib import Path

from ..features.extract import ExtractOptions, Progress
from ..features.taps import Encoder
from ..records import Record
from ..svm.path import Solver
from .catalog import get_protocol, load_protocol_data
from .classifiers import Classifier
from .runner import run_protocol
from .sources import EncoderFeatures, FeatureSource
from .spec import Protocol


def evaluate(
    protocol: str | Protocol,
    features: Encoder | FeatureSource,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    cache_dir: Path | str = "cache",
    options: ExtractOptions | None = None,
    classifier: Classifier | None = None,
    seed: int = 0,
    tol: float = 1e-4,
    solver: Solver = "auto",
    allow_unconverged: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Record:
    """Load a protocol's data, run it and return the record: what ``dcgan-eval svm`` does.

    Parameters
    ----------
    protocol : str or Protocol
        A name of the catalogue (``"cifar10"``, ``"svhn-small"``), the path of data with a training and a test split, or
        a protocol such as ``get_protocol("cifar10").with_draws(40, 10)``.
    features : Encoder or FeatureSource
        What to measure. An encoder's features are cached in ``cache_dir``, made as ``options`` say.
    data_dir : Path or None
        Where data sets lie; None uses ``DCGAN_EVAL_DATA``.
    download : bool
        Let torchvision fetch what is missing.
    cache_dir, options
        For an encoder; ``options`` None means the paper's protocol.
    classifier, seed, tol, solver, allow_unconverged, progress
        As for :func:`~dcgan_eval.protocols.runner.run_protocol`.

    Raises
    ------
    DcganEvalError
        Unknown protocol, missing data, images that do not fit the encoder, a fit without its certificate.
    """
    if isinstance(features, Encoder):
        features = EncoderFeatures(features, options or ExtractOptions(), Path(cache_dir))
    spec = get_protocol(protocol) if isinstance(protocol, str) else protocol
    train, test = load_protocol_data(spec, data_dir, download=download)
    return run_protocol(
        spec,
        train,
        test,
        features,
        classifier=classifier,
        seed=seed,
        tol=tol,
        solver=solver,
        allow_unconverged=allow_unconverged,
        progress=progress,
    )
