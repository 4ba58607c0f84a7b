"""Rotary position embedding (Su et al., arXiv 2104.09864) in the rotate-half layout.

Channel i of a head is turned together with channel i + h/2, as in the Gemma and Llama
checkpoints; the paper itself pairs neighbours.

Axes: B examples, S tokens, H heads, h channels of a head.
"""

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import wide


def rotate(x_BxSxHxh: jax.Array, positions: jax.Array, *, theta: float) -> jax.Array:
    """Turns each pair of channels by position · theta^(-2i/h), in float32.

    Args:
      x_BxSxHxh: Queries or keys.
      positions: int32[S], or int32[B, S] where examples differ.
      theta: Base of the wavelengths, 10,000 in Gemma 2.

    Returns:
      The same shape and dtype.
    """
    head_dim = x_BxSxHxh.shape[-1]
    frequency = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions.astype(jnp.float32)[..., None] * frequency
    cos, sin = jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]
    first, second = jnp.split(x_BxSxHxh.astype(wide(x_BxSxHxh.dtype)), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxSxHxh.dtype)
