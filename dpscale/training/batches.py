"""Which units a run's steps see: Poisson batches, or shuffled ones to fit a law."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpscale.data.pipeline import fixed_batches_plan
from dpscale.privacy.sampling import PoissonSampler
from dpscale.training.run_folder import StartedRun


@dataclass(frozen=True)
class BatchSource:
    """A run's batches.

    `plan` maps a 0-based step to the indices of its units. `slots` is the fixed number of
    rows, a multiple of the microbatch. `num_drawn` maps a step to the size of its batch
    before truncation (NOT PRIVATE in a private run).
    """

    plan: Callable[[int], NDArray[np.int64]]
    slots: int
    num_drawn: Callable[[int], int]


def batch_source(run: StartedRun, *, dataset_size: int) -> BatchSource:
    """The batches of a run: Poisson for a private one, fixed and shuffled to fit a law."""
    microbatch = run.config.clipping.microbatch_size
    assert microbatch is not None, "settled when the run was started"
    if run.mechanism is not None and run.keys is not None:
        sampler: PoissonSampler = run.mechanism.sampler(run.keys)
        slots = _whole_microbatches(min(sampler.truncated_batch_size, dataset_size), microbatch)
        return BatchSource(sampler, slots, sampler.num_drawn)
    assert run.config.law_fitting is not None
    size = run.config.law_fitting.physical_batch_size
    plan = fixed_batches_plan(dataset_size, size, run.config.seed)
    return BatchSource(plan, _whole_microbatches(size, microbatch), lambda step: size)


def _whole_microbatches(num_examples: int, microbatch_size: int) -> int:
    return -(-num_examples // microbatch_size) * microbatch_size
