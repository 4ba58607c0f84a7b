"""Each bound on its own: it holds, and where it is left out the result is wrong.

The settings here are coarser than those in use, so that every error is large enough to be seen.
"""

import dataclasses
import math

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from dpscale.privacy.accounting.certified.building import Aim, Runs, invert, tilted_order
from dpscale.privacy.accounting.certified.chernoff import log_excess
from dpscale.privacy.accounting.certified.inversion import Aliases
from dpscale.privacy.accounting.certified.kernel import Kernel
from dpscale.privacy.accounting.certified.loss import UNIT_ROUNDOFF, Direction, StepLoss, log_ratio
from dpscale.privacy.accounting.certified.power import compose
from dpscale.privacy.accounting.certified.quadrature import (
    ELLIPSES,
    RULE_NODES,
    RULE_WEIGHTS,
    Panels,
    first_panels,
)
from dpscale.privacy.accounting.certified.split import NOTHING, Split, split_by_loss
from dpscale.privacy.accounting.certified.transform import Tilt, Transform, transform

DIRECTIONS: tuple[Direction, ...] = ("remove", "add")


def exact_log_ratio(y: float, q: float) -> mpmath.mpf:
    return mpmath.log(1 - mpmath.mpf(q) + mpmath.mpf(q) * mpmath.exp(mpmath.mpf(y)))


@pytest.mark.parametrize("q", [1e-12, 1e-4, 0.3, 0.5, 0.7, 1 - 1e-9])
def test_log_ratio_keeps_its_digits(q: float) -> None:
    # Catches: log1p of a number near −1 (q near 1), log of a number near 1 (q small).
    y = np.array([-300.0, -20.0, -1.0, -1e-9, 1e-12, 0.5, 29.0, 31.0, 699.0, 701.0, 5e3])
    computed = log_ratio(y, q)
    with mpmath.workdps(60):
        for value, at in zip(computed, y, strict=True):
            exact = exact_log_ratio(at, q)
            assert abs(value - exact) <= 12 * UNIT_ROUNDOFF * abs(exact)


def test_the_rule_is_right() -> None:
    with mpmath.workdps(40):
        for node, weight in zip(RULE_NODES, RULE_WEIGHTS, strict=True):
            exact = mpmath.findroot(lambda x: mpmath.legendre(20, x), node)
            slope = mpmath.diff(lambda x: mpmath.legendre(20, x), exact)
            assert abs(node - exact) <= UNIT_ROUNDOFF
            exact_weight = 2 / ((1 - exact**2) * slope**2)
            assert abs(weight / exact_weight - 1) <= UNIT_ROUNDOFF


def exact_transform(
    step: StepLoss, low: float, high: float, order: float, frequency: float
) -> mpmath.mpc:
    """The integral of p e^{(order + it) loss} by mpmath's own quadrature."""
    q, sigma = mpmath.mpf(step.sampling_prob), mpmath.mpf(step.noise_multiplier)
    power = step.sign * (mpmath.mpc(order, frequency) + step.removes)

    def integrand(x: mpmath.mpf) -> mpmath.mpc:
        ratio = 1 - q + q * mpmath.exp((2 * step.sign * x - 1) / (2 * sigma**2))
        return mpmath.npdf(x / sigma) / sigma * mpmath.exp(power * mpmath.log(ratio))

    return mpmath.quad(integrand, mpmath.linspace(low, high, 9))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("q", "sigma"), [(0.1, 1.0), (1e-3, 0.5), (0.9, 2.0)])
@pytest.mark.parametrize("frequency", [0.0, 40.0, 120.0])
def test_quadrature_errors(q: float, sigma: float, direction: Direction, frequency: float) -> None:
    step = StepLoss(q, sigma, direction)
    panels = Panels(step, np.array([-0.5, 1.5, 3.0]) * sigma)
    order = 3.0
    bounds = np.exp(panels.log_errors(order, np.array([frequency]))[0])
    terms = np.exp(panels.log_weights + (order + 1j * frequency) * panels.losses)
    for panel in range(2):
        with mpmath.workdps(20):
            exact = exact_transform(
                step, panels.edges[panel], panels.edges[panel + 1], order, frequency
            )
        computed = terms[20 * panel : 20 * (panel + 1)].sum()
        mass = float(np.abs(terms[20 * panel : 20 * (panel + 1)]).sum())
        assert abs(computed - complex(exact)) <= bounds[panel] + 1e-13 * mass


def test_quadrature_errors_can_be_large() -> None:
    # So that the test above would see a bound that is far too small.
    step = StepLoss(0.1, 1.0, "remove")
    panels = Panels(step, np.array([1.5, 3.0]))
    terms = np.exp(panels.log_weights + (3 + 120j) * panels.losses)
    with mpmath.workdps(20):
        exact = complex(exact_transform(step, 1.5, 3.0, 3.0, 120.0))
    assert abs(terms.sum() - exact) > 1e-3 * np.abs(terms).sum()


def on_the_ellipse(panels: Panels, order: float, frequency: float, size: float) -> float:
    """The largest |integrand| on the first panel's ellipse of that ρ, seen at 200 points."""
    step, turn = panels.step, np.exp(1j * np.linspace(0, 2 * np.pi, 200))
    x = panels.edges[:2].mean() + panels.half_widths[0] * (size * turn + 1 / (size * turn)) / 2
    q, sigma = step.sampling_prob, step.noise_multiplier
    ratio = 1 - q + q * np.exp((2 * step.sign * x - 1) / (2 * sigma**2))
    power = step.sign * (order + 1j * frequency + step.removes)
    density = np.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    return float(np.abs(density * np.exp(power * np.log(ratio))).max())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("frequency", [0.0, 50.0])
@pytest.mark.parametrize("half_width", [1e-3, 0.2])
def test_quadrature_bound_is_the_theorems(
    direction: Direction, frequency: float, half_width: float
) -> None:
    # The errors are mostly far below the bound, which would hide a constant that is too small.
    step = StepLoss(0.1, 1.0, direction)
    panels = Panels(step, np.array([1.0 - half_width, 1.0 + half_width]))
    theorem = min(
        4 * (1 + 1 / 1599)
        * half_width
        * on_the_ellipse(panels, 3.0, frequency, size)
        * size**-40
        / (1 - size**-2)
        for size in ELLIPSES
    )  # fmt: skip
    bound = math.exp(panels.log_errors(3.0, np.array([frequency]))[0, 0])
    assert theorem <= bound
    if half_width < 0.01:
        assert bound <= 1.2 * theorem


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("coarse", [True, False])
def test_transform_errors(direction: Direction, coarse: bool) -> None:
    step = StepLoss(0.2, 0.8, direction)
    edges = np.linspace(-6, 7, 12 if coarse else 150)
    panels = Panels(step, edges)
    part = slice(0, len(edges) - 1)
    tilt = Tilt(2.0, panels.log_moment(2.0, part), 0.3)
    frequencies = np.arange(200) * 0.7
    result = transform(panels, part, tilt, frequencies, least_weight=1e-10 if coarse else 1e-25)
    for index in (0, 1, 17, 90, 199):
        t = frequencies[index]
        with mpmath.workdps(25):
            exact = exact_transform(step, edges[0], edges[-1], 2.0, t)
            exact *= mpmath.exp(mpmath.mpc(-tilt.log_norm, -t * tilt.centre))
        error = abs(result.values[index] - complex(exact))
        assert error <= result.errors[index]
    assert result.errors[-1] < (2.1 if coarse else 1e-11)


def test_kernel_is_what_it_says() -> None:
    kernel = Kernel(half_width=0.3, shape=12.0)
    with mpmath.workdps(25):
        norm = mpmath.quad(lambda u: mpmath.besseli(0, 12 * mpmath.sqrt(1 - u * u)), [-1, 0, 1])

        def moment(z: mpmath.mpc) -> mpmath.mpc:
            return mpmath.quad(
                lambda u: (
                    mpmath.besseli(0, 12 * mpmath.sqrt(1 - u * u))
                    * mpmath.exp(z * u * mpmath.mpf(0.3))
                    / norm
                ),
                mpmath.linspace(-1, 1, 9),
            )

        for z in (5.0, 5 + 20j, 5 + 60j):
            computed = complex(kernel.moment(np.array([z], np.complex128))[0])
            assert abs(computed - complex(moment(z))) < 1e-13 * float(moment(5.0))
        assert kernel.drift >= mpmath.log(moment(-1))
        assert kernel.drift <= mpmath.log(moment(-1)) + 1e-13


@pytest.mark.parametrize("shape", [12.0, 30.0])
@pytest.mark.parametrize("order", [0.5, 5.0, 20.0])
def test_kernel_beyond_the_last_frequency(shape: float, order: float) -> None:
    # Catches: a bound that is too small, and one so large that it says nothing.
    kernel = Kernel(half_width=0.3, shape=shape)
    last = kernel.last_frequency(order)
    frequencies = last * np.linspace(1, 3, 4001)
    sizes = np.abs(kernel.moment(order + 1j * frequencies))
    bound = kernel.bound_beyond(order, last)
    assert sizes.max() <= bound <= 10 * sizes.max()


def test_tiny_kernels_have_enough_drift() -> None:
    # Catches: a drift that round-off makes too small, which would lower delta.
    for half_width in (1e-9, 1e-6, 1e-3):
        exact = mpmath.log(
            mpmath.sinh(mpmath.sqrt(144 + mpmath.mpf(half_width) ** 2))
            / mpmath.sqrt(144 + mpmath.mpf(half_width) ** 2)
            * 12
            / mpmath.sinh(12)
        )
        assert Kernel(half_width, 12.0).drift >= exact


@pytest.mark.parametrize("iterations", [2, 50, 100_000])
@pytest.mark.parametrize("rare", [1e-9, 0.3])
def test_powers_and_their_errors(iterations: int, rare: float) -> None:
    generator = np.random.default_rng(3)
    count = 60
    scale = 1 / iterations
    bulk = (1 - rare) * np.exp(scale * (generator.normal(size=count) * 1j - 0.5))
    jumps = rare * np.exp(1j * math.sqrt(scale) * generator.normal(size=count))
    size = 1e-4 * scale
    bulk_errors, jump_errors = np.full(count, size), np.full(count, size * rare)
    composed = compose(
        Transform(bulk, bulk_errors), Transform(jumps, jump_errors), iterations, offset=0.1
    )
    turn = np.exp(2j * np.pi * generator.uniform(size=(2, count)))
    largest = 0.0
    with mpmath.workdps(40):
        for k in range(count):
            b = mpmath.mpc(bulk[k]) + mpmath.mpc(turn[0, k]) * size * mpmath.mpf(0.999999)
            j = mpmath.mpc(jumps[k]) + mpmath.mpc(turn[1, k]) * size * rare * mpmath.mpf(0.999999)
            exact = mpmath.exp(0.1) * ((b + j) ** iterations - b**iterations)
            error = float(abs(exact - mpmath.mpc(composed.values[k])))
            assert error <= composed.errors[k]
            largest = max(largest, error / composed.errors[k])
    assert largest > 0.01


def test_rare_jumps_keep_their_digits() -> None:
    # Catches: NumPy's complex log1p, which is no better than log(1 + z).
    none = np.zeros(1)
    bulk, jumps = np.array([0.9 + 0.1j]), np.array([1e-14 + 2e-14j])
    computed = compose(Transform(bulk, none), Transform(jumps, none), 10, offset=0.0).values[0]
    with mpmath.workdps(60):
        b, j = mpmath.mpc(bulk[0]), mpmath.mpc(jumps[0])
        exact = complex((b + j) ** 10 - b**10)
    assert abs(computed - exact) < 1e-13 * abs(exact)


def test_chernoff_factor_is_the_largest_ratio() -> None:
    for order in (0.1, 1.0, 30.0):
        excess = np.linspace(1e-4, 100 / order, 200_001)
        ratio = -np.expm1(-excess) * np.exp(-order * excess)
        assert ratio.max() <= math.exp(log_excess(order)) <= 1.001 * ratio.max()


# Two steps, both bounds against the truth, with every bound in turn left out.

Q, SIGMA = 0.1, 1.0


def nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rule, weights = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-13 * SIGMA, 1 + 13 * SIGMA, 401)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + rule)).ravel(), (half * weights).ravel()


def truth(epsilon: float) -> float:
    """Delta of two steps in the direction `remove`."""
    x, weights = nodes()
    log_w = np.log(1 - Q + Q * np.exp((2 * x - 1) / (2 * SIGMA**2)))
    density = weights * np.exp(log_w - (x / SIGMA) ** 2 / 2) / (SIGMA * math.sqrt(2 * math.pi))
    left = epsilon - log_w
    excess = np.expm1(left) + Q
    at = 0.5 + SIGMA**2 * np.log(np.maximum(excess, 1e-300) / Q)
    inner = Q * ndtr((1 - at) / SIGMA) - excess * ndtr(-at / SIGMA)
    return float(density @ np.where(excess > 0, inner, -np.expm1(left)))


def two_steps(lost: float = 1e-12) -> Panels:
    step = StepLoss(Q, SIGMA, "remove")
    span = step.span(lost)
    return first_panels(step, span.low, span.high)


PLACES = (0.5, 1.5, 2.5)


def test_both_bounds_hold_however_coarse() -> None:
    panels = two_steps()
    for epsilon in PLACES:
        delta = truth(epsilon)
        for split in (Split(), split_by_loss(panels, 2, epsilon=epsilon, negligible=0.1 * delta)):
            runs = Runs(panels, split, 2)
            for half_width, precision in ((1e-3, 1e-4), (0.3, 0.1), (0.05, 1e-2)):
                aim = Aim(epsilon, delta, half_width, precision)
                inversion = invert(runs, tilted_order(runs, epsilon), aim)
                for near in (0.8 * epsilon, epsilon, 1.1 * epsilon):
                    low, high = inversion.delta_lower(near), inversion.delta_upper(near)
                    assert low <= truth(near) * (1 + 1e-11)
                    assert high >= truth(near) * (1 - 1e-11)


def coarse_inversion(panels: Panels, split: Split, epsilon: float, half_width: float, p: float):
    runs = Runs(panels, split, 2)
    aim = Aim(epsilon, truth(epsilon), half_width, p)
    return invert(runs, tilted_order(runs, epsilon), aim)


def test_no_jump_counts() -> None:
    panels, epsilon = two_steps(), 1.5
    split = split_by_loss(panels, 2, epsilon=epsilon, negligible=0.5 * truth(epsilon))
    inversion = coarse_inversion(panels, split, epsilon, 1e-3, 1e-4)
    without = dataclasses.replace(inversion, split=dataclasses.replace(split, no_jump=NOTHING))
    assert without.delta_upper(epsilon) < truth(epsilon) <= inversion.delta_upper(epsilon)


def test_far_error_counts() -> None:
    # A loss is never below log(1 − q): only a far step barely above epsilon can be taken back.
    first, epsilon = two_steps(), 1.5
    panels = Panels(first.step, np.linspace(first.edges[0], first.edges[-1], 1500))
    split = split_by_loss(panels, 2, epsilon=epsilon, negligible=0.9 * truth(epsilon))
    split = dataclasses.replace(split, bulk_end=None, no_jump=NOTHING)
    inversion = coarse_inversion(panels, split, epsilon, 1e-3, 1e-4)
    without = dataclasses.replace(inversion, split=dataclasses.replace(split, far_error=NOTHING))
    assert without.delta_upper(epsilon) < truth(epsilon) <= inversion.delta_upper(epsilon)


def test_outside_counts() -> None:
    epsilon = 1.5
    panels = two_steps(lost=0.1 * truth(epsilon))
    inversion = coarse_inversion(panels, Split(), epsilon, 1e-3, 1e-4)
    without = dataclasses.replace(inversion, outside=0.0)
    assert without.delta_upper(epsilon) < truth(epsilon) <= inversion.delta_upper(epsilon)


def test_aliases_count() -> None:
    panels, epsilon = two_steps(), 1.5
    inversion = coarse_inversion(panels, Split(), epsilon, 1e-3, 0.3)
    without = dataclasses.replace(inversion, aliases=Aliases(0.0, (NOTHING,)))
    assert inversion.delta_lower(epsilon) <= truth(epsilon) < without.delta_lower(epsilon)


def test_smoothing_counts() -> None:
    # Without the shift the smoothed delta, which is above delta, would be taken for a lower bound;
    # without the drift it would not be above.
    panels, epsilon = two_steps(), 1.5
    inversion = coarse_inversion(panels, Split(), epsilon, 0.3, 1e-6)
    unshifted = inversion.delta_lower(epsilon - inversion.kernel.shift)
    assert inversion.delta_lower(epsilon) <= truth(epsilon) < unshifted
