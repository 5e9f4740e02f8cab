"""Commands under torchrun: what one process gives, one voice, an end when a process dies, and going on after it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ranks import in_processes, new_event, next_job
from safetensors.numpy import load_file

from dcgan_eval import ranks
from dcgan_eval.cli.main import main
from dcgan_eval.features.store_writer import StoreWriter
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import save_network
from dcgan_eval.ranks import Team, heeding_sigterm, joined
from dcgan_eval.records import Record, load_record

MADE_BY = ["--weights", "w.safetensors", "--layer", "conv1", "--cache-dir", "cache"]  # 128 features
KMEANS = ["baseline", "kmeans", "own.npz", "--published-c", "--cache-dir", "cache"]
COMMANDS = {
    "features": ["features", "--data", "own.npz", *MADE_BY],  # 4 blocks, 6 minibatches
    "svm": ["svm", "own.npz", *MADE_BY, "--record", "svm.json", "--save-probe", "w.probe.safetensors"],
    "draws": ["svm", "own.npz", *MADE_BY, "--per-class", "5", "--draws", "5", "--record", "draws.json"],
    "knn": ["probe", "knn", "own.npz", *MADE_BY, "--record", "knn.json"],
    "ridge": ["probe", "ridge", "own.npz", *MADE_BY, "--record", "ridge.json"],
    "kmeans": [*KMEANS, "--centroids", "8", "--patches", "300", "--iterations", "2", "--record", "kmeans.json"],
    "mistake": ["svm", "own.npz", "--weights", "nowhere.safetensors"],
    "list": ["list", "."],  # the last: who has nothing to do forgets that there are others
}


def make(folder: Path) -> Path:
    """Make a folder with images of three classes, and the weights of an eighth of svhn32's width."""
    folder.mkdir(parents=True)
    draw, sets = np.random.default_rng(0), {}
    for split, count in (("train", 800), ("test", 130)):
        labels = np.arange(count) % 3
        noise = draw.integers(0, 200, (count, 32, 32, 3))
        sets |= {
            f"{split}_images": (noise + 4 * labels[:, None, None, None]).astype(np.uint8),
            f"{split}_labels": labels,
        }
    np.savez(folder / "own.npz", **sets)
    save_network(build(get_preset("svhn32", 8), seed=0)[0], folder / "w.safetensors")
    return folder


def run_all(folder: Path, names: list[str]) -> None:
    """Run commands in one of several processes; keep how each ended and what it showed."""
    os.chdir(folder)
    for name in names:
        rank = os.environ.get("RANK", "-")
        if name == "mistake" and rank != "0":
            continue  # another process says it, and this one would give it a minute
        result = CliRunner().invoke(main, COMMANDS[name])
        Path(f"{name}-{rank}.txt").write_text(f"{result.exit_code}\n{result.output}")
        next_job()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of jobs of 1, 2 and 3 processes."""
    folders, some = {}, ["features", "svm"]
    for size, names in ((1, list(COMMANDS)), (2, some), (3, list(COMMANDS))):
        folders[size] = make(tmp_path_factory.mktemp("job") / str(size))
        in_processes(size, run_all, folders[size], names, jobs=len(names) + 1)
    return folders


@pytest.mark.parametrize(("size", "num_stores"), [(2, 2), (3, 4)])
def test_processes_give_what_one_gives(jobs: dict[int, Path], size: int, num_stores: int) -> None:
    here, alone = jobs[size], jobs[1]
    stores = list((here / "cache").glob("[!.]*.h5*"))
    assert len(stores) == num_stores
    for store in stores:
        assert store.read_bytes() == (alone / "cache" / store.name).read_bytes(), store.name
    for name in [path.stem for path in here.glob("*.json")]:
        found, expected = (load_record(folder / f"{name}.json") for folder in (here, alone))
        assert what_counts(found) == what_counts(expected), name
        assert found.environment["num_processes"] == size
    assert f"spread over {size} processes" in load_record(here / "svm.json").draws[0]["solver_reason"]
    found, expected = (load_file(folder / "w.probe.safetensors") for folder in (here, alone))
    apart, length = (np.linalg.norm(W, axis=1) for W in (found["W"] - expected["W"], expected["W"]))
    assert (apart <= 1e-6 * length).all()


def what_counts(record: Record) -> dict[str, Any]:
    """Return the numbers of a record that no rounding moves."""
    curve = [(row[record.chosen[0]], row["scores"]) for row in record.selection]
    draws = [(draw["score"], draw["num_rows"], draw["status"]) for draw in record.draws]
    names = ("score", "ci95", "chosen", "confusion", "rows_sha256", "right", "figures", "notes", "protocol")
    return {name: getattr(record, name) for name in names} | {"curve": curve, "draws": draws}


def test_one_process_speaks(jobs: dict[int, Path]) -> None:
    said = {path.stem: path.read_text() for path in jobs[3].glob("*-[0-9-].txt")}
    assert len(list(jobs[3].glob("*.json"))) == 5
    for name in COMMANDS:
        code, _, text = said[f"{name}-0"].partition("\n")
        assert code == ("2" if name == "mistake" else "0"), text
        assert text.count("Note: `list` runs in one process") == (name == "list")
    assert "nowhere.safetensors" in said["mistake-0"]
    assert {text for name, text in said.items() if not name.endswith("-0")} == {"0\n"}


def die_at_a_block(folder: Path, gone: Any) -> None:
    """Make features; one process dies with its first block written, before the others write theirs."""
    os.chdir(folder)
    write, is_last = StoreWriter.write, os.environ["RANK"] == "2"

    def write_or_die(self: StoreWriter, block: int, features: dict[str, np.ndarray]) -> None:
        assert is_last or gone.wait(60)
        write(self, block, features)
        if is_last:
            os.fsync(self._file.fileno())
            gone.set()
            os.kill(os.getpid(), signal.SIGKILL)

    StoreWriter.write = write_or_die  # type: ignore[method-assign]
    result = CliRunner().invoke(main, COMMANDS["features"])
    Path(f"died-{os.environ['RANK']}.txt").write_text(f"{result.exit_code}\n{result.output}")


def go_on(folder: Path) -> None:
    """Make the rest of the features; note which blocks."""
    os.chdir(folder)
    write, made = StoreWriter.write, list[int]()

    def noted(self: StoreWriter, block: int, features: dict[str, np.ndarray]) -> None:
        made.append(block)
        write(self, block, features)

    StoreWriter.write = noted  # type: ignore[method-assign]
    assert CliRunner().invoke(main, COMMANDS["features"]).exit_code == 0
    np.save(f"made-{os.environ['RANK']}.npy", np.array(made, int))


def test_a_dead_process_ends_the_job_and_its_blocks_are_kept(jobs: dict[int, Path], tmp_path: Path) -> None:
    folder, shown = make(tmp_path / "job"), (jobs[1] / "features-0.txt").read_text()
    name = re.findall(r"own-train-\S+\.h5", shown)[-1]
    in_processes(3, die_at_a_block, folder, new_event(), codes=[0, 0, -signal.SIGKILL])
    said = [(folder / f"died-{rank}.txt").read_text() for rank in (0, 1)]
    assert all(text.startswith("2\n") for text in said)
    assert "Error: Another process of this job has ended" in said[0]
    assert "the same command continues" in said[0]
    assert [path.name for path in (folder / "cache").glob("o*.h5*")] == [f"{name}.partial"]
    in_processes(2, go_on, folder)
    made = np.concatenate([np.load(folder / f"made-{rank}.npy") for rank in (0, 1)])
    assert len(made) == len(set(made.tolist())) == 0  # every block was taken by someone before the job ended
    assert (folder / "cache" / name).read_bytes() == (jobs[1] / "cache" / name).read_bytes()


def wait_in_vain(folder: Path) -> None:
    """Work alone, with nothing to exchange, while the other process dies."""
    os.dup2(os.open(folder / f"said-{os.environ['RANK']}.txt", os.O_CREAT | os.O_WRONLY), 2)
    ranks.BEAT_S, ranks.LOST_S = 0.05, 0.5
    with joined() as team:
        team.decided(lambda: None)
        if not team.leads:
            os.kill(os.getpid(), signal.SIGKILL)
        new_event().wait(60)


def test_a_lost_process_is_missed_by_one_that_does_not_wait_for_it(tmp_path: Path) -> None:
    in_processes(2, wait_in_vain, tmp_path, codes=[2, -signal.SIGKILL])
    assert "Error: Another process of this job is lost. Got: number 1 of 2" in (tmp_path / "said-0.txt").read_text()


def test_torchrun_ends_the_others_and_one_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, heeding_sigterm(Team(0, 2)):
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    assert "Error: This job was told to end: a process of it has died" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_parts_cover_all_and_differ_by_one() -> None:
    for count, size in ((7, 3), (3, 3), (100, 7)):
        parts = [range(count)[Team(rank, size).part(count)] for rank in range(size)]
        assert [i for part in parts for i in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_under_torchrun_cuda_is_the_gpu_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcgan_eval.devices import resolve_device
    from dcgan_eval.errors import DcganEvalError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:0")] == ["cuda:1", "cuda:1", "cuda:0"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DcganEvalError, match="no more processes"):
        resolve_device("auto")
