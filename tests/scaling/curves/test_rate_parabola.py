"""One parabola over the learning rates: its optimum, its errors, and levels without bias."""

import numpy as np
import pytest

from dpscale.scaling.curves.rate_parabola import (
    NEAR,
    RateCell,
    RateParabola,
    expected_least,
    fit_rate_parabola,
)

X = np.log(2.0) * np.arange(-7.0, -3.0)
CURVATURE = 0.02
PLACES = [(m, t, r) for m in (2e4, 6e4, 2e5) for t in (100, 400) for r in (1e-4, 1e-3, 1e-2)]


def best(size: float, iterations: float, ratio: float) -> float:
    return -3.7 - 0.2 * np.log(size / 6e4) - 0.1 * np.log(iterations / 200)


def level(size: float, iterations: float, ratio: float) -> float:
    return 1.3 - 0.05 * np.log(size / 6e4) - 0.1 * np.log(iterations / 200) + 0.03 * np.log(ratio)


def cells(noise: float = 0.0, seed: int = 0, x: np.ndarray = X) -> list[RateCell]:
    generator = np.random.default_rng(seed)
    return [
        RateCell(
            *place,
            x,
            level(*place)
            + CURVATURE * (x - best(*place)) ** 2
            + noise * generator.standard_normal(x.size),
        )
        for place in PLACES
    ]


def fitted(made: list[RateCell]) -> RateParabola:
    parabola = fit_rate_parabola(made)
    assert parabola is not None
    return parabola


def test_exact_losses_give_back_parabola_and_levels() -> None:
    parabola = fitted(cells())
    assert parabola.curvature == pytest.approx(CURVATURE)
    assert parabola.slopes == pytest.approx((-0.2, -0.1, 0.0), abs=1e-9)
    for cell, place in zip(cells(), PLACES, strict=True):
        assert parabola.best_log_rate(cell.place) == pytest.approx(best(*place))
        assert parabola.own_vertex(cell) == pytest.approx(best(*place))
        assert parabola.level(cell) == pytest.approx(level(*place))


def test_levels_of_noisy_runs_are_unbiased_where_their_minimum_is_low() -> None:
    truth = np.array([level(*place) for place in PLACES])
    by_level, by_minimum = [], []
    for seed in range(200):
        made = cells(0.01, seed)
        parabola = fitted(made)
        by_level.append(np.mean([parabola.level(cell) for cell in made] - truth))
        by_minimum.append(np.mean([cell.log_losses.min() for cell in made] - truth))
    assert abs(np.mean(by_level)) < 0.0005
    assert np.mean(by_minimum) < -0.002


def test_errors_are_as_large_as_what_they_stand_for() -> None:
    found = [fitted(cells(0.01, seed)) for seed in range(100)]
    sizes = np.array([each.slopes[0] for each in found])
    assert np.mean([each.errors[0] for each in found]) == pytest.approx(np.std(sizes), rel=0.3)
    assert np.mean([each.scatter for each in found]) == pytest.approx(0.01, rel=0.1)


def test_the_expected_least_against_draws() -> None:
    means = np.array([0.0, 0.004, 0.03])
    drawn = means + 0.01 * np.random.default_rng(0).standard_normal((200_000, 3))
    assert expected_least(means, 0.01) == pytest.approx(drawn.min(axis=1).mean(), abs=1e-4)
    assert expected_least(means + 1.0, 0.0) == pytest.approx(1.0)


def test_levels_hold_where_the_curvature_depends_on_the_noise() -> None:
    """Three times the curvature at the highest ratio: levels may not be off by percents there."""
    made = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        sweep = [
            RateCell(
                *place,
                X,
                level(*place)
                + (3 if place[2] == 1e-2 else 1) * CURVATURE * (X - best(*place)) ** 2
                + 0.01 * generator.standard_normal(X.size),
            )
            for place in PLACES
        ]
        parabola = fitted(sweep)
        made.append([parabola.level(cell) for cell in sweep])
    bias = np.mean(made, axis=0) - [level(*place) for place in PLACES]
    assert np.abs(bias).max() < 0.008


def test_a_slope_within_its_error_is_zero() -> None:
    found = [fitted(cells(0.01, seed)).slopes[2] for seed in range(40)]
    assert np.mean([slope == 0.0 for slope in found]) >= 0.85


def test_a_coordinate_with_one_value_has_no_slope() -> None:
    parabola = fitted([cell for cell in cells() if cell.iterations == 100])
    assert parabola.slopes[1] == 0.0
    assert parabola.slopes[0] == pytest.approx(-0.2)


def test_losses_far_from_the_best_do_not_bend_the_parabola() -> None:
    steep = [
        RateCell(
            *place,
            np.append(cell.log_rates, 0.0),
            np.append(cell.log_losses, cell.log_losses.min() + 2 * NEAR),
        )
        for cell, place in zip(cells(), PLACES, strict=True)
    ]
    assert fitted(steep).curvature == pytest.approx(CURVATURE)


@pytest.mark.parametrize("x", [X[:1], X[1:3]])
def test_one_or_two_rates_show_no_curvature(x: np.ndarray) -> None:
    assert fit_rate_parabola(cells(x=x)) is None


def test_scatter_alone_shows_no_curvature() -> None:
    generator = np.random.default_rng(0)
    found = [
        fit_rate_parabola(
            [RateCell(*place, X, 0.01 * generator.standard_normal(X.size)) for place in PLACES]
        )
        for _ in range(40)
    ]
    assert np.mean([each is None for each in found]) >= 0.9
