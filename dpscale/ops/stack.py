"""Arrays of layers stacked along their first axis: visited one by one, or in a loop.

Axes: L layers.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

UNROLLED_LAYERS = 16
"""Stacks up to this depth are compiled layer by layer, deeper ones as one block in a loop.

Measured on CPU with 6 and 12 layers of width 128: per-example gradients run 1.8 times faster
unrolled, for about 0.2 s more compilation a layer; in a loop it does not grow with depth."""

Result = TypeVar("Result")


def is_unrolled(num_layers: int) -> bool:
    """Whether a stack of so many layers is compiled layer by layer."""
    return num_layers <= UNROLLED_LAYERS


def map_layers(visit: Callable[[Any], Result], stacked: Any) -> Result:
    """What `visit` gives for each layer, stacked again.

    Args:
      visit: From a pytree of one layer's arrays to a pytree of arrays.
      stacked: The same pytree with arrays [L, ...].
    """
    num_layers = jax.tree.leaves(stacked)[0].shape[0]
    if not is_unrolled(num_layers):
        in_loop: Result = jax.lax.map(visit, stacked)
        return in_loop
    layers = [visit(jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(num_layers)]
    unrolled: Result = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return unrolled
