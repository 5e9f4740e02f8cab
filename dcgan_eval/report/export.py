"""Records as one flat table: CSV, Parquet, LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing, write_file
from ..records import Record
from .escaping import csv_cell, latex_cell, printable
from .tables import images_interval, own_data

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet", ".tex")


def records_frame(records: Sequence[tuple[Path, Record]]) -> pd.DataFrame:
    """Return one row per record, fractions as they are stored.

    Parameters
    ----------
    records : sequence of (Path, Record)
        Records with the files they come from.
    """
    import pandas as pd  # here, because importing it takes longer than most commands

    rows = [_row(path, record) for path, record in records]
    # Tables of strings hold what is text only, which not every file's name is.
    return pd.DataFrame([{k: printable(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows])


def _row(path: Path, r: Record) -> dict[str, Any]:
    """Return the flat values of a record."""
    images_low, images_high = images_interval(r) or (None, None)
    return {
        "record": path.name,
        "protocol": r.protocol,
        "protocol_version": r.protocol_version,
        "data": r.data["train"]["name"],
        "features": r.features["name"],
        "layers": " ".join(r.features.get("layers", [])),
        "num_features": r.num_features,
        "metric": r.metric,
        "score": r.score,
        "ci95_low": r.ci95[0],
        "ci95_high": r.ci95[1],
        "images95_low": images_low,
        "images95_high": images_high,
        "spread": r.spread,
        "num_draws": r.num_draws,
        "C": r.C,
        "status": r.status,
        "duality_gap": r.duality_gap,
        "paper": r.paper["value"] if r.paper else None,
        "seed": r.seed,
        "time_s": r.time_s,
        "weights_sha256": r.weights_sha256,
        "dataset_fingerprint": r.dataset_fingerprint,
        "created": r.created,
        "command": r.command,
    }


def export_records(records: Sequence[tuple[Path, Record]], path: Path) -> Path:
    """Write records as the kind of table that the file's suffix names.

    Parameters
    ----------
    records : sequence of (Path, Record)
        What to write.
    path : Path
        ``.csv`` and ``.parquet`` hold every value, ``.tex`` a table to print, in percent.

    Raises
    ------
    OSError
        The file cannot be written; what was there before is as it was.
    """
    frame = records_frame(records)
    if path.suffix == ".parquet":
        with replacing(path) as partial:
            frame.to_parquet(partial, index=False)
        return path
    text = (
        frame.map(csv_cell).to_csv(index=False)
        if path.suffix == ".csv"
        else _latex(frame, [record for _, record in records])
    )
    return write_file(path, text)


def _latex(frame: pd.DataFrame, records: Sequence[Record]) -> str:
    """Return the table to print."""
    table = frame[["protocol", "features"]].assign(
        protocol=[printable(r.protocol + own_data(r)) for r in records],
        accuracy=(100 * frame["score"]).map("{:.2f}".format),
        draws=[
            f"{100 * a:.2f}–{100 * b:.2f}" if n > 1 else ""
            for a, b, n in zip(frame["ci95_low"], frame["ci95_high"], frame["num_draws"], strict=True)
        ],
        images=[
            f"{100 * a:.2f}–{100 * b:.2f}" if a == a and a is not None else ""
            for a, b in zip(frame["images95_low"], frame["images95_high"], strict=True)
        ],
        C=[f"{C:g}" if C == C and C is not None else "–" for C in frame["C"]],
    )
    table.columns = ["Protocol", "Features", "Accuracy %", "95 % draws", "95 % test images", "C"]
    return table.map(latex_cell).rename(columns=latex_cell).to_latex(index=False, escape=False, column_format="llrrrr")
