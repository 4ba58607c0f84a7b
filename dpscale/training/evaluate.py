"""Loss on held-out units."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.config import ModelConfig
from dpscale.data.units import UnitArray, spread_indices
from dpscale.model.decoder import per_example_loss
from dpscale.training.placement import Placement


def make_eval_loss(
    model: ModelConfig,
    units: UnitArray,
    *,
    num_units: int,
    chunk_size: int,
    placement: Placement | None = None,
) -> Callable[[Any], float]:
    """A function from parameters to the mean loss over held-out units, nats per token.

    The units are spread evenly over `units`, and always the same ones. The loss is an
    after-effect of the trained parameters, so that it is private for the training units of a
    private run; it says nothing about the privacy of the held-out ones.

    Args:
      num_units: How many; above `len(units)` all are read.
      chunk_size: Units evaluated at once.
      placement: The devices that share the work; absent: the first one does it.
    """
    count = min(num_units, len(units))
    if count == 0:
        raise ValueError("Expected at least 1 unit to evaluate on.")
    tokens = units.gather(spread_indices(len(units), count))
    chunk_size = min(chunk_size, count)
    num_chunks = -(-count // chunk_size)
    padded = np.zeros((num_chunks * chunk_size, tokens.shape[1]), np.int32)
    padded[:count] = tokens
    put = jnp.asarray if placement is None else partial(placement.put_examples, axis=1)
    chunks = put(padded.reshape(num_chunks, chunk_size, -1))
    weights = put((np.arange(len(padded)) < count).reshape(num_chunks, chunk_size))

    def mean_loss(params: Any, chunks: jax.Array, weights: jax.Array) -> jax.Array:
        def chunk_loss(chunk_and_weight: tuple[jax.Array, jax.Array]) -> jax.Array:
            chunk, weight = chunk_and_weight
            return jnp.sum(jnp.where(weight, per_example_loss(model, params, chunk), 0.0))

        return jnp.sum(jax.lax.map(chunk_loss, (chunks, weights))) / jnp.sum(weights)

    # Held whole, so that each of several hosts has it.
    compiled = jax.jit(mean_loss, out_shardings=None if placement is None else placement.whole)
    return lambda params: float(compiled(params, chunks, weights))
