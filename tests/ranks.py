"""Processes of one distributed job, as torchrun starts them, forked from a server that has imported all of it once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["dcgan_eval.svm.path", "dcgan_eval.training.loop", "dcgan_eval.training.trainer"])


def in_processes(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work``, a function of a module, in so many processes that can join each other, one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    crew = [_CONTEXT.Process(target=_begin, args=(rank, size, port, work, arguments)) for rank in range(size)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(240)
    codes = [process.exitcode for process in crew]
    for process in crew:
        process.kill()
    assert codes == [0] * size, codes


def _begin(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Do the work of one process."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    torch.set_num_threads(1)
    work(*arguments)
    os._exit(0)  # torch 2.14's gloo threads now and then abort an interpreter that is shutting down under load
