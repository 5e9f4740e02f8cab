"""What ``dcgan-eval data dedup`` does: a pack without near-duplicates, as the paper made its training set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from filelock import Timeout

from ..data import packfile
from ..data.pack import pack, pack_rows, source_of
from ..devices import resolve_device
from ..errors import DataError
from ..files import check_target, locked, sha256_of, write_file
from ..insight import dedup as hashing
from ..insight.finding import Finding
from ..models.tensors import read_tensors, save_tensors
from ..progress import Progress
from ..report.duplicates import Shown, duplicates_page
from ..seeding import rng
from .console import progress_view
from .findings import report_finding

_GROUPS, _MEMBERS, _PAIRS = 40, 8, 40  # on the page
_RULE = "near-duplicates left out"
_SUFFIXES = (".h5", ".hdf5")


def write_without_duplicates(
    source: Path,
    path: Path,
    *,
    size: int,
    split: str | None,
    processes: int | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Do what ``dcgan-eval data dedup`` says."""
    beside = [path.with_suffix(suffix) for suffix in (".json", ".html")]
    check_target(path, "--out", DataError, suffixes=_SUFFIXES)
    for file in beside:
        check_target(file, "--out", DataError)
    if path.exists():
        raise DataError(f"{path} exists already", remedy="give another --out, or delete it")
    is_pack = source.suffix in _SUFFIXES
    digest = _checked(source) if is_pack else source_of(source, size, split)
    place, folder = resolve_device(device), path.with_name(path.name + ".dedup")
    try:
        with locked(folder / "dedup", wait=False), progress_view() as progress:
            whole = source if is_pack else folder / "all.h5"
            if not is_pack and not _is_of(whole, digest):
                whole.unlink(missing_ok=True)
                pack(source, whole, size, split=split, num_processes=processes, on_progress=progress)
            finding, sentence = _without(whole, path, beside[1], folder, seed, place, progress)
            shutil.rmtree(folder)
    except Timeout as error:
        remedy = "wait for it, or give another --out"
        raise DataError(f"Another process is writing {path}", remedy=remedy) from error
    report_finding(finding, beside[0], {}, sentence, as_json)


def _checked(source: Path) -> str:
    """Return what a pack says it was made from; raise unless its images are large enough."""
    side = packfile.map_images(source).shape[1]
    if side < hashing.SIDE:
        raise DataError(
            "The images of the pack are smaller than what is compared",
            got=f"{side}x{side} pixels",
            expected=f"{hashing.SIDE}x{hashing.SIDE} or more",
            remedy="pack them again with `data pack --size 32`",
        )
    return packfile.read_head(source).attributes.get("source", "")


def _is_of(whole: Path, digest: str) -> bool:
    """Tell whether a run that was killed has packed all images, and these are still the same files."""
    return whole.exists() and packfile.read_head(whole).attributes.get("source") == digest


def _without(
    whole: Path, path: Path, page: Path, folder: Path, seed: int, place: torch.device, progress: Progress
) -> tuple[Finding, str]:
    """Write the pack without duplicates and the page; return what was found."""
    images, head = packfile.map_images(whole), packfile.read_head(whole)
    fingerprint = head.attributes.get("fingerprint", "")
    model, weights = _trained(images, fingerprint, folder, seed, place, progress)
    codes = hashing.encode(model, images, place, progress)
    first, exact = hashing.first_alike(codes), hashing.first_alike(codes, turned=False)
    kept = np.flatnonzero(first == np.arange(len(first)))
    measured = hashing.measured(first, exact, head.names)
    sentence = (
        f"{measured['dropped']:,} of {measured['images']:,} images dropped in {len(measured['groups']):,} groups; "
        f"{measured['dropped_by_equal_codes']:,} have equal codes"
    )
    pairs = hashing.closest(codes, kept, _PAIRS, seed)

    def shown(row: int) -> Shown:
        return head.names[row], np.asarray(images[row])

    examples = [[shown(row) for row in rows] for rows in _examples(first, seed)]
    write_file(page, duplicates_page(sentence, examples, [(bits, shown(a), shown(b)) for a, b, bits in pairs]))
    packed = pack_rows(whole, kept, path, _RULE, progress)
    settings = {"size": images.shape[1], "batches": hashing.BATCHES, "doubtful_bits": hashing.DOUBTFUL}
    hashes = {"autoencoder": weights, "data": fingerprint, "kept": packed.fingerprint}
    return Finding("dedup", "dropped", measured, settings, seed, hashes), sentence


def _trained(
    images: np.ndarray, fingerprint: str, folder: Path, seed: int, place: torch.device, progress: Progress
) -> tuple[hashing.Autoencoder, str]:
    """Train the autoencoder, or read the one of a run that was killed; return it and the hash of its file."""
    file = folder / f"autoencoder-{fingerprint[:16]}-{seed}.safetensors"
    if not file.exists():
        trained = hashing.train(images, seed, place, hashing.BATCHES, progress)
        save_tensors({name: value.cpu() for name, value in trained.state_dict().items()}, file, {})
    model = hashing.Autoencoder()
    model.load_state_dict(read_tensors(file)[0])
    return model.to(place).eval(), sha256_of(file)


def _examples(first: np.ndarray, seed: int) -> list[list[int]]:
    """Choose groups at random, and return the rows of each, the kept one first."""
    dropped = np.flatnonzero(first != np.arange(len(first)))
    chosen = np.sort(rng(seed, "shown groups").permutation(np.unique(first[dropped]))[:_GROUPS])
    return [[int(row), *dropped[first[dropped] == row][: _MEMBERS - 1].tolist()] for row in chosen]
