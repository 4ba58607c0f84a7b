"""The search finds the last value that meets a target, in few evaluations, whatever it is given."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpscale.privacy.accounting.search import (
    TOLERANCE,
    TargetOutOfReach,
    Unknown,
    last_that_meets,
)

NOISE = Unknown(0.02, 1e9, is_whole=False)
STEPS = Unknown(10**9, 1, is_whole=True)
RECORDS = Unknown(100, 10**15, is_whole=True)


class Counted:
    """A function, and where it was asked."""

    def __init__(self, function: Callable[[float], float]) -> None:
        self._function = function
        self.asked: list[float] = []

    def __call__(self, value: float) -> float:
        self.asked.append(value)
        return self._function(value)


def test_a_known_root_is_found_in_few_evaluations() -> None:
    # 1/(2 sigma^2) + 4/sigma = 2: a quadratic in 1/sigma. A start as good as the surrogate's.
    spent = Counted(lambda sigma: 0.5 / sigma**2 + 4 / sigma)
    root = 1 / (math.sqrt(16 + 4) - 4)
    found = last_that_meets(spent, NOISE, target=2.0, start=1.01 * root)
    assert root <= found <= root * (1 + 1.1 * TOLERANCE)
    assert len(spent.asked) <= 5


@given(
    power=st.floats(0.2, 4.0),
    log_root=st.floats(math.log(0.05), math.log(1e6)),
    error=st.floats(-3.0, 3.0),
    kink=st.floats(0.0, 3.0),
)
def test_any_falling_curve_and_any_start(
    power: float, log_root: float, error: float, kink: float
) -> None:
    root = math.exp(log_root)

    def curve(value: float) -> float:
        place = math.log(value / root)
        return math.exp(-power * place - kink * max(place, 0.0))

    spent = Counted(curve)
    found = last_that_meets(spent, NOISE, target=1.0, start=root * math.exp(error))
    assert curve(found) <= 1.0
    assert found <= root * (1 + 1.1 * TOLERANCE)
    assert len(spent.asked) <= 40


@given(most=st.integers(1, 10**6), start=st.integers(1, 10**7))
def test_whole_numbers_are_the_very_last_or_within_the_tolerance(most: int, start: int) -> None:
    spent = Counted(lambda steps: math.sqrt(steps / (most + 0.5)))
    found = last_that_meets(spent, STEPS, target=1.0, start=start)
    assert found == int(found) <= most
    assert found >= most * (1 - 1.1 * TOLERANCE)
    if most < 9_000:
        assert found == most


@given(least=st.integers(101, 10**6), start=st.integers(1, 10**9))
def test_whole_numbers_that_should_be_small(least: int, start: int) -> None:
    found = last_that_meets(lambda n: (least - 0.5) / n, RECORDS, target=1.0, start=start)
    assert least <= found <= least * (1 + 1.1 * TOLERANCE)
    if least < 9_000:
        assert found == least


def test_what_has_no_epsilon_does_not_meet_the_target() -> None:
    # No interval below 0.5, and from there on the target is met: the answer is 0.5.
    def spent(sigma: float) -> float:
        return math.inf if sigma < 0.5 else 0.1 / sigma

    found = last_that_meets(spent, NOISE, target=1.0, start=0.11)
    assert 0.5 <= found <= 0.5 * (1 + 1.1 * TOLERANCE)


def test_epsilon_of_zero_meets_the_target() -> None:
    def spent(sigma: float) -> float:
        return 0.0 if sigma > 3.0 else 10.0

    found = last_that_meets(spent, NOISE, target=1.0, start=100.0)
    assert 3.0 < found <= 3.0 * (1 + 1.1 * TOLERANCE)


def test_an_epsilon_that_wavers_still_meets_the_target() -> None:
    # Catches: an answer that was interpolated, never evaluated.
    def spent(sigma: float) -> float:
        return (1 + 2e-4 * math.sin(1e5 * sigma)) / sigma

    found = last_that_meets(spent, NOISE, target=1.0, start=1.3)
    assert spent(found) <= 1.0
    assert found == pytest.approx(1.0, rel=5e-4)


def test_the_least_private_end_is_an_answer() -> None:
    assert last_that_meets(lambda n: 1e-3 / n, RECORDS, target=1.0, start=5_000) == 100
    assert last_that_meets(lambda n: 1e-20 * n, STEPS, target=1.0, start=7) == 10**9


def test_a_target_that_nothing_meets() -> None:
    with pytest.raises(TargetOutOfReach) as caught:
        last_that_meets(lambda steps: 5.0 * steps, STEPS, target=1.0, start=1000)
    assert (caught.value.value, caught.value.epsilon) == (1, 5.0)
    with pytest.raises(TargetOutOfReach):
        last_that_meets(lambda n: math.inf, RECORDS, target=1.0, start=1000)
