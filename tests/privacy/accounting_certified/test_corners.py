"""The truth at the corners of the range, in each direction, lies inside the interval.

The reference inverts the same transform in another way: 64-bit mantissas, the trapezoidal rule in
the noise, no split, no bound, and the heat kernel for a smoothing, whose error of second order
Richardson's rule removes. It finds epsilon to some 1e-7 of itself, where the upper end is
5e-6 above.
"""

import math

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from dpscale.privacy.accounting.certified.composition import Composed, direction_interval
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.interval import delta_interval, untruncated_interval
from dpscale.privacy.accounting.certified.loss import Direction, StepLoss
from dpscale.privacy.accounting.certified.quadrature import first_panels
from dpscale.privacy.accounting.certified.split import split_by_loss
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

Long = NDArray[np.longdouble]

CORNERS = [
    (1e-9, 100.0, 10**7, 1e-10, "remove"),
    (1e-9, 100.0, 10**7, 1e-10, "add"),
    (1e-4, 0.6, 10**5, 1.1e-10, "add"),  # VaultGemma's neighbourhood
    (1.2e-5, 6.0, 10**6, 1e-15, "remove"),
    (0.3, 100.0, 10**6, 1e-3, "remove"),
    (0.3, 100.0, 10**6, 1e-3, "add"),
    (0.999999, 5.0, 100, 1e-8, "remove"),
    (0.999999, 5.0, 100, 1e-8, "add"),
    (0.999999, 0.7, 2, 0.5, "remove"),
    (0.5, 1.0, 10, 0.1, "add"),
    (0.1, 2.0, 50, 1e-15, "remove"),
    (0.01, 2.0, 1000, 0.0611, "remove"),  # epsilon near 0
    (0.5, 0.2, 20, 1e-5, "remove"),  # epsilon above 200
    (1e-3, 0.2, 1000, 1e-6, "add"),
    pytest.param((1e-4, 0.6, 10**5, 1.1e-10, "remove"), marks=pytest.mark.deep),
    # Some 0.01 participations in a run:
    pytest.param((1e-9, 1.0, 10**7, 1e-12, "remove"), marks=pytest.mark.deep),
]


class Inverted:
    """Delta of T steps in one direction near one epsilon."""

    def __init__(self, q: float, sigma: float, iterations: int, direction: Direction) -> None:
        self.iterations, self.direction = iterations, direction
        self.q, self.sigma = np.longdouble(q), np.longdouble(sigma)
        self.sample(min(self.sigma, self.sigma**2) / 20)

    def sample(self, spacing: np.longdouble) -> None:
        """The losses and the log of P's mass at equally spaced noise."""
        most = math.ceil(float((1 + 13.5 * self.sigma) / spacing))
        x: Long = np.arange(-most, most + 1) * spacing
        change = self.q * np.expm1((2 * x - 1) / (2 * self.sigma**2))
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = np.log((1 - self.q) + (change + self.q))
            log_ratio = np.where(change > -0.5, np.log1p(change), exact)
        pi = 4 * np.arctan(np.longdouble(1))
        scale = np.log(spacing / (self.sigma * np.sqrt(2 * pi)))
        log_normal = scale - (x / self.sigma) ** 2 / 2
        removes = self.direction == "remove"
        self.losses = log_ratio if removes else -log_ratio
        self.log_masses = log_normal + log_ratio if removes else log_normal

    def log_moment(self, order: float) -> float:
        logs = self.log_masses + order * self.losses
        return float(logs.max() + np.log(np.exp(logs - logs.max()).sum()))

    def prepare(self, epsilon: float, delta: float, *, smoothing: float = 3e-2) -> None:
        """Chooses the line of integration, then transforms at equally spaced frequencies."""

        def height(log_order: float) -> float:
            order = math.exp(log_order)
            moment = self.iterations * self.log_moment(order)
            return moment - order * epsilon - log_order - math.log1p(order)

        start = min(np.linspace(-6, 26, 65), key=height)
        found = minimize_scalar(height, bounds=(start - 1, start + 1), method="bounded")
        self.order = order = math.exp(found.x)
        heat = smoothing / order
        self.refine(8 / heat)
        spacing = 2 * math.pi / self.period(epsilon, delta)
        self.log_norm = self.log_moment(order)
        weights = np.exp(self.log_masses + order * self.losses - self.log_norm)
        kept = weights > 1e-26 / self.iterations
        weights, losses = weights[kept], self.losses[kept]
        self.mean = (weights @ losses) / weights.sum()
        self.frequencies = np.arange(int(8 / heat / spacing) + 1) * np.longdouble(spacing)
        one = self.transform(weights, losses - self.mean)
        z = order + 1j * self.frequencies
        terms = np.exp(self.iterations * np.log(one)) / (z * (1 + z)) * spacing / math.pi
        terms[0] /= 2
        kernel = np.exp((z * heat) ** 2 / 2)
        self.terms = terms * (2 * kernel - kernel**2)

    def refine(self, last: float) -> None:
        """So that the rule in the noise sees the highest frequency."""
        logs = self.log_masses + self.order * self.losses
        matters = (logs - logs.max())[1:] > math.log(1e-11 / self.iterations)
        turn = float(np.abs(np.diff(self.losses))[matters].max()) * last
        if turn > 4:
            spacing = min(self.sigma, self.sigma**2) / 20
            self.sample(spacing * max(4 / turn, len(self.losses) / 8_000))

    def period(self, epsilon: float, delta: float) -> float:
        """So long that aliases are e^-30 of delta."""
        period = 45 / self.order
        orders = [self.order * multiple for multiple in (1.05, 1.2, 1.5, 2, 3, 5, 10, 30)]
        moments = [self.iterations * self.log_moment(order) for order in orders]
        while (
            min(
                moment - order * (epsilon + period)
                for moment, order in zip(moments, orders, strict=True)
            )
            + self.order * period
            > math.log(delta) - 30
        ):
            period *= 1.3
        return max(period, (30 - math.log(delta)) / self.order)

    def transform(self, weights: Long, losses: Long) -> NDArray[np.clongdouble]:
        """Powers of one phase, afresh after every 64 frequencies."""
        values = np.zeros(len(self.frequencies), np.clongdouble)
        turn = np.exp(1j * self.frequencies[1] * losses)
        for index, frequency in enumerate(self.frequencies):
            if index % 64 == 0:
                terms = weights * np.exp(1j * frequency * losses)
            values[index] = terms.sum()
            terms = terms * turn
        return values

    def delta(self, epsilon: float) -> float:
        phases = np.exp(1j * self.frequencies * (self.iterations * self.mean - epsilon))
        value = float((self.terms @ phases).real)
        return value * math.exp(self.iterations * self.log_norm - self.order * epsilon)


@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner: tuple[float, float, int, float, Direction]) -> None:
    q, sigma, iterations, delta, direction = corner
    step = StepLoss(q, sigma, direction)
    lower, upper = direction_interval(Composed(step, iterations, delta), floor=0.0)
    assert 0 < upper - lower <= max(5e-3 * upper, 1e-4)
    reference = Inverted(q, sigma, iterations, direction)
    reference.prepare((lower + upper) / 2, delta)
    margin = upper - lower
    truth = brentq(
        lambda e: math.log(reference.delta(e) / delta), lower - margin, upper + margin, xtol=1e-15
    )
    assert lower <= truth <= upper


def rarely_one(epsilon: float, q: float, sigma: float, iterations: int) -> mpmath.mpf:
    """Delta of `remove` where two participations are out of the question, to T q of itself."""
    q, sigma = mpmath.mpf(q), mpmath.mpf(sigma)
    left = mpmath.exp(epsilon - (iterations - 1) * mpmath.log1p(-q)) - 1 + q
    x = mpmath.mpf(1) / 2 + sigma**2 * mpmath.log(left / q)
    one = q * mpmath.ncdf((1 - x) / sigma) - left * mpmath.ncdf(-x / sigma)
    return iterations * one


@pytest.mark.parametrize(
    "epsilon", [742.0, *(pytest.param(at, marks=pytest.mark.deep) for at in (600.0, 680.0))]
)
def test_losses_beyond_the_range_of_floats(epsilon: float) -> None:
    # Catches: masses and exponentials that under- and overflow (at 742 a far step's mass under Q
    # is below 1e-330, so that P(F) alone would be taken for delta), a direction without any loss
    # that large, and an upper bound that is not a number.
    run = SubsampledGaussian(
        dataset_size=10**7, expected_batch_size=1, iterations=10, noise_multiplier=0.0265
    )
    interval = delta_interval(run, epsilon=epsilon)
    with mpmath.workdps(40):
        exact = rarely_one(epsilon, run.sampling_prob, 0.0265, 10)
    assert interval.lower <= exact * (1 + 2e-6)
    assert interval.upper >= exact * (1 - 2e-6)
    assert interval.upper - interval.lower <= 0.02 * interval.upper


def test_far_steps_with_no_mass_left_are_not_far() -> None:
    # Catches: P(F) − e^ε Q(F) with Q(F) = 0 for want of exponents, a wrong lower bound on delta.
    step = StepLoss(1e-7, 0.0265, "remove")
    span = step.span(1e-14)
    panels = first_panels(step, span.low, span.high)
    split = split_by_loss(panels, 10, epsilon=742.0, negligible=1e-12)
    with mpmath.workdps(40):
        assert split.far(750.0) <= rarely_one(750.0, 1e-7, 0.0265, 10)


@pytest.mark.parametrize("mu", [1e3, 3e5, 7e6])
def test_hardly_any_noise(mu: float) -> None:
    # Catches: a constant for the round-off of a difference of two numbers near μ/2.
    run = SubsampledGaussian(
        dataset_size=10, expected_batch_size=10, iterations=1, noise_multiplier=1 / mu
    )
    for deviations in (0.3, 2.7, 9.2, 30.0):
        epsilon = mu * deviations + mu**2 / 2
        interval = delta_interval(run, epsilon=epsilon)
        with mpmath.workdps(60):
            at, exact_mu = mpmath.mpf(epsilon), 1 / mpmath.mpf(1 / mu)
            second = mpmath.exp(at) * mpmath.ncdf(-at / exact_mu - exact_mu / 2)
            exact = mpmath.ncdf(exact_mu / 2 - at / exact_mu) - second
            assert interval.lower <= exact <= interval.upper


def test_one_step_with_hardly_any_noise() -> None:
    # Catches: e^ε that overflows in the direction that does not matter.
    interval = untruncated_interval(0.5, 1e-3, 1, 1e-6)
    assert 5.04e5 < interval.lower <= interval.upper < 5.05e5


@pytest.mark.parametrize(("q", "iterations"), [(1.0, 3), (0.1, 1), (0.1, 10_000_000)])
def test_deltas_near_the_least_float_are_refused(q: float, iterations: int) -> None:
    with pytest.raises(NoCertifiedInterval, match="delta"):
        untruncated_interval(q, 1.0, iterations, 5e-324)
