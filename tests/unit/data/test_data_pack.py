"""Packing images for training: every form of source, what is left out, interruptions."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.transforms import functional as vision

from dcgan_eval.data import collection
from dcgan_eval.data import pack as packing
from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.pack import pack, read_pack, shrink
from dcgan_eval.errors import DataError


def photo(seed: int, width: int = 60, height: int = 45) -> Image.Image:
    """Draw something smooth with colour and detail, unlike any other seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, form, quality=95) if form == "JPEG" else image.save(buffer, form)
    return buffer.getvalue()


CLASSES = ("ant", "bee", "cat")
PHOTOS = {f"{CLASSES[n % 3]}/{n:02d}.jpg": encoded(photo(n)) for n in range(9)}


def as_folder(folder: Path) -> Path:
    """Write class folders."""
    for name, content in PHOTOS.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "tree"


def write_tar(path: Path, members: dict[str, bytes]) -> bytes:
    """Write a tar archive and return it."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def as_tar_of_tars(folder: Path) -> Path:
    """Write ILSVRC2012's form: an archive that holds an archive of each class."""
    inner = {}
    for name in CLASSES:
        members = {path.split("/")[1]: content for path, content in PHOTOS.items() if path.startswith(name)}
        inner[f"{name}.tar"] = write_tar(folder / "inner.tar", members)
    (folder / "inner.tar").unlink()
    write_tar(folder / "train.tar", inner)
    return folder / "train.tar"


def as_tar_shards(folder: Path) -> Path:
    """Write WebDataset's form: shards with an image and its class number under one key."""
    (folder / "shards").mkdir()
    for shard in range(2):
        members = {}
        for name, content in list(PHOTOS.items())[shard::2]:
            key = name.split("/")[1][:-4]
            members[f"{key}.cls"] = str(CLASSES.index(name.split("/")[0])).encode()
            members[f"{key}.jpg"] = content
        write_tar(folder / "shards" / f"{shard:03d}.tar", members)
    return folder / "shards"


def as_parquet(folder: Path) -> Path:
    """Write two Parquet shards in the layout of Hugging Face."""
    (folder / "data").mkdir()
    for shard in range(2):
        items = list(PHOTOS.items())[shard::2]
        images = [{"bytes": content, "path": name} for name, content in items]
        labels = pa.array([CLASSES.index(name.split("/")[0]) for name, _ in items], pa.int64())
        table = pa.table({"image": images, "label": labels})
        pq.write_table(table, folder / "data" / f"train-{shard:05d}-of-00002.parquet", row_group_size=3)
    return folder / "data"


@pytest.mark.parametrize(
    ("form", "processes"), [(as_folder, 2), (as_tar_of_tars, 1), (as_tar_shards, 1), (as_parquet, 1)]
)
def test_every_form_gives_the_same_images_and_classes(tmp_path, form, processes, monkeypatch):
    monkeypatch.setattr(collection, "UNIT_IMAGES", 2)
    packed = pack(form(tmp_path), tmp_path / "out.h5", num_processes=processes)
    expected = pack(as_folder(tmp_path / "plain"), tmp_path / "plain.h5", num_processes=1)
    assert packed.num_images == 9
    assert packed.skipped == ()
    assert packed.fingerprint == expected.fingerprint
    images = load_data(tmp_path / "out.h5", "train")
    assert images.fingerprint == packed.fingerprint
    assert images.image_shape == (32, 32, 3)
    if form in (as_folder, as_tar_of_tars):
        assert images.class_names == CLASSES
    assert not (tmp_path / "out.h5.parts").exists()


def test_images_without_classes_have_no_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(encoded(photo(1), "PNG"))
    (tmp_path / "flat" / "deep").mkdir()
    (tmp_path / "flat" / "deep" / "b.webp").write_bytes(encoded(photo(2), "WEBP"))
    assert pack(tmp_path / "flat", tmp_path / "out.h5", num_processes=1).class_names == ()
    assert read_pack(tmp_path / "out.h5").labels is None


def with_torchvision(content: bytes) -> np.ndarray:
    """Shrink as torchvision's Resize and CenterCrop do, from the image at full scale."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(vision.center_crop(vision.resize(image, 32, vision.InterpolationMode.BILINEAR), 32)).astype(int)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (64, 64), (40, 200), (20, 30)])
def test_shrinking_is_what_torchvision_does(form, size):
    content = encoded(photo(5, *size), form)
    # torchvision rounds the longer side and the crop to whole pixels, up to half an output pixel from the true centre;
    # scaled decoding averages blocks of the DCT where the filter averages pixels: 3 of 255 levels on smooth images
    assert np.abs(shrink(content, 32) - with_torchvision(content)).mean() < 3


def test_the_centre_is_kept():
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255  # the square in the middle
    for pixels in (wide, wide.transpose(1, 0, 2)):
        square = shrink(encoded(Image.fromarray(pixels), "PNG"), 20)
        assert square[1:-1, 1:-1].min() == 255
        assert square.min() > 200  # antialiasing lets a little of the dark neighbours in


def test_unusable_images_are_listed_and_left_out(tmp_path):
    folder = as_folder(tmp_path)
    (folder / "ant" / "torn.jpg").write_bytes(encoded(photo(20))[:400])
    (folder / "bee" / "text.jpg").write_bytes(b"no image at all")
    (folder / "cat" / "deep.png").write_bytes(encoded(Image.fromarray(np.full((9, 9), 3000, np.uint16)), "PNG"))
    (folder / "cat" / "empty.png").write_bytes(b"")
    packed = pack(folder, tmp_path / "out.h5", num_processes=1)
    assert packed.num_images == 9
    why = dict(packed.skipped)
    assert set(why) == {"ant/torn.jpg", "bee/text.jpg", "cat/deep.png", "cat/empty.png"}
    assert "more than 8 bits" in why["cat/deep.png"]
    assert why["cat/empty.png"] == "it is empty"
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["skipped"]) == 4
        assert file["names"].asstr()[0] == "ant/00.jpg"
        assert "shorter side to 32" in file.attrs["rule"]


def test_grey_and_palette_images_become_rgb(tmp_path):
    (tmp_path / "mixed").mkdir()
    for name, mode in (("grey", "L"), ("palette", "P"), ("alpha", "RGBA")):
        (tmp_path / "mixed" / f"{name}.png").write_bytes(encoded(photo(3).convert(mode), "PNG"))
    assert pack(tmp_path / "mixed", tmp_path / "out.h5", size=16, num_processes=1).num_images == 3
    assert read_pack(tmp_path / "out.h5").image_shape == (16, 16, 3)


def test_a_killed_run_goes_on_and_gives_the_same_pack(tmp_path):
    folder = as_folder(tmp_path)
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom dcgan_eval.data import collection, pack as packing\n"
        "collection.UNIT_IMAGES = 2\n"
        "def slowly(*about):\n    time.sleep(0.5)\n"
        "packing.pack(Path(sys.argv[1]), Path(sys.argv[2]), num_processes=1, on_progress=slowly)\n"
    )
    out = tmp_path / "out.h5"
    running = subprocess.Popen([sys.executable, str(script), str(folder), str(out)])
    while not list(tmp_path.glob("out.h5.parts/0*.part")):
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out.h5.parts/0*.part")}
    assert 0 < len(kept) < 5
    assert not out.exists()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "UNIT_IMAGES", 2)
        packed = pack(folder, out, num_processes=1, on_progress=lambda what, done, total: seen.append(done))
    assert seen[0] == 2 * len(kept)  # these were not made again
    assert packed.fingerprint == pack(folder, tmp_path / "whole.h5", num_processes=1).fingerprint


def test_parts_of_other_work_and_damaged_parts_are_not_taken(tmp_path, monkeypatch):
    folder, out = as_folder(tmp_path), tmp_path / "out.h5"
    monkeypatch.setattr(packing, "_join", lambda *about: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(folder, out, num_processes=1)
    monkeypatch.undo()
    part = tmp_path / "out.h5.parts" / "000000.part"
    part.write_bytes(part.read_bytes()[:-100])
    seen = []
    pack(folder, out, 16, num_processes=1, on_progress=lambda what, done, total: seen.append(done))
    assert seen[0] == 0  # parts of another size count for nothing
    assert read_pack(out).image_shape == (16, 16, 3)


def test_bad_sources_and_places_are_named(tmp_path):
    folder = as_folder(tmp_path)
    out = tmp_path / "out.h5"
    with pytest.raises(DataError, match="There is no file or folder"):
        pack(tmp_path / "nowhere", out)
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="holds no encoded images"):
        pack(tmp_path / "void", out)
    (tmp_path / "squeezed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(DataError, match="decompress"):
        pack(tmp_path / "squeezed.tar", out)
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="names 1 file not there"):
        pack(tmp_path / "notes.txt", out)
    with pytest.raises(DataError, match="--size"):
        pack(folder, out, size=0)
    folder.rename(tmp_path / "train")
    (tmp_path / "both").mkdir()
    (tmp_path / "train").rename(tmp_path / "both" / "train")
    with pytest.raises(DataError, match=r"has no test split.*--split"):
        pack(tmp_path / "both", out, split="test")
    pack(tmp_path / "both" / "train", out, num_processes=1)
    with pytest.raises(DataError, match="exists already"):
        pack(tmp_path / "both" / "train", out)


def test_a_pack_that_does_not_fit_is_mapped(tmp_path):
    pack(as_folder(tmp_path), tmp_path / "out.h5", num_processes=1)
    mapped = read_pack(tmp_path / "out.h5", stream_bytes=0)
    assert isinstance(mapped.images, np.memmap)
    assert mapped.fingerprint == read_pack(tmp_path / "out.h5").fingerprint


def test_all_unusable_and_foreign_or_damaged_packs_are_named(tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="None of the images"):
        pack(tmp_path / "torn", tmp_path / "out.h5", num_processes=1)
    assert not (tmp_path / "out.h5").exists()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="no pack of images"):
        read_pack(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("none")
    with pytest.raises(DataError, match="cannot be read as a pack"):
        read_pack(tmp_path / "text.h5")
    pack(as_folder(tmp_path), tmp_path / "good.h5", num_processes=1)
    pixels = read_pack(tmp_path / "good.h5").images[0].tobytes()
    content = bytearray((tmp_path / "good.h5").read_bytes())
    content[content.index(pixels[:64])] ^= 1
    (tmp_path / "good.h5").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_pack(tmp_path / "good.h5")
