"""Where the real images lie: ``DCGAN_EVAL_DATA``, else ``shared/data`` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data"
REAL_DATA = Path(os.environ.get("DCGAN_EVAL_DATA") or BESIDE)  # read once: tests take the variable away


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of the real data sets; the test is skipped where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip("no real data: set DCGAN_EVAL_DATA to the folder that holds cifar10/, svhn/, ...")
    return REAL_DATA
