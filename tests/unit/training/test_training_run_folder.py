"""A run's folder: nothing in it is lost, damage is a sentence, what would fail at the end fails at the start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgan_eval.errors import TrainingError
from dcgan_eval.files import locked
from dcgan_eval.models.dcgan import build, drop_running_statistics
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import load_network, save_network
from dcgan_eval.ranks import Team
from dcgan_eval.training import checkpoint, loop
from dcgan_eval.training.checkpoint import find_checkpoints, newest_checkpoint, read_state
from dcgan_eval.training.config import TrainingConfig, contrastive_recipe
from dcgan_eval.training.contrastive import ContrastiveTrainer
from dcgan_eval.training.log import Table, read_table
from dcgan_eval.training.loop import RunOptions, train
from dcgan_eval.training.start import load_start
from dcgan_eval.training.trainer import Trainer

CONFIG = TrainingConfig(preset="svhn32", width=8, total_images=64, batch_size=8, seed=1)
RESUME = RunOptions(resume=True)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
ONE_ROUND = RunOptions(resume=True, max_minutes=0.0)


def trainer_of(**changed: object) -> Trainer:
    return Trainer(replace(CONFIG, **changed), IMAGES)  # type: ignore[arg-type]


def row(number: int) -> dict[str, float]:
    return {"round": number, "seen_images": 16 * number, "unix_time_s": 1.5, "d_loss": 0.1 * number}


# Tables


def test_a_row_cut_anywhere_is_left_out_and_the_table_goes_on(tmp_path: Path) -> None:
    table = Table(tmp_path / "log.csv", 0)
    for number in (1, 2, 3):
        table.append(row(number))
    whole = (tmp_path / "log.csv").read_text()
    last = whole.rstrip("\n").rfind("\n") + 1
    for cut in range(last, len(whole)):
        (tmp_path / "log.csv").write_text(whole[:cut])
        assert read_table(tmp_path / "log.csv") == [row(1), row(2)], whole[last:cut]
        continued = Table(tmp_path / "log.csv", 2)
        continued.append(row(3))
        assert (tmp_path / "log.csv").read_text() == whole


def test_any_changed_bit_of_a_table_is_noticed(tmp_path: Path) -> None:
    table = Table(tmp_path / "log.csv", 0)
    for number in (1, 2):
        table.append(row(number))
    content = (tmp_path / "log.csv").read_bytes()
    for place in range(8 * (len(content) - 1)):  # all but the last line's end, which says that the row is whole
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        (tmp_path / "log.csv").write_bytes(damaged)
        with pytest.raises(TrainingError, match="damaged"):
            read_table(tmp_path / "log.csv")


def test_tables_of_before_the_checksum_are_read_and_continued(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("round,seen_images,unix_time_s,d_loss\r\n1,16,1.5,0.1\r\n2,32,1.5,0.2\r\n3,48,")
    assert read_table(tmp_path / "log.csv") == [row(1), row(2)]
    Table(tmp_path / "log.csv", 1).append(row(2))
    assert read_table(tmp_path / "log.csv") == [row(1), row(2)]
    assert "crc32" in (tmp_path / "log.csv").read_text()


def test_a_table_is_there_while_it_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path / "log.csv", 0)
    table.append(row(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dcgan_eval.files.os.fsync", full)
    with pytest.raises(TrainingError, match="cannot be written"):
        Table(tmp_path / "log.csv", 1)
    assert read_table(tmp_path / "log.csv") == [row(1)]


# Checkpoints


def test_the_only_checkpoint_stays_until_the_next_of_its_round_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(trainer_of(), tmp_path, ONE_ROUND)
    (path,) = find_checkpoints(tmp_path)
    trainer = trainer_of()
    trainer.load(path)

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", fails)
        with pytest.raises(TrainingError, match="cannot be written"):
            trainer.save(tmp_path, {})
    assert newest_checkpoint(tmp_path) == path
    again = trainer.save(tmp_path, {"history": [1]})
    assert find_checkpoints(tmp_path) == [again]
    assert read_state(again)["history"] == [1]
    assert not list(tmp_path.glob(".round-*"))


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(trainer_of(), folder, ONE_ROUND)
    return find_checkpoints(folder)[0] / "checkpoint.json"


@pytest.fixture
def restored(header: Path) -> Iterator[Path]:
    content = header.read_bytes()
    yield header
    header.write_bytes(content)


def test_any_changed_bit_of_a_checkpoints_header_is_noticed(restored: Path) -> None:
    content, state = restored.read_bytes(), read_state(restored.parent)
    for place in np.random.default_rng(0).integers(0, 8 * len(content), 400).tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        restored.write_bytes(damaged)
        try:
            assert read_state(restored.parent) == state  # white space
        except TrainingError:
            continue


@pytest.mark.parametrize("field", ["rounds_done", "config", "parts", "history", "about"])
@pytest.mark.parametrize(
    "value", [None, "x", 1.5, -1, [{}], [{"file": "../state", "sha256": "", "size_bytes": 0}], [3]]
)
def test_headers_of_wrong_types_are_sentences(restored: Path, field: str, value: object) -> None:
    state = json.loads(restored.read_text())
    del state["sha256"]
    state |= {"format": "dcgan-eval-checkpoint-2", field: value}
    restored.write_text(json.dumps(state))
    if field == "history" and isinstance(value, list):
        return
    with pytest.raises(TrainingError, match="no training checkpoint"):
        newest_checkpoint(restored.parents[1])


@pytest.mark.parametrize("content", ["", "null", "[]", "[" * 100_000, '{"format": "dcgan-eval-checkpoint-3"}'])
def test_headers_that_are_none(restored: Path, content: str) -> None:
    restored.write_text(content)
    with pytest.raises(TrainingError, match="no training checkpoint"):
        newest_checkpoint(restored.parents[1])


# Runs


def test_one_run_at_a_time(tmp_path: Path) -> None:
    train(trainer_of(), tmp_path, ONE_ROUND)
    log = (tmp_path / "config.json").read_text()
    with locked(tmp_path / "run"), pytest.raises(TrainingError, match="Another process is training"):
        train(trainer_of(), tmp_path, RESUME)
    assert (tmp_path / "config.json").read_text() == log
    assert train(trainer_of(), tmp_path, RESUME)["status"] == "finished"


def test_what_cannot_be_written_at_the_end_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "discriminator.safetensors").mkdir()
    trainer = trainer_of()
    with pytest.raises(TrainingError, match="replace a folder"):
        train(trainer, tmp_path)
    assert trainer.rounds_done == 0


def test_a_run_starts_from_weights_without_running_statistics(tmp_path: Path) -> None:
    preset = get_preset("svhn32", 8)
    pair = build(preset, seed=3)
    for network, kind in zip(pair, ("discriminator", "generator"), strict=True):
        drop_running_statistics(network)
        save_network(network, tmp_path / f"{kind}.safetensors")
    start = load_start(str(tmp_path), preset)
    trainer = Trainer(replace(CONFIG, start=start.sha256), IMAGES, start=start)
    assert torch.equal(trainer.D.conv2.conv.weight, pair[0].conv2.conv.weight)
    result = train(trainer, tmp_path / "run")
    assert load_network(Path(result["discriminator"])).conv2.norm.running_mean.abs().sum() > 0


def test_an_incomplete_discriminator_is_no_start(tmp_path: Path) -> None:
    D = build(get_preset("svhn32", 8), seed=0)[0]
    D.linear, D.layer_names = None, D.layer_names[:2]
    del D.conv3
    save_network(D, tmp_path / "discriminator.safetensors")
    with pytest.raises(TrainingError, match="incomplete"):
        load_start(str(tmp_path), get_preset("svhn32", 8))


def test_a_run_is_not_continued_on_other_data(tmp_path: Path) -> None:
    dogs, cars = ({"data": {"name": name, "fingerprint": 64 * name[0]}} for name in ("dogs", "cars"))
    train(trainer_of(), tmp_path, ONE_ROUND, about=dogs)
    with pytest.raises(TrainingError, match=r"another configuration.*data=cars.*data=dogs"):
        train(trainer_of(), tmp_path, RESUME, about=cars)
    train(trainer_of(), tmp_path, ONE_ROUND, about=dogs)
    train(trainer_of(), tmp_path, replace(ONE_ROUND, allow_changes=True), about=cars)
    (change,) = read_state(find_checkpoints(tmp_path)[-1])["history"]
    assert [text[:4] for text in change["changed"]["data"]] == ["dogs", "cars"]


def test_a_run_is_extended_and_given_a_decay_without_ado(tmp_path: Path) -> None:
    said: list[str] = []
    train(trainer_of(), tmp_path)
    longer = trainer_of(total_images=128, decay_images=64)
    assert train(longer, tmp_path, RESUME, on_event=said.append)["seen_images"] == 128
    assert said == ["Changed: total_images from 64 to 128, decay_images from 0 to 64"]
    assert longer.adam["D"].param_groups[0]["lr"] == pytest.approx(CONFIG.learning_rate * 16 / 64)
    with pytest.raises(TrainingError, match="--allow-changes"):
        train(trainer_of(total_images=256, learning_rate=1.0), tmp_path, RESUME)


@pytest.mark.parametrize("recipe", ["adversarial", "contrastive"])
def test_images_are_counted_once(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG if recipe == "adversarial" else contrastive_recipe("svhn32", width=8, start="", batch_size=8)
    trainer = (Trainer if recipe == "adversarial" else ContrastiveTrainer)(replace(config, total_images=64), IMAGES)
    clock = iter(range(1_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    result = train(trainer, tmp_path, RunOptions(checkpoint_minutes=1e6))
    told = round(64 / result["images_per_s"])  # seconds by the clock, which counts its calls: 1 a round and 1
    assert told == trainer.config.total_rounds + 1


def test_the_leader_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda box, source: sent.extend(box))
    assert Team(0, 2).decided(lambda: Path("round-1")) == Path("round-1")
    assert sent == [Path("round-1"), None]

    def receive(box: list[object], source: int) -> None:
        box[:] = [Path("round-7"), None]

    monkeypatch.setattr("torch.distributed.broadcast_object_list", receive)
    assert Team(1, 2).decided(lambda: pytest.fail("only the leader chooses")) == Path("round-7")

    def refused() -> None:
        raise TrainingError("no")

    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda box, source: None)
    with pytest.raises(TrainingError, match="no"):
        Team(0, 2).decided(refused)


def test_measurements_use_copies_that_need_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcgan_eval.training.neighbours import neighbour_score
    from dcgan_eval.training.parallel import synchronise_batch_norm

    trainer = trainer_of(held_out=4)
    synchronise_batch_norm(trainer.G)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *_, **__: pytest.fail("a collective on one rank alone"))
    assert neighbour_score(trainer, counts=(8,))["nearest_8"] > 0
