"""The law of the best rate finds made-up optima, and says where it could not."""

import math

import numpy as np
import pytest

from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.law.learning_rate import fit_learning_rates

RATES = tuple(2.0**-k for k in range(9, 2, -1))
FLOOR = 1e-5


def optimum(size: float, iterations: float, ratio: float) -> float:
    return 0.7 * size**-0.3 * iterations**-0.2 * ratio**-0.1


def curve(size: int, iterations: int, ratio: float, rates: tuple[float, ...] = RATES) -> PlanCurve:
    best = math.log(optimum(size, iterations, max(ratio, FLOOR)))
    finals = tuple((rate, 3.0 * math.exp(0.02 * (math.log(rate) - best) ** 2)) for rate in rates)
    end = np.array([float(iterations)])
    return PlanCurve(size, ratio, iterations, end, np.array([3.0]), ("x",), finals)


def test_the_optimum_is_recovered_between_the_swept_rates() -> None:
    sizes, lengths, ratios = (2000, 20_000, 200_000), (100, 400), (0.0, 1e-3, 1e-2)
    curves = [curve(m, t, r) for m in sizes for t in lengths for r in ratios]
    law = fit_learning_rates(curves, ratio_floor=FLOOR)
    answer = law.best(63_000, 250, 3e-3)
    assert answer.learning_rate == pytest.approx(optimum(63_000, 250, 3e-3), rel=1e-6)
    assert not answer.at_edge
    noise_free = law.best(63_000, 250, 0.0).learning_rate
    assert noise_free == pytest.approx(optimum(63_000, 250, FLOOR), rel=1e-6)
    assert law.parabola is not None
    assert law.parabola.slopes == pytest.approx((-0.3, -0.2, -0.1))
    assert law.plane_scatter == pytest.approx(0.0, abs=1e-9)


def test_an_optimum_at_the_edge_is_flagged_near_it_and_does_not_pull_the_plane() -> None:
    wide = [curve(m, 100, 1e-3) for m in (2000, 20_000)]
    cut = curve(200_000, 100, 1e-3, RATES[4:])  # its optimum lies below the least rate
    law = fit_learning_rates([*wide, cut], ratio_floor=FLOOR)
    assert [each.at_edge for each in law.optima] == [False, False, True]
    answer = law.best(180_000, 100, 1e-3)
    assert answer.at_edge
    assert answer.learning_rate == pytest.approx(optimum(180_000, 100, 1e-3), rel=1e-6)
    assert not law.best(3000, 100, 1e-3).at_edge


def test_answers_stay_inside_the_swept_rates_and_say_so() -> None:
    curves = [curve(m, 100, 1e-3) for m in (2000, 20_000)]
    law = fit_learning_rates(curves, ratio_floor=FLOOR)
    answer = law.best(10**12, 100, 1e-3)
    assert answer.learning_rate == RATES[0]
    assert answer.at_edge


def test_a_single_rate_everywhere_is_the_answer_and_an_edge() -> None:
    curves = [curve(m, 100, 1e-3, RATES[3:4]) for m in (2000, 20_000)]
    law = fit_learning_rates(curves, ratio_floor=FLOOR)
    assert law.parabola is None
    answer = law.best(9000, 5000, 1e-2)
    assert answer.learning_rate == pytest.approx(RATES[3])
    assert answer.at_edge
