"""The learning-rate plane finds made-up optima, and says where it could not."""

import math

import numpy as np
import pytest

from dpscale.scaling.learning_rate import fit_learning_rates
from dpscale.scaling.smoothing import PlanCurve

RATES = tuple(2.0**-k for k in range(9, 2, -1))
FLOOR = 1e-5


def optimum(size: float, ratio: float) -> float:
    return 0.2 * size**-0.3 * ratio**-0.1


def curve(size: int, ratio: float, rates: tuple[float, ...] = RATES) -> PlanCurve:
    best = math.log(optimum(size, max(ratio, FLOOR)))
    finals = tuple((rate, 3.0 + 0.05 * (math.log(rate) - best) ** 2) for rate in rates)
    return PlanCurve(size, ratio, 100, np.array([100.0]), np.array([3.0]), ("x",), finals)


def test_the_optimum_is_recovered_between_the_swept_rates() -> None:
    law = fit_learning_rates(
        [curve(m, r) for m in (2000, 20_000, 200_000) for r in (0.0, 1e-3, 1e-2)],
        ratio_floor=FLOOR,
    )
    answer = law.best(63_000, 3e-3)
    assert answer.learning_rate == pytest.approx(optimum(63_000, 3e-3), rel=1e-6)
    assert not answer.at_edge
    assert law.best(63_000, 0.0).learning_rate == pytest.approx(optimum(63_000, FLOOR), rel=1e-6)


def test_an_optimum_at_the_edge_is_flagged_near_it_only() -> None:
    wide = [curve(m, 1e-3) for m in (2000, 20_000)]
    cut = curve(200_000, 1e-3, RATES[4:])  # its optimum lies below the least rate
    law = fit_learning_rates([*wide, cut], ratio_floor=FLOOR)
    assert [each.at_edge for each in law.optima] == [False, False, True]
    assert law.best(180_000, 1e-3).at_edge
    assert not law.best(3000, 1e-3).at_edge


def test_answers_stay_inside_the_swept_rates_and_say_so() -> None:
    law = fit_learning_rates([curve(m, 1e-3) for m in (2000, 20_000)], ratio_floor=FLOOR)
    answer = law.best(10**12, 1e-3)
    assert answer.learning_rate == RATES[0]
    assert answer.at_edge
