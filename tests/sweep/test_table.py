from typing import Any

import pandas as pd

from dpscale.config import RunConfig
from dpscale.records import TABLE_COLUMNS
from dpscale.sweep.launchers.local import LocalLauncher
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.runner import SweepRun, SweepSettings
from dpscale.sweep.table import to_frame, write_table


def finished_table(fake: Any, behaviours: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    fake.plan(behaviours)
    folder = SweepFolder(fake.root / "out")
    SweepRun(
        points=fake.points,
        folder=folder,
        launcher=LocalLauncher(2, environment={}),
        make_command=fake.command,
        settings=SweepSettings(retries=0, poll_seconds=0.01),
    ).run()
    write_table(folder, fake.points)
    return pd.read_parquet(folder.table_path), pd.read_csv(folder.table_csv_path)


def test_every_point_is_in_the_table_whatever_became_of_it(
    fake: Any, points: list[RunConfig]
) -> None:
    table, csv = finished_table(fake, {points[0].run_id: "crash", points[1].run_id: "diverge"})
    assert list(table.columns) == list(TABLE_COLUMNS) == list(csv.columns)
    assert len(table) == len(csv) == 1 + 1 + 2  # failed, diverged after 10 of 20, finished
    by_run = table.groupby("run_id")["status"].unique().map(list)
    assert [by_run[point.run_id] for point in points] == [["failed"], ["diverged"], ["finished"]]


def test_a_failed_point_has_its_settings_its_error_and_no_losses(
    fake: Any, points: list[RunConfig]
) -> None:
    table, _ = finished_table(fake, {points[0].run_id: "crash"})
    row = table[table["run_id"] == points[0].run_id].iloc[0]
    assert "the disk is full" in row["error"]
    assert (row["width"], row["learning_rate"], row["noise_batch_ratio"]) == (16, 0.1, 0.5)
    assert (row["physical_batch_size"], row["step"], row["train_flops"]) == (4, 0, 0.0)
    unknown = ["train_loss", "eval_loss", "step_train_loss", "step_eval_loss", "dataset_size"]
    assert row[unknown].isna().all()
    assert pd.isna(row["data_hash"])


def test_measurements_keep_their_steps_and_losses(fake: Any, points: list[RunConfig]) -> None:
    table, csv = finished_table(fake, {})
    for frame in (table, csv):
        rows = frame[frame["run_id"] == points[0].run_id]
        assert rows["step"].tolist() == [10, 20]
        assert rows["step_train_loss"].tolist() == [4.0, 3.0]
        assert rows["step_eval_loss"].isna().all()


def test_column_types_do_not_depend_on_what_is_missing(fake: Any, points: list[RunConfig]) -> None:
    # An all-missing column of type "object" cannot be joined with another sweep's numbers.
    table, _ = finished_table(fake, {})
    assert str(table["epsilon"].dtype) == "float64"
    assert str(table["expected_batch_size"].dtype) == "float64"
    assert str(table["num_params"].dtype) == "int64"
    assert str(table["error"].dtype) == str(table["run_id"].dtype) == "str"
    assert list(to_frame([]).columns) == list(TABLE_COLUMNS)
