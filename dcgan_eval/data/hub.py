"""Data sets of the Hugging Face hub by name: fetched by its own library, then read like any other folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError, check_installed

PREFIX = "hf:"
_FILES = ("*.parquet", "*.tar")  # what is read; no script of a data set is fetched, none is run


def is_on_hub(name: str | Path) -> bool:
    """Tell whether a name is one of the hub's, ``hf:ORG/NAME``; a path that exists is a path."""
    return str(name).startswith(PREFIX) and not Path(name).exists()


def fetch(name: str) -> Path:
    """Return the folder of a data set of the hub, fetched unless the hub's own cache has it.

    Parameters
    ----------
    name : str
        ``hf:ORG/NAME``, or ``hf:ORG/NAME@REVISION``: a branch, tag or commit.

    Raises
    ------
    DcganEvalError
        Hugging Face's library is missing, there is no such data set, it cannot be fetched, or it has none of the files
        that are read here.
    """
    check_installed("huggingface_hub", name, extra="hub")
    import huggingface_hub

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, repo_type="dataset", revision=revision or None, allow_patterns=list(_FILES)
            )
        )
    except Exception as error:  # of several libraries, none of which says which ones
        raise DataError(
            f"The data set {name} cannot be fetched",
            got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            expected=f"{PREFIX}ORG/NAME as the hub spells it, and the hub or a copy in its cache",
            remedy="correct the name, or download the data set and give its folder",
        ) from error
    if not any(True for pattern in _FILES for _ in folder.rglob(pattern)):
        raise DataError(
            f"The data set {name} has no files that are read here",
            expected=" or ".join(_FILES),
            remedy="download it, and give its folder",
        )
    return folder
