"""Linear interpolation in a table over several coordinates."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from dpscale.scaling.forms import Array


def multilinear(nodes: Sequence[Array], table: Array, places: Sequence[Array]) -> Array:
    """`table` between its nodes; outside, the value at the nearest place inside.

    >>> axis = np.array([0.0, 1.0])
    >>> multilinear([axis, axis], np.array([[0.0, 1.0], [2.0, 3.0]]), [[0.5], [0.25]])
    array([1.25])

    Args:
      nodes: For each axis of `table` its coordinates, rising.
      places: For each axis where it is asked for; they broadcast against each other.
    """
    lower, share = [], []
    for axis, asked in zip(nodes, places, strict=True):
        inside = np.clip(asked, axis[0], axis[-1])
        left = np.clip(np.searchsorted(axis, inside, side="right") - 1, 0, max(axis.size - 2, 0))
        right = np.minimum(left + 1, axis.size - 1)
        gap = np.where(axis[right] > axis[left], axis[right] - axis[left], 1.0)
        lower.append((left, right))
        share.append((inside - axis[left]) / gap)
    total: Array = np.zeros(np.broadcast_shapes(*(np.shape(each) for each in places)))
    for corner in product((0, 1), repeat=len(nodes)):
        weight: Array = np.ones(())
        for at, part in zip(corner, share, strict=True):
            weight = weight * (part if at else 1 - part)
        index = tuple(ends[at] for at, ends in zip(corner, lower, strict=True))
        total = total + weight * table[index]
    return total
