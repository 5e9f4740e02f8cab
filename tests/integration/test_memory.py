"""The command line keeps what is freed; a process that only imports the package is left as it is."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of another C library")

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COUNT = """
import resource, sys
import dcgan_eval.cli.main
if sys.argv[1:]:
    dcgan_eval.cli.main.main(sys.argv[1:], standalone_mode=False)
import torch
def pages(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(40):
    if turn == 30: before = pages()  # by then what is kept has settled
    torch.ones(40 << 20, dtype=torch.uint8)
print(pages() - before)
"""


@pytest.mark.parametrize(
    ("words", "told", "again"),
    [
        (["--version"], {}, False),
        ([], {}, True),  # an import alone
        (["--version"], {"MALLOC_TRIM_THRESHOLD_": "131072"}, True),
        (["--version"], {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, True),
    ],
)
def test_a_command_asks_the_system_once_for_pages_unless_the_user_says_how(
    words: list[str], told: dict[str, str], again: bool
) -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *words], env=plain | told, capture_output=True, text=True, check=True
    )
    page = 2 << 20 if HUGE.exists() and "[always]" in HUGE.read_text() else resource.getpagesize()
    assert (int(done.stdout.split()[-1]) > 5 * (40 << 20) // page) == again
