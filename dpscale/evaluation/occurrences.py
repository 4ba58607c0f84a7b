"""How often given texts occur in prepared units, at any offset within a unit.

Every window of a block of units is hashed in a few passes of numpy over the block, whatever the
window's length; windows whose hash is a wanted text's are compared token by token, so that the
counts are exact whatever the hash. Memory is bounded by the block, not by the data.

An occurrence that crosses from one unit into the next is missed: units are the records that a
model is trained on, and it never sees the two sides of a border together.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dpscale.data.units import UnitArray

_BLOCK_TOKENS = 1 << 18
"""Tokens hashed at once: some ten arrays of 2 MiB, near what a core's cache holds."""

_SIEVE_BITS = 20
"""A window is looked up only if the top bits of its hash are those of a wanted text's."""

_COMPARED_WINDOWS = 1 << 12
"""Windows compared with texts at once."""

_BASE = 0x9E3779B97F4A7C15
"""Base of the polynomial; odd, so that its powers have inverses modulo 2^64."""

Hashes = npt.NDArray[np.uint64]


def count_occurrences(
    units: UnitArray,
    texts: npt.NDArray[np.int32],
    *,
    on_read: Callable[[int], None] = lambda _: None,
) -> npt.NDArray[np.int64]:
    """How often each text stands in `units`; occurrences may overlap.

    Args:
      texts: int32[n, L] with L at least 1; equal ones are counted alike. Longer than a unit: 0.
      on_read: Called with the number of units that have been read so far.

    Returns:
      int64[n]. NOT PRIVATE where the units are.
    """
    distinct, inverse = np.unique(texts, axis=0, return_inverse=True)
    wanted = _Wanted(distinct)
    rows = max(1, _BLOCK_TOKENS // units.unit_len)
    for start in range(0, len(units), rows):
        stop = min(start + rows, len(units))
        wanted.count_in(units.gather(np.arange(start, stop)))
        on_read(stop)
    return wanted.counts[inverse.reshape(-1)]


class _Wanted:
    """Distinct texts in the order of their hashes, and how often each has been seen."""

    def __init__(self, texts: npt.NDArray[np.int32]) -> None:
        self.counts = np.zeros(len(texts), np.int64)
        hashes = window_hashes(texts, texts.shape[1])[:, 0]
        self._order = np.argsort(hashes, kind="stable")
        self._hashes, self._texts = hashes[self._order], texts[self._order]
        self._sieve = np.zeros(1 << _SIEVE_BITS, np.bool_)
        self._sieve[_top_bits(hashes)] = True

    def count_in(self, units: npt.NDArray[np.int32]) -> None:
        """Counts the texts that occur in a block of units, int32[n, U]."""
        length = self._texts.shape[1]
        if length > units.shape[1]:
            return
        hashes = window_hashes(units, length)
        row, offset = np.nonzero(self._sieve[_top_bits(hashes)])
        for start in range(0, len(row), _COMPARED_WINDOWS):
            part = slice(start, start + _COMPARED_WINDOWS)
            columns = offset[part, None] + np.arange(length)
            self._compare(hashes[row[part], offset[part]], units[row[part, None], columns])

    def _compare(self, hashes: Hashes, windows: npt.NDArray[np.int32]) -> None:
        """Counts those of `windows` that are wanted texts; texts may share a hash."""
        place = np.searchsorted(self._hashes, hashes, side="left")
        end = np.searchsorted(self._hashes, hashes, side="right")
        while (left := np.flatnonzero(place < end)).size:
            place, end, windows = place[left], end[left], windows[left]
            is_text = (self._texts[place] == windows).all(axis=1)
            np.add.at(self.counts, self._order[place[is_text]], 1)
            place = np.where(is_text, end, place + 1)  # distinct texts: one match at most


def window_hashes(units: npt.NDArray[np.int32], length: int) -> Hashes:
    """A polynomial hash of every window (Karp and Rabin, 1987), modulo 2^64.

    With p_j the sum of v_i·b^i over the tokens before j, the window at j has the hash
    (p_{j+L} - p_j)·b^-j: a cumulative sum and a difference, instead of L terms a window.

    Args:
      units: int32[n, U] of tokens, U at least `length`.

    Returns:
      uint64[n, U - length + 1].
    """
    num_units, unit_len = units.shape
    powers = _powers(_BASE, unit_len)
    sums = np.zeros((num_units, unit_len + 1), np.uint64)
    np.cumsum(_mixed(units) * powers, axis=1, out=sums[:, 1:])
    hashes: Hashes = sums[:, length:] - sums[:, : unit_len + 1 - length]
    hashes *= _powers(pow(_BASE, -1, 1 << 64), hashes.shape[1])
    return hashes


def _mixed(tokens: npt.NDArray[np.int32]) -> Hashes:
    """A scattered 64-bit value for each token: splitmix64's last step (Steele et al., 2014)."""
    values = tokens.astype(np.uint64)
    values += np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values


def _powers(base: int, count: int) -> Hashes:
    """1, base, base², ... modulo 2^64."""
    return np.cumprod(np.array([1] + [base] * (count - 1), np.uint64), dtype=np.uint64)


def _top_bits(hashes: Hashes) -> npt.NDArray[np.unsignedinteger[Any]]:
    return hashes >> np.uint64(64 - _SIEVE_BITS)
