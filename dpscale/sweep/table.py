"""The results table of a sweep: every point that was tried, also those that failed.

Written twice: Parquet for programs, CSV for eyes. pandas is imported only when a table is
written.
"""

import dataclasses
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpscale.compute import count_params
from dpscale.config import RunConfig
from dpscale.files import write_bytes_atomically, write_text_atomically
from dpscale.records import (
    TABLE_COLUMNS,
    RunResult,
    Status,
    read_metrics,
    read_result,
    read_status,
    table_rows,
)
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.schedule import planned_flops

if TYPE_CHECKING:
    import pandas as pd


def write_table(folder: SweepFolder, points: Sequence[RunConfig]) -> None:
    """Writes the table of `points` from their run folders and the recorded failures."""
    failures = folder.read_failures()
    rows = [row for point in points for row in point_rows(folder, point, failures)]
    frame = to_frame(rows)
    write_bytes_atomically(folder.table_path, frame.to_parquet(index=False))
    write_text_atomically(folder.table_csv_path, frame.to_csv(index=False))


def point_rows(
    folder: SweepFolder, point: RunConfig, failures: dict[str, str]
) -> list[dict[str, Any]]:
    """The rows of one point: its measurements, or one row that says why there are none."""
    run_dir = folder.run_dir(point.run_id)
    result = read_result(run_dir)
    if result is not None:
        return list(table_rows(result, read_metrics(run_dir)))
    heartbeat = read_status(run_dir)
    return [
        failed_row(
            point,
            error=failures.get(point.run_id, "left no result"),
            steps_taken=heartbeat.step if heartbeat else 0,
            wall_seconds=heartbeat.wall_seconds if heartbeat else 0.0,
        )
    ]


def failed_row(
    config: RunConfig, *, error: str, steps_taken: int, wall_seconds: float
) -> dict[str, Any]:
    """The row of a point without a result: what its config says, and no losses.

    What only the run itself could know (its data's hash and size, its device) is missing.
    """
    private, law_fitting = config.private, config.law_fitting
    params = count_params(config.model)
    known = {
        "run_id": config.run_id,
        "purpose": config.purpose,
        "status": str(Status.FAILED),
        "error": error,
        "seed": config.seed,
        "num_params": params.total,
        "num_params_non_embedding": params.non_embedding,
        "width": config.model.width,
        "num_layers": config.model.num_layers,
        "seq_len": config.model.seq_len,
        "vocab_size": config.model.vocab_size,
        "physical_batch_size": law_fitting and law_fitting.physical_batch_size,
        "expected_batch_size": private and private.expected_batch_size,
        "iterations": config.training.iterations,
        "steps_taken": steps_taken,
        "noise_batch_ratio": None if law_fitting is None else law_fitting.noise_batch_ratio,
        "noise_multiplier": private and private.noise_multiplier,
        "learning_rate": config.optimizer.learning_rate,
        "l2_clip_norm": config.clipping.l2_clip_norm,
        "train_flops": planned_flops(config) * steps_taken / config.training.iterations,
        "wall_seconds": wall_seconds,
        "step": 0,
    }
    return {column: known.get(column) for column in TABLE_COLUMNS}


def to_frame(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """The rows as a table whose column types do not depend on which values are missing.

    Numbers that may be missing are float64 (NaN where missing); text is text.
    """
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(TABLE_COLUMNS))
    for column, kind in _column_kinds().items():
        if kind is str:
            frame[column] = frame[column].astype("str")
        elif kind is int and frame[column].notna().all():
            frame[column] = frame[column].astype("int64")
        else:
            frame[column] = frame[column].astype("float64")
    return frame


def _column_kinds() -> dict[str, type]:
    """`int` for columns of whole numbers that every result has, `float` for other numbers."""
    hints = typing.get_type_hints(RunResult)
    kinds: dict[str, type] = {"step": int, "step_train_loss": float, "step_eval_loss": float}
    for field in dataclasses.fields(RunResult):
        hint = hints[field.name]
        options = typing.get_args(hint) or (hint,)
        if hint is int:
            kinds[field.name] = int
        else:
            kinds[field.name] = float if int in options or float in options else str
    return kinds
