"""What is read, what is left out, and with which reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.files import write_json_atomically
from dpscale.scaling.reading.run_set import choose_runs
from dpscale.scaling.reading.runs import RunCurve, read_runs, select_runs
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


BASE = "run-0000"
FAULTS = {
    "failed": ({"status": "failed", "error": "killed"}, "status is failed: killed"),
    "broken": ({"status": "diverged", "error": None}, "status is diverged"),
    "private": (
        {"purpose": "private", "physical_batch_size": None},
        "purpose is private: a law is fitted to law-fitting runs",
    ),
    "short": ({"steps_taken": 100}, "stopped after 100 of 200 iterations"),
    "nan": ({"step_train_loss": float("nan")}, "its loss at step 200 is nan"),
    "inf": ({"step_train_loss": float("inf")}, "its loss at step 200 is inf"),
    "hot": (
        {"step_train_loss": 9.0, "train_loss": 9.0},
        "diverged: its last loss, 9.000, is above ln(vocab_size) = 6.931",
    ),
    "empty": (
        {"step_train_loss": None, "train_loss": None, "eval_loss": None},
        "no measurement of train_loss",
    ),
    "unbegun": (
        {"step": 0, "step_train_loss": 6.0, "train_loss": None},
        "no measurement after the first iteration",
    ),
    "endless": (
        {"step": 150, "train_loss": None},
        "its last measurement is at step 150 of 200",
    ),
    "beyond": ({"step": 250}, "it has a measurement at step 250, beyond its 200 iterations"),
    "unknown": ({"noise_batch_ratio": None}, "its noise_batch_ratio is missing"),
    "twin": ({"seed": 0}, f"duplicate of {BASE}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_run_is_listed_with_its_reason(sweep: Callable, fault: str) -> None:
    rows = sweep(**SMALL).rows()
    base = next(row for row in reversed(rows) if row["run_id"] == BASE)
    change, reason = FAULTS[fault]
    runs = select_runs(
        [*rows, {**base, "run_id": fault, "seed": 5, **change}], target="train_loss", source="x"
    )
    assert len(runs.runs) == 4
    assert [(run.run_id, run.reason) for run in runs.excluded] == [(fault, reason)]


def test_a_run_whose_rows_contradict_each_other_is_left_out(sweep: Callable) -> None:
    rows = sweep(**SMALL).rows()
    mine = [row for row in rows if row["run_id"] == BASE]
    others = [row for row in rows if row["run_id"] != BASE]
    for change, reason in (
        ({"learning_rate": 0.5}, "its rows disagree on learning_rate (0.03125, 0.5)"),
        (
            {"step": 20, "step_train_loss": 4.5},
            f"two losses at step 20: {loss_at(mine, 20)} and 4.5",
        ),
    ):
        runs = select_runs([*mine, {**mine[0], **change}, *others], target="train_loss", source="x")
        assert [(run.run_id, run.reason) for run in runs.excluded] == [(BASE, reason)]
        assert len(runs.runs) == 3


def loss_at(rows: list[dict], step: int) -> str:
    return next(f"{row['step_train_loss']:g}" for row in rows if row["step"] == step)


def test_order_and_repetition_of_rows_do_not_matter(sweep: Callable) -> None:
    rows = sweep(**SMALL).rows()
    plain = select_runs(rows, target="train_loss", source="x")
    mixed = select_runs([*rows[::-1], *rows[:3]], target="train_loss", source="x")
    by_id = {run.run_id: run for run in mixed.runs}
    assert mixed.excluded == ()
    for run in plain.runs:
        assert by_id[run.run_id].steps.tolist() == run.steps.tolist()
        assert by_id[run.run_id].losses.tolist() == run.losses.tolist()


# A loss that rises again: ln(vocab_size) is 4.159 here, and half of a gain of 2 is lost at 3.159.


def curve(name: str, losses: list[float], ratio: float, *, rate: float = 0.1) -> RunCurve:
    steps = np.linspace(100 / len(losses), 100, len(losses))
    return RunCurve(
        *(name, 1000, 500, 100, ratio, rate, 0, 16, 8, 64),
        steps=steps,
        losses=np.array(losses),
    )


def excluded(*curves: RunCurve) -> dict[str, str]:
    quiet = curve("quiet", [4.0, 3.0], 0.0, rate=0.9)  # so that some run is usable
    chosen = choose_runs([*curves, quiet], target="train_loss", source="x", data_sha256="")
    return {run.run_id: run.reason for run in chosen.excluded}


def test_losing_the_gain_without_noise_is_divergence() -> None:
    assert excluded(curve("a", [4.0, 2.159, 3.2], 0.0)) == {
        "a": "diverged: its loss rose again from 2.159 to 3.200 (without any noise)"
    }
    assert excluded(curve("a", [4.0, 2.159, 3.1], 0.0)) == {}


def test_losing_the_gain_under_noise_is_divergence_only_where_more_noise_did_not() -> None:
    risen = curve("risen", [4.0, 2.159, 3.2], 0.01)
    assert excluded(risen) == {}
    assert excluded(risen, curve("less", [4.0, 2.1, 2.1], 0.005)) == {}
    assert excluded(risen, curve("more", [4.0, 3.4, 3.4], 0.02)) == {}
    assert excluded(risen, curve("rate", [4.0, 2.5, 2.5], 0.02, rate=0.2)) == {}
    assert excluded(risen, curve("more", [4.0, 2.5, 2.5], 0.02)) == {
        "risen": "diverged: its loss rose again from 2.159 to 3.200 (more did not, with no less "
        "noise)"
    }


def test_a_run_that_hardly_learned_cannot_lose_it() -> None:
    assert excluded(curve("a", [4.15, 3.8, 4.1], 0.0)) == {}


def test_one_measurement_above_the_uniform_loss_is_no_divergence() -> None:
    high = [4.1, 4.14] * 20
    assert excluded(curve("a", [*high, 4.17], 0.1)) == {}
    assert excluded(curve("a", [*high, 4.17, 4.17], 0.1)) == {
        "a": "diverged: its last loss, 4.170, is above ln(vocab_size) = 4.159"
    }


def test_eval_loss_at_the_end_alone_is_a_measurement(sweep: Callable) -> None:
    runs = select_runs(sweep(**SMALL).rows(), target="eval_loss", source="x")
    assert [run.steps.tolist() for run in runs.runs] == [[200.0]] * 4


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        (
            {"learning_rate": "Learning Rate"},
            "column 'learning_rate' is missing (the nearest is 'Learning Rate': rename it)",
        ),
        ({"step": "X", "seed": "Y"}, "column 'seed' is missing, and 'step'"),
    ],
)
def test_a_missing_column_is_named(
    sweep: Callable, tmp_path: Path, renamed: dict[str, str], message: str
) -> None:
    to_frame(sweep(**SMALL).rows()).rename(columns=renamed).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError) as error:
        read_runs(tmp_path / "t.csv")
    assert str(error.value) == (
        f"{tmp_path / 't.csv'}: {message}. A results table has one row a measurement, as "
        "`dpscale sweep` writes it."
    )


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_loss_that_is_no_number_is_not_lost_in_a_table(
    sweep: Callable, tmp_path: Path, name: str
) -> None:
    frame = to_frame(sweep(**SMALL).rows())
    frame.loc[4, "step_train_loss"] = float("nan")
    if name == "t.csv":
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_parquet(tmp_path / name)
    (excluded_run,) = read_runs(tmp_path / name).excluded
    assert (excluded_run.run_id, excluded_run.reason) == (BASE, "its loss at step 50 is nan")


def test_the_loss_that_is_not_asked_for_may_be_missing(sweep: Callable, tmp_path: Path) -> None:
    frame = to_frame(sweep(**SMALL).rows()).drop(columns=["eval_loss", "step_eval_loss", "error"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert len(read_runs(tmp_path / "t.csv").runs) == 4
    with pytest.raises(InputError) as error:
        read_runs(tmp_path / "t.csv", target="eval_loss")
    assert str(error.value) == (
        f"{tmp_path / 't.csv'}: column 'eval_loss' is missing, and 'step_eval_loss'. What could "
        "still be fitted: train_loss, as the target."
    )


def test_a_loss_that_was_never_measured_is_told_from_one_that_was(sweep: Callable) -> None:
    rows = [{**row, "eval_loss": None} for row in sweep(**SMALL).rows()]
    with pytest.raises(InputError) as error:
        select_runs(rows, target="eval_loss", source="x")
    assert str(error.value) == (
        "x: no usable law-fitting run: no measurement of eval_loss, only of train_loss (4)."
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "noise_batch_ratio",
            -9,
            "row 3, column 'noise_batch_ratio': found -9, which looks like a log2; store the ratio "
            "itself: 2**-9 = 0.00195, not -9.",
        ),
        (
            "learning_rate",
            -7,
            "row 3, column 'learning_rate': found -7, which looks like a log2; store the learning "
            "rate itself: 2**-7 = 0.00781, not -7.",
        ),
        (
            "iterations",
            0.2,
            "row 3, column 'iterations': expected a whole number of iterations, found 0.2; store "
            "optimizer steps, not epochs or tokens.",
        ),
        ("run_id", None, "row 3, column 'run_id': is empty; every row needs a value."),
        ("step", None, "row 3, column 'step': is empty; every row needs a value."),
        ("num_params", "1M", "row 3, column 'num_params': expected a number, found '1M'."),
    ],
)
def test_a_wrong_unit_in_a_table_is_refused(
    sweep: Callable, tmp_path: Path, column: str, value: object, message: str
) -> None:
    frame = to_frame(sweep(**SMALL).rows()).astype({column: object})
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError) as error:
        read_runs(tmp_path / "t.csv")
    assert str(error.value) == f"{tmp_path / 't.csv'}: {message}"


def test_a_sweep_in_another_unit_of_loss_is_refused(sweep: Callable) -> None:
    rows = [{**row, "step_train_loss": 7.5, "train_loss": 7.5} for row in sweep(**SMALL).rows()]
    with pytest.raises(InputError) as error:
        select_runs(rows, target="train_loss", source="x")
    assert str(error.value) == (
        "x: every loss is above ln(vocab_size), the least is 7.500 against ln(1024) = 6.931: "
        "expected nats per token (bits times 0.693) and the vocab_size that the runs had."
    )


def test_no_usable_run_says_why(sweep: Callable) -> None:
    with pytest.raises(InputError) as error:
        select_runs(sweep(**SMALL, failed=4).rows(), target="train_loss", source="x")
    assert str(error.value) == (
        "x: no usable law-fitting run: status is failed: out of memory (4)."
    )


def test_runs_of_two_physical_batches_are_refused(sweep: Callable) -> None:
    rows = sweep(**SMALL).rows()
    rows = [{**r, "physical_batch_size": 16} if r["run_id"] == BASE else r for r in rows]
    with pytest.raises(InputError) as error:
        select_runs(rows, target="train_loss", source="x")
    assert str(error.value) == (
        "x: runs with different physical_batch_size (16, 64); a law describes one: fit them apart."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such file or folder."),
        ("a.txt", "expected a runs folder, or a table in .parquet or .csv."),
        ("a.csv", "cannot be read as a table (No columns to parse from file)."),
        (".", "no subfolder holds a result.json: no run has ended here."),
    ],
)
def test_wrong_sources_are_explained(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InputError) as error:
        read_runs(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: {message}"
