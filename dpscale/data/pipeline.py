"""From a plan (which units at which step) to batches of a fixed shape, read ahead of the device.

A plan is a pure function of the step. Whoever calls gives it: the Poisson sampler of a private
run, or `fixed_batches_plan` for a run that fits a law. Grain reads the steps in background
threads, so that a batch is ready when the device wants it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpscale.data.permutation import permuted
from dpscale.data.units import UnitArray

Plan = Callable[[int], npt.NDArray[np.int64]]
"""Step (0-based) -> int64[k], the units of its batch. Pure, and safe to call from any thread."""


@dataclass(frozen=True)
class Batch:
    """The batch of one step: its units first, then padding.

    Attributes:
      step: 0-based index of the step.
      tokens: int32[slots, S + 1]; padding rows are 0, and rows that were not asked for.
      is_padding: bool[slots]; True where the slot holds no example.
      num_examples: How many slots hold one. Under Poisson sampling: NOT PRIVATE.
    """

    step: int
    tokens: npt.NDArray[np.int32]
    is_padding: npt.NDArray[np.bool_]
    num_examples: int


def step_batch(
    units: UnitArray,
    plan: Plan,
    step: int,
    *,
    slots: int,
    rows: npt.NDArray[np.bool_] | None = None,
) -> Batch:
    """The batch of one step.

    Args:
      rows: bool[slots]; the rows whose units are read, for a host whose devices hold no others.
        None for all.

    Raises:
      ValueError: The plan has more units than there are slots.
    """
    indices = plan(step)
    if len(indices) > slots:
        raise ValueError(
            f"Expected at most slots={slots} units at step {step}, got {len(indices)}."
        )
    tokens = np.zeros((slots, units.unit_len), np.int32)
    read = np.arange(len(indices)) if rows is None else np.flatnonzero(rows[: len(indices)])
    tokens[read] = units.gather(indices[read])
    return Batch(step, tokens, np.arange(slots) >= len(indices), len(indices))


def step_batches(
    units: UnitArray,
    plan: Plan,
    *,
    slots: int,
    start: int,
    stop: int,
    rows: npt.NDArray[np.bool_] | None = None,
    read_ahead: int = 2,
) -> Iterator[Batch]:
    """The batches of the steps `start` to `stop - 1`, in order.

    Each is what `step_batch` gives, whatever `read_ahead`: starting at a later step yields the
    tail of what an earlier start yields.

    Args:
      units: Where the plan's indices point.
      plan: See `Plan`.
      slots: Rows of every batch.
      start: First step, 0-based.
      stop: One past the last step.
      rows: See `step_batch`.
      read_ahead: Batches made ahead, each in its own thread; 0 makes them when asked for.
        Memory: `read_ahead` batches of `slots * (S + 1) * 4` bytes.

    Raises:
      ValueError: A step range that makes no sense, or a plan with more units than slots. What
        the plan raises in a thread is raised here too.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"Expected 0 <= start <= stop, got start={start}, stop={stop}.")
    if start == stop:
        return
    import grain  # imports JAX: kept out of whoever only prepares or opens data

    steps = grain.MapDataset.source(_Steps(units, plan, slots, stop, rows)).slice(
        slice(start, stop)
    )
    batches = iter(
        steps.to_iter_dataset(
            grain.ReadOptions(num_threads=read_ahead, prefetch_buffer_size=read_ahead)
        )
    )
    try:
        yield from batches
    finally:
        batches.close()  # a consumer that stops early leaves no thread behind


@dataclass(frozen=True)
class _Steps:
    """Grain's view: a source whose record at index `step` is that step's batch."""

    units: UnitArray
    plan: Plan
    slots: int
    stop: int
    rows: npt.NDArray[np.bool_] | None

    def __len__(self) -> int:
        return self.stop

    def __getitem__(self, step: int) -> Batch:
        return step_batch(self.units, self.plan, int(step), slots=self.slots, rows=self.rows)


def fixed_batches_plan(dataset_size: int, physical_batch_size: int, seed: int) -> Plan:
    """Shuffled batches of a fixed size: FOR LAW-FITTING RUNS ONLY.

    No privacy follows from it: accounting for Poisson sampling does not cover shuffled data
    (Chua et al. 2024, arXiv 2411.04205).

    The units are passed through in a new order each epoch, without replacement. Batches run on
    across the end of an epoch, so that each epoch is one full pass for any batch size; only the
    batch across such an end can hold a unit twice. A step costs O(batch): the order is a keyed
    permutation and never stands in memory.

    Args:
      dataset_size: N, the number of units.
      physical_batch_size: Units in each batch.
      seed: Any integer from 0.

    Raises:
      ValueError: A size below 1.
    """
    if dataset_size < 1 or physical_batch_size < 1:
        raise ValueError(
            f"Expected dataset_size={dataset_size} and physical_batch_size={physical_batch_size} "
            "to be at least 1."
        )

    def plan(step: int) -> npt.NDArray[np.int64]:
        positions = np.arange(step * physical_batch_size, (step + 1) * physical_batch_size)
        epochs, places = np.divmod(positions, dataset_size)
        units = np.empty(physical_batch_size, np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            units[rows] = permuted(places[rows], dataset_size, seed, int(epoch))
        return units

    return plan
