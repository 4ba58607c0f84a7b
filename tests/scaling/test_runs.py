"""What is read, what is left out, and with which reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpscale.errors import InputError
from dpscale.files import write_json_atomically
from dpscale.scaling.runs import read_runs, select_runs
from dpscale.sweep.table import to_frame

SMALL = {"widths": (16, 32), "ratios": (0.0, 2.0**-8), "rates": (2.0**-5,), "lengths": (200,)}


def write_folder(root: Path, rows: list[dict]) -> None:
    """The same runs as run folders."""
    for run_id in {row["run_id"] for row in rows}:
        mine = [row for row in rows if row["run_id"] == run_id]
        own = {k: v for k, v in mine[0].items() if not k.startswith("step") or k == "steps_taken"}
        write_json_atomically(root / run_id / "result.json", own)
        lines = [
            f'{{"step": {row["step"]}, "train_loss": {row["step_train_loss"]}}}\n'
            for row in mine
            if row["step"]
        ]
        (root / run_id / "metrics.jsonl").write_text("".join(lines))


def test_folder_and_tables_give_the_same_runs(sweep: Callable, tmp_path: Path) -> None:
    rows = sweep(**SMALL, failed=1).rows()
    to_frame(rows).to_parquet(tmp_path / "results.parquet")
    to_frame(rows).to_csv(tmp_path / "results.csv", index=False)
    write_folder(tmp_path / "sweep" / "runs", rows)
    (tmp_path / "sweep" / "configs").mkdir()
    read = [read_runs(tmp_path / name) for name in ("results.parquet", "results.csv", "sweep", ".")]
    for other in read[1:]:
        assert [run.run_id for run in other.runs] == [run.run_id for run in read[0].runs]
        assert other.runs[0].losses == pytest.approx(read[0].runs[0].losses)
        assert other.excluded == read[0].excluded
    assert len(read[0].runs) == 3


def test_every_unusable_run_is_listed_with_its_reason(sweep: Callable) -> None:
    rows = sweep(**SMALL).rows()
    by_run = {
        run_id: [r for r in rows if r["run_id"] == run_id]
        for run_id in sorted({row["run_id"] for row in rows})
    }
    base = by_run["run-0000"][-1]
    faulty = {
        "failed": {"status": "failed", "error": "killed"},
        "private": {"purpose": "private", "physical_batch_size": None},
        "short": {"steps_taken": 100},
        "nan": {"seed": 5, "step_train_loss": float("nan")},
        "hot": {"seed": 6, "step_train_loss": 9.0, "train_loss": 9.0},
        "empty": {"seed": 7, "step": 0, "step_train_loss": None, "train_loss": None},
        "twin": {},
    }
    rows += [{**base, "run_id": run_id, **change} for run_id, change in faulty.items()]
    runs = select_runs(rows, target="train_loss", source="x")
    reasons = {run.run_id: run.reason for run in runs.excluded}
    assert len(runs.runs) == 4
    assert set(reasons) == set(faulty)
    assert "killed" in reasons["failed"]
    assert "private" in reasons["private"]
    assert "100 of 200" in reasons["short"]
    assert "nan" in reasons["nan"]
    assert "ln(vocab_size)" in reasons["hot"]
    assert "no measurement" in reasons["empty"]
    assert "run-0000" in reasons["twin"]


def test_eval_loss_at_the_end_alone_is_a_measurement(sweep: Callable) -> None:
    runs = select_runs(sweep(**SMALL).rows(), target="eval_loss", source="x")
    assert [run.steps.tolist() for run in runs.runs] == [[200.0]] * 4


def test_a_missing_column_is_named(sweep: Callable, tmp_path: Path) -> None:
    frame = to_frame(sweep(**SMALL).rows()).drop(columns="learning_rate")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="'learning_rate' is missing"):
        read_runs(tmp_path / "t.csv")


def test_no_usable_run_says_why(sweep: Callable) -> None:
    with pytest.raises(InputError, match="no usable law-fitting run: status is failed"):
        select_runs(sweep(**SMALL, failed=4).rows(), target="train_loss", source="x")


def test_runs_of_two_physical_batches_are_refused(sweep: Callable) -> None:
    rows = sweep(**SMALL).rows()
    rows = [{**r, "physical_batch_size": 16} if r["run_id"] == "run-0000" else r for r in rows]
    with pytest.raises(InputError, match="different physical_batch_size \\(16, 64\\)"):
        select_runs(rows, target="train_loss", source="x")


@pytest.mark.parametrize(("name", "match"), [("none", "no such"), ("a.txt", "expected a runs")])
def test_wrong_sources_are_explained(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=match):
        read_runs(tmp_path / name)


def test_a_folder_without_runs_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run has ended"):
        read_runs(tmp_path)
