"""A feature store's rows in the formats of other programs, block by block: NumPy, Parquet, PyTorch, Zarr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.collection import printable
from ..errors import StoreError, check_installed
from ..files import check_target, replacing
from ..progress import Progress, no_progress

if TYPE_CHECKING:
    from .store import FeatureStore

FORMATS: dict[str, tuple[str, ...]] = {
    "hdf5": (".h5", ".hdf5"),
    "npy": (".npy",),
    "parquet": (".parquet",),
    "pt": (".pt", ".pth"),
    "zarr": (".zarr.zip", ".zip"),
}
"""Format -> suffixes, the usual one first; HDF5 is the store itself."""

_ROWS = 1024  # in memory at once


def check_export(path: Path, form: str) -> None:
    """Raise, before the work, unless features can be written to ``path`` and, for NumPy, beside it.

    Raises
    ------
    StoreError
        A wrong suffix, or a file of another kind in its place.
    DcganEvalError
        The format's library is not installed.
    """
    if form == "zarr":
        check_installed("zarr", "--format zarr", extra="zarr")
    for target in [path, *(_beside(path, what) for what in ("labels", "sha256", "names") if form == "npy")]:
        check_target(target, "--out", StoreError, suffixes=FORMATS[form])


def export(store: FeatureStore, form: str, path: Path, progress: Progress = no_progress) -> Path:
    """Write all rows of a store, in its own order, and what is known of each.

    Parameters
    ----------
    store : FeatureStore
        Its layers are joined; rows at hand in another order are written in the file's.
    form : str
        ``"npy"``: float32 (N, D), with ``NAME.sha256.npy`` and, where they are known, ``NAME.labels.npy`` and
        ``NAME.names.npy`` beside it. ``"parquet"``: a row each of ``features`` (list), ``sha256``, ``label``,
        ``name``, and ``class_names`` as JSON in the metadata of the file. ``"pt"``: a dictionary of ``features``,
        ``sha256``, ``labels``, ``names``, ``class_names`` that ``torch.load(path, weights_only=True)`` reads.
        ``"zarr"``: a group of the same arrays in one zip file, ``class_names`` among its attributes.
    path : Path
        Where it goes.
    progress : callable
        Called after each block.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    StoreError
        It cannot be written, or a block of the store is damaged.
    """
    from .store import FeatureStore

    rows = FeatureStore(store.path).only(store.layers)
    writers: dict[str, Callable[[FeatureStore, Path, Progress], None]] = {
        "npy": _to_npy,
        "parquet": _to_parquet,
        "pt": _to_pt,
        "zarr": _to_zarr,
    }
    try:
        writers[form](rows, path, progress)
    except OSError as error:
        raise StoreError(
            "The features cannot be written", got=f"{path}: {error}", remedy="give another place with --out"
        ) from error
    return path


def _columns(store: FeatureStore) -> dict[str, np.ndarray]:
    """Return what is known of each row: ``sha256`` and, where they are known, ``labels`` and ``names``."""
    keys = store.keys
    columns: dict[str, np.ndarray] = {"sha256": keys.sha256.astype(np.str_)}
    if keys.labels is not None:
        columns["labels"] = keys.labels
    if keys.names is not None:
        columns["names"] = np.array([printable(name) for name in keys.names.tolist()], np.str_)
    return columns


def _blocks(store: FeatureStore, progress: Progress) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, float32 features), a few at a time."""
    for rows, block in store.blocks(_ROWS):
        yield rows, block
        progress(f"export of {store.identity.data}", rows.stop, len(store))


def _beside(path: Path, what: str) -> Path:
    """Return the name of the array that goes with another."""
    return path.with_name(f"{path.stem}.{what}{path.suffix}")


def _to_npy(store: FeatureStore, path: Path, progress: Progress) -> None:
    """Write an array of features, and one for each column beside it."""
    for what, values in _columns(store).items():
        with replacing(_beside(path, what)) as partial:
            np.save(partial, values, allow_pickle=False)
    with replacing(path, lambda written: _check(np.load(written, mmap_mode="r").shape, store)) as partial:
        array = np.lib.format.open_memmap(partial, "w+", np.float32, store.shape)
        for rows, block in _blocks(store, progress):
            array[rows] = block
        array.flush()


def _to_parquet(store: FeatureStore, path: Path, progress: Progress) -> None:
    """Write a table with a row group for each block."""
    columns, width = _columns(store), store.shape[1]
    named = {"sha256": "sha256", "labels": "label", "names": "name"}
    fields = [("features", pa.list_(pa.float32(), width))]
    fields += [(named[what], pa.int64() if what == "labels" else pa.string()) for what in columns]
    schema = pa.schema(fields, {"class_names": json.dumps(store.keys.class_names)})

    def check(written: Path) -> None:
        _check((pq.read_metadata(written).num_rows, width), store)

    with replacing(path, check) as partial, pq.ParquetWriter(partial, schema) as writer:
        for rows, block in _blocks(store, progress):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), width)
            cells = [pa.array(values[rows]) for values in columns.values()]
            writer.write_batch(pa.record_batch([lists, *cells], schema=schema))


def _to_pt(store: FeatureStore, path: Path, progress: Progress) -> None:
    """Write a dictionary of tensors and lists; the features lie in a file of their own until all are there."""
    import torch

    columns = _columns(store)
    with replacing(path, lambda written: _check(_shape_in(written), store)) as partial:
        scratch = partial.with_name(partial.name + ".rows")
        try:
            array = np.memmap(scratch, np.float32, "w+", shape=store.shape)
            for rows, block in _blocks(store, progress):
                array[rows] = block
            held: dict[str, Any] = {"features": torch.from_numpy(array)}
            held |= {name: values.tolist() for name, values in columns.items()}
            if "labels" in columns:
                held |= {"labels": torch.from_numpy(columns["labels"]), "class_names": list(store.keys.class_names)}
            torch.save(held, partial)
        finally:
            scratch.unlink(missing_ok=True)


def _shape_in(path: Path) -> tuple[int, ...]:
    """Return the shape of the features in a file of PyTorch's, without reading them."""
    import torch

    return tuple(torch.load(path, mmap=True, weights_only=True)["features"].shape)


def _to_zarr(store: FeatureStore, path: Path, progress: Progress) -> None:
    """Write a group of arrays into a zip file, which has its name in one step, as a folder of chunks could not."""
    import zarr
    from zarr.storage import ZipStore

    def check(written: Path) -> None:
        with ZipStore(written, mode="r") as archive:
            _check(zarr.open_array(archive, path="features", mode="r").shape, store)

    with replacing(path, check) as partial, ZipStore(partial, mode="w") as archive:
        # format 2 has fixed-length strings, which no standard fixes yet for format 3, and is read by every version
        group = zarr.create_group(archive, zarr_format=2, attributes={"class_names": list(store.keys.class_names)})
        features = group.create_array("features", shape=store.shape, chunks=(_ROWS, store.shape[1]), dtype="float32")
        for rows, block in _blocks(store, progress):
            features[rows] = block  # one chunk: what is in a zip file is never written twice
        for what, values in _columns(store).items():
            group.create_array(what, data=values)


def _check(shape: tuple[int, ...], store: FeatureStore) -> None:
    """Raise unless what was written has the rows and features of the store."""
    if shape != store.shape:
        raise OSError(f"it reads back as {shape}, not {store.shape}")
