"""How far the host may run ahead of the device.

A step is dispatched, not waited for: while the device computes it, the host reads, transfers
and dispatches the next. Without a bound it would dispatch a whole window, whose batches then
wait in the device's memory, and a request to stop would wait for all of them.
"""

from collections import deque

import jax
import jax.numpy as jnp

from dpscale.training.step import TrainState

MOST_STEPS = 2
"""One that the device computes, and one that is there when it has finished."""


class RunAhead:
    """Steps that were dispatched and not waited for."""

    def __init__(self) -> None:
        self._pending: deque[jax.Array] = deque()

    def follow(self, state: TrainState) -> None:
        """Takes note of a dispatched step; waits until at most `MOST_STEPS` are unfinished."""
        # A copy: the state's own arrays are given to the next step.
        self._pending.append(jnp.copy(state.step))
        if len(self._pending) > MOST_STEPS:
            self._pending.popleft().block_until_ready()
