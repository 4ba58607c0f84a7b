import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dpscale.errors import InputError
from dpscale.files import write_json_atomically
from dpscale.records import (
    TABLE_COLUMNS,
    RunResult,
    RunStatus,
    Status,
    read_metrics,
    read_result,
    read_status,
    table_rows,
)


def result(**changes: Any) -> RunResult:
    fields: dict[str, Any] = {
        "run_id": "r",
        "purpose": "private",
        "status": Status.FINISHED,
        "error": None,
        "seed": 0,
        "num_params": 1000,
        "num_params_non_embedding": 500,
        "width": 16,
        "num_layers": 2,
        "seq_len": 8,
        "vocab_size": 64,
        "physical_batch_size": None,
        "expected_batch_size": 32,
        "iterations": 20,
        "steps_taken": 20,
        "noise_batch_ratio": 0.02,
        "noise_multiplier": 0.64,
        "learning_rate": 0.1,
        "l2_clip_norm": 1.0,
        "train_loss": 3.0,
        "eval_loss": None,
        "train_flops": 1e6,
        "epsilon": 7.9,
        "wall_seconds": 2.5,
        "data_hash": "abc",
        "dataset_size": 100,
        "commit": None,
        "device": "cpu",
    }
    return RunResult(**{**fields, **changes})


@pytest.mark.parametrize("status", [Status.FINISHED, Status.DIVERGED, Status.FAILED])
def test_a_result_is_read_back(tmp_path: Path, status: Status) -> None:
    written = result(status=status, error=None if status is Status.FINISHED else "why")
    write_json_atomically(tmp_path / "result.json", written.to_dict())
    read = read_result(tmp_path)
    assert read == written
    assert read is not None
    assert read.status is status


def test_a_diverged_loss_is_a_missing_one(tmp_path: Path) -> None:
    # JSON has no NaN; a reader must meet "no loss", not a number.
    written = result(status=Status.DIVERGED, train_loss=float("nan"))
    write_json_atomically(tmp_path / "result.json", written.to_dict())
    read = read_result(tmp_path)
    assert read is not None
    assert read.train_loss is None


def test_a_run_that_has_not_ended_has_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    assert read_status(tmp_path) is None
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "done"}, "status: expected a run status, found 'done'."),
        ({"status": None}, "status: expected a run status, found None."),
        ({"seed": "0"}, "seed: expected int, found '0'."),
        ({"los": 1.0}, "los: unknown key"),
    ],
)
def test_a_result_of_another_schema_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_json_atomically(tmp_path / "result.json", {**result().to_dict(), **changes})
    with pytest.raises(InputError) as caught:
        read_result(tmp_path)
    assert f"{tmp_path / 'result.json'}: {message}" in str(caught.value)


def test_a_heartbeat_is_read_back(tmp_path: Path) -> None:
    written = RunStatus(Status.RUNNING, 5, 20, 1e9, 123, 4.5, train_loss=3.0, epsilon=1.0)
    write_json_atomically(tmp_path / "status.json", dataclasses.asdict(written))
    assert read_status(tmp_path) == written


def test_the_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    lines = [{"step": 10, "train_loss": 4.0}, {"step": 20, "train_loss": 3.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    assert read_metrics(tmp_path) == lines
    for cut in range(1, len(text.splitlines()[-1]) + 1):
        path.write_text(text[:-cut])
        assert read_metrics(tmp_path) == lines[:1]


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: a line is not JSON"):
        read_metrics(tmp_path)


def test_a_table_has_one_row_a_measurement() -> None:
    metrics = [
        {"step": 10, "train_loss": 4.0},
        {"step": 20, "train_loss": 3.0, "eval_loss": 3.5, "tokens": 9},
    ]
    rows = list(table_rows(result(), metrics))
    assert all(tuple(row) == TABLE_COLUMNS for row in rows)
    keys = ("step", "step_train_loss", "step_eval_loss")
    assert [[row[key] for key in keys] for row in rows] == [[10, 4.0, None], [20, 3.0, 3.5]]
    assert {(row["run_id"], row["train_loss"], row["status"]) for row in rows} == {
        ("r", 3.0, "finished")
    }


def test_a_run_without_measurements_is_in_the_table_all_the_same() -> None:
    (row,) = table_rows(result(status=Status.FAILED, error="why", train_loss=None), [])
    assert tuple(row) == TABLE_COLUMNS
    assert (row["step"], row["step_train_loss"], row["status"], row["error"]) == (
        0,
        None,
        "failed",
        "why",
    )
