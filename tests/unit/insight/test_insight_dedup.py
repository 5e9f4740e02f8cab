"""Codes that differ in doubtful bits are one group and others are not; the command keeps the first of each group."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_eval.cli import dedup as command
from dcgan_eval.data import packfile
from dcgan_eval.data.pack import pack
from dcgan_eval.insight import dedup as hashing
from dcgan_eval.insight.finding import load_finding

CPU = torch.device("cpu")


def random_codes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bits (N, 128), of which some rows are others with up to five bits turned over, and the doubtful bits."""
    rng = np.random.default_rng(0)
    bits = rng.random((count, 128)) < 0.5
    doubtful = np.argsort(rng.random((count, 128)), axis=1)[:, : hashing.DOUBTFUL].astype(np.uint8)
    for row in rng.permutation(np.arange(1, count))[: count // 2]:
        other = rng.integers(row)
        bits[row], doubtful[row] = bits[other], doubtful[other]
        bits[row, doubtful[row, rng.permutation(10)[: rng.integers(0, 6)]]] ^= True
    return bits, doubtful


def words(bits: np.ndarray) -> np.ndarray:
    """Return bits as Python's own integers would hold them, in two words."""
    values = [sum(int(bit) << i for i, bit in enumerate(row)) for row in bits]
    return np.array([(value & (2**64 - 1), value >> 64) for value in values], np.uint64)


def test_groups_are_those_of_comparing_every_pair() -> None:
    bits, doubtful = random_codes(240)
    group = list(range(240))
    for a, b in itertools.combinations(range(240), 2):
        differ = set(np.flatnonzero(bits[a] != bits[b]).tolist())
        if len(differ) <= 3 and (differ <= set(doubtful[a].tolist()) or differ <= set(doubtful[b].tolist())):
            old, new = max(group[a], group[b]), min(group[a], group[b])
            group = [new if g == old else g for g in group]
    assert 20 < len(set(group)) < 200
    codes = hashing.Codes(words(bits), doubtful)
    assert hashing.first_alike(codes).tolist() == group
    equal = [next(a for a in range(240) if (bits[a] == bits[b]).all()) for b in range(240)]
    assert hashing.first_alike(codes, turned=False).tolist() == equal


def test_the_closest_kept_pair_by_hand() -> None:
    bits = np.zeros((4, 128), bool)
    bits[1, :9], bits[2, 60:68], bits[3, :] = True, True, True
    codes = hashing.Codes(words(bits), np.zeros((4, 10), np.uint8))
    assert hashing.closest(codes, np.arange(4), 2, 0) == [(0, 2, 8), (0, 1, 9)]
    assert hashing.closest(codes, np.array([1, 3]), 5, 0) == [(1, 3, 119)]
    assert hashing.closest(codes, np.array([2]), 5, 0) == []


def photo(seed: int) -> np.ndarray:
    """Draw something smooth, unlike any other seed, uint8 (40, 40, 3)."""
    coarse = np.random.default_rng(seed).integers(30, 200, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC))


def test_codes_do_not_depend_on_brightness_and_contrast_but_on_the_image() -> None:
    images = np.stack([photo(seed) for seed in range(40)])
    brighter = (images * 0.9 + 15).round().astype(np.uint8)
    model = hashing.train(images, 0, CPU, num_batches=5)
    codes = hashing.encode(model, np.concatenate([images, brighter]), CPU)
    assert (hashing.first_alike(codes) == np.tile(np.arange(40), 2)).mean() >= 0.9
    x_ND = hashing.prepare(images[:2], CPU)
    assert x_ND.shape == (2, 3072)
    h_NB = (x_ND.double() @ model.encode.weight.double().T + model.encode.bias.double()).detach().numpy()
    assert (codes.words[:2] == words(h_NB > 0)).all()
    assert codes.doubtful[0].tolist() == np.argsort(np.abs(h_NB[0]))[:10].tolist()
    grey = hashing.prepare(images[:2, ..., :1], CPU).unflatten(1, (3, 32, 32))
    assert torch.equal(grey[:, 0], grey[:, 2])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 12 images; 02 of bee and 11 of ant are copies of 05 of ant, pixel for pixel and brighter."""
    monkeypatch.setattr(hashing, "BATCHES", 5)
    for n, (name, i) in enumerate(itertools.product(("ant", "bee"), range(12))):
        path = tmp_path / "tree" / name / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photo(5 if n in (11, 14) else n)
        Image.fromarray(image + 5 if n == 11 else image).save(path)
    return tmp_path / "tree"


def test_the_command_keeps_the_first_of_each_group(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("data", "dedup", folder, "--out", "clean.h5", "--processes", 1, "--json")
    assert result.exit_code == 0, result.output
    finding = load_finding(Path("clean.json"))
    assert json.loads(result.stdout)["measured"] == finding.measured
    assert finding.measured["groups"] == [{"kept": "ant/05.png", "dropped": ["ant/11.png", "bee/02.png"]}]
    assert (finding.value, finding.measured["kept"], finding.measured["images"]) == (2, 22, 24)
    clean = packfile.read_pack(Path("clean.h5"))
    pack(folder, Path("all.h5"), num_processes=1)
    every = packfile.read_pack(Path("all.h5"))
    rows = [row for row in range(24) if row not in (11, 14)]
    assert (clean.images == every.images[rows]).all()
    assert clean.labels.tolist() == every.labels[rows].tolist()
    assert clean.names.tolist() == every.names[rows].tolist()
    assert clean.class_names == every.class_names
    assert packfile.read_head(Path("clean.h5")).attributes["fingerprint"] == clean.fingerprint
    assert sorted(path.name for path in Path().iterdir()) == ["all.h5", "clean.h5", "clean.html", "clean.json", "tree"]
    text = Path("clean.html").read_text()
    assert text.count('alt="bee/02.png"') == 1
    assert not re.search(r"https?:|<script|@import|url\(", text)
    again = run("data", "dedup", "all.h5", "--out", "again.h5", "--json")  # a pack is a source too
    assert json.loads(again.stdout)["measured"] == finding.measured


def test_after_a_kill_it_goes_on(run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    words = ("data", "dedup", folder, "--out", "clean.h5", "--processes", 1)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "pack_rows", killed)
        assert run(*words).exit_code == 130
        assert not Path("clean.h5").exists()
    with monkeypatch.context() as patch:
        patch.setattr(command, "pack", killed)
        patch.setattr(hashing, "train", killed)
        assert run(*words).exit_code == 0
    first = Path("clean.h5").read_bytes()
    assert run(*words[:3], "--out", "whole.h5", "--processes", 1).exit_code == 0
    assert Path("whole.h5").read_bytes() == first


def test_files_that_changed_after_a_kill_are_packed_anew(  # type: ignore[no-untyped-def]
    run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("data", "dedup", folder, "--out", "clean.h5", "--processes", 1)
    with monkeypatch.context() as patch:
        patch.setattr(command, "pack_rows", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*words).exit_code == 130
    Image.fromarray(photo(99)).save(folder / "bee" / "02.png")
    assert run(*words).exit_code == 0
    assert load_finding(Path("clean.json")).measured["groups"] == [{"kept": "ant/05.png", "dropped": ["ant/11.png"]}]


def test_bad_input_is_a_sentence(run, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    pack(folder, tmp_path / "small.h5", 28, num_processes=1)
    for words, message in (
        (("none", "--out", "x.h5"), "There is no file or folder"),
        (("empty", "--out", "x.h5"), "no encoded images"),
        (("tree", "--out", "there.h5"), "exists already"),
        (("tree", "--out", "x.png"), "suffix"),
        (("tree", "--out", "x.h5", "--split", "nope"), "no nope split"),
        (("broken.h5", "--out", "x.h5"), "broken.h5"),
        (("small.h5", "--out", "x.h5"), "smaller"),
        (("none.h5", "--out", "x.h5"), "none.h5"),
    ):
        result = run("data", "dedup", *words)
        assert result.exit_code == 2, (words, result.output)
        assert message in " ".join(result.stderr.split()), (words, result.stderr)
        assert not Path("x.h5").exists()
    assert not Path("x.h5.dedup").exists()


def test_a_damaged_pack_is_not_copied(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    pack(folder, Path("all.h5"), size=32, num_processes=1)
    data = bytearray(Path("all.h5").read_bytes())
    data[data.find(packfile.read_pack(Path("all.h5")).images[0].tobytes()) + 7] ^= 1
    Path("all.h5").write_bytes(data)
    result = run("data", "dedup", "all.h5", "--out", "clean.h5")
    assert result.exit_code == 2
    assert "do not match their checksums" in result.stderr
    assert not Path("clean.h5").exists()
