"""Gaussian noise, drawn once per logical batch from a key folded with the step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.privacy.keys import NOISE_GENERATOR


def noise_key(key: int) -> jax.Array:
    """A JAX key that holds all 64 bits of `key` (a seed would hold 32 of them).

    Args:
      key: In [0, 2^64).
    """
    words = np.array([key >> 32, key & 0xFFFFFFFF], np.uint32)
    wrapped: jax.Array = jax.random.wrap_key_data(jnp.asarray(words), impl=NOISE_GENERATOR)
    return wrapped


def gaussian_noise(key: jax.Array, step: jax.Array, like: Any) -> Any:
    """Standard normal float32 noise of the shapes of `like`.

    Guarantees: a pure function of (key, step), independent between steps and between leaves.

    Args:
      key: The run's noise key; the same for all steps.
      step: int32 scalar, the 0-based step. Never call twice with one step for different
        gradients.
      like: A pytree of arrays.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(key, step), len(leaves))
    noise = [
        jax.random.normal(leaf_key, leaf.shape, jnp.float32)
        for leaf_key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noise)
