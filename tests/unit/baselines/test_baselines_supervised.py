"""The supervised search: seeded, resumable, chosen on validation rows."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan_eval.baselines.supervised import SearchOptions, SupervisedSearch, build_network, draw_trial
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DcganEvalError, TrainingError


def striped(count: int, seed: int) -> ImageSet:
    """Images with horizontal or vertical stripes under noise: an easy pair of classes."""
    labels = np.arange(count) % 2
    waves = 60 * np.sign(np.sin(np.arange(32)))
    patterns = np.stack([np.tile(waves[:, None], (1, 32)), np.tile(waves, (32, 1))])[labels][..., None]
    noise = np.random.default_rng(seed).normal(128, 30, (count, 32, 32, 3))
    return ImageSet(np.clip(noise + patterns, 0, 255).astype(np.uint8), labels, name="stripes")


def search(folder: Path, trials: int, **options: float | None) -> SupervisedSearch:
    return SupervisedSearch(SearchOptions("svhn32", trials, epochs=2, batch_size=16), folder, **options)  # type: ignore[arg-type]


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def numbers(trials: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "time_s"} for row in trials]


def test_a_stopped_search_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    train, validation = striped(48, 0), striped(20, 1)
    search(tmp_path / "a", 1).run(train, validation, no_progress)
    seen: list[str] = []
    resumed = search(tmp_path / "a", 2).run(train, validation, lambda what, done, total: seen.append(what))
    assert all(what.startswith("trial 2 of 2") for what in seen)
    assert numbers(resumed) == numbers(search(tmp_path / "b", 2).run(train, validation, no_progress))
    assert numbers(search(tmp_path / "a", 1).run(train, validation, no_progress)) == numbers(resumed[:1])


def test_a_trial_keeps_its_best_epoch(tmp_path: Path) -> None:
    train, validation = striped(64, 0), striped(20, 1)
    (row,) = search(tmp_path, 1).run(train, validation, no_progress)
    assert row["score"] == max(row["curve"]) == np.trace(row["confusion"]) / 20
    assert row["epoch"] == 1 + int(np.argmax(row["curve"]))
    assert np.sum(row["confusion"], axis=1).tolist() == [10, 10]
    (path,) = tmp_path.glob("supervised-*.json")
    assert json.loads(path.read_text())["trials"] == [row]


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[]", b'{"trials": [{"score": 1.0}]}', None])
def test_damaged_trials_are_said_and_not_taken(tmp_path: Path, content: bytes | None) -> None:
    train, validation = striped(48, 0), striped(20, 1)
    search(tmp_path, 1).run(train, validation, no_progress)
    (path,) = tmp_path.glob("supervised-*.json")
    good = path.read_bytes()
    better = good.replace(b'"dropout": 0', b'"dropout": 9', 1)
    assert better != good
    path.write_bytes(better if content is None else content)
    with pytest.raises(TrainingError, match="cannot be read"):
        search(tmp_path, 1).run(train, validation, no_progress)
    path.write_bytes(good)
    assert search(tmp_path, 1).run(train, validation, no_progress) == json.loads(good)["trials"]


def test_a_second_search_waits_for_the_first(tmp_path: Path) -> None:
    train, validation = striped(48, 0), striped(20, 1)
    waited: list[str] = []
    with ThreadPoolExecutor(1) as pool:

        def slow(what: str, done: int, total: int) -> None:
            if not second:
                second.append(pool.submit(search(tmp_path, 2).run, train, validation, lambda *a: waited.append(a[0])))
                while not waited:
                    time.sleep(0.01)

        second: list[Future[list[dict]]] = []
        first = search(tmp_path, 2).run(train, validation, slow)
        assert second[0].result() == first  # found, not made again
    assert set(waited) == {"waiting for another process that searches the same"}


def test_other_data_or_epochs_are_another_search(tmp_path: Path) -> None:
    one = search(tmp_path, 1)
    paths = {one._path(striped(48, 0), striped(20, 1)), one._path(striped(48, 2), striped(20, 1))}
    paths.add(SupervisedSearch(SearchOptions("svhn32", 1, epochs=3), tmp_path)._path(striped(48, 0), striped(20, 1)))
    assert len(paths) == 3


def test_no_time_no_score(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--max-minutes"):
        search(tmp_path, 1, max_minutes=0.0).run(striped(48, 0), striped(20, 1), no_progress)


def test_trials_are_drawn_from_their_ranges_whatever_their_number() -> None:
    drawn = [draw_trial(0, trial) for trial in range(200)]
    for name, low, high in (("learning_rate", 1e-4, 3e-3), ("dropout", 0, 0.7), ("weight_decay", 1e-6, 1e-1)):
        values = [trial[name] for trial in drawn]
        assert low <= min(values) < max(values) <= high
    assert draw_trial(0, 3) == drawn[3] != draw_trial(1, 3)


def test_the_network_is_the_discriminator_with_a_logit_per_class() -> None:
    network = build_network("svhn32", 7, dropout=0.5)
    x = torch.zeros(3, 3, 32, 32)
    assert network(x).shape == (3, 7)
    assert [block.conv.out_channels for block in network.blocks()] == [64, 128, 256]


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DcganEvalError, match="--trials"):
        SearchOptions(trials=0)
    small = ImageSet(
        np.zeros((4, 28, 28, 3), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None], [0, 1, 0, 1]
    )
    with pytest.raises(TrainingError, match="do not fit the preset"):
        search(tmp_path, 1).run(small, small, no_progress)
