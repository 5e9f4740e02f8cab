"""Processes of one distributed job, as torchrun starts them, forked from a server that has imported all of it once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "dcgan_eval.svm.path",
        "dcgan_eval.training.loop",
        "dcgan_eval.training.trainer",
        "dcgan_eval.cli.baseline",
        "dcgan_eval.cli.features",
        "dcgan_eval.cli.probe",
        "dcgan_eval.cli.svm",
        "dcgan_eval.protocols.statistics",
        "sklearn.datasets",
    ]
)
new_event = _CONTEXT.Event


def in_processes(
    size: int, work: Callable[..., None], *arguments: Any, codes: Sequence[int] | None = None, jobs: int = 1
) -> None:
    """Call ``work``, a function of a module, in so many processes that can join each other, one thread each.

    ``codes`` are the exit codes to expect, 0 without. A process that joins the others ``jobs`` times, one after the
    other, calls :func:`next_job` in between.
    """
    ports = [_free_port() for _ in range(jobs)]
    crew = [_CONTEXT.Process(target=_begin, args=(rank, size, ports, work, arguments)) for rank in range(size)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(240)
    found = [process.exitcode for process in crew]
    for process in crew:
        process.kill()
    assert found == list(codes or [0] * size), found


def next_job() -> None:
    """Let the next joining be one of another job."""
    os.environ["MASTER_PORT"] = str(_ports.pop(0))


_ports: list[int] = []


def _free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _begin(rank: int, size: int, ports: list[int], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Do the work of one process."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in where.items()})
    _ports[:] = ports
    next_job()
    torch.set_num_threads(1)
    work(*arguments)
    os._exit(0)  # torch 2.14's gloo threads now and then abort an interpreter that is shutting down under load
