"""The schedule: known values at its corners."""

import jax.numpy as jnp
import pytest

from dpscale.config import OptimizerConfig
from dpscale.training.optimizer import make_schedule


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.2), (4, 1.0), (5, 10 ** (-1 / 95)), (54, 10 ** (-50 / 95)), (99, 0.1), (150, 0.1)],
)
def test_warm_up_then_tenfold_decay(step: int, rate: float) -> None:
    # Catches: a warm-up or decay that is off by one, or runs past its end.
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.05, decay_factor=10.0)
    schedule = make_schedule(config, iterations=100)
    assert float(schedule(jnp.int32(step))) == pytest.approx(rate, rel=1e-5)


def test_one_iteration_is_enough() -> None:
    # Catches: a division by zero where the whole run is warm-up.
    schedule = make_schedule(OptimizerConfig(learning_rate=0.5), iterations=1)
    assert float(schedule(jnp.int32(0))) == pytest.approx(0.5)
