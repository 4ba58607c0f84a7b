"""The scale op: a learned factor per channel, stored as its distance from one.

Its per-example rules stand in this module beside the plain one, as `dense` explains.

Axes: D width.
"""

import jax
import jax.numpy as jnp


def scale(scale_D: jax.Array, x: jax.Array) -> jax.Array:
    """`x · (1 + scale)`, so that a zero scale is the identity (Gemma's convention).

    Args:
      scale_D: float32[D] weights.
      x: float32[..., D]; a normalisation calls this before it rounds to the compute dtype.
    """
    return x * (1.0 + scale_D.astype(jnp.float32))
