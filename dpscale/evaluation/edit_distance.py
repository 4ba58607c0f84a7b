"""How far two token sequences are apart: Levenshtein's distance, many pairs at once."""

from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.integer[Any]]


def edit_distances(first: Tokens, second: Tokens) -> npt.NDArray[np.int32]:
    """The least number of insertions, deletions and substitutions of tokens, for each pair.

    Wagner and Fischer's table (1974), a row at a time over all pairs: n passes over [B, m + 1].

    >>> edit_distances(np.array([[1, 2, 3, 4]]), np.array([[2, 3, 4, 9]])).tolist()
    [2]

    Args:
      first: int[B, n].
      second: int[B, m].

    Returns:
      int32[B].
    """
    columns = np.arange(second.shape[1] + 1, dtype=np.int32)
    row = np.tile(columns, (len(first), 1))
    for index in range(first.shape[1]):
        best = row + 1  # delete a token of `first`
        substituted = row[:, :-1] + (first[:, index, None] != second)
        np.minimum(best[:, 1:], substituted, out=best[:, 1:])
        # A run of insertions from column k to j costs j - k: the least of best[k] - k, plus j.
        row = np.minimum.accumulate(best - columns, axis=1) + columns
    distances: npt.NDArray[np.int32] = row[:, -1]
    return distances
