"""The file that a pack is: every flipped bit noticed, nothing outside it read, no write lost in silence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dcgan_eval.data import pack as packing
from dcgan_eval.data import packfile
from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.pack import pack, read_pack
from dcgan_eval.errors import DataError


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two splits of three classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 4)):
        for row in range(count):
            path = tmp_path / "f" / split / ("ant", "bee", "cow")[row % 3] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "f"


def test_a_pack_holds_splits(tmp_path, folder):
    packed = pack(folder, tmp_path / "p.h5", 8, num_processes=1)
    assert packed.splits == {"train": 9, "val": 4}
    for split in packed.splits:
        direct, loaded = load_data(folder, split), load_data(tmp_path / "p.h5", split)
        assert loaded.fingerprint == direct.fingerprint
        assert loaded.names.tolist() == direct.names.tolist()
        assert loaded.class_names == direct.class_names
        assert np.array_equal(loaded.images, direct.images)
        assert np.array_equal(loaded.labels, direct.labels)
    with pytest.raises(DataError, match="no test split"):
        load_data(tmp_path / "p.h5", "test")
    only = pack(folder, tmp_path / "q.h5", 8, split="val", num_processes=1)
    assert only.splits == {"val": 4}
    assert load_data(tmp_path / "q.h5", "val").fingerprint == load_data(folder, "val").fingerprint


def test_every_flipped_bit_is_noticed(tmp_path, folder):
    path = tmp_path / "p.h5"
    pack(folder, path, 8, num_processes=1)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    places = {*range(0, 4096, 41), *random.integers(0, len(whole), 60).tolist()}
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        with pytest.raises(DataError):
            read_pack(path, split="val")
    for kept in (0, 100, 2000, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError):
            read_pack(path, split="val")
    path.write_bytes(whole)
    assert read_pack(path, split="val").num_images == 4


def forge(path: Path, key: str, how: str) -> None:
    """Write a pack as an attacker would: of the format without a seal, with a key that leads elsewhere."""
    secret = path.with_name("secret")
    secret.write_bytes(bytes(range(192)))
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other[key] = np.zeros((1, 8, 8, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "dcgan-eval-pack-1"
        file["names"], file["class_names"] = np.array(["x"], h5py.string_dtype()), np.array([], h5py.string_dtype())
        file["crc32"] = np.array([zlib.crc32(bytes(192))], np.uint32)
        if key != "images":
            file["images"] = np.zeros((1, 8, 8, 3), np.uint8)
        shape, dtype = {"images": ((1, 8, 8, 3), "u1"), "labels": ((1,), "<i8"), "crc32": ((1,), "<u4")}[key]
        file.pop(key, None)
        if how == "external storage":
            file.create_dataset(key, shape, dtype, external=[(str(secret), 0, 192)])
        elif how == "external link":
            file[key] = h5py.ExternalLink("other.h5", key)
        elif how == "soft link":
            file["elsewhere"] = np.zeros(shape, dtype)
            file[key] = h5py.SoftLink("/elsewhere")
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), key, shape)
            file.create_virtual_dataset(key, layout)
        elif how == "compressed":
            file.create_dataset(key, data=np.zeros(shape, dtype), chunks=True, compression="gzip")
        elif how == "huge and empty":
            file.create_dataset(key, (1 << 40, *shape[1:]), dtype)
        else:
            file.create_group(key)


@pytest.mark.parametrize("key", ["images", "labels", "crc32"])
@pytest.mark.parametrize(
    "how",
    ["external storage", "external link", "soft link", "virtual", "compressed", "huge and empty", "group"],
)
def test_a_pack_leads_to_no_other_data(tmp_path, key, how):
    forge(tmp_path / "p.h5", key, how)
    with pytest.raises(DataError, match=r"is not as data pack writes it|cannot be read as a pack"):
        read_pack(tmp_path / "p.h5")


def test_packs_of_the_first_format_are_still_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.attrs["format"] = "dcgan-eval-pack-1"
        file["images"], file["labels"] = images, np.array([0, 1, 0])
        file["crc32"] = np.array([zlib.crc32(images.tobytes())], np.uint32)
        for key, values in (("names", ["a", "b", "c"]), ("class_names", ["x", "y"]), ("skipped", [])):
            file.create_dataset(key, data=values, dtype=h5py.string_dtype())
    loaded = load_data(tmp_path / "p.h5", "train")
    assert np.array_equal(loaded.images, images)
    assert loaded.names.tolist() == ["a", "b", "c"]
    assert loaded.class_names == ("x", "y")


class Failing:
    """A raw file whose k-th write fails."""

    def __init__(self, raw, fails_at: int):
        self.raw, self.left = raw, fails_at

    def write(self, data) -> int:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.raw.write(data)

    def __getattr__(self, name):
        return getattr(self.raw, name)


def test_a_write_that_fails_is_an_error_at_every_moment(tmp_path):
    head = packfile.PackHead(np.arange(3), ["a", "b", "c"], ["x", "y", "z"], [], {"all": 3}, {"rule": "r"})
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    for k in range(1, 500):
        with open(tmp_path / "p.h5", "w+b", buffering=0) as raw:
            sink = packfile._Sink(Failing(raw, k))
            try:
                with sink.reporting(), h5py.File(sink, "w") as file:
                    file["images"] = pixels
                    packfile._write_texts(file, "names", head.names)
            except OSError:
                continue
        break
    assert 3 < k < 499, "each write failed once, then none"
    packfile.write_pack(tmp_path / "p.h5", head, pixels.shape, [pixels[:1], pixels[1:]])
    assert read_pack(tmp_path / "p.h5").labels.tolist() == [0, 1, 2]


def test_parts_stay_until_the_pack_has_been_read_back(tmp_path, folder, monkeypatch):
    write = packfile.write_pack

    def forgetful(path, *rest):
        write(path, *rest)
        with open(path, "r+b") as file:
            file.seek(-200, os.SEEK_END)
            file.write(b"\xff" * 8)

    monkeypatch.setattr(packfile, "write_pack", forgetful)
    with pytest.raises(DataError, match="damaged"):
        pack(folder, tmp_path / "p.h5", 8, num_processes=1)
    assert not (tmp_path / "p.h5").exists()
    assert len(list((tmp_path / "p.h5.parts").glob("0*.part"))) == 2
    monkeypatch.undo()
    assert pack(folder, tmp_path / "p.h5", 8, num_processes=1).num_images == 13


def test_a_run_killed_between_the_last_rename_and_the_clearing_away_is_finished(tmp_path, folder, monkeypatch):
    out = tmp_path / "p.h5"
    monkeypatch.setattr(packing.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(folder, out, 8, num_processes=1)
    monkeypatch.undo()
    assert out.exists()
    assert pack(folder, out, 8, num_processes=1).splits == {"train": 9, "val": 4}
    assert not (tmp_path / "p.h5.parts").exists()
    with pytest.raises(DataError, match="exists already"):
        pack(folder, out, 8, num_processes=1)


def interrupted_pack(source: Path, out: Path, monkeypatch) -> None:
    """Write the parts of a pack and stop before they are joined."""
    monkeypatch.setattr(packing, "_join", lambda *about: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(source, out, 8, num_processes=1)
    monkeypatch.undo()


@pytest.mark.parametrize("change", ["new pixels", "new pixels of the old time", "another file", "one file less"])
def test_parts_of_files_that_have_changed_are_made_anew(tmp_path, folder, monkeypatch, change):
    interrupted_pack(folder, tmp_path / "p.h5", monkeypatch)
    path = folder / "train" / "ant" / "0.png"
    about = path.stat()
    if change == "one file less":
        path.unlink()
    else:
        target = path.with_name("x.png") if change == "another file" else path
        Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(target)
    if change.endswith("old time"):
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    pack(folder, tmp_path / "p.h5", 8, num_processes=1)
    direct = load_data(folder, "train")
    assert load_data(tmp_path / "p.h5", "train").fingerprint == direct.fingerprint


def test_a_damaged_part_is_made_anew(tmp_path, folder, monkeypatch):
    interrupted_pack(folder, tmp_path / "p.h5", monkeypatch)
    part = tmp_path / "p.h5.parts" / "000000.part"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    pack(folder, tmp_path / "p.h5", 8, num_processes=1)
    assert load_data(tmp_path / "p.h5", "train").fingerprint == load_data(folder, "train").fingerprint


def test_a_second_packer_is_told(tmp_path, folder):
    from dcgan_eval.files import locked

    with locked(tmp_path / "p.h5.parts" / "pack"), pytest.raises(DataError, match="Another process is packing"):
        pack(folder, tmp_path / "p.h5", 8, num_processes=1)


def test_a_target_that_cannot_be_is_refused_before_any_work(tmp_path, folder):
    for out in (tmp_path / "p.png", tmp_path / "f" / "train"):
        with pytest.raises(DataError):
            pack(folder, out, 8, num_processes=1)
    assert not list(tmp_path.glob("*.parts"))


def test_a_script_without_a_main_guard_packs_all_the_same(tmp_path, folder):
    script = tmp_path / "make.py"
    script.write_text(
        "from pathlib import Path\nfrom dcgan_eval.data import collection\nfrom dcgan_eval.data.pack import pack\n"
        f"collection.UNIT_IMAGES = 2\nprint(pack(Path({str(folder)!r}), Path({str(tmp_path / 'p.h5')!r}), 8, "
        "num_processes=2).num_images)\n"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.split() == ["13"], done.stderr
    assert time.monotonic() - begin < 600


def test_grey_images_make_a_grey_pack(tmp_path):
    (tmp_path / "g").mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for row, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / "g" / f"{row}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(tmp_path / "g", tmp_path / "p.h5", 8, num_processes=1)
    assert np.array_equal(read_pack(tmp_path / "p.h5").images, grey[..., None])
