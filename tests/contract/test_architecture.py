"""Imports point one way, importing has no side effect, and nothing is unpickled."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dcgan_eval

PACKAGE = Path(__file__).parents[2] / "dcgan_eval"
# Each part may import the parts that stand before it on an earlier line, and itself.
LAYERS = [
    {"errors", "files", "progress", "devices", "seeding", "provenance", "ranks", "records"},
    {"data", "models", "svm"},
    {"features", "training"},
    {"baselines"},
    {"protocols", "insight"},
    {"report"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported_parts(path: Path) -> set[str]:
    """Return the parts of the package that a module imports anywhere in it."""
    parts, package = set(), ["dcgan_eval", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*stem, alias.name]) for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("dcgan_eval.")}
    return parts & RANK.keys()


MODULES = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in RANK]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported_parts(path) - {part}:
        lower = RANK[other] < RANK[part]
        within_base = RANK[other] == RANK[part] == 0
        assert lower or within_base, f"{part} imports {other}"


def test_the_report_needs_no_torch() -> None:
    code = "import sys, dcgan_eval.report.tables, dcgan_eval.report.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_the_package_is_free() -> None:
    code = "import sys, dcgan_eval; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'h5py', 'logging')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_how(given: dict[str, str], kept: str | None) -> None:
    code = "import os, dcgan_eval; print(os.environ.get('GOMP_SPINCOUNT'))"
    plain = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=plain | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(kept)


def test_public_names_resolve() -> None:
    assert all(getattr(dcgan_eval, name) is not None for name in dcgan_eval.__all__)


def test_nothing_is_unpickled() -> None:
    """No module of ours loads pickles; torchvision does, for CIFAR-10, after its checksum matched."""
    forbidden = {"pickle", "joblib", "dill", "cloudpickle"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name.split(".")[0] for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", path  # tensors alone; anything else in the file is refused
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


LONGEST = 40  # lines of a function without its docstring: what one can see at once


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                said = node.body[0] if ast.get_docstring(node) is not None else None
                words = said.end_lineno - said.lineno + 1 if said is not None else 0
                if node.end_lineno - node.lineno + 1 - words > LONGEST:
                    long.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not long
