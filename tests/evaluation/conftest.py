"""A model that was overfitted on purpose, without privacy, early and late in its training."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpscale.config import ModelConfig
from dpscale.data.units import UnitArray
from dpscale.model.decoder import init_params, per_example_loss

MODEL = ModelConfig(
    vocab_size=256,
    seq_len=100,
    num_layers=2,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    feed_forward_width=128,
)
ONCE, OFTEN, REPEATS = 10, 3, 12
EARLY, LATE = 25, 80
"""Steps: units that occur often are learned by the first, all by the second."""


@dataclass(frozen=True)
class Overfitted:
    """Units of random tokens, of which some are repeated, and parameters that learned them."""

    model: ModelConfig
    num_once: int
    num_often: int
    repeats: int
    train: UnitArray
    held_out: UnitArray
    fresh: Any
    early: Any
    late: Any


def unit_array(units: np.ndarray) -> UnitArray:
    return UnitArray([units.astype(np.uint16)], units.shape[1])


@pytest.fixture(scope="session")
def overfitted() -> Overfitted:
    """Random units can be guessed by nobody: what matches was memorized."""
    generator = np.random.default_rng(0)
    units = generator.integers(0, MODEL.vocab_size, (ONCE + OFTEN, 101)).astype(np.int32)
    held_out = generator.integers(0, MODEL.vocab_size, (30, 101))
    counts = np.array([1] * ONCE + [REPEATS] * OFTEN)
    optimizer = optax.adam(0.01)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        # The mean over all units, each repeat counted, without reading repeats again.
        def loss(params: Any) -> jax.Array:
            return jnp.sum(per_example_loss(MODEL, params, units) * counts) / counts.sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = fresh = init_params(MODEL, jax.random.key(0))
    state = optimizer.init(params)
    for index in range(LATE):
        if index == EARLY:
            early = params
        params, state = step(params, state)
    train = unit_array(np.repeat(units, counts, axis=0))
    counts_of = (ONCE, OFTEN, REPEATS)
    return Overfitted(MODEL, *counts_of, train, unit_array(held_out), fresh, early, params)
