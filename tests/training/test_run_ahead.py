"""Host and device at work at the same time."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from dpscale.config import RunConfig
from dpscale.records import Status
from dpscale.training import loop
from dpscale.training.run_ahead import MOST_STEPS
from dpscale.training.step import TrainState


@jax.jit
def after_long_work(number: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`number` and a marker, ready a good while after it was dispatched."""
    product = jax.lax.fori_loop(0, 40, lambda _, found: jnp.tanh(found @ found), matrix)
    late_zero = jnp.where(jnp.sum(product) > 1e30, 1, 0)
    return number + late_zero, late_zero


def slowed(make_train_step: Callable[..., Any], unfinished: list[int]) -> Callable[..., Any]:
    """A maker of slow steps, which note how many before them the device has yet to finish."""

    def make(*arguments: Any) -> Any:
        step, markers, matrix = make_train_step(*arguments), [], jnp.eye(400)

        def slow_step(state: TrainState, *rest: Any) -> TrainState:
            unfinished.append(sum(not marker.is_ready() for marker in markers))
            state = step(state, *rest)
            number, marker = after_long_work(state.step, matrix)
            markers.append(marker)
            return dataclasses.replace(state, step=number)

        return slow_step

    return make


def test_the_next_step_is_dispatched_while_the_device_computes(
    configs: dict[str, RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: waiting for each step (a read of the step number, of a flag, of a metric), and
    # a host that dispatches the whole window at once.
    unfinished: list[int] = []
    monkeypatch.setattr(loop, "make_train_step", slowed(loop.make_train_step, unfinished))
    config = configs["law-fitting"]
    rarely = dataclasses.replace(
        config.training, metrics_every=12, eval_every=0, checkpoint_every=12
    )
    result = loop.train(dataclasses.replace(config, training=rarely), tmp_path)
    assert (result.status, len(unfinished)) == (Status.FINISHED, 12)
    assert 1 <= max(unfinished) <= MOST_STEPS
