"""Receipt and result are about the steps that were taken."""

import dataclasses
from pathlib import Path

import pytest

from dpscale.data.units import open_units
from dpscale.files import read_json
from dpscale.privacy import receipt as receipt_module
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.receipt_check import mismatches
from dpscale.records import Status, read_result
from dpscale.training import provenance
from dpscale.training.checkpoint import Counters
from dpscale.training.ending import write_ending
from dpscale.training.run_folder import StartedRun

COUNTERS = Counters(num_examples=100, num_truncated_batches=2, num_truncated_examples=5)


def end(
    run: StartedRun, prepared: Path, run_dir: Path, status: Status, *, steps: int
) -> StartedRun:
    run = dataclasses.replace(run, run_dir=run_dir)
    last_line = {"step": steps, "train_loss": 3.0, "eval_loss": 3.5}
    write_ending(run, open_units(prepared).manifest, status, steps, COUNTERS, last_line)
    return run


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.INTERRUPTED])
def test_a_receipt_accounts_for_the_steps_taken(
    status: Status,
    runs: dict[str, StartedRun],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: a receipt that states the planned iterations, or their epsilon, or their curve.
    seen = []
    monkeypatch.setattr(
        receipt_module,
        "curve_fields",
        lambda mechanism, *, delta: seen.append((mechanism, delta)) or receipt_module.NO_CURVE,
    )
    run = end(runs["private"], prepared, tmp_path, status, steps=5)
    receipt = read_json(tmp_path / "receipt.json")
    assert (receipt["iterations"], receipt["planned_iterations"]) == (5, 12)
    assert run.mechanism is not None
    five = dataclasses.replace(run.mechanism.accounted, iterations=5)
    assert receipt["epsilon"] == accounted(five, delta=1e-5).upper < 7.5
    # Who stops a run does not wait for its curve.
    assert seen == ([] if status is Status.INTERRUPTED else [(five, 1e-5)])
    assert receipt["guarantee"] == "seed known: no guarantee"  # as the shared config pins it
    assert receipt["not_private"] == {"num_truncated_batches": 2, "num_truncated_examples": 5}


def test_a_receipt_says_what_ran_and_adds_up(
    runs: dict[str, StartedRun], prepared: Path, tmp_path: Path
) -> None:
    # Catches: a field that training leaves out, or fills with another run's.
    run = runs["private"]
    assert run.config.private is not None
    said = dataclasses.replace(run.config.private, tuning_not_covered="a sweep on the same text")
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, private=said))
    end(run, prepared, tmp_path, Status.INTERRUPTED, steps=5)
    receipt = read_json(tmp_path / "receipt.json")
    assert mismatches(receipt) == []
    assert receipt["tuning_not_covered"] == "a sweep on the same text"
    assert receipt["versions"] == provenance.versions()
    assert receipt["commit"] == provenance.commit()
    assert receipt["data_hash"] == open_units(prepared).manifest.data_hash


def test_an_interrupted_run_has_no_result(
    runs: dict[str, StartedRun], prepared: Path, tmp_path: Path
) -> None:
    end(runs["private"], prepared, tmp_path, Status.INTERRUPTED, steps=5)
    assert read_result(tmp_path) is None


def test_a_diverged_run_has_a_row_without_losses(
    runs: dict[str, StartedRun], prepared: Path, tmp_path: Path
) -> None:
    # Catches: a diverged run that enters a law with the loss of its last good window.
    end(runs["law-fitting"], prepared, tmp_path, Status.DIVERGED, steps=5)
    result = read_result(tmp_path)
    assert result is not None
    assert (result.status, result.steps_taken, result.iterations) == (Status.DIVERGED, 5, 12)
    assert result.train_loss is result.eval_loss is None
    assert "not finite" in str(result.error)
    assert not (tmp_path / "receipt.json").exists()


def test_result_of_a_finished_run(
    runs: dict[str, StartedRun], prepared: Path, tmp_path: Path
) -> None:
    for purpose, run in runs.items():
        (tmp_path / purpose).mkdir()
        end(run, prepared, tmp_path / purpose, Status.FINISHED, steps=12)
    private, law_fitting = (read_result(tmp_path / purpose) for purpose in runs)
    assert private is not None
    assert law_fitting is not None
    assert (private.expected_batch_size, private.physical_batch_size) == (20, None)
    assert (law_fitting.expected_batch_size, law_fitting.physical_batch_size) == (None, 20)
    assert private.noise_batch_ratio == pytest.approx(0.4 / 20)
    assert (law_fitting.noise_batch_ratio, law_fitting.noise_multiplier) == (0.01, None)
    assert law_fitting.epsilon is None
    assert private.epsilon == read_json(tmp_path / "private" / "receipt.json")["epsilon"]
    for result in (private, law_fitting):
        assert (result.train_loss, result.eval_loss, result.error) == (3.0, 3.5, None)
        assert result.train_flops == 6 * result.num_params * 20 * 12 * 8
