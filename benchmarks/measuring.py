"""What the benchmarks share: work in a process of its own, a busy neighbour, and a record that names the machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dcgan_eval  # noqa: F401 - before torch, as on the command line, so that threads that wait sleep soon

# isort: split
import numpy as np
import torch

from dcgan_eval import provenance
from dcgan_eval.devices import fast_type, has_fast_bfloat16
from dcgan_eval.svm.products import product_nt

PEAK_SIZE = 4096  # of the square matrices whose product is taken for what a device can multiply


def in_own_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a function of a module in a fresh process, so that peak memory and threads are its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@contextmanager
def steps_elsewhere(
    make: Callable[..., Iterator[None]], names: Sequence[str], *arguments: Any
) -> Iterator[dict[str, Iterator[None]]]:
    """Give a loop for each name, ``make(name, *arguments)`` in a process of its own that takes a step when asked."""
    context, loops, pipes, processes = multiprocessing.get_context("spawn"), {}, [], []
    for name in names:
        here, there = context.Pipe()
        process = context.Process(target=_step_when_asked, args=(there, make, name, *arguments))
        process.start()
        there.close()  # so that a process that ends is seen to have ended
        loops[name] = _steps(here)
        pipes.append(here)
        processes.append(process)
    try:
        yield loops
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join()


def _steps(pipe: Connection) -> Iterator[None]:
    """Ask for a step and wait until it is done."""
    while True:
        pipe.send(None)
        yield pipe.recv()


def _step_when_asked(pipe: Connection, make: Callable[..., Iterator[None]], *arguments: Any) -> None:
    """Take a step whenever the other end asks, until it is closed."""
    loop = make(*arguments)
    with suppress(EOFError):
        while True:
            pipe.recv()
            next(loop)
            _wait(device_there())
            pipe.send(None)


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Call a function; return its answer, with wall seconds, and peak memory before and after, in bytes."""
    before, started = provenance.peak_memory_bytes(), time.perf_counter()
    answer = function()
    time_s = time.perf_counter() - started
    return answer, {
        "time_s": time_s,
        "peak_bytes": provenance.peak_memory_bytes(),
        "peak_before_bytes": before,
    }


def timed_command(words: Sequence[str]) -> dict[str, Any]:
    """Run a command that must succeed, its output thrown away; return wall seconds and peak memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    time_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return {"time_s": time_s, "peak_bytes": usage.ru_maxrss * 1024}


def device_there() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(step: Callable[[], Any], count: int, device: torch.device) -> float:
    """Return the wall time of one of ``count`` steps."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    _wait(device)
    return (time.perf_counter() - started) / count


def _wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_flops_per_s(device: torch.device, dtype: torch.dtype | None = None) -> float:
    """Return the best rate of a matrix product, by default in the type that training takes there.

    PyTorch's own and, which is twice as fast in float32 on AMD, oneDNN's.
    """
    dtype = dtype or fast_type(device)
    A, B = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(dtype) for _ in range(2))
    routes: list[Callable[[], Any]] = [lambda: A @ B, lambda: product_nt(A, B)]
    for route in routes:
        seconds(route, 1, device)
    return 2 * PEAK_SIZE**3 / min(seconds(route, 3, device) for _ in range(3) for route in routes)


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Keep one processor busy, as another user of the machine would, until the block is left."""
    if not busy:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_multiply, daemon=True)
    process.start()
    try:
        time.sleep(3)  # until it has imported what it needs
        yield
    finally:
        process.kill()


def _multiply() -> None:
    """Multiply matrices on one thread for ever."""
    torch.set_num_threads(1)
    A = torch.randn(512, 512)
    while True:
        A @ A


def write_record(place: Path | None, benchmark: str, found: dict[str, Any]) -> None:
    """Print what was found and, where a place is given, write it with versions, processor, command and git state."""
    print(json.dumps(found, indent=1))
    if place is None:
        return
    record = {"benchmark": benchmark, **found, "environment": environment()}
    record |= {"command": provenance.command_line(), "git": provenance.git_state()}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Return a record's environment, with whether the processor multiplies bfloat16 in hardware."""
    return provenance.environment() | {"bfloat16_in_hardware": has_fast_bfloat16(torch.device("cpu"))}


def easy_features(num_rows: int, num_features: int = 28_672, num_classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) float32 of classes that hardly overlap, and labels: quickly fitted by every solver."""
    random = np.random.default_rng(0)
    y = random.integers(num_classes, size=num_rows)
    means = random.standard_normal((num_classes, num_features), np.float32)
    X = random.standard_normal((num_rows, num_features), np.float32)
    for row, label in zip(X, y, strict=True):  # one by one: memory is measured, too
        row += 0.1 * means[label]
        np.maximum(row, 0, out=row)
    return X, y
