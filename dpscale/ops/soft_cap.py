"""The soft cap of logits and attention scores (Gemma 2, arXiv 2408.00118)."""

import jax
import jax.numpy as jnp


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap · tanh(x / cap)`: a smooth bound on logits or attention scores; None leaves them."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def soft_cap_slope(capped: jax.Array, cap: float | None) -> jax.Array | float:
    """The derivative of `soft_cap`, from its result.

    >>> soft_cap_slope(soft_cap(jax.numpy.float32(0.0), 2.0), 2.0).item()
    1.0
    """
    return 1.0 if cap is None else 1.0 - jnp.square(capped / cap)
