"""Threefry-2x32 with 20 rounds (Salmon et al., SC 2011): 64 random bits for each position.

The same function, of the same key and positions, as behind `jax.random`. It is written out
here because the CPU version of `jax.random` loops over the rounds: each array drawn then costs
several kernels to compile and two copies of itself in memory. Written out, XLA computes bits
and whatever is made of them in one pass.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

Words = tuple[jax.Array, jax.Array]
"""Two uint32 arrays of one shape."""


def threefry2x32(key: jax.Array, counters: Words) -> Words:
    """Encrypts counters: a bijection of 64 bits for each key.

    Args:
      key: uint32[2].
      counters: The two words of each counter.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
    x, y = counters[0] + keys[0], counters[1] + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ _rotated(y, distance)
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def random_words(key: jax.Array, shape: tuple[int, ...]) -> Words:
    """Two random words for each element of an array: those of its position in row order.

    Each element depends on the key and on its own position only, so that a sharded array
    holds the same words as one that is not, and each device computes its own part.

    Args:
      key: uint32[2].
      shape: Of the whole array, in which positions are counted.

    Raises:
      ValueError: 2^32 elements or more.
    """
    if math.prod(shape) >= 2**32:
        raise ValueError(f"Expected fewer than 2^32 elements, found an array of shape {shape}.")
    position = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        position = position + lax.broadcasted_iota(np.uint32, shape, axis) * stride
    return threefry2x32(key, (jnp.zeros_like(position), position))


def _rotated(words: jax.Array, distance: int) -> jax.Array:
    return (words << np.uint32(distance)) | (words >> np.uint32(32 - distance))
