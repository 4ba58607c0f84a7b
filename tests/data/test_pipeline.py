"""Batches from a plan, and the plan of law-fitting runs."""

import threading
import time
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.data.pipeline import Batch, fixed_batches_plan, step_batch, step_batches
from dpscale.data.units import UnitArray

UNITS = UnitArray([np.arange(40 * 3, dtype="<u2").reshape(40, 3) + 1], 3)
SLOTS = 6


def plan(step: int) -> npt.NDArray[np.int64]:
    """Zero to six units, different at each step."""
    rng = np.random.default_rng(step)
    return rng.choice(len(UNITS), size=step % (SLOTS + 1), replace=False)


def batches(start: int, stop: int, read_ahead: int = 2) -> list[Batch]:
    return list(
        step_batches(UNITS, plan, slots=SLOTS, start=start, stop=stop, read_ahead=read_ahead)
    )


@pytest.mark.parametrize("read_ahead", [0, 1, 2, 7])
def test_batches_are_the_plan_evaluated_directly_however_they_are_read(read_ahead: int) -> None:
    made = batches(0, 20, read_ahead)
    assert [batch.step for batch in made] == list(range(20))
    for batch in made:
        indices = plan(batch.step)
        assert batch.num_examples == len(indices)
        assert batch.tokens.dtype == np.int32
        np.testing.assert_array_equal(batch.tokens[: len(indices)], UNITS.gather(indices))
        np.testing.assert_array_equal(batch.tokens[len(indices) :], 0)
        assert batch.is_padding.tolist() == [False] * len(indices) + [True] * (SLOTS - len(indices))


class CountedUnits(UnitArray):
    """Remembers which units were read."""

    def __init__(self) -> None:
        super().__init__([np.arange(40 * 3, dtype="<u2").reshape(40, 3) + 1], 3)
        self.read: list[int] = []

    def gather(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        self.read += np.asarray(indices).tolist()
        return super().gather(indices)


def test_a_host_reads_its_own_rows_only_and_all_hosts_together_the_batch() -> None:
    # Catches: as many times the reading as there are hosts; rows that no host reads.
    whole = step_batch(UNITS, plan, 5, slots=SLOTS)
    tokens, read = np.zeros_like(whole.tokens), []
    for own in ([True] * 2 + [False] * 4, [False] * 2 + [True] * 4):
        units = CountedUnits()
        part = step_batch(units, plan, 5, slots=SLOTS, rows=np.array(own))
        assert part.num_examples == whole.num_examples
        np.testing.assert_array_equal(part.is_padding, whole.is_padding)
        np.testing.assert_array_equal(part.tokens[~np.array(own)], 0)
        tokens += part.tokens
        read += units.read
    np.testing.assert_array_equal(tokens, whole.tokens)
    assert read == plan(5).tolist()


def test_resuming_gives_the_tail_of_the_full_run() -> None:
    for whole, tail in zip(batches(0, 20)[13:], batches(13, 20), strict=True):
        assert whole.step == tail.step
        np.testing.assert_array_equal(whole.tokens, tail.tokens)
        np.testing.assert_array_equal(whole.is_padding, tail.is_padding)


def test_empty_and_impossible_ranges() -> None:
    assert batches(5, 5) == []
    for start, stop in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="Expected 0 <= start <= stop"):
            batches(start, stop)


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_a_plan_longer_than_the_slots_raises_out_of_the_thread(read_ahead: int) -> None:
    too_long = step_batches(
        UNITS, lambda _: np.arange(7), slots=SLOTS, start=3, stop=5, read_ahead=read_ahead
    )
    with pytest.raises(ValueError, match="at most slots=6 units at step 3, got 7"):
        next(too_long)


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_a_plan_that_fails_late_fails_at_its_step(read_ahead: int) -> None:
    def failing(step: int) -> npt.NDArray[np.int64]:
        if step == 4:
            raise RuntimeError("no batch today")
        return plan(step)

    made = step_batches(UNITS, failing, slots=SLOTS, start=0, stop=9, read_ahead=read_ahead)
    assert [next(made).step for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="no batch today"):
        next(made)


def test_stopping_early_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    made = step_batches(UNITS, plan, slots=SLOTS, start=0, stop=10**9, read_ahead=3)
    next(made)
    made.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_batches_are_made_while_the_consumer_is_busy() -> None:
    planned: list[int] = []

    def noted(step: int) -> npt.NDArray[np.int64]:
        planned.append(step)
        return plan(step)

    made = step_batches(UNITS, noted, slots=SLOTS, start=0, stop=100, read_ahead=3)
    next(made)
    deadline = time.monotonic() + 5
    while len(planned) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 3 <= len(planned) <= 8  # ahead, but by a bounded number of batches
    made.close()  # type: ignore[attr-defined]


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_each_epoch_is_one_full_pass_also_where_the_batch_does_not_divide_it(
    dataset_size: int, physical_batch_size: int, seed: int
) -> None:
    fixed = fixed_batches_plan(dataset_size, physical_batch_size, seed)
    steps = -(-3 * dataset_size // physical_batch_size)
    order = np.concatenate([fixed(step) for step in range(steps)])
    for epoch in range(3):
        passed = order[epoch * dataset_size : (epoch + 1) * dataset_size]
        assert sorted(passed) == list(range(dataset_size))


def test_the_order_changes_with_epoch_and_seed_and_is_repeatable() -> None:
    orders = {
        tuple(fixed_batches_plan(500, 500, seed)(epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert tuple(fixed_batches_plan(500, 500, 0)(1)) in orders
    assert tuple(range(500)) not in orders


def test_every_unit_is_as_likely_in_the_first_batch() -> None:
    """A shuffle that favours the head of the data set would bias short runs."""
    counts = Counter(int(u) for seed in range(4000) for u in fixed_batches_plan(20, 4, seed)(0))
    expected = 4000 * 4 / 20
    chi_squared = sum((counts[unit] - expected) ** 2 / expected for unit in range(20))
    assert chi_squared < 45  # 19 degrees of freedom: exceeded with probability 7e-4


def test_a_step_costs_no_more_in_a_large_data_set() -> None:
    fixed = fixed_batches_plan(2**40, 64, 0)
    start = time.monotonic()
    chosen = fixed(10**7)
    assert time.monotonic() - start < 1
    assert len(set(chosen.tolist())) == 64
    assert 0 <= chosen.min() < chosen.max() < 2**40


@pytest.mark.parametrize(("dataset_size", "physical_batch_size"), [(0, 1), (1, 0), (-3, 1)])
def test_sizes_that_cannot_be_shuffled_are_refused(
    dataset_size: int, physical_batch_size: int
) -> None:
    with pytest.raises(ValueError, match="Expected dataset_size"):
        fixed_batches_plan(dataset_size, physical_batch_size, 0)
