"""The truth, computed in other ways, lies inside the interval.

None of the references shares a line with the package: one step in closed form in 40 digits, two
steps by an integral in 25 digits, three by nested quadrature, more by convolving grids of losses
in extended precision.
"""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from dpscale.privacy.accounting.certified.interval import EpsilonInterval, untruncated_interval

Setting = tuple[float, float, int, float]  # q, sigma, T, delta

ONE_STEP: list[Setting] = [
    (0.01, 1.0, 1, 1e-5),
    (0.5, 0.5, 1, 1e-8),
    (0.999, 20.0, 1, 1e-3),
    (1e-4, 0.3, 1, 1e-9),
    (0.3, 80.0, 1, 1e-12),
    (1.0, 2.0, 1, 1e-6),
]
TWO_STEPS = [
    (0.1, 1.0, 2, 1e-6),
    (0.02, 0.6, 2, 1e-11),
    (1e-9, 0.2, 2, 1e-12),
    (0.5, 100.0, 2, 1e-15),
    *(
        pytest.param(setting, marks=pytest.mark.deep)
        for setting in (
            (0.9, 3.0, 2, 1e-4),
            (1e-3, 0.4, 2, 1e-5),
            (0.4, 30.0, 2, 1e-10),
            (0.999999, 0.7, 2, 1e-4),
            (0.999999, 0.2, 2, 1e-3),
            (1e-9, 100.0, 2, 1e-15),
        )
    ),
]
THREE_STEPS: list[Setting] = [
    (0.2, 1.5, 3, 1e-5),
    (0.1, 0.9, 3, 1e-4),
    (0.7, 5.0, 3, 1e-8),
]
MANY_STEPS = [
    (0.05, 1.0, 10, 1e-6),
    (0.02, 0.6, 30, 1e-5),
    (0.05, 0.8, 100, 1e-6),
    (0.01, 0.7, 100, 1e-6),
    (0.1, 2.0, 1000, 1e-5),
    pytest.param((0.005, 0.5, 300, 1e-6), marks=pytest.mark.deep),
    pytest.param((0.01, 1.0, 10_000, 1e-6), marks=pytest.mark.deep),
]


def certified(setting: Setting) -> EpsilonInterval:
    q, sigma, iterations, delta = setting
    return untruncated_interval(q, sigma, iterations, delta)


def root(delta_at: Callable[[float], float], delta: float, near: EpsilonInterval) -> float:
    """Where a decreasing delta_at passes delta, sought well beyond the interval's ends."""
    low, high = 0.9 * near.lower - 1e-6, 1.1 * near.upper + 1e-6
    return float(brentq(lambda e: math.log(delta_at(e) / delta), low, high, xtol=1e-14))


def one_step_delta(epsilon: mpmath.mpf, q: float, sigma: float) -> mpmath.mpf:
    """The larger of both directions, from P(loss > ε) − e^ε Q(loss > ε)."""
    epsilon, q, sigma = mpmath.mpf(epsilon), mpmath.mpf(q), mpmath.mpf(sigma)
    ratio = (mpmath.exp(epsilon) - 1 + q) / q
    x = mpmath.mpf(1) / 2 + sigma**2 * mpmath.log(ratio)
    absent, present = mpmath.ncdf(-x / sigma), mpmath.ncdf((1 - x) / sigma)
    remove = (1 - q) * absent + q * present - mpmath.exp(epsilon) * absent
    ratio = (mpmath.exp(-epsilon) - 1 + q) / q
    if ratio <= 0:
        return remove
    x = mpmath.mpf(1) / 2 + sigma**2 * mpmath.log(ratio)
    absent, present = mpmath.ncdf(x / sigma), mpmath.ncdf((x - 1) / sigma)
    add = absent - mpmath.exp(epsilon) * ((1 - q) * absent + q * present)
    return max(remove, add)


@pytest.mark.parametrize("setting", ONE_STEP)
def test_one_step(setting: Setting) -> None:
    q, sigma, _, delta = setting
    interval = certified(setting)
    with mpmath.workdps(40):
        assert one_step_delta(interval.lower, q, sigma) >= delta
        assert one_step_delta(interval.upper, q, sigma) <= delta
    assert interval.width <= 1e-9 * interval.upper


def pair(q: float, sigma: float, direction: str) -> tuple[Callable, Callable]:
    """Density of P and the loss, as mpmath functions."""

    def normal(x: mpmath.mpf) -> mpmath.mpf:
        return mpmath.npdf(x / sigma) / sigma

    def ratio(x: mpmath.mpf) -> mpmath.mpf:
        return 1 - mpmath.mpf(q) + q * mpmath.exp((2 * x - 1) / (2 * mpmath.mpf(sigma) ** 2))

    if direction == "remove":
        return lambda x: normal(x) * ratio(x), lambda x: mpmath.log(ratio(x))
    return normal, lambda x: -mpmath.log(ratio(x))


def tail_delta(epsilon: mpmath.mpf, q: float, sigma: float, direction: str) -> mpmath.mpf:
    """One step's delta at any real ε, 1 − e^ε where the loss always exceeds ε."""
    grown = mpmath.exp(epsilon)
    if direction == "remove":
        ratio = (grown - 1 + q) / q
        if ratio <= 0:
            return 1 - grown
        x = mpmath.mpf(1) / 2 + mpmath.mpf(sigma) ** 2 * mpmath.log(ratio)
        return q * mpmath.ncdf((1 - x) / sigma) - (grown - 1 + q) * mpmath.ncdf(-x / sigma)
    ratio = (1 / grown - 1 + q) / q
    if ratio <= 0:
        return mpmath.mpf(0)
    x = mpmath.mpf(1) / 2 + mpmath.mpf(sigma) ** 2 * mpmath.log(ratio)
    absent, present = mpmath.ncdf(x / sigma), mpmath.ncdf((x - 1) / sigma)
    return (1 - grown * (1 - q)) * absent - grown * q * present


def two_step_delta(epsilon: float, q: float, sigma: float) -> mpmath.mpf:
    def of(direction: str) -> mpmath.mpf:
        density, loss = pair(q, sigma, direction)
        reach = 13 * sigma
        cuts = [-reach + k * (1 + 2 * reach) / 40 for k in range(41)]
        return mpmath.quad(
            lambda x: density(x) * tail_delta(epsilon - loss(x), q, sigma, direction), cuts
        )

    return max(of("remove"), of("add"))


@pytest.mark.parametrize("setting", TWO_STEPS)
def test_two_steps(setting: Setting) -> None:
    q, sigma, _, delta = setting
    interval = certified(setting)
    assert interval.width <= 2e-3 * interval.upper
    with mpmath.workdps(25):
        assert two_step_delta(interval.lower, q, sigma) >= delta
        assert two_step_delta(interval.upper, q, sigma) <= delta


def nodes_and_weights(sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre, 12 nodes on each of 120 panels over ±12σ around [0, 1]."""
    rule, weights = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-12 * sigma, 1 + 12 * sigma, 121)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + rule)).ravel(), (half * weights).ravel()


def three_step_delta(epsilon: float, q: float, sigma: float) -> float:
    x, weights = nodes_and_weights(sigma)
    log_ratio = np.log(1 - q + q * np.exp((2 * x - 1) / (2 * sigma**2)))
    normal = weights * np.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))

    def remove(left: NDArray[np.float64]) -> NDArray[np.float64]:
        excess = np.exp(left) - 1 + q
        at = 0.5 + sigma**2 * np.log(np.maximum(excess, 1e-300) / q)
        inner = q * ndtr((1 - at) / sigma) - excess * ndtr(-at / sigma)
        return np.where(excess > 0, inner, 1 - np.exp(left))

    def add(left: NDArray[np.float64]) -> NDArray[np.float64]:
        excess = np.exp(-left) - 1 + q
        at = 0.5 + sigma**2 * np.log(np.maximum(excess, 1e-300) / q)
        grown = np.exp(left)
        inner = (1 - grown * (1 - q)) * ndtr(at / sigma) - grown * q * ndtr((at - 1) / sigma)
        return np.where(excess > 0, inner, 0.0)

    mixture = normal * np.exp(log_ratio)
    removed = mixture @ remove(epsilon - log_ratio[:, None] - log_ratio) @ mixture
    added = normal @ add(epsilon + log_ratio[:, None] + log_ratio) @ normal
    return max(float(removed), float(added))


@pytest.mark.parametrize("setting", THREE_STEPS)
def test_three_steps(setting: Setting) -> None:
    q, sigma, _, delta = setting
    interval = certified(setting)
    truth = root(lambda e: three_step_delta(e, q, sigma), delta, interval)
    assert interval.lower <= truth <= interval.upper
    assert interval.width <= 2e-3 * truth


class Grid:
    """The sum's law on a grid of losses, by a Fourier transform in extended precision.

    The mass of each cell goes to both of its ends such that P and Q keep theirs: of second order
    in the spacing, and delta from it is an upper bound (Doroshenko et al. 2022, arXiv 2207.04380).
    """

    def __init__(self, setting: Setting, direction: str, spacing: float, span: float) -> None:
        q, sigma, self.iterations, _ = setting
        self.spacing = spacing
        sign = 1 if direction == "remove" else -1
        ends = np.array([-10 * sigma, 1 + 10 * sigma])
        losses = sign * np.log1p(q * np.expm1((2 * ends - 1) / (2 * sigma**2)))
        self.first = math.floor(losses.min() / spacing)
        grid = np.arange(self.first, math.ceil(losses.max() / spacing) + 1) * spacing
        with np.errstate(invalid="ignore", divide="ignore"):
            x = 0.5 + sigma**2 * np.log((np.expm1(sign * grid) + q) / q)
        absent, present = self.cells(np.clip(np.nan_to_num(x, nan=-1e9), *ends), sigma)
        mixture = (1 - q) * absent + q * present
        p, other = (mixture, absent) if sign > 0 else (absent, mixture)
        # a at the lower end l, b at the upper one: a + b = p and a e^-l + b e^(-l-h) = other.
        shrink = np.longdouble(-spacing)
        lower = np.exp(grid[:-1].astype(np.longdouble)) * other - np.exp(shrink) * p
        lower = np.clip(lower / -np.expm1(shrink), 0, p)
        masses = np.zeros(len(grid), np.longdouble)
        masses[:-1] += lower
        masses[1:] += p - lower
        self.size = 2 ** math.ceil(math.log2(span / spacing))
        assert self.size > len(grid)
        transformed = np.fft.rfft(masses, self.size)
        assert transformed.dtype == np.clongdouble
        self.total = np.fft.irfft(transformed**self.iterations, self.size)

    @staticmethod
    def cells(x: NDArray[np.float64], sigma: float) -> tuple[NDArray, NDArray]:
        """Masses between neighbouring x of the normal laws about 0 and about 1."""

        def between(z: NDArray[np.float64]) -> NDArray:
            tail = np.where(z[:-1] + z[1:] > 0, np.diff(ndtr(-z)), np.diff(ndtr(z)))
            return np.abs(tail).astype(np.longdouble)

        return between(x / sigma), between((x - 1) / sigma)

    def delta(self, epsilon: float) -> float:
        """Index k of `total` is the loss (T · first + k) · spacing, but for whole periods."""
        start = math.floor(epsilon / self.spacing) + 1
        above = np.arange(start, start + self.size // 2)
        values = np.take(self.total, (above - self.iterations * self.first) % self.size)
        return float(values @ -np.expm1(epsilon - above * np.longdouble(self.spacing)))


def grid_epsilon(setting: Setting, near: EpsilonInterval, spacing: float, span: float) -> float:
    grids = [Grid(setting, direction, spacing, span) for direction in ("remove", "add")]
    return root(lambda e: max(grid.delta(e) for grid in grids), setting[3], near)


@pytest.mark.parametrize("setting", MANY_STEPS)
def test_many_steps(setting: Setting) -> None:
    interval = certified(setting)
    q, sigma, iterations, _ = setting
    # Fine against the loss of a step without participation, and against the sum's.
    spacing = min(interval.upper / 4000, q / 16, 0.3 * q / math.sqrt(iterations))
    span = 4 * interval.upper + 1 / sigma**2 + 12 / sigma
    coarse, fine = (grid_epsilon(setting, interval, h, span) for h in (spacing, spacing / 2))
    assert abs(fine - coarse) < 0.05 * interval.width
    assert interval.lower <= fine + (fine - coarse) / 3 <= interval.upper
    assert interval.width <= 2e-3 * fine
