"""Runs in this project's own layout: a folder of runs, or a sweep's results table.

The layout is that of `records.TABLE_COLUMNS`: one row a measurement, each with its run's result.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpscale.errors import InputError
from dpscale.records import (
    RESULT_FILE,
    TABLE_COLUMNS,
    TABLE_FILE,
    Status,
    read_metrics,
    read_result,
    table_rows,
)
from dpscale.scaling.reading.frames import (
    expect_columns,
    expect_filled,
    expect_rates,
    expect_ratios,
    expect_whole,
    numbers,
    read_frame,
)
from dpscale.scaling.reading.run_set import ExcludedRun, RunCurve, RunSet, Target, choose_runs

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

RUNS_DIR = "runs"
"""Where a sweep's folder keeps its runs."""

_STEP_COLUMN: dict[Target, str] = {"train_loss": "step_train_loss", "eval_loss": "step_eval_loss"}
_OTHER: dict[Target, Target] = {"train_loss": "eval_loss", "eval_loss": "train_loss"}
_COUNTS = ("iterations", "steps_taken", "step")
_SETTING = (
    *("seed", "num_params", "seq_len", "vocab_size", "physical_batch_size", "noise_batch_ratio"),
    "learning_rate",
)
_NEEDED = ("run_id", "purpose", "status", *_SETTING, *_COUNTS)
_LOSSES = (*_STEP_COLUMN, *_STEP_COLUMN.values())
_USED_COLUMNS = (*_NEEDED, "error", *_LOSSES)
"""What is read of a results table."""


def rows_of_folder(path: Path, target: Target) -> tuple[list[dict[str, Any]], list[ExcludedRun]]:
    """The rows of a folder's runs, and the runs that have not ended.

    A folder without runs of its own is read through its `results.parquet`, which names the
    failed points too, and without that through its `runs/`.
    """
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    ended = [folder for folder in folders if (folder / RESULT_FILE).exists()]
    if not ended:
        if (path / TABLE_FILE).exists():
            return rows_of_table(path / TABLE_FILE, target), []
        if (path / RUNS_DIR).is_dir():
            return rows_of_folder(path / RUNS_DIR, target)
        raise InputError(str(path), f"no subfolder holds a {RESULT_FILE}: no run has ended here.")
    rows: list[dict[str, Any]] = []
    for folder in ended:
        result = read_result(folder)
        if result is not None:
            rows.extend(table_rows(result, read_metrics(folder)))
    names = {folder.name for folder in ended}
    unfinished = [
        ExcludedRun(folder.name, f"has not ended (no {RESULT_FILE})")
        for folder in folders
        if folder.name not in names and (folder / "config.json").exists()
    ]
    return rows, unfinished


def rows_of_table(path: Path, target: Target) -> list[dict[str, Any]]:
    """The rows of a results table; missing values are None, numbers that are not finite stay.

    The columns of the loss that is not the target may be missing, as may `error`.

    Raises:
      InputError: A missing column; text where a number belongs; a wrong unit.
    """
    frame = read_frame(path)
    expect_columns(
        frame,
        (*_NEEDED, target, _STEP_COLUMN[target]),
        path,
        layout=TABLE_COLUMNS,
        hint=_hint(set(frame.columns), _OTHER[target]),
    )
    for column in ("run_id", "step"):
        expect_filled(frame, column, path)
    _expect_units(frame, path)
    frame = frame.reindex(columns=[*frame.columns, *(set(_USED_COLUMNS) - set(frame.columns))])
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): value for key, value in record.items()} for record in records]


def _hint(columns: set[str], other: Target) -> str:
    """What to say to somebody whose table lacks a column."""
    if {"Model", "Noise Batch Ratio"} <= columns:
        return " This is the layout of the paper's authors: use the format mckenna2025."
    if {*_NEEDED, other, _STEP_COLUMN[other]} <= columns:
        return f" What could still be fitted: {other}, as the target."
    return " A results table has one row a measurement, as `dpscale sweep` writes it."


def _expect_units(frame: "pd.DataFrame", path: Path) -> None:
    present = [name for name in (*_SETTING, *_COUNTS, *_LOSSES) if name in frame.columns]
    values = {column: numbers(frame, column, path) for column in present}
    for column in _COUNTS:
        expect_whole(values[column], column, path)
    expect_ratios(values["noise_batch_ratio"], "noise_batch_ratio", path)
    expect_rates(values["learning_rate"], "learning_rate", path)


def select_runs(
    rows: Iterable[Row],
    *,
    target: Target,
    source: str,
    excluded: Iterable[ExcludedRun] = (),
) -> RunSet:
    """Sorts the rows of a results table into usable runs and left-out ones.

    Args:
      rows: One measurement each, in any order, keyed by `TABLE_COLUMNS`; missing values are None.
      excluded: Runs that are known to be left out already.

    Raises:
      InputError: As in `run_set.choose_runs`.
    """
    by_run: dict[str, list[Row]] = {}
    digest = hashlib.sha256()
    for row in rows:
        by_run.setdefault(str(row["run_id"]), []).append(row)
        digest.update(json.dumps([row[key] for key in _USED_COLUMNS], default=str).encode())
    left_out = list(excluded)
    curves: list[RunCurve] = []
    for run_id, run_rows in by_run.items():
        reason = _reason_to_exclude(run_rows, target)
        if reason is None:
            curves.append(_curve(run_id, run_rows, target))
        else:
            left_out.append(ExcludedRun(run_id, reason))
    return choose_runs(
        curves,
        target=target,
        source=source,
        data_sha256=digest.hexdigest(),
        excluded=left_out,
    )


def _reason_to_exclude(rows: list[Row], target: Target) -> str | None:
    first = rows[0]
    if first["purpose"] != "law-fitting":
        return f"purpose is {first['purpose']}: a law is fitted to law-fitting runs"
    if first["status"] != Status.FINISHED:
        why = f": {first['error']}" if first["error"] else ""
        return f"status is {first['status']}{why}"
    for column in (*_SETTING, "iterations", "steps_taken"):
        values = sorted({row[column] for row in rows if row[column] is not None})
        if len(values) > 1:
            return f"its rows disagree on {column} ({', '.join(map(str, values))})"
        if any(row[column] is None for row in rows):
            return f"its {column} is missing"
    if int(first["steps_taken"]) < int(first["iterations"]):
        return f"stopped after {first['steps_taken']} of {first['iterations']} iterations"
    if first[target] is None and all(row[_STEP_COLUMN[target]] is None for row in rows):
        other = _OTHER[target]
        known = first[other] is not None or any(
            row[_STEP_COLUMN[other]] is not None for row in rows
        )
        return f"no measurement of {target}" + (f", only of {other}" if known else "")
    return _twice_measured(_measurements(rows, target))


def _measurements(rows: list[Row], target: Target) -> list[tuple[int, float]]:
    """(step, loss) of every row that measures `target`.

    Every window has a training loss, and a table keeps NaN as an empty cell: there an empty
    cell is NaN. An evaluation need not have been due.
    """
    pairs = [(int(row["step"]), row[_STEP_COLUMN[target]]) for row in rows]
    return [
        (step, float("nan") if loss is None else float(loss))
        for step, loss in pairs
        if step > 0 and (loss is not None or target == "train_loss")
    ]


def _twice_measured(measurements: list[tuple[int, float]]) -> str | None:
    """Two different losses at one step: nobody knows which of them is the run's."""
    known: dict[int, float] = {}
    for step, loss in measurements:
        other = known.setdefault(step, loss)
        if other != loss and not (np.isnan(other) and np.isnan(loss)):
            return f"two losses at step {step}: {other:g} and {loss:g}"
    return None


def _curve(run_id: str, rows: list[Row], target: Target) -> RunCurve:
    first = rows[0]
    measured = dict(_measurements(rows, target))
    if first[target] is not None:  # the end of the run, also where no metric line fell on it
        measured.setdefault(int(first["steps_taken"]), float(first[target]))
    steps = sorted(measured)
    num_params = int(first["num_params"])
    return RunCurve(
        run_id=run_id,
        num_params=num_params,
        num_params_non_embedding=int(first.get("num_params_non_embedding") or num_params),
        iterations=int(first["iterations"]),
        noise_batch_ratio=float(first["noise_batch_ratio"]),
        learning_rate=float(first["learning_rate"]),
        seed=int(first["seed"]),
        physical_batch_size=int(first["physical_batch_size"]),
        seq_len=int(first["seq_len"]),
        vocab_size=int(first["vocab_size"]),
        steps=np.array(steps, float),
        losses=np.array([measured[step] for step in steps]),
    )
