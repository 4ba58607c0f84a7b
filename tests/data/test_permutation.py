"""The keyed permutation behind shuffled batches."""

import itertools
from collections import Counter

import numpy as np
import pytest

from dpscale.data.permutation import permuted


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 4095, 4097, 62_607])
def test_it_is_a_permutation_of_every_size(size: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(size), size, 7)), np.arange(size))


def test_an_index_alone_goes_where_it_goes_in_company() -> None:
    together = permuted(np.arange(1000), 1000, 3, 4)
    alone = [int(permuted(np.array([i]), 1000, 3, 4)[0]) for i in range(0, 1000, 37)]
    assert alone == together[::37].tolist()


def test_all_orders_of_four_are_equally_likely() -> None:
    counts = Counter(tuple(permuted(np.arange(4), 4, seed)) for seed in range(6000))
    assert set(counts) <= set(itertools.permutations(range(4)))
    sizes = np.array(list(counts.values()))
    assert len(sizes) == 24
    assert ((sizes - 250) ** 2 / 250).sum() < 54  # 23 degrees of freedom: probability 3e-4


@pytest.mark.parametrize("size", [20, 1000])
def test_neighbours_go_everywhere_and_apart(size: int) -> None:
    places = np.array([permuted(np.arange(2), size, seed) for seed in range(2000)])
    distance = (places[:, 1] - places[:, 0]) % size - 1  # uniform over size - 1 values
    for values, bound in ((places[:, 0], size), (places[:, 1], size), (distance, size - 1)):
        edges = np.linspace(0, bound, 10).round()  # nine bins of whole values
        expected = 2000 * np.diff(edges) / bound
        counts = np.histogram(values, edges - 0.5)[0]
        assert ((counts - expected) ** 2 / expected).sum() < 29  # 8 degrees: probability 3e-4


def test_orders_under_different_keys_are_unrelated() -> None:
    first, second = permuted(np.arange(5000), 5000, 0, 1), permuted(np.arange(5000), 5000, 0, 2)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / 5000**0.5
    assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 4 / 5000**0.5
