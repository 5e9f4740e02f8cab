"""The store: identity, resumption after a kill, damage, full disks, and independence of order and batches."""

from __future__ import annotations

import copy
import hashlib
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DcganEvalError, StoreError, WeightsError
from dcgan_eval.features import extract as extract_module
from dcgan_eval.features import fill
from dcgan_eval.features.batchnorm import frozen
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, compute_statistics, extract
from dcgan_eval.features.pooling import pool_to_grid
from dcgan_eval.features.store import FeatureStore
from dcgan_eval.features.store_writer import StoreWriter
from dcgan_eval.features.taps import Encoder, tapped

EXACT = ExtractOptions(compute="float32", store_dtype="float32", device="cpu")


def reference(encoder: Encoder, images: ImageSet) -> np.ndarray:
    """Features of all images in one float32 batch, without store, blocks or folding's copy."""
    module = frozen(encoder.module, compute_statistics(encoder, images, EXACT))
    with torch.no_grad(), tapped(module, encoder.layers) as outputs:
        module(encoder.preprocess(torch.from_numpy(images.images)))
        return torch.cat([pool_to_grid(outputs[name]) for name in encoder.layers], 1).numpy()


def test_features_do_not_depend_on_batches_or_order(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    X = store.read()
    assert X.shape == (600, 7_168)
    assert X.dtype == np.float32
    # the same float32 sums, blocked differently
    np.testing.assert_allclose(X, reference(encoder, images), rtol=1e-4, atol=1e-5)
    shuffled = np.random.default_rng(1).permutation(600)
    again = extract(encoder, images.take(shuffled), options=EXACT, cache_dir=tmp_path)
    assert again.reused
    assert np.array_equal(again.read(), X[shuffled])
    rows = np.array([599, 3, 3, 256])
    assert np.array_equal(store.read(rows), X[rows])


def test_one_file_serves_single_layers_and_all(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    single = extract(encoder, images, options=replace(EXACT, layers=("conv2",)), cache_dir=tmp_path)
    assert single.reused
    assert single.path == store.path
    X = store.read()
    assert np.array_equal(single.read(None, ("conv2",)), X[:, 1_024:3_072])
    with h5py.File(store.path) as file:
        assert file["all"].is_virtual
        assert np.array_equal(np.sort(file["all"][:], axis=0), np.sort(X, axis=0))
        assert [file[f"layers/{name}"].shape[1] for name in encoder.layers] == [1_024, 2_048, 4_096]


def test_the_time_is_not_in_the_file(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    """HDF5 would note it in every dataset; the same features are the same bytes whenever they are made."""
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    with h5py.File(store.path) as file:
        datasets: list[h5py.Dataset] = []
        file.visititems(lambda name, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        assert len(datasets) > 7  # layers and checks of three, all, and the hashes
        assert not [item.name for item in datasets if h5py.h5g.get_objinfo(item.id).mtime]


def test_everything_that_changes_the_numbers_changes_the_identity(
    encoder: Encoder, images: ImageSet, tmp_path: Path
) -> None:
    images = images.take(np.arange(40))
    base = extract(encoder, images, options=EXACT, cache_dir=tmp_path).identity
    tinted = copy.deepcopy(images.images)
    tinted[0, 0, 0, 0] ^= 1
    scaled = Encoder(encoder.module, encoder.layers, image_shape=(32, 32, 3), preprocessing="something else")
    data, fewer = ImageSet(tinted, images.labels), images.take(np.arange(30))
    changes = {
        "weights": extract(load_encoder("untrained:svhn32:4"), images, options=EXACT, cache_dir=tmp_path),
        "layers": extract(encoder, images, options=replace(EXACT, layers=("conv1",)), cache_dir=tmp_path / "other"),
        "preprocessing": extract(scaled, images, options=EXACT, cache_dir=tmp_path),
        "batch norm": extract(encoder, images, options=replace(EXACT, batch_norm="running"), cache_dir=tmp_path),
        "compute": extract(
            encoder, images.take(np.arange(4)), options=replace(EXACT, compute="bfloat16"), cache_dir=tmp_path
        ),
        "store dtype": extract(encoder, images, options=replace(EXACT, store_dtype="float16"), cache_dir=tmp_path),
        "data": extract(encoder, data, options=EXACT, cache_dir=tmp_path),
        "calibration": extract(encoder, images, calibration=fewer, options=EXACT, cache_dir=tmp_path),
    }
    assert not any(store.reused for store in changes.values())
    names = {base.file_stem, replace(base, pooling="avg4").file_stem}
    names |= {store.identity.file_stem for store in changes.values()}
    assert len(names) == len(changes) + 2


def test_labels_are_not_part_of_features(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    first = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    relabelled = ImageSet(images.images, (images.labels + 1) % 3)
    second = extract(encoder, relabelled, options=EXACT, cache_dir=tmp_path)
    assert second.reused
    assert np.array_equal(first.read(), second.read())


@pytest.mark.parametrize("blocks_before_stop", [0, 1, 2])
def test_an_interrupted_extraction_continues(
    encoder: Encoder, images: ImageSet, tmp_path: Path, blocks_before_stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = extract_module.Extractor.__call__

    def counted(self: extract_module.Extractor, x: np.ndarray) -> dict[str, np.ndarray]:
        if len(calls) == blocks_before_stop:
            raise KeyboardInterrupt
        calls.append(len(x))
        return original(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(extract_module.Extractor, "__call__", counted)
        with pytest.raises(KeyboardInterrupt):
            extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    assert list(tmp_path.glob("*.h5")) == []
    left: list[int] = []
    monkeypatch.setattr(extract_module.Extractor, "__call__", lambda self, x: left.append(len(x)) or original(self, x))
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    assert sum(calls) + sum(left) == 600
    whole = extract(encoder, images, options=EXACT, cache_dir=tmp_path / "whole")
    assert np.array_equal(store.read(), whole.read())
    assert list(tmp_path.glob("*.partial")) == []


def test_a_run_without_a_finished_block_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, encoder: Encoder, images: ImageSet, tmp_path: Path
) -> None:
    """After one block the file is kept: see above."""

    def stop(self: Any, x: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(extract_module.Extractor, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    assert list(tmp_path.glob("noise-*.h5*")) == []


_KILLED = """
import os, signal, sys
import numpy as np
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.features.encoders import load_encoder

def progress(what, done, total):
    if what.startswith("features") and done >= 256:
        os.kill(os.getpid(), signal.SIGKILL)

pixels = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
options = ExtractOptions(compute="float32", store_dtype="float32", device="cpu")
extract(load_encoder("untrained:svhn32:3"), ImageSet(pixels, name="noise", split="train"), options=options,
        cache_dir=sys.argv[1], progress=progress)
"""


def test_a_killed_extraction_continues(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (partial,) = tmp_path.glob("*.partial")
    assert list(tmp_path.glob("*.h5")) == []
    done: list[int] = []
    store = extract(
        encoder,
        images,
        options=EXACT,
        cache_dir=tmp_path,
        progress=lambda what, n, _: done.append(n) if what.startswith("features") else None,
    )
    assert done == [512, 600]
    assert not partial.exists()
    np.testing.assert_allclose(store.read(), reference(encoder, images), rtol=1e-4, atol=1e-5)


def writer_of(store: FeatureStore, path: Path, **options: Any) -> StoreWriter:
    return StoreWriter(path, store.identity, store.keys, store.behaviour, **options)


def test_a_half_written_block_is_written_again(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    whole = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    with writer_of(whole, tmp_path / "again.h5") as writer:
        with h5py.File(whole.path) as file:
            for block in (0, 1):
                rows = slice(256 * block, 256 * block + 256)
                writer.write(block, {name: file[f"layers/{name}"][rows] for name in encoder.layers})
        assert writer.missing_blocks() == [2]
        overwrite(writer.partial, "conv2", 300, 5)  # as if the kill had come in the middle of a write
        assert writer.missing_blocks() == [1, 2]


def overwrite(path: Path, layer: str, row: int, column: int) -> None:
    """Change one number of a layer, where plain HDF5 says that it lies."""
    with h5py.File(path, "r", locking=False) as file:
        dataset = file[f"layers/{layer}"]
        offset = dataset.id.get_offset() + (row * dataset.shape[1] + column) * dataset.dtype.itemsize
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(4)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1, *old[1:]]))


def test_damage_is_found_on_reading(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    overwrite(store.path, "conv3", 500, 7)
    store.read(None, ("conv1", "conv2"))
    with pytest.raises(StoreError, match="does not match its checksum"):
        store.read()


def test_truncated_foreign_and_incomplete_files(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    data = store.path.read_bytes()
    store.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="truncated"):
        extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(StoreError, match="no feature store"):
        extract(encoder, images, options=EXACT, out=foreign, cache_dir=tmp_path)
    with h5py.File(foreign) as file:
        assert list(file) == ["x"]
    store.path.write_bytes(data)
    with writer_of(FeatureStore(store.path), tmp_path / "open.h5"):
        pass
    os.replace(tmp_path / "open.h5.partial", tmp_path / "open.h5")
    with pytest.raises(StoreError, match="not complete"):
        FeatureStore(tmp_path / "open.h5")
    with pytest.raises(StoreError, match="does not exist"):
        FeatureStore(tmp_path / "none.h5")


def test_a_mismatching_file_is_an_error_and_stays(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    out = tmp_path / "mine.h5"
    extract(encoder, images, options=EXACT, out=out, cache_dir=tmp_path)
    before = out.read_bytes()
    with pytest.raises(StoreError, match="batch_norm differs"):
        extract(encoder, images, options=replace(EXACT, batch_norm="running"), out=out, cache_dir=tmp_path)
    assert out.read_bytes() == before


def test_a_full_disk_is_one_sentence_and_can_be_continued(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.glob("*.h5")) == []
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    np.testing.assert_allclose(store.read(), reference(encoder, images), rtol=1e-4, atol=1e-5)


def test_too_little_space_is_said_before_any_work(
    encoder: Encoder, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000})
    monkeypatch.setattr("dcgan_eval.features.store_writer.shutil.disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match="disk is too full"):
        extract(encoder, images, options=EXACT, cache_dir=tmp_path)


def test_a_folder_that_cannot_be_written(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        extract(encoder, images, options=EXACT, cache_dir=in_the_way / "cache")
    assert in_the_way.read_text() == "not a folder"


def test_a_store_killed_between_its_last_block_and_its_name_completes(
    encoder: Encoder, images: ImageSet, tmp_path: Path
) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    partial = store.path.with_name(store.path.name + ".partial")
    store.path.rename(partial)
    for path in tmp_path.glob("batchnorm-*"):
        path.unlink()  # nothing but the name is missing, so nothing is computed again
    again = extract(encoder, images, options=EXACT, cache_dir=tmp_path, progress=lambda *_: pytest.fail("computed"))
    assert np.array_equal(again.read(), store.read())


def test_every_flipped_bit_outside_the_blocks_is_a_sentence(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images.take(np.arange(30)), options=replace(EXACT, layers=("conv1",)), cache_dir=tmp_path)
    data = bytearray(store.path.read_bytes())
    with h5py.File(store.path) as file:
        start = file["layers/conv1"].id.get_offset()
        stop = start + file["layers/conv1"].id.get_storage_size()
    draw = np.random.default_rng(0)
    outside = np.concatenate([np.arange(start), np.arange(stop, len(data))])
    for at in draw.choice(outside, 300, replace=False):
        damaged = data.copy()
        damaged[at] ^= 1 << draw.integers(8)
        path = tmp_path / "damaged.h5"
        path.write_bytes(damaged)
        with pytest.raises(StoreError):
            FeatureStore(path).read()


def test_cached_statistics_without_their_digest_are_refused(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    """The name of the digest may be what a flipped bit hits: then nothing of what it covers is to be trusted."""
    extract(encoder, images, options=EXACT, cache_dir=tmp_path).path.unlink()
    [path] = tmp_path.glob("batchnorm-*")
    with safe_open(path, framework="pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    header.pop("sha256")
    save_file({key: value + 1 for key, value in tensors.items()}, path, header)
    with pytest.raises(WeightsError, match="no digest"):
        extract(encoder, images, options=EXACT, cache_dir=tmp_path)


def test_a_store_is_a_matrix(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    X = store.read()
    assert (store.shape, store.dtype, len(store)) == (X.shape, X.dtype, 600)
    assert np.array_equal(store[10:20], X[10:20])
    assert np.array_equal(store[[5, 1, 5]], X[[5, 1, 5]])
    assert np.array_equal(store[images.labels == 1], X[images.labels == 1])
    assert np.array_equal(store[7], X[7])
    assert np.array_equal(store.take([9, 2, 4])[1:], X[[2, 4]])
    assert np.array_equal(np.concatenate([block for _, block in store.blocks(100)]), X)
    assert np.array_equal(store.only(("conv2",)).read(), X[:, 1_024:3_072])
    assert np.array_equal(store.memmap("conv1")[store.positions], X[:, :1_024])


def test_layers_that_a_store_does_not_hold_are_an_error(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images.take(np.arange(30)), options=EXACT, cache_dir=tmp_path)
    assert store.read(layers="conv2").shape == (30, store.width("conv2")) == (30, 2_048)
    for layers in (["conv1", "conv7"], ["conv"], "conv", []):
        for ask in (store.only, lambda names: store.read(layers=names)):
            with pytest.raises(StoreError, match="layer"):
                ask(layers)


def test_a_store_carries_its_rows(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    """What any HDF5 reader sees: labels, names and pixel hashes beside the features, in one order."""
    names = np.array([f"folder/ä{i}.png" for i in range(600)])
    named = ImageSet(images.images, images.labels, images.class_names, names=names)
    unlabelled = extract(encoder, images.without_labels(), options=EXACT, cache_dir=tmp_path)
    with h5py.File(unlabelled.path) as file:
        assert "labels" not in file
    store = extract(encoder, named, options=EXACT, cache_dir=tmp_path)
    assert store.reused  # the features were copied, not computed again
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images.images]
    order = np.argsort(hashes)
    with h5py.File(store.path) as file:
        assert [h.decode() for h in file["sha256"][:]] == [hashes[row] for row in order]
        assert file["labels"][:].tolist() == images.labels[order].tolist()
        assert file["names"].asstr()[:].tolist() == names[order].tolist()
        assert np.array_equal(file["all"][:], store.read()[order])


@pytest.mark.parametrize("gain", [1e-3, 1e-5, 1e-8, 1e-20])
def test_small_features_do_not_vanish_in_float16(tmp_path: Path, images: ImageSet, gain: float) -> None:
    class Scaled(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * gain

    torch.manual_seed(0)
    encoder = Encoder(Scaled(3, 4, 3), ["output"])
    half = extract(encoder, images, options=replace(EXACT, store_dtype="float16"), cache_dir=tmp_path)
    full = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    error = np.linalg.norm(half.read() / gain - full.read() / gain) / np.linalg.norm(full.read() / gain)
    assert error < 5e-4  # the bound of docs/precision.md
    with h5py.File(half.path) as file:
        scale = file["layers/output"].attrs.get("scale", 1.0)
        in_file = file["layers/output"][:].astype(np.float64) / scale
    np.testing.assert_allclose(in_file[half.positions], half.read(), rtol=1e-6)


def test_features_that_are_small_for_some_images_alone_are_refused(tmp_path: Path, images: ImageSet) -> None:
    """The scale follows the fixed images; what it does not fit is said, not lost."""

    class SmallOnDark(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dark = (x.mean((1, 2, 3), keepdim=True) < -0.5).float()
            return x[:, :, :2, :2] * (1 - dark * (1 - 1e-7))

    dark = ImageSet(images.images // 8)
    options = replace(EXACT, store_dtype="float16")
    with pytest.raises(DcganEvalError, match=r"too small.*--store-dtype float32"):
        extract(Encoder(SmallOnDark(), ["output"]), dark, options=options, cache_dir=tmp_path)


def test_an_encoder_that_changed_unseen_gets_a_store_of_its_own(images: ImageSet, tmp_path: Path) -> None:
    """A file that the forward pass reads is in no hash; only what the encoder answers tells."""
    gain = tmp_path / "gain.txt"

    class FromFile(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) * float(gain.read_text())

    torch.manual_seed(0)
    module = FromFile()
    features = []
    for text in ("1", "1.01", "1"):
        gain.write_text(text)
        features.append(extract(Encoder(module, ["output"]), images, options=EXACT, cache_dir=tmp_path / "cache"))
    assert [store.reused for store in features] == [False, False, True]
    np.testing.assert_allclose(features[1].read(), 1.01 * features[0].read(), rtol=1e-5)
    assert np.array_equal(features[2].read(), features[0].read())


def test_images_of_another_size(encoder: Encoder, tmp_path: Path) -> None:
    small = ImageSet(np.zeros((4, 28, 28, 1), np.uint8))
    with pytest.raises(DcganEvalError, match="do not fit the encoder"):
        extract(encoder, small, options=EXACT, cache_dir=tmp_path)


def test_features_too_large_for_float16(images: ImageSet, tmp_path: Path) -> None:
    encoder = load_encoder("untrained:svhn32:3")
    with torch.no_grad():
        encoder.module.conv1.conv.weight.mul_(1e8)
    options = replace(EXACT, store_dtype="float16")
    with pytest.raises(DcganEvalError, match="cannot be stored as float16"):
        extract(encoder, images, options=options, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "close"),
    [
        ("batch_norm", "datset", "dataset"),
        ("compute", "bfloat", "bfloat16"),
        ("store_dtype", "float8", "float16"),
        ("device", "cud", "cuda"),
    ],
)
def test_unknown_options_name_the_closest(field: str, value: str, close: str) -> None:
    with pytest.raises(DcganEvalError, match=close):
        ExtractOptions(**{field: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(DcganEvalError, match="no device cuda"):
        ExtractOptions(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_gives_the_same_features(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=replace(EXACT, device="cuda"), cache_dir=tmp_path)
    # float32, not TF32
    np.testing.assert_allclose(store.read(), reference(encoder, images), rtol=1e-4, atol=1e-5)


def test_features_are_rounded_to_float16_as_numpy_rounds_them() -> None:
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = np.sort(half[np.isfinite(half)].astype(np.float32))
    ties = (exact[1:] + exact[:-1]) / 2  # halfway between neighbours: to the even one
    near = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    beyond = np.array([65519.996, 65520, 1e30, -1e38, np.inf], np.float32)
    x = np.concatenate([exact, ties, *near, beyond])[None]
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    found = fill._converted(x, "float16")
    assert np.array_equal(found.view(np.uint16), expected.view(np.uint16))
    x.flags.writeable = False
    assert np.array_equal(fill._converted(x, "float16").view(np.uint16), expected.view(np.uint16))
