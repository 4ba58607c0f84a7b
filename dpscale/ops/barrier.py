"""A barrier for XLA's simplifications, where one of them costs more than it saves."""

import jax
from jax import lax


def barred(array: jax.Array) -> jax.Array:
    """The array as it is; what computes it and what it is used for are not simplified together."""
    barred: jax.Array = lax.optimization_barrier(array)  # type: ignore[no-untyped-call]
    return barred
