"""The soft cap of logits and attention scores (Gemma 2, arXiv 2408.00118)."""

import jax
import jax.numpy as jnp


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap · tanh(x / cap)`: a smooth bound on logits or attention scores; None leaves them."""
    return x if cap is None else cap * jnp.tanh(x / cap)
