"""README's tree names every file of the package, in words that say what is in it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown() -> dict[str, str]:
    """Path -> words of README's tree: ``room/  a.py words · b.py words``, over several lines."""
    block = re.search(r"## The tree.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    found = {}
    for room, text in re.findall(r"^(dcgan_eval|  \w+)/ +(.*?)(?=^ {0,2}\w)", block[1], re.DOTALL | re.MULTILINE):
        folder = "dcgan_eval" if room == "dcgan_eval" else f"dcgan_eval/{room.strip()}"
        for item in " ".join(text.split()).split(" · "):
            name, words = item.split(" ", 1)
            found[f"{folder}/{name}"] = words
    return found


def test_the_tree_names_every_file_in_eight_words_or_fewer() -> None:
    tree = shown()
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "dcgan_eval").rglob("*.py") if path.name != "__init__.py"}
    assert set(tree) == files
    assert not {path: words for path, words in tree.items() if not 1 <= len(words.split()) <= 8}


def test_no_two_files_of_a_room_say_the_same() -> None:
    rooms: dict[str, list[str]] = {}
    for path, words in shown().items():
        rooms.setdefault(path.rpartition("/")[0], []).append(words)
    assert all(len(set(words)) == len(words) for words in rooms.values())


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
