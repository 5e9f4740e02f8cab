"""README's tree names every file of the package, in words that say what is in it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown() -> dict[str, str]:
    """Path -> words of README's tree."""
    block = re.search(r"## The tree.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    found, folders = {}, list[str]()
    for line in block[1].splitlines():
        name, _, words = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.rstrip("/")]
        found["/".join(folders)] = words.strip()
    return found


def test_the_tree_names_every_file_in_eight_words_or_fewer() -> None:
    tree = shown()
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "dcgan_eval").rglob("*.py") if path.name != "__init__.py"}
    assert {path for path in tree if path.endswith(".py")} == files
    assert not {
        path: words for path, words in tree.items() if path.endswith(".py") and not 1 <= len(words.split()) <= 8
    }


def test_no_two_files_say_the_same() -> None:
    words = [words for path, words in shown().items() if path.endswith(".py")]
    assert len(set(words)) == len(words)
