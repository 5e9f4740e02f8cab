"""``dcgan-eval cache list|clean``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import counted
from .console import err, out
from .options import Number, cache_dir_option, default_cache_dir, example, json_option

if TYPE_CHECKING:
    from ..features.cache import CacheFile

_GB = 1e9


@click.group(epilog=example("dcgan-eval cache list"))
def cache() -> None:
    """Show what lies in the cache folder, or free some of it."""


@cache.command("list", epilog=example("dcgan-eval cache list"))
@cache_dir_option
@json_option
def list_cache(cache_dir: Path | None, as_json: bool) -> None:
    """List features, unfinished ones, batch-norm statistics, codebooks, searches and locks, oldest first."""
    from ..features.cache import cache_files

    folder = cache_dir or default_cache_dir()
    files = cache_files(folder)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "files": _plain(files), "total_bytes": _size(files)}, indent=1))
        return
    _print(files, f"Cache {folder}")
    out.print(_total(files))


@cache.command(epilog=example("dcgan-eval cache clean --older-than 30 --dry-run"))
@click.option("--older-than", type=Number(float, 0, 1e5), metavar="DAYS", help="Only what was written longer ago.")
@click.option(
    "--keep-gb", type=Number(float, 0, 1e6), metavar="GB", help="Only the oldest, until this much is left in all."
)
@click.option("--unfinished", is_flag=True, help="Only what runs left that were interrupted; they could continue it.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@cache_dir_option
@json_option
def clean(
    older_than: float | None,
    keep_gb: float | None,
    unfinished: bool,
    dry_run: bool,
    yes: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Delete files of the cache; each option narrows the choice, and what a process is writing stays."""
    from ..features.cache import cache_files, choose, free

    if older_than is None and keep_gb is None and not unfinished:
        raise click.UsageError(
            "Say what to delete: --older-than DAYS, --keep-gb GB or --unfinished; --keep-gb 0 is all."
        )
    keep_bytes = None if keep_gb is None else keep_gb * _GB
    files = cache_files(cache_dir or default_cache_dir())
    chosen = choose(files, older_than_days=older_than, keep_bytes=keep_bytes, unfinished=unfinished)
    used = [file for file in chosen if file.in_use]
    chosen = [file for file in chosen if file not in used]
    if not as_json:
        _print(chosen, "Would be deleted" if dry_run else "To delete")
    agreed = bool(chosen) and not dry_run and (yes or click.confirm(f"Delete {_total(chosen)}?", err=True))
    gone = free(chosen, used.append) if agreed else []
    for file in used:
        err.print(f"Stays, because a process is writing it: {file.path.name}")
    if as_json:
        parts = {"chosen": _plain(chosen), "deleted": _plain(gone), "in_use": _plain(used)}
        click.echo(json.dumps({**parts, "deleted_bytes": _size(gone)}, indent=1))
    else:
        left = [file for file in files if file not in gone]
        out.print(f"Deleted: {_total(gone)}. Left: {_total(left)}.")


def _plain(files: Sequence[CacheFile]) -> list[dict[str, Any]]:
    """Return files as plain values."""
    return [
        {
            "file": str(file.path),
            "kind": file.kind,
            "what": file.what,
            "size_bytes": file.size_bytes,
            "age_days": file.age_days,
            "in_use": file.in_use,
        }
        for file in files
    ]


def _print(files: Sequence[CacheFile], title: str) -> None:
    """Print a table of files, if there are any."""
    from ..report.sheet import Sheet

    rows = [
        [file.kind + ", in use" * file.in_use, file.what, f"{file.size_bytes / 1e6:,.1f}", f"{file.age_days:.1f}"]
        for file in files
    ]
    if rows:
        out.print(Sheet(title, ("kind", "what of", "MB", "days old"), rows, numbers=("MB", "days old")))


def _size(files: Sequence[CacheFile]) -> int:
    """Return the size of files together."""
    return sum(file.size_bytes for file in files)


def _total(files: Sequence[CacheFile]) -> str:
    """Say how many files there are and how large they are together."""
    return f"{counted(len(files), 'files')}, {_size(files) / 1e6:,.1f} MB"
