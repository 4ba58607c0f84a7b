"""The door through which runs come in: one function for every layout.

`run_set` holds the types and decides which runs are usable; `tables` reads this project's own
folders and tables, `mckenna2025` the file of the paper's authors.
"""

from pathlib import Path
from typing import Literal

from dpscale.errors import InputError
from dpscale.paths import as_path
from dpscale.scaling.reading.mckenna2025 import read_mckenna2025
from dpscale.scaling.reading.run_set import ExcludedRun, RunCurve, RunSet, Target
from dpscale.scaling.reading.tables import RUNS_DIR, rows_of_folder, rows_of_table, select_runs

__all__ = [
    "RUNS_DIR",
    "ExcludedRun",
    "RunCurve",
    "RunFormat",
    "RunSet",
    "Target",
    "read_runs",
    "select_runs",
]

RunFormat = Literal["dpscale", "mckenna2025"]
"""Layouts of runs: this project's, and the `results.csv` of arXiv 2501.18914."""


def read_runs(
    source: str | Path, *, target: Target = "train_loss", format: RunFormat = "dpscale"
) -> RunSet:
    """Reads a runs folder, a sweep's folder, or a table of runs in Parquet or CSV.

    A folder without runs of its own is read through its `results.parquet`, which names the
    failed points too, and without that through its `runs/`.

    Raises:
      InputError: Nothing there, a missing column, a wrong unit, or no usable run.
    """
    path = as_path(source)
    if not path.exists():
        raise InputError(str(path), "no such file or folder.")
    if format == "mckenna2025":
        return read_mckenna2025(path, target=target)
    if path.is_dir():
        rows, unfinished = rows_of_folder(path, target)
    elif path.suffix in (".parquet", ".csv"):
        rows, unfinished = rows_of_table(path, target), []
    else:
        raise InputError(str(path), "expected a runs folder, or a table in .parquet or .csv.")
    return select_runs(rows, target=target, source=str(source), excluded=unfinished)
