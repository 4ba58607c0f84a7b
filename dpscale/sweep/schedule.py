"""Which point of a sweep runs next.

Longest first, so that no worker is left alone with a long run at the end; and where another
point can be had, none whose program is being compiled at that moment: learning rate, number
of iterations, noise-batch ratio and seed are arguments of the compiled step, so the second
run of a size finds the program of the first in the shared cache, if it starts after it.
"""

import dataclasses
from collections.abc import Collection, Sequence

from dpscale.compute import count_params, train_flops
from dpscale.config import RunConfig, TrainingConfig


def planned_flops(config: RunConfig) -> float:
    """`train_flops` of a whole run, by the convention of `dpscale.compute`."""
    return train_flops(
        num_params=count_params(config.model).total,
        batch_size=config.batch_size,
        iterations=config.training.iterations,
        seq_len=config.model.seq_len,
    )


def program_of(config: RunConfig) -> RunConfig:
    """The config with every argument of the compiled step at a fixed value.

    Two runs with equal programs share one compilation.
    """
    law_fitting = config.law_fitting
    if law_fitting is not None:
        law_fitting = dataclasses.replace(law_fitting, noise_batch_ratio=0.0)
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=1.0),
        training=TrainingConfig(iterations=1),
        law_fitting=law_fitting,
        seed=0,
    )


def in_order(
    waiting: Sequence[RunConfig], compiling: Collection[RunConfig] = ()
) -> list[RunConfig]:
    """The points in the order to start them: longest first, but none before its program is there.

    Each is the longest of those left whose program is neither being compiled nor that of a point
    before it, and where there is none the longest.

    Args:
      waiting: Among equally long ones the first comes first.
      compiling: The programs (`program_of`) that running points have not compiled yet.
    """
    longest_first = sorted(waiting, key=planned_flops, reverse=True)
    programs = [program_of(point) for point in longest_first]
    seen = set(compiling)
    early: list[RunConfig] = []
    late: list[RunConfig] = []
    for point, program in zip(longest_first, programs, strict=True):
        (late if program in seen else early).append(point)
        seen.add(program)
    return early + late
