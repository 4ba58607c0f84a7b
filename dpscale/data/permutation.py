"""A shuffled order that is computed index by index and never stands in memory.

A Feistel network permutes the smallest domain of 4^k numbers that holds the indices; results
outside the indices are sent through it again until they fall inside (cycle walking; Black and
Rogaway 2002, "Ciphers with arbitrary finite domains"). Grain has such a permutation too
(`experimental.index_shuffle`), but its smallest domain is 2^16, and walking out of that takes
milliseconds an index for a small data set.
"""

import numpy as np
import numpy.typing as npt

_ROUNDS = 8
"""Twice what a Feistel network needs to pass for random, as its rounds are not ciphers here."""


def permuted(indices: npt.NDArray[np.int64], size: int, *key: int) -> npt.NDArray[np.int64]:
    """Where each index stands in a keyed permutation of [0, size).

    Statistically mixed, not secret: whoever knows the key can invert it.

    >>> sorted(permuted(np.arange(5), 5, 0).tolist())
    [0, 1, 2, 3, 4]

    Args:
      indices: int64[n] in [0, size).
      size: At least 1, at most 2^62.
      key: Numbers that choose the permutation, each at least 0.

    Returns:
      int64[n]; O(n) work and memory, whatever the size.
    """
    half_bits = max(1, -(-(size - 1).bit_length() // 2))
    round_keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    result = indices.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):  # the domain is below 4 * size: four turns on average, at most
        result[outside] = _feistel(result[outside], half_bits, round_keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: int, round_keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    shift = np.uint64(half_bits)
    mask = np.uint64(2**half_bits - 1)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mixed(right + round_key) & mask)
    return (left << shift) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
