"""A seeded slice of the fault campaign: nothing is lost, falsely complete, silently wrong, stuck or a traceback.

``benchmarks/faults.py`` runs the same rows for an hour.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from server import Campaign
from table import FAULTS, ROWS, Row


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """The process in which the commands run."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: the calls of a command are counted by a small preloaded library")
    started = Campaign(tmp_path_factory.mktemp("faults"))
    yield started
    started.close()


@pytest.mark.parametrize("row", [row for row in ROWS if row.tries], ids=lambda row: row.name)
def test_nothing_is_lost_or_silently_wrong(campaign: Campaign, row: Row) -> None:
    tally = campaign(row=row.kind, target=row.target, tries=row.tries, seed=1)
    assert tally["tries"] == row.tries
    assert not {verdict: n for verdict, n in tally["verdicts"].items() if verdict in FAULTS}, tally["notes"]
