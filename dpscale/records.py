"""What a run leaves behind: file names, columns, units and status. The seam between runs and fits.

A run folder `runs/<run_id>/` holds

- `config.json`    the resolved config, the versions and the data hash it started with
- `metrics.jsonl`  one JSON object a window of iterations (`METRIC_KEYS`)
- `status.json`    a heartbeat: what the run is doing and how long is left
- `checkpoints/`   its saved states
- `receipt.json`   private runs only: what was spent
- `result.json`    written last and atomically: the truth about a run that has ended (`RunResult`)

A results table has one row per measurement (a metric line) of every run, and one row for a
run that has none, with its status and error: nothing that was tried is missing from it.
"""

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.config import Purpose
from dpscale.errors import InputError
from dpscale.files import read_json
from dpscale.paths import as_path
from dpscale.schema import build

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
STATUS_FILE = "status.json"
RESULT_FILE = "result.json"
RECEIPT_FILE = "receipt.json"
CHECKPOINTS_DIR = "checkpoints"
CHECKSUMS_FILE = "checksums.json"
"""In the folder of a checkpoint, written last: without it the save was not finished."""
IMPORTED_FILE = "imported.json"
TABLE_FILE = "results.parquet"
TABLE_CSV_FILE = "results.csv"


class Status(enum.StrEnum):
    """Where a run stands; the last three are ends, and stand in `result.json`."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class RunStatus:
    """The heartbeat in `status.json`.

    `updated_unix` is in seconds since 1970; `epsilon` is what a private run has spent so
    far, None for a law-fitting run. `process_id` is one of `machine` (`this_machine`), None where
    that is not known.
    """

    status: Status
    step: int
    iterations: int
    updated_unix: float
    process_id: int
    wall_seconds: float
    train_loss: float | None = None
    epsilon: float | None = None
    error: str | None = None
    machine: str | None = None


def this_machine() -> str | None:
    """Tells machines apart without naming them: a hash of what the kernel drew when it booted.

    None where the kernel does not say.
    """
    try:
        drawn = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(drawn).hexdigest()[:12]


@dataclass(frozen=True)
class RunResult:
    """The end of a run, as in `result.json` and in every row of a results table.

    Exactly one of `physical_batch_size` (law-fitting) and `expected_batch_size` (private)
    is set. `iterations` is what was planned, `steps_taken` what was done. Losses are in
    nats per token; `train_loss` is the mean over the last window, and NOT PRIVATE.
    `train_flops` counts the steps taken, in the convention of `dpscale.compute`.
    """

    run_id: str
    purpose: Purpose
    status: Status
    error: str | None
    seed: int
    num_params: int
    num_params_non_embedding: int
    width: int
    num_layers: int
    seq_len: int
    vocab_size: int
    physical_batch_size: int | None
    expected_batch_size: int | None
    iterations: int
    steps_taken: int
    noise_batch_ratio: float
    noise_multiplier: float | None
    learning_rate: float
    l2_clip_norm: float
    train_loss: float | None
    eval_loss: float | None
    train_flops: float
    epsilon: float | None
    wall_seconds: float
    data_hash: str
    dataset_size: int
    commit: str | None
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `result.json` holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], *, where: str) -> "RunResult":
        """Checks and builds a result; `where` (a file's name) heads every error."""
        status = _read_status_word(fields, where=where)
        return build(cls, {**fields, "status": status}, where=where)


METRIC_KEYS = {
    "step": "iterations done when the line was written",
    "train_loss": "nats per token, mean over the examples of the window; NOT PRIVATE",
    "eval_loss": "nats per token on held-out units; absent where none was due",
    "tokens": "tokens trained on so far (padding not counted); NOT PRIVATE",
    "learning_rate": "of the window's last iteration",
    "clipped_fraction": "share of the window's examples that were clipped; NOT PRIVATE",
    "mean_grad_norm": "mean L2 norm of the window's examples before clipping; NOT PRIVATE",
    "epsilon": "spent so far, at the target delta; private runs only",
    "wall_seconds": "since the run first started, time between restarts not counted",
    "not_private": "which keys of this line hold private data without noise; private runs only",
}
"""Keys of a line in `metrics.jsonl`, each with its meaning."""

TABLE_COLUMNS = (
    *(field.name for field in dataclasses.fields(RunResult)),
    "step",
    "step_train_loss",
    "step_eval_loss",
)
"""Columns of a results table: a run's result, and one of its measurements.

`step` is when the measurement was taken; `step_train_loss` is the mean over the window that
ends there, `step_eval_loss` is missing where no evaluation was due. The row of a run without
any measurement has `step` = 0 and no losses.
"""


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The metric lines of a run, in order; a last line that was cut off by a kill is dropped."""
    path = as_path(run_dir) / METRICS_FILE
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise InputError(str(path), f"a line is not JSON ({error}).") from None


def read_result(run_dir: str | Path) -> RunResult | None:
    """The result of a run that has ended, None for one that has not."""
    path = as_path(run_dir) / RESULT_FILE
    return RunResult.from_dict(read_json(path), where=str(path)) if path.exists() else None


def read_status(run_dir: str | Path) -> RunStatus | None:
    """The last heartbeat of a run, None before its first."""
    path = as_path(run_dir) / STATUS_FILE
    if not path.exists():
        return None
    fields = read_json(path)
    status = _read_status_word(fields, where=str(path))
    return build(RunStatus, {**fields, "status": status}, where=str(path))


def saved_step(run_dir: str | Path) -> int | None:
    """The step of the newest checkpoint whose save was finished; None before the first."""
    finished = as_path(run_dir).glob(f"{CHECKPOINTS_DIR}/*/{CHECKSUMS_FILE}")
    steps = [int(path.parent.name) for path in finished if path.parent.name.isdigit()]
    return max(steps, default=None)


def _read_status_word(fields: dict[str, Any], *, where: str) -> Status:
    try:
        return Status(fields.get("status", ""))
    except ValueError:
        raise InputError(
            f"{where}: status", f"expected a run status, found {fields.get('status')!r}."
        ) from None


def table_rows(result: RunResult, metrics: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a results table for one run, keyed by `TABLE_COLUMNS`."""
    for line in metrics or [{"step": 0}]:
        yield {
            **result.to_dict(),
            "status": str(result.status),
            "step": line["step"],
            "step_train_loss": line.get("train_loss"),
            "step_eval_loss": line.get("eval_loss"),
        }
