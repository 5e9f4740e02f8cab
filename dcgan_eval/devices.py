"""Where numbers are computed and in which type: devices, random generators and transfers are asked for here only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from .errors import DcganEvalError, unknown_name

_CPU = torch.device("cpu")
_CPU_FLAGS = Path("/proc/cpuinfo")
COMPUTE_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str = "auto", option: str = "--device") -> torch.device:
    """Return the device for a name as typed: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Under ``torchrun`` ``cuda`` is the GPU of this process's local rank.

    Parameters
    ----------
    name : str
        The device.
    option : str
        Where it was typed.

    Raises
    ------
    DcganEvalError
        An unknown name, or a device that is not there.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise unknown_name("device", name, ("auto", "cpu", "cuda", "cuda:N", "mps"), DcganEvalError)
    if kind == "auto":
        kind = name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # under torchrun: a GPU for each process of a machine
        name, number = f"cuda:{os.environ['LOCAL_RANK']}", os.environ["LOCAL_RANK"]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        remedy = f"use {option} cpu or auto"
        if "LOCAL_RANK" in os.environ:
            remedy = f"start no more processes on a machine than it has GPUs, or use {option} cpu"
        raise DcganEvalError(f"There is no device {name}", got=f"{option} {name}", remedy=remedy)
    return torch.device(name)


def device_of_fits(beside: torch.device) -> torch.device:
    """Return where classifiers are fitted whose encoder is on a device: there, unless it has no float64 to certify."""
    return _CPU if beside.type == "mps" else beside


@lru_cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 matrices in hardware; elsewhere it takes over 200 times as long.

    A limit that the user sets on oneDNN's instructions counts (``ONEDNN_MAX_CPU_ISA``, its documentation names them).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    try:
        flags = _CPU_FLAGS.read_text()
    except OSError:
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper() or "DEFAULT"
    allowed = any(part in limit for part in ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10"))
    return allowed and ("avx512_bf16" in flags or "amx_bf16" in flags)


def fast_type(device: torch.device) -> torch.dtype:
    """Return the fastest type whose products are good enough to train with: bfloat16 in hardware, else float32."""
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def memory_share(device: torch.device = _CPU) -> int:
    """Return the bytes that one task may take: half the memory of the machine or container, or of a GPU's free one."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch 2.4 takes no device without an index
            kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # freed, but not given back to the GPU
            return (torch.cuda.mem_get_info()[0] + kept) // 2
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total // 2


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let float32 products be float32: no TF32, with its 10 bits of mantissa, on GPUs that have it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def arithmetic(name: str, device: torch.device) -> tuple[str, str]:
    """Resolve a compute type as typed, and say in a sentence what that means on the device.

    Parameters
    ----------
    name : str
        ``"auto"``, ``"float32"`` or ``"bfloat16"``.
    device : torch.device
        Where it is computed.

    Returns
    -------
    (str, str)
        Name of the type, sentence.

    Raises
    ------
    DcganEvalError
        An unknown name.
    """
    if name not in ("auto", *COMPUTE_TYPES):
        raise unknown_name("compute type", name, ("auto", *COMPUTE_TYPES), DcganEvalError)
    is_fast = has_fast_bfloat16(device)
    chosen = ("bfloat16" if is_fast else "float32") if name == "auto" else name
    has = f"{device} multiplies bfloat16 in hardware" if is_fast else f"{device} has no hardware for bfloat16"
    slow = ", which makes it over 200 times slower than float32" if chosen == "bfloat16" and not is_fast else ""
    return chosen, f"Arithmetic: {chosen} ({has}{slow})"


def computing(compute: torch.dtype, device: torch.device) -> torch.autocast:
    """Let matrix products and convolutions run in a type; float32 leaves everything as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=compute is torch.bfloat16)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without waiting for it where it goes to a GPU."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Let torch's global random numbers, of the CPU and of one GPU, follow from ``seed``; afterwards put them back.

    ``torch.manual_seed`` under ``fork_rng(devices=[])`` would reseed every GPU for good, so it is not used.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
