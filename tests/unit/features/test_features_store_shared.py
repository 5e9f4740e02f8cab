"""A store that several processes write, name, read and delete at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import StoreError
from dcgan_eval.features import store as store_module
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.features.store import find_partial, find_store
from dcgan_eval.features.store_writer import StoreWriter
from dcgan_eval.features.taps import Encoder

EXACT = ExtractOptions(compute="float32", store_dtype="float32", device="cpu")


def test_another_writer_is_noticed_or_waited_for(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    other = tmp_path / "other" / store.path.name
    with StoreWriter(other, store.identity, store.keys, store.behaviour) as first:
        with pytest.raises(StoreError, match="Another process is writing"):
            extract(encoder, images, options=EXACT, cache_dir=other.parent, wait=False)
        waits: list[str] = []

        def finish(what: str, done: int, total: int) -> None:
            if what.startswith("waiting") and not waits:
                waits.append(what)
                for block in first.missing_blocks():
                    first.write(block, {layer: store.part(layer, block) for layer in store.layers})
                first.finish()
                first.__exit__(None, None, None)

        waited = extract(encoder, images, options=EXACT, cache_dir=other.parent, progress=finish)
    assert waits == ["waiting for another process that writes the features of noise-train"]
    assert np.array_equal(waited.read(), store.read())


def test_a_file_that_another_process_names_or_deletes_stays_what_was_opened(
    encoder: Encoder, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    wanted = whole.read(), whole.behaviour, whole.keys.sha256.tolist(), np.array(whole.memmap("conv1"))
    partial = whole.path.with_name(whole.path.name + ".partial")
    whole.path.rename(partial)
    opened = store_module._opened

    def overtaken(path: Path, complete: bool) -> tuple[Any, Any]:
        found = opened(path, complete)
        path.rename(path.with_suffix(""))  # the other process has finished
        return found

    monkeypatch.setattr(store_module, "_opened", overtaken)
    assert find_partial(tmp_path, whole.identity, lambda answers: answers.keys() == wanted[1].keys()) == whole.path
    whole.path.unlink()
    assert np.array_equal(whole.read(), wanted[0])
    assert np.array_equal(whole.memmap("conv1"), wanted[3])
    assert whole.keys.sha256.tolist() == wanted[2]
    assert all(np.array_equal(answer, wanted[1][name]) for name, answer in whole.behaviour.items())


def test_a_store_that_vanishes_after_it_was_listed_is_not_there(
    encoder: Encoder, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    opened = store_module._opened
    monkeypatch.setattr(store_module, "_opened", lambda path, complete: (path.unlink(), opened(path, complete))[1])
    assert find_store(tmp_path, whole.identity, lambda answers: True) is None


def test_a_link_that_leads_nowhere_is_said_and_stays(encoder: Encoder, images: ImageSet, tmp_path: Path) -> None:
    path = extract(encoder, images, options=EXACT, cache_dir=tmp_path).path
    path.unlink()
    path.symlink_to("a disk that is not mounted")
    with pytest.raises(StoreError, match="does not exist"):
        extract(encoder, images, options=EXACT, cache_dir=tmp_path)
    assert path.is_symlink()
