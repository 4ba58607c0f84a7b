"""Gaussian noise, drawn once per logical batch from a key folded with the step.

A generator of finitely many bits has a largest value, and an output beyond what noise alone
can give betrays a gradient, whatever the accountant says. Where a single gradient points along
a single parameter, that happens in one of 1 / Q(r - 1 / sigma) batches that hold it: r the
largest noise, sigma the noise multiplier, Q the normal tail. `jax.random.normal` makes a
float32 normal of 23 random bits, so that r = 5.17: at sigma = 0.41 one batch in 310. Here it
is made of 64 bits, and r = 7.54: one in 6 million.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.privacy.keys import NOISE_GENERATOR
from dpscale.privacy.threefry import Words, random_words

LARGEST_NOISE = math.sqrt(2 * 41 * math.log(2))
"""What no standard normal from here exceeds: 7.54. A true one does with probability 4.7e-14."""


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

    Guarantees: a pure function of (key, step), independent between steps and between leaves,
    and the same however `like` is sharded.

    Args:
      key: The run's noise key; the same for all steps.
      step: int32 scalar, the 0-based step. Never call twice with one step for different
        gradients.
      like: A pytree of arrays, whole ones: inside `shard_map` every device would draw the
        noise of the first part.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(key, step), len(leaves))
    noise = [
        standard_normal(random_words(jax.random.key_data(leaf_key), leaf.shape))
        for leaf_key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noise)


def standard_normal(words: Words) -> jax.Array:
    """One float32 normal from each pair of words (Box and Muller 1958).

    A normal is r · cos(angle), with r² / 2 exponential and the angle uniform. Here
    r = sqrt(-2 log u), with 40 bits in u: the tail is fine up to `LARGEST_NOISE`. The angle has
    24 bits, what float32 can hold: around zero the normals are as dense as float32 arithmetic
    on numbers of their size.
    """
    first, second = words
    high = first.astype(jnp.float32) * np.float32(2**-32)
    low = ((second >> np.uint32(24)).astype(jnp.float32) + np.float32(0.5)) * np.float32(2**-40)
    radius = jnp.sqrt(np.float32(-2) * jnp.log(high + low))
    angle = (second & np.uint32(0xFFFFFF)).astype(jnp.float32) - np.float32(2**23 - 0.5)
    return radius * _sine_of_quarters(angle * np.float32(2**-23))


def _sine_of_quarters(x: jax.Array) -> jax.Array:
    """sin(pi x / 2) for x in [-1, 1], distributed over uniform x like the cosine of an angle.

    Its Taylor polynomial, off by at most 6e-8: XLA's own takes three times as long on a CPU.
    """
    square, result = x * x, jnp.zeros_like(x)
    for power in range(11, 0, -2):
        sign = 1 if power % 4 == 1 else -1
        coefficient = np.float32(sign * (math.pi / 2) ** power / math.factorial(power))
        result = result * square + coefficient
    return x * result
