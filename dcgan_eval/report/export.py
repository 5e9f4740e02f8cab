"""Records as one flat table: CSV, Parquet, LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..records import Record

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

    return pd.DataFrame([_row(path, record) for path, record in records])


def _row(path: Path, r: Record) -> dict[str, Any]:
    """Return the flat values of a record."""
    return {
        "record": path.name,
        "protocol": r.protocol,
        "protocol_version": r.protocol_version,
        "features": r.features["name"],
        "layers": " ".join(r.features.get("layers", [])),
        "num_features": r.num_features,
        "metric": r.metric,
        "score": r.score,
        "ci95_low": r.ci95[0],
        "ci95_high": r.ci95[1],
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
    RecordError
        Another suffix, or a file that cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise RecordError(
            "The kind of table is not known", got=str(path), expected=" or ".join(SUFFIXES), remedy="change --out"
        )
    frame = records_frame(records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            path.write_text(frame.to_csv(index=False) if path.suffix == ".csv" else _latex(frame))
    except OSError as error:
        raise RecordError("The table cannot be written", got=f"{path}: {error}", remedy="change --out") from error
    return path


def _latex(frame: pd.DataFrame) -> str:
    """Return the table to print."""
    names = {
        "protocol": "Protocol",
        "features": "Features",
        "accuracy": "Accuracy \\%",
        "interval": "95 \\% interval",
        "C": "$C$",
    }
    frame = frame.assign(
        accuracy=(100 * frame["score"]).map("{:.2f}".format),
        interval=[f"{100 * a:.1f}--{100 * b:.1f}" for a, b in zip(frame["ci95_low"], frame["ci95_high"], strict=True)],
        C=[f"{C:g}" if C == C and C is not None else "--" for C in frame["C"]],
    )
    escaped = frame[list(names)].map(lambda text: text.replace("_", "\\_"))
    return escaped.rename(columns=names).to_latex(index=False, escape=False, column_format="llrrr")
