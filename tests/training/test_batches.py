"""Private batches are Poisson draws; law-fitting ones are fixed and shuffled."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dpscale.data.units import open_units
from dpscale.training.batches import BatchSource, batch_source
from dpscale.training.run_folder import StartedRun

STEPS = 1500


@pytest.fixture(scope="module")
def num_units(prepared: Path) -> int:
    return open_units(prepared).manifest.dataset_size


def source(runs: dict[str, StartedRun], purpose: str, dataset_size: int) -> BatchSource:
    return batch_source(runs[purpose], dataset_size=dataset_size)


def test_private_batches_are_poisson_draws(runs: dict[str, StartedRun], num_units: int) -> None:
    # Catches: shuffled or fixed-size batches in a private run, which the accounting does not
    # cover: their size does not vary, and a unit comes back only after a whole epoch.
    batches = source(runs, "private", num_units)
    sizes = np.array([batches.num_drawn(step) for step in range(STEPS)])
    prob = 20 / num_units
    expected_variance = num_units * prob * (1 - prob)
    assert sizes.mean() == pytest.approx(20, abs=4 * np.sqrt(expected_variance / STEPS))
    statistic = (STEPS - 1) * sizes.var(ddof=1) / expected_variance
    assert 1e-4 < stats.chi2.sf(statistic, df=STEPS - 1) < 1 - 1e-4
    epoch = num_units // 20
    seen = np.concatenate([batches.plan(step) for step in range(epoch)])
    # Of a shuffle nearly all units are seen in the first epoch; of Poisson draws 1 - 1/e.
    share = len(np.unique(seen)) / num_units
    assert share == pytest.approx(1 - np.exp(-1), abs=0.05)


def test_private_batches_are_cut_at_the_cap_and_fit_the_slots(
    runs: dict[str, StartedRun], num_units: int
) -> None:
    run = runs["private"]
    assert run.mechanism is not None
    assert run.mechanism.truncated_batch_size == source(runs, "private", num_units).slots == 48
    accounted = dataclasses.replace(run.mechanism.accounted, truncated_batch_size=21)
    mechanism = dataclasses.replace(run.mechanism, accounted=accounted)
    batches = batch_source(dataclasses.replace(run, mechanism=mechanism), dataset_size=num_units)
    assert batches.slots == 24
    sizes = [(len(batches.plan(step)), batches.num_drawn(step)) for step in range(100)]
    assert all(size == min(drawn, 21) for size, drawn in sizes)
    assert any(drawn > 21 for _, drawn in sizes)


def test_private_batches_follow_the_key_and_not_the_seed(
    runs: dict[str, StartedRun], num_units: int
) -> None:
    # Catches: batches that anyone can repeat who knows the config.
    run = runs["private"]
    assert run.keys is not None
    first = batch_source(run, dataset_size=num_units).plan(0)
    other_seed = dataclasses.replace(run.config, seed=9)
    same = batch_source(dataclasses.replace(run, config=other_seed), dataset_size=num_units)
    assert np.array_equal(first, same.plan(0))
    keys = dataclasses.replace(run.keys, sampling=run.keys.sampling ^ 1 << 100)
    other = batch_source(dataclasses.replace(run, keys=keys), dataset_size=num_units)
    assert not np.array_equal(first, other.plan(0))


def test_the_microbatch_does_not_change_which_units_are_drawn(
    runs: dict[str, StartedRun], num_units: int
) -> None:
    for purpose, run in runs.items():
        clipping = dataclasses.replace(run.config.clipping, microbatch_size=5)
        config = dataclasses.replace(run.config, clipping=clipping)
        other = batch_source(dataclasses.replace(run, config=config), dataset_size=num_units)
        batches = source(runs, purpose, num_units)
        assert other.slots == {"private": 50, "law-fitting": 20}[purpose]
        for step in range(5):
            assert np.array_equal(other.plan(step), batches.plan(step))


def test_law_fitting_batches_are_fixed_and_see_each_unit_once_an_epoch(
    runs: dict[str, StartedRun], num_units: int
) -> None:
    batches = source(runs, "law-fitting", num_units)
    assert batches.slots == 24
    epoch = num_units // 20
    seen = np.concatenate([batches.plan(step) for step in range(epoch)])
    assert {batches.num_drawn(step) for step in range(epoch)} == {20}
    assert len(np.unique(seen)) == len(seen) == epoch * 20
    other = dataclasses.replace(runs["law-fitting"].config, seed=1)
    reseeded = batch_source(
        dataclasses.replace(runs["law-fitting"], config=other), dataset_size=num_units
    )
    assert not np.array_equal(reseeded.plan(0), batches.plan(0))


def test_a_cap_above_the_data_set_wastes_no_slots(
    runs: dict[str, StartedRun], num_units: int
) -> None:
    run = runs["private"]
    assert run.mechanism is not None
    accounted = dataclasses.replace(run.mechanism.accounted, dataset_size=30)
    mechanism = dataclasses.replace(run.mechanism, accounted=accounted)
    batches = batch_source(dataclasses.replace(run, mechanism=mechanism), dataset_size=30)
    assert batches.slots == 32
    assert max(batches.plan(step).max() for step in range(20)) < 30
