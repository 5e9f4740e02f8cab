"""The image is built from what its build is given: every file that the wheel needs is copied, and none is ignored."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_image_gets_all_that_the_wheel_is_made_of_and_nothing_is_kept_from_it() -> None:
    copied = {
        source
        for sources in re.findall(r"^COPY (.*) \S+$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
        for source in sources.split()
    }
    assert all((ROOT / source).exists() for source in copied)
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert copied == let_through
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["only-include"], settings["project"]["readme"], "pyproject.toml"}
    assert needed | set(settings["project"]["license-files"]) == copied
