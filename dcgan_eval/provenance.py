"""What produced a number: versions, device, command and the state of the source."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__

_PACKAGES = ("dcgan-eval", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "h5py")


def environment() -> dict[str, Any]:
    """Return versions, processor, threads and accelerator, as plain values for a record."""
    import torch  # here, because it takes longer to import than most commands take

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": _cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "num_threads": torch.get_num_threads(),
        "num_processes": int(os.environ.get("WORLD_SIZE") or 1),  # that torchrun started for the job
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def command_line() -> str:
    """Return the command as typed, with the program's bare name and absolute paths shortened to their last part."""
    program = Path(sys.argv[0]).name
    return shlex.join(["dcgan-eval" if program == "__main__.py" else program, *map(_shortened, sys.argv[1:])])


def _shortened(argument: str) -> str:
    """Return an argument without the folders of an absolute path, also behind ``--option=``: they may name a person."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if value.startswith(("/", "~")):
        value = Path(value).name
    return option + equals + value.replace(str(Path.home()), "~")


def git_state() -> dict[str, Any] | None:
    """Return the commit of the checkout that the package runs from and whether it was changed; None elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    return {"commit": commit, "changed": bool(_git(root, "status", "--porcelain", "-uno"))} if commit else None


def digest(*parts: str) -> str:
    """Return the SHA-256 of strings joined by newlines."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes (Linux)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(name: str) -> str | None:
    """Return a package's version: of this one as its source says, which metadata of an older installation may not."""
    if name == "dcgan-eval":
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(root: Path, *arguments: str) -> str:
    """Return a git command's output, empty when git fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
