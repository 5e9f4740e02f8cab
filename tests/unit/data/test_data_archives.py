"""Tar archives: what ``tar -x`` would leave is what is read, and damage is an error that names the archive."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.pack import pack, read_pack
from dcgan_eval.data.readers import DataNotice
from dcgan_eval.errors import DataError


def png(value: int) -> bytes:
    """Encode an image of one grey value in colour."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(members: list[tuple[str, bytes]], path: Path | None = None) -> bytes:
    """Make an archive of members, in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def read(place: Path, split: str = "all") -> dict[str, tuple[int, str | None]]:
    """Load without notices: {name: (grey value, class)}."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNotice)
        images = load_data(place, split)
    classes = [None] * len(images) if images.labels is None else [images.class_names[v] for v in images.labels]
    values = images.images[:, 0, 0, 0].tolist()
    return dict(zip(images.names.tolist(), zip(values, classes, strict=True), strict=True))


FILES = [(f"{name}/{n}.png", png(20 * c + n)) for c, name in enumerate(("ant", "bee", "cow")) for n in range(3)]


@pytest.mark.parametrize("prefix", ["", "./", "/", "dataset/", "./dataset/images/"])
def test_an_archive_of_a_folder_reads_as_the_folder(tmp_path, prefix):
    tar([(prefix + name, content) for name, content in FILES], tmp_path / "t.tar")
    found = read(tmp_path / "t.tar")
    assert {name[-9:]: value for name, value in found.items()} == {
        name: (20 * c + n, folder)
        for c, folder in enumerate(("ant", "bee", "cow"))
        for n, name in enumerate(f"{folder}/{n}.png" for n in range(3))
    }


def test_splits_in_an_archive(tmp_path):
    members = [(f"set/{split}/{name}", content) for split in ("train", "test") for name, content in FILES]
    tar(members, tmp_path / "t.tar")
    assert len(read(tmp_path / "t.tar", "test")) == 9
    with pytest.raises(DataError, match="no val split"):
        load_data(tmp_path / "t.tar", "val")


def damaged(kind: str) -> bytes:
    """Damage an archive of nine members of 1,024 bytes each."""
    whole = tar(FILES)
    at, end = 4 * 1024, 9 * 1024  # each member takes a block of header and one of content
    return {
        "a bit of a header": whole[: at + 3] + bytes([whole[at + 3] ^ 1]) + whole[at + 4 :],
        "a header of zeros": whole[:at] + bytes(512) + whole[at + 512 :],
        "a header of 0xFF": whole[:at] + b"\xff" * 512 + whole[at + 512 :],
        "cut between members": whole[:at],
        "cut inside a header": whole[: at + 200],
        "cut inside a member": whole[: at + 600],
        "without its end": whole[:end],
        "two joined": whole + tar([("dog/0.png", png(99))]),
        "compressed": gzip.compress(whole),
        "nothing": b"",
    }[kind]


KINDS = ["a bit of a header", "a header of zeros", "a header of 0xFF", "cut between members", "cut inside a header"]
KINDS += ["cut inside a member", "without its end", "two joined", "compressed", "nothing"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_damaged_archive_is_named(tmp_path, kind, inside):
    content = damaged(kind)
    if inside:
        inner = [("n1.tar", tar([("1.png", png(1))])), ("n2.tar", content), ("n3.tar", tar([("3.png", png(3))]))]
        tar(inner, tmp_path / "t.tar")
    else:
        (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"n2\.tar in .*t\.tar cannot" if inside else r"t\.tar cannot be read as a tar"):
        load_data(tmp_path / "t.tar")
    with pytest.raises(DataError, match="cannot be read as a tar"):
        pack(tmp_path / "t.tar", tmp_path / "out.h5", num_processes=1)


def test_archives_of_classes_keep_their_labels(tmp_path):
    inner = [(f"n{k}.tar", tar([(f"n{k}_{i}.png", png(10 * k + i)) for i in range(3)])) for k in (2, 1, 3)]
    tar([*inner, ("n4.tar", tar([]))], tmp_path / "t.tar")
    found = read(tmp_path / "t.tar")
    assert found == {f"n{k}/n{k}_{i}.png": (10 * k + i, f"n{k}") for k in (1, 2, 3) for i in range(3)}
    with pytest.warns(DataNotice, match=r"class folder without images \(n4\)"):
        load_data(tmp_path / "t.tar")


def test_a_folder_of_archives_of_classes(tmp_path):
    for k in (1, 2):
        tar([(f"n{k}_{i}.png", png(10 * k + i)) for i in range(2)], tmp_path / f"n{k}.tar")
    assert read(tmp_path)["n2.tar/n2_1.png"] == (21, "n2")


def test_numbered_shards_without_labels_have_none(tmp_path):
    for k in (0, 1):
        tar([(f"{i}.png", png(10 * k + i)) for i in range(2)], tmp_path / f"{k:05d}.tar")
    assert read(tmp_path)["00001.tar/1.png"] == (11, None)


@pytest.mark.parametrize("name", ["shard-{}-0001.tar", "{}.tar", "ILSVRC_img_{}.tar", "{}/0001.tar"])
def test_splits_by_the_names_of_archives(tmp_path, name):
    for split, value in (("train", 1), ("val", 2)):
        path = tmp_path / name.format(split)
        path.parent.mkdir(exist_ok=True)
        tar([(f"ant/{i}.png", png(value)) for i in range(2)] + [("bee/0.png", png(value))], path)
    found = read(tmp_path, "val")
    assert sorted(found.values()) == [(2, "ant"), (2, "ant"), (2, "bee")]


def test_archives_too_deep_in_one_another_are_refused(tmp_path):
    content = tar([("0.png", png(1))])
    for _ in range(1000):
        content = tar([("x.tar", content)])[:-8192] + bytes(8192)
        if len(content) > 200_000:
            break
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(DataError, match="nested too deeply"):
        load_data(tmp_path / "t.tar")


def linked_folder(place: Path) -> Path:
    """A folder with hard links, links and a circle of links."""
    for n in range(3):
        (place / "ant").mkdir(parents=True, exist_ok=True)
        (place / "bee").mkdir(exist_ok=True)
        (place / "ant" / f"{n}.png").write_bytes(png(n))
        os.link(place / "ant" / f"{n}.png", place / "bee" / f"hard{n}.png")
        (place / "bee" / f"soft{n}.png").symlink_to(f"../ant/{n}.png")
    (place / "bee" / "chain.png").symlink_to("soft1.png")
    (place / "bee" / "circle.png").symlink_to("circle.png")
    return place


@pytest.mark.parametrize("format", ["gnu", "pax", "ustar", "v7"])
def test_links_count_as_what_they_point_to(tmp_path, format):
    place = linked_folder(tmp_path / "d")
    command = ["tar", "-C", place, f"--format={format}", "-cf", tmp_path / "t.tar", "ant", "bee"]
    subprocess.run(command, check=True)
    expected = {f"ant/{n}.png": (n, "ant") for n in range(3)} | {f"bee/hard{n}.png": (n, "bee") for n in range(3)}
    expected |= {f"bee/soft{n}.png": (n, "bee") for n in range(3)} | {"bee/chain.png": (1, "bee")}
    assert read(tmp_path / "t.tar") == expected == read(place)
    with pytest.warns(DataNotice, match=r"link to no file of the archive \(bee/circle.png\)"):
        load_data(tmp_path / "t.tar")


def test_the_last_of_several_members_of_one_name_counts(tmp_path):
    place = linked_folder(tmp_path / "d")
    (place / "bee" / "circle.png").unlink()
    subprocess.run(["tar", "-C", place, "-cf", tmp_path / "t.tar", "ant", "bee"], check=True)
    (place / "ant" / "1.png").unlink()
    (place / "ant" / "1.png").write_bytes(png(77))
    subprocess.run(["tar", "-C", place, "-rf", tmp_path / "t.tar", "./ant/1.png"], check=True)
    (tmp_path / "x").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "x", "-xf", tmp_path / "t.tar"], check=True)
    found = read(tmp_path / "t.tar")
    assert found == read(tmp_path / "x")
    assert found["ant/1.png"][0] == found["bee/soft1.png"][0] == 77
    assert found["bee/hard1.png"][0] == 1


def test_sparse_members_are_read_with_their_holes(tmp_path):
    place = tmp_path / "d" / "ant"
    place.mkdir(parents=True)
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[150:160] = np.random.default_rng(0).integers(0, 256, (10, 300, 3))
    Image.fromarray(pixels).save(place / "0.bmp")
    subprocess.run(["cp", "--sparse=always", place / "0.bmp", place / "1.bmp"], check=True)
    (place / "0.bmp").unlink()
    for version in ("0.0", "0.1", "1.0"):
        archive = tmp_path / f"{version}.tar"
        command = [
            "tar",
            "-C",
            tmp_path / "d",
            "-S",
            f"--sparse-version={version}",
            "--format=pax",
            "-cf",
            archive,
            "ant",
        ]
        subprocess.run(command, check=True)
        with tarfile.open(archive) as opened:
            assert any(member.issparse() for member in opened)
        images = load_data(archive, "all")
        assert np.array_equal(images.images[0], pixels)


def test_devices_and_pipes_in_an_archive_are_said(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, kind in (("ant/pipe.png", tarfile.FIFOTYPE), ("ant/device.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        for name, content in FILES:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.warns(DataNotice, match=r"2 members that are neither files nor folders"):
        assert len(load_data(tmp_path / "t.tar")) == 9


def test_hidden_members_and_names_that_are_no_utf8(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("ant/caf\udce9.png", "__MACOSX/ant/x.png", "ant/._0.png", ".git/x.png", "bee/0.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            archive.addfile(info, io.BytesIO(png(1)))
    assert set(read(tmp_path / "t.tar")) == {"ant/caf\\xe9.png", "bee/0.png"}


# WebDataset


@pytest.mark.parametrize(
    ("image", "label"), [(".png", ".cls"), (".left.png", ".cls"), (".PNG", ".CLS"), (".rgb.png", ".json")]
)
@pytest.mark.parametrize("folder", ["", "shard0/"])
def test_webdataset_labels(tmp_path, image, label, folder):
    classes = [2, 10, 0, 2, 10, 0]
    members = []
    for row, number in enumerate(classes):
        stated = str(number) if label.lower() == ".cls" else f'{{"id": {row}, "label": {number}}}'
        members += [(f"{folder}{row:03d}{image}", png(row)), (f"{folder}{row:03d}{label}", stated.encode())]
    tar(members, tmp_path / "t.tar")
    images = load_data(tmp_path / "t.tar", "all")
    assert [images.class_names[v] for v in images.labels] == [str(number) for number in classes]
    assert images.class_names == ("0", "2", "10")
    subprocess.run(["tar", "-C", tmp_path, "-xf", tmp_path / "t.tar"], check=True)
    (tmp_path / "t.tar").unlink()
    assert read(tmp_path) == dict(zip(images.names.tolist(), [(r, str(n)) for r, n in enumerate(classes)], strict=True))


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("form", ["metadata.csv", "metadata.jsonl"])
def test_metadata_in_an_archive_names_its_images(tmp_path, form, shards):
    animals = ["bee", "ant", "bee", "cow"]
    for shard in range(shards):
        rows = [(f"{shard}{row}.png", label) for row, label in enumerate(animals)]
        if form.endswith(".csv"):
            text = "file_name,label\r\n" + "".join(f"images/{name},{label}\r\n" for name, label in rows)
        else:
            text = "".join(f'{{"file_name": "images/{name}", "label": "{label}"}}\n' for name, label in rows)
        members = [(f"images/{name}", png(10 * shard + row)) for row, (name, _) in enumerate(rows)]
        tar([*members, (form, text.encode())], tmp_path / f"part-{shard}.tar")
    place = tmp_path / "part-0.tar" if shards == 1 else tmp_path
    found = read(place)
    assert len(found) == 4 * shards
    assert {value: label for value, label in found.values()} == {
        10 * shard + row: label for shard in range(shards) for row, label in enumerate(animals)
    }
    tar([("a.png", png(1)), (form, b"?")], tmp_path / "broken.tar")
    with pytest.raises(DataError, match=rf"broken\.tar/{form}"):
        load_data(tmp_path / "broken.tar", "all")


def test_one_list_of_metadata_names_the_images_of_all_shards(tmp_path):
    tar([("metadata.csv", b"file_name,label\na.png,ant\nb.png,bee\n"), ("a.png", png(1))], tmp_path / "0.tar")
    tar([("b.png", png(2))], tmp_path / "1.tar")
    assert sorted(read(tmp_path).values()) == [(1, "ant"), (2, "bee")]
    tar([("b.png", png(3))], tmp_path / "2.tar")  # which of the two is meant?
    with pytest.raises(DataError, match=r"0\.tar/metadata\.csv names 1 image not there"):
        load_data(tmp_path, "all")


def test_webdataset_with_one_label_missing_is_refused(tmp_path):
    for stated in ([b"0", None, b"1"], [b"0", b"-1", b"1"], [b"0", b"", b"1"]):
        members = [(f"{row}.png", png(row)) for row in range(3)]
        members += [(f"{row}.cls", text) for row, text in enumerate(stated) if text is not None]
        tar(members, tmp_path / "t.tar")
        with pytest.raises(DataError, match=r"have no label. Got: 1 of 3, the first .*t.tar/1.png"):
            load_data(tmp_path / "t.tar")
    tar(
        [(f"{row}.png", png(row)) for row in range(3)] + [(f"{row}.cls", b"-1") for row in range(3)], tmp_path / "t.tar"
    )
    assert load_data(tmp_path / "t.tar").labels is None


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"{"])
def test_label_files_that_cannot_be_read_are_named(tmp_path, content):
    suffix = "cls" if content == b"\xff\xfe" else "json"
    tar([("0.png", png(0)), (f"0.{suffix}", content)], tmp_path / "t.tar")
    with pytest.raises(DataError, match=f"0.{suffix} states no label"):
        load_data(tmp_path / "t.tar")


def test_a_folder_and_its_archive_give_the_same_pack(tmp_path):
    place = linked_folder(tmp_path / "d")
    subprocess.run(["tar", "-C", place, "-cf", tmp_path / "t.tar", "ant", "bee"], check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataNotice)
        packed = [pack(p, tmp_path / f"{n}.h5", 4, num_processes=1) for n, p in enumerate((place, tmp_path / "t.tar"))]
        direct = load_data(place, "all")
    assert packed[0].fingerprint == packed[1].fingerprint == direct.fingerprint
    assert read_pack(tmp_path / "1.h5").names.tolist() == direct.names.tolist()
