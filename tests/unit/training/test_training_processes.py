"""Training over two processes: the single process's run when batch norm is synchronised, one state in any case."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import in_processes

from dcgan_eval.errors import TrainingError
from dcgan_eval.ranks import Team, joined
from dcgan_eval.training import loop
from dcgan_eval.training.checkpoint import find_checkpoints, read_state
from dcgan_eval.training.config import TrainingConfig
from dcgan_eval.training.log import read_table
from dcgan_eval.training.trainer import Trainer


def train_here(folder: Path, synced: bool, minutes: float) -> None:
    """Train in one of several processes, or alone; keep how it ended and what the networks are then."""
    loop.LOG_EVERY_ROUNDS = 1
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    config = TrainingConfig(preset="svhn32", width=8, total_images=96, batch_size=16, seed=1, rotation=0.0)
    with joined(torch.device("cpu")) as team:
        trainer = Trainer(config, images, team=team, sync_batch_norm=synced)
        result = loop.train(trainer, folder, loop.RunOptions(resume=True, max_minutes=minutes))
        parameters = [p.detach().contiguous() for net in (trainer.D, trainer.G) for p in net.parameters()]
        digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in parameters)).hexdigest()
        (folder / f"rank{team.rank}.txt").write_text(f"{result['status']} {result['rounds_done']} {digest}")


def run(tmp_path: Path, name: str, processes: int, synced: bool = False, minutes: float = 60) -> Path:
    """Train in so many processes and return the folder."""
    in_processes(processes, train_here, tmp_path / name, synced, minutes)
    return tmp_path / name


def ranks(folder: Path) -> list[str]:
    """Return what each process said at its end."""
    return [path.read_text() for path in sorted(folder.glob("rank*.txt"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("alone"), "alone", 1)


def test_synchronised_batch_norm_gives_the_single_processs_run(alone: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, "synced", 2, synced=True)
    assert len(ranks(folder)) == 2
    expected, found = read_table(alone / "log.csv"), read_table(folder / "log.csv")
    assert len(found) == len(expected) == 3
    # Rounding differs, and Adam's first steps are signs of gradients: the gradient norm of each round before it counts.
    for key in ("d_grad_norm", "g_grad_norm"):
        assert found[0][key] == pytest.approx(expected[0][key], rel=2e-3)
        assert found[2][key] == pytest.approx(expected[2][key], rel=0.1)


def test_processes_share_one_state_stop_together_and_continue(tmp_path: Path) -> None:
    stopped = ranks(run(tmp_path, "own", 2, minutes=0))
    assert len(set(stopped)) == 1
    assert stopped[0].startswith("time limit 1 ")
    assert read_state(find_checkpoints(tmp_path / "own")[-1])["rounds_done"] == 1
    finished = ranks(run(tmp_path, "own", 2))
    assert len(set(finished)) == 1
    assert finished[0].startswith("finished 3 ")


@pytest.mark.parametrize(("batch_size", "size"), [(15, 2), (4, 4)])
def test_minibatches_that_cannot_be_shared_are_refused(batch_size: int, size: int) -> None:
    with pytest.raises(TrainingError, match="--batch-size"):
        Team(0, size).check_batch(batch_size)


def test_shares_cover_the_minibatch() -> None:
    batch = torch.arange(12)
    assert np.array_equal(torch.cat([Team(rank, 3).share(batch) for rank in range(3)]), batch)
