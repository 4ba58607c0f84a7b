"""Noise between the nodes of a table, and around what is known exactly."""

from collections.abc import Callable

import numpy as np
import pytest

from dpscale.scaling.advice.budget import Budget, BudgetAccounting
from dpscale.scaling.advice.multilinear import multilinear
from dpscale.scaling.advice.noise_field import NoiseField, tabulate_noise

BUDGET = Budget(
    epsilon=2, delta=1e-8, train_flops=1e21, dataset_size=10**8, seq_len=512, vocab_size=30_522
)


def test_a_plane_is_interpolated_exactly_and_held_at_the_edges() -> None:
    axes = [np.array([0.0, 1.0, 4.0]), np.array([-1.0, 2.0]), np.array([5.0])]
    x, y, _ = np.meshgrid(*axes, indexing="ij")
    table = 3 * x - 2 * y + 1
    places = [np.array([0.5, 3.9, 9.0]), np.array([0.0, 1.5, -7.0]), np.array([5.0, 0.0, 9.0])]
    assert multilinear(axes, table, places) == pytest.approx([2.5, 9.7, 15.0])


def test_the_table_is_within_half_a_percent_of_what_it_tabulates() -> None:
    # Catches nodes so far apart that the search would stop believing the approximation.
    accounting = BudgetAccounting(BUDGET)
    table = tabulate_noise(accounting, least_prob=0.5e-8, most_iterations=1e6)
    generator = np.random.default_rng(3)
    batch = np.round(np.exp(generator.uniform(np.log(300), np.log(1e7), 400)))
    iterations = np.round(np.exp(generator.uniform(np.log(100), np.log(2e5), 400)))
    wanted = accounting.approximate(batch / 1e8, iterations)
    off = NoiseField(table, 10**8).noise_multiplier(batch, iterations) / wanted - 1
    assert np.quantile(np.abs(off), 0.95) < 0.005


def test_exact_noise_holds_where_it_is_known_and_spreads(
    closed_form: Callable[[Budget], BudgetAccounting],
) -> None:
    table = tabulate_noise(closed_form(BUDGET), least_prob=0.5e-8, most_iterations=1e6)
    plain = NoiseField(table, 10**8)
    batch, iterations = np.array([1e4, 1.1e4, 1e7]), np.array([1e3, 1e3, 1e4])
    base = plain.noise_multiplier(batch, iterations)
    known = plain.with_exact(10_000, 1_000, 1.2 * base[0]).with_exact(
        10_000_000, 10_000, 0.9 * base[2]
    )
    ratio = known.noise_multiplier(batch, iterations) / base
    assert ratio[[0, 2]] == pytest.approx([1.2, 0.9], rel=1e-9)
    assert 1.19 < ratio[1] < 1.2
    assert known.exact == {(10_000, 1_000): 1.2 * base[0], (10_000_000, 10_000): 0.9 * base[2]}
    assert known.largest_correction == pytest.approx(0.2)
    assert plain.largest_correction == 0
    moved = known.moved_to(table, 2 * 10**8)
    assert moved.exact == {}
    twice = moved.noise_multiplier(2 * batch, iterations) / base
    assert 0.9 < twice[0] < 1.2
