"""Features in the formats of other programs: the store's numbers and keys, read by the library that owns the format."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from zarr.storage import ZipStore

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import StoreError
from dcgan_eval.features import export as module
from dcgan_eval.features.cache import cache_files
from dcgan_eval.features.export import FORMATS, check_export, export
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.features.given_files import read_given
from dcgan_eval.features.store import FeatureStore
from dcgan_eval.features.taps import Encoder

Found = tuple[np.ndarray, list[str], list[int] | None, list[str] | None, list[str] | None]


@pytest.fixture(scope="module")
def store(encoder: Encoder, images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    names = np.array([f"a/{i}.png" for i in range(600)])
    named = ImageSet(images.images, images.labels, ("x", "y", "z"), "noise", "train", names)
    layers = ExtractOptions(layers=("conv1", "conv2"), compute="float32", device="cpu")
    return extract(encoder, named, options=layers, cache_dir=tmp_path_factory.mktemp("stores"))


def expected(store: FeatureStore) -> Found:
    """What h5py reads from the store, with nothing of ours."""
    with h5py.File(store.path) as file:
        return (
            file["all"][:].astype(np.float32),
            file["sha256"].asstr()[:].tolist(),
            file["labels"][:].tolist(),
            [name.decode() for name in file["names"][:]],
            list(file["labels"].attrs["class_names"]),
        )


def _read_npy(path: Path) -> Found:
    beside = [np.load(path.with_name(f"{path.stem}.{what}.npy")).tolist() for what in ("sha256", "labels", "names")]
    return np.load(path), *beside, None


def _read_parquet(path: Path) -> Found:
    table = pq.read_table(path)
    keys = [table.column(name).to_pylist() for name in ("sha256", "label", "name")]
    return (
        np.array(table.column("features").to_pylist(), np.float32),
        *keys,
        json.loads(table.schema.metadata[b"class_names"]),
    )


def _read_pt(path: Path) -> Found:
    held = torch.load(path, weights_only=True)
    return held["features"].numpy(), held["sha256"], held["labels"].tolist(), held["names"], held["class_names"]


def _read_zarr(path: Path) -> Found:
    group = zarr.open_group(ZipStore(path), mode="r")
    keys = [group[name][:].tolist() for name in ("sha256", "labels", "names")]
    return group["features"][:], *keys, group.attrs["class_names"]


READERS: dict[str, Callable[[Path], Found]] = {
    "npy": _read_npy,
    "parquet": _read_parquet,
    "pt": _read_pt,
    "zarr": _read_zarr,
}


@pytest.mark.parametrize("form", READERS)
def test_every_format_holds_what_the_store_holds(
    form: str, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the rows at hand; in blocks, so that no more than one is in memory."""
    monkeypatch.setattr(module, "_ROWS", 256)
    read, sizes = FeatureStore.read, list[int]()

    def counted(self: FeatureStore, *rows: Any) -> np.ndarray:
        sizes.append(len(self))
        return read(self, *rows)

    monkeypatch.setattr(FeatureStore, "read", counted)
    seen: list[tuple[int, int]] = []
    path = export(store, form, tmp_path / f"f{FORMATS[form][0]}", lambda what, done, total: seen.append((done, total)))
    assert sizes == [256, 256, 88]
    assert seen == [(256, 600), (512, 600), (600, 600)]
    found, wanted = READERS[form](path), expected(store)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[0].dtype == np.float32
    assert found[1:4] == wanted[1:4]
    assert found[4] in (wanted[4], None)
    assert found[1] == sorted(found[1])
    assert not [name for name in tmp_path.iterdir() if "partial" in name.name]


@pytest.mark.parametrize("form", READERS)
def test_what_is_not_known_is_left_out(form: str, encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    bare = extract(encoder, images.take(np.arange(20)).without_labels(), cache_dir=tmp_path / "c")
    path = export(bare.only("conv1"), form, tmp_path / f"f{FORMATS[form][0]}")
    if form == "npy":
        assert sorted(p.name for p in tmp_path.glob("*.npy")) == ["f.npy", "f.sha256.npy"]
        assert np.load(path).shape == (20, bare.width("conv1"))
    elif form == "parquet":
        assert pq.read_schema(path).names == ["features", "sha256"]
    elif form == "zarr":
        assert sorted(zarr.open_group(ZipStore(path), mode="r").array_keys()) == ["features", "sha256"]
    else:
        assert set(torch.load(path, weights_only=True)) == {"features", "sha256"}


def test_features_come_back_from_parquet(store: FeatureStore, tmp_path: Path) -> None:
    given = read_given(export(store, "parquet", tmp_path / "f.parquet"), "train")
    wanted = expected(store)
    np.testing.assert_array_equal(given.matrix, wanted[0])
    assert given.sha256 is not None
    assert given.labels is not None
    assert (given.sha256.astype(str).tolist(), given.labels.tolist()) == wanted[1:3]
    assert given.class_names == ("x", "y", "z")


@pytest.mark.parametrize(
    ("form", "name"), [("npy", "f.npz"), ("parquet", "f.pt"), ("pt", "f.h5"), ("hdf5", "f.npy"), ("zarr", "f.h5")]
)
def test_a_wrong_suffix_is_refused(form: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="another suffix"):
        check_export(tmp_path / name, form)


def test_other_files_are_not_replaced(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "f.labels.npy").write_bytes(b"PK\x03\x04 of someone")
    with pytest.raises(StoreError, match="another kind"):
        check_export(tmp_path / "f.npy", "npy")
    (tmp_path / "f.npy").write_bytes(b"\x93NUMPY of before")
    (tmp_path / "f.labels.npy").unlink()
    check_export(tmp_path / "f.npy", "npy")  # a file of the same kind may be


def test_a_damaged_store_gives_no_file(store: FeatureStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    data = bytearray(store.path.read_bytes())
    with h5py.File(store.path) as file:
        data[file["layers/conv2"].id.get_offset() + 300_000] ^= 1
    copy.write_bytes(data)
    for form in READERS:
        with pytest.raises(StoreError, match="checksum"):
            export(FeatureStore(copy), form, tmp_path / f"d{FORMATS[form][0]}")
        assert not (tmp_path / f"d{FORMATS[form][0]}").exists()


def test_what_a_killed_export_leaves_is_known_to_the_cache(store: FeatureStore, tmp_path: Path) -> None:
    """The folder of the stores holds exports too; ``cache clean --unfinished`` finds both files of this one."""
    script = (
        "import os, sys; from pathlib import Path; from dcgan_eval.features.export import export; "
        "from dcgan_eval.features.store import FeatureStore; "
        "export(FeatureStore(Path(sys.argv[1])), 'pt', Path(sys.argv[2]), lambda *_: os._exit(9))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(store.path), str(tmp_path / "f.pt")])
    assert killed.returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    assert [file.kind for file in cache_files(tmp_path)] == ["unfinished", "unfinished"]
