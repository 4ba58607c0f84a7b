"""The runs that a law is fitted to, read from a sweep's folder or its results table.

Every run that is read is either used or listed with the reason why not.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from dpscale.scaling.forms import Array

Target = Literal["train_loss", "eval_loss"]

RUNS_DIR = "runs"
"""Where a sweep's folder keeps its runs."""

_STEP_COLUMN: dict[Target, str] = {"train_loss": "step_train_loss", "eval_loss": "step_eval_loss"}
_USED_COLUMNS = (
    *("run_id", "purpose", "status", "error", "seed", "num_params", "width", "seq_len"),
    *("vocab_size", "physical_batch_size", "iterations", "steps_taken", "noise_batch_ratio"),
    *("learning_rate", "train_loss", "eval_loss", "step", "step_train_loss", "step_eval_loss"),
)


@dataclass(frozen=True)
class RunCurve:
    """One law-fitting run that finished: its coordinates and its losses on the way.

    Args:
      steps: float64[measurements], increasing; iterations done at each measurement.
      losses: float64[measurements], nats per token.
    """

    run_id: str
    num_params: int
    num_params_non_embedding: int
    iterations: int
    noise_batch_ratio: float
    learning_rate: float
    seed: int
    physical_batch_size: int
    seq_len: int
    vocab_size: int
    steps: Array
    losses: Array


@dataclass(frozen=True)
class ExcludedRun:
    """A run that was left out of the fit, and why."""

    run_id: str
    reason: str


@dataclass(frozen=True)
class RunSet:
    """What was read: the usable runs, the others with their reasons, and where from."""

    target: Target
    runs: tuple[RunCurve, ...]
    excluded: tuple[ExcludedRun, ...]
    source: str
    data_sha256: str


def read_runs(source: str | Path, *, target: Target = "train_loss") -> RunSet:
    """Reads a runs folder, a sweep's folder, or a results table in Parquet or CSV.

    A folder without runs of its own is read through its `results.parquet`, which names the
    failed points too, and without that through its `runs/`.

    Raises:
      InputError: Nothing there, a missing column, or no usable run.
    """
    path = Path(source)
    if path.is_dir():
        rows, unfinished = _rows_of_folder(path)
    elif path.suffix in (".parquet", ".csv"):
        rows, unfinished = _rows_of_table(path), []
    elif path.exists():
        raise InputError(str(path), "expected a runs folder, or a table in .parquet or .csv.")
    else:
        raise InputError(str(path), "no such file or folder.")
    return select_runs(rows, target=target, source=str(source), excluded=unfinished)


def select_runs(
    rows: Iterable[Mapping[str, Any]],
    *,
    target: Target,
    source: str,
    excluded: Iterable[ExcludedRun] = (),
) -> RunSet:
    """Sorts the rows of a results table into usable runs and left-out ones.

    Args:
      rows: One measurement each, keyed by `TABLE_COLUMNS`; missing values are None.
      excluded: Runs that are known to be left out already.

    Raises:
      InputError: No run is usable; or the usable runs were not made under one setting
        (physical batch, sequence length, vocabulary), which a law cannot mix.
    """
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    digest = hashlib.sha256()
    for row in rows:
        by_run.setdefault(str(row["run_id"]), []).append(row)
        digest.update(json.dumps([row[key] for key in _USED_COLUMNS], default=str).encode())
    left_out = list(excluded)
    usable: list[RunCurve] = []
    seen: dict[tuple[Any, ...], str] = {}
    for run_id, run_rows in by_run.items():
        reason = _reason_to_exclude(run_rows, target)
        if reason is None:
            curve = _curve(run_id, run_rows, target)
            reason = _reason_of_curve(curve) or _duplicate(curve, seen)
        if reason is None:
            usable.append(curve)
        else:
            left_out.append(ExcludedRun(run_id, reason))
    _expect_one_setting(usable, left_out, source)
    return RunSet(target, tuple(usable), tuple(left_out), source, digest.hexdigest())


def _rows_of_folder(path: Path) -> tuple[list[dict[str, Any]], list[ExcludedRun]]:
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    ended = [folder for folder in folders if (folder / RESULT_FILE).exists()]
    if not ended:
        if (path / TABLE_FILE).exists():
            return _rows_of_table(path / TABLE_FILE), []
        if (path / RUNS_DIR).is_dir():
            return _rows_of_folder(path / RUNS_DIR)
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


def _rows_of_table(path: Path) -> list[dict[str, Any]]:
    import pandas as pd  # slow to import, and only tables need it

    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(str(path), "no such file.") from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read as a table ({error}).") from None
    missing = [name for name in _USED_COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(
            str(path),
            f"column {missing[0]!r} is missing; a results table has the columns "
            f"{', '.join(TABLE_COLUMNS)}.",
        )
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): value for key, value in record.items()} for record in records]


def _reason_to_exclude(rows: list[Mapping[str, Any]], target: Target) -> str | None:
    first = rows[0]
    if first["purpose"] != "law-fitting":
        return f"purpose is {first['purpose']}: a law is fitted to law-fitting runs"
    if first["status"] != Status.FINISHED:
        why = f": {first['error']}" if first["error"] else ""
        return f"status is {first['status']}{why}"
    if int(first["steps_taken"]) < int(first["iterations"]):
        return f"stopped after {first['steps_taken']} of {first['iterations']} iterations"
    if first[target] is None and all(row[_STEP_COLUMN[target]] is None for row in rows):
        return f"no measurement of {target}"
    return None


def _curve(run_id: str, rows: list[Mapping[str, Any]], target: Target) -> RunCurve:
    first = rows[0]
    measured = {
        int(row["step"]): float(row[_STEP_COLUMN[target]])
        for row in rows
        if row[_STEP_COLUMN[target]] is not None
    }
    if first[target] is not None:  # the end of the run, also where no metric line fell on it
        measured.setdefault(int(first["steps_taken"]), float(first[target]))
    steps = sorted(step for step in measured if step > 0)
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


def _reason_of_curve(curve: RunCurve) -> str | None:
    if curve.steps.size == 0:
        return "no measurement after the first iteration"
    bad = ~(np.isfinite(curve.losses) & (curve.losses > 0))
    if bad.any():
        return f"its loss at step {curve.steps[bad][0]:.0f} is {curve.losses[bad][0]}"
    uniform = float(np.log(curve.vocab_size))
    if curve.losses[-1] > uniform:
        return (
            f"diverged: its last loss, {curve.losses[-1]:.3f}, is above ln(vocab_size) = "
            f"{uniform:.3f}"
        )
    return None


def _duplicate(curve: RunCurve, seen: dict[tuple[Any, ...], str]) -> str | None:
    key = (
        curve.num_params,
        curve.iterations,
        curve.noise_batch_ratio,
        curve.learning_rate,
        curve.seed,
        curve.physical_batch_size,
    )
    other = seen.setdefault(key, curve.run_id)
    return None if other == curve.run_id else f"duplicate of {other}"


def _expect_one_setting(runs: list[RunCurve], excluded: list[ExcludedRun], source: str) -> None:
    if not runs:
        reasons = "; ".join(sorted({run.reason for run in excluded})) or "there are no runs"
        raise InputError(source, f"no usable law-fitting run: {reasons}.")
    for name in ("physical_batch_size", "seq_len", "vocab_size"):
        values = sorted({getattr(run, name) for run in runs})
        if len(values) > 1:
            raise InputError(
                source,
                f"runs with different {name} ({', '.join(map(str, values))}); a law describes "
                "one: fit them apart.",
            )
