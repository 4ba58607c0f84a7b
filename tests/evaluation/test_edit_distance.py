"""Edit distances against the recursive definition."""

import functools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dpscale.evaluation.edit_distance import edit_distances


def by_definition(first, second):
    @functools.cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (first[i - 1] != second[j - 1]),
        )

    return distance(len(first), len(second))


@st.composite
def batches(draw):
    """Pairs of few distinct tokens, so that shifts and repeats abound."""
    rows, n, m = (draw(st.integers(low, high)) for low, high in ((1, 4), (0, 8), (0, 8)))
    tokens = st.integers(0, 2)
    first = draw(st.lists(st.lists(tokens, min_size=n, max_size=n), min_size=rows, max_size=rows))
    second = draw(st.lists(st.lists(tokens, min_size=m, max_size=m), min_size=rows, max_size=rows))
    return np.array(first).reshape(rows, n), np.array(second).reshape(rows, m)


@given(batches())
def test_the_table_gives_the_definition(pairs):
    """Catches a wrong border, an edit that costs nothing, and rows that mix."""
    first, second = pairs
    expected = [by_definition(tuple(a), tuple(b)) for a, b in zip(first, second, strict=True)]
    assert edit_distances(first, second).tolist() == expected


def test_a_shift_costs_two_and_not_the_length():
    """Catches a distance by places (Hamming's), which counts a shifted text as all wrong."""
    text = np.arange(50)[None]
    shifted = np.roll(text, 1, axis=1)
    assert edit_distances(text, shifted).tolist() == [2]
