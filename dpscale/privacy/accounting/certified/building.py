"""How an inversion is set up: order, smoothing, period and panels, then all of its terms.

Choices here decide how tight the bounds are and what they cost, never whether they hold.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dpscale.privacy.accounting.certified.chernoff import log_excess
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.inversion import Aliases, Inversion
from dpscale.privacy.accounting.certified.kernel import Kernel, kernel_for
from dpscale.privacy.accounting.certified.loss import UNIT_ROUNDOFF, Floats
from dpscale.privacy.accounting.certified.power import Composition, compose
from dpscale.privacy.accounting.certified.quadrature import Panels, nodes_of
from dpscale.privacy.accounting.certified.refinement import Goal, refined
from dpscale.privacy.accounting.certified.search import least_over_positive
from dpscale.privacy.accounting.certified.split import LineBound, Split
from dpscale.privacy.accounting.certified.transform import Complex, Tilt, Transform, transform

MOST_FREQUENCIES: Final = 2_000_000
MOST_CELLS: Final = 1e9
"""Nodes times frequencies, some seconds of work."""

MOST_NODES: Final = 300_000
ALIAS_ORDERS: Final = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 20.0)
"""λ'/λ of the Chernoff bounds on aliases."""

TOLERABLE: Final = 300.0
"""An inversion whose error is more than this many times `precision` (of delta) is useless."""


@dataclass(frozen=True)
class Aim:
    """Where an inversion should be tight, and how tight.

    Attributes:
      epsilon: The place.
      delta: About delta there.
      half_width: Of the smoothing, in units of loss: the interval's width, mostly.
      precision: Errors are to be about this share of delta.
    """

    epsilon: float
    delta: float
    half_width: float
    precision: float


@dataclass(frozen=True)
class Runs:
    """The runs that are inverted: T steps on panels, at least one a jump, none far."""

    panels: Panels
    split: Split
    iterations: int

    def log_moment(self, order: float) -> float:
        """log D(order), without its error."""
        bulk = self.panels.log_moment(order, self.split.bulk(self.panels))
        jumps = self.panels.log_moment(order, self.split.jumps(self.panels))
        return _log_difference(bulk, jumps, self.iterations)

    def log_moment_bound(self, order: float) -> float:
        """An upper bound on log D(order): D grows with both of its parts."""
        bulk = self.panels.log_moment_bound(order, self.split.bulk(self.panels))
        jumps = self.panels.log_moment_bound(order, self.split.jumps(self.panels))
        return _log_difference(bulk, jumps, self.iterations) + 1e-9

    def log_one_step(self, order: float) -> float:
        """The log of one step's moment over bulk and jumps."""
        return self.panels.log_moment(order, slice(0, self.split.jumps(self.panels).stop))

    def mass(self) -> float:
        """At least the probability of these runs."""
        if self.split.bulk_end is None:
            return 1.0
        return min(1.0, 1.001 * self.iterations * self.panels.step.above(self.split.bulk_end).p)


def invert(runs: Runs, order: float, aim: Aim) -> Inversion:
    """Bounds on delta that are tight near `aim`, from an integral along Re z = `order`.

    Raises:
      NoCertifiedInterval: Within the promised work the errors cannot be made small.
    """
    if not aim.half_width > 0:
        raise NoCertifiedInterval("there is no loss to smooth.")
    negligible = 10 * aim.precision * math.exp(log_share(runs, order, aim))
    kernel = kernel_for(aim.half_width, beyond=negligible)
    period = _period(runs, order, kernel, aim)
    count = math.ceil(kernel.last_frequency(order) * period / (2 * math.pi)) + 1
    if count > MOST_FREQUENCIES:
        raise NoCertifiedInterval(f"{count:.1e} frequencies would be needed.")
    frequencies: Floats = np.arange(count, dtype=np.float64) * (2 * math.pi / period)
    most_nodes = min(MOST_NODES, MOST_CELLS / len(frequencies))
    goals = _goals(runs, order, aim, frequencies)
    fine = replace(runs, panels=refined(runs.panels, runs.split, order, goals, most_nodes))
    return _assembled(fine, order, kernel, period, frequencies, aim)


def tilted_order(runs: Runs, epsilon: float) -> float:
    """λ: where D(λ) e^{−λε} / (λ(1 + λ)) is least, a saddle point of the integrand."""

    def log_integrand(order: float) -> float:
        return runs.log_moment(order) - order * epsilon - math.log(order) - math.log1p(order)

    _, spread = moments(runs.panels, 0.0, slice(0, len(runs.panels.edges) - 1))
    start = 1 / max(math.sqrt(runs.iterations) * spread, 1e-150)
    return least_over_positive(log_integrand, start).at


def tilted_spread(runs: Runs, order: float) -> float:
    """The standard deviation of the tilted sum of losses: √(log D)''(order), by differences."""
    stride = 0.02 * order
    ends = runs.log_moment(order + stride) + runs.log_moment(order - stride)
    return math.sqrt(max(ends - 2 * runs.log_moment(order), 0.0)) / stride


def moments(panels: Panels, order: float, part: slice) -> tuple[float, float]:
    """About the mean and standard deviation of the tilted loss of one step."""
    at = nodes_of(part)
    losses = panels.losses[at]
    log_weights = panels.log_weights[at] + order * losses
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = float(weights @ losses)
    return mean, math.sqrt(float(weights @ (losses - mean) ** 2))


def _tails(runs: Runs, order: float, kernel: Kernel) -> list[LineBound]:
    """Chernoff bounds on S at orders λ' above λ."""
    tails = []
    for multiple in ALIAS_ORDERS:
        higher = multiple * order
        log_smoothed = kernel.log_moment(higher) + higher * kernel.drift
        level = runs.log_moment_bound(higher) + log_smoothed + log_excess(higher)
        tails.append(LineBound(level + 1e-9, -higher))
    return tails


def _aliases(tails: list[LineBound], mass: float, order: float, period: float) -> Aliases:
    def log_geometric(rate: float) -> float:
        """Log of the sum of e^{−rate·k·W} over k ≥ 1."""
        return -rate * period - math.log(-math.expm1(-rate * period))

    right = [
        LineBound(tail.level + log_geometric(-tail.slope - order) + 1e-9, tail.slope)
        for tail in tails
    ]
    return Aliases(mass * math.exp(log_geometric(order)) * (1 + 1e-9), tuple(right))


def _period(runs: Runs, order: float, kernel: Kernel, aim: Aim) -> float:
    """W: the least, about, for which aliases are negligible."""
    tails, mass = _tails(runs, order, kernel), runs.mass()
    period = 2 / order
    for _ in range(80):
        aliases = _aliases(tails, mass, order, period)
        if aliases.at(aim.epsilon + kernel.shift) < aim.precision * aim.delta:
            return period
        period *= 1.15
    raise NoCertifiedInterval("aliasing could not be bounded.")


def log_share(runs: Runs, order: float, aim: Aim) -> float:
    """log(delta / (D(λ) e^{−λε})), at most 0: how far the Chernoff bound is from delta."""
    log_chernoff = runs.log_moment(order) - order * aim.epsilon
    return max(min(math.log(aim.delta) - log_chernoff, 0.0), -650.0)


def _goals(runs: Runs, order: float, aim: Aim, frequencies: Floats) -> list[Goal]:
    """What the quadrature should reach at a few frequencies, bulk and jumps apart.

    Beyond the core of the transform errors matter less: coefficients fall, and where |φ|^T has
    decayed it takes a large error to bring it back.
    """
    last = float(frequencies[-1])
    share = math.exp(log_share(runs, order, aim))
    strict = 0.2 * aim.precision * min(1.0, share * (1 + order)) / runs.iterations
    strict += 4 * UNIT_ROUNDOFF
    log_norm = runs.log_one_step(order)
    rarity = math.exp(min(runs.log_moment(order) - runs.iterations * log_norm, 0.0))
    _, spread = moments(runs.panels, order, slice(0, runs.split.jumps(runs.panels).stop))
    core = min(12 / max(math.sqrt(runs.iterations) * spread, 1e-150), last)
    goals = [Goal(0.0, strict, strict * rarity), Goal(core, strict, strict * rarity)]
    if last <= core * 1.01:
        return goals
    for frequency in np.geomspace(core, last, 6)[1:]:
        loose = min(strict * (1 + frequency / order), 0.5)
        jumps = loose * rarity
        decay = -runs.iterations * _log_size(runs, order, log_norm, float(frequency))
        if decay > 60 and runs.split.bulk_end is None:
            jumps = max(jumps, min(0.02, 0.3 * (decay - 30) / runs.iterations))
        goals.append(Goal(float(frequency), loose, jumps))
    return goals


def _log_size(runs: Runs, order: float, log_norm: float, frequency: float) -> float:
    """log|φ| at one frequency, without its error."""
    at = nodes_of(slice(0, runs.split.jumps(runs.panels).stop))
    losses = runs.panels.losses[at]
    weights = np.exp(runs.panels.log_weights[at] + order * losses - log_norm)
    return math.log(max(abs(complex(weights @ np.exp(1j * frequency * losses))), 1e-300))


def _assembled(
    runs: Runs, order: float, kernel: Kernel, period: float, frequencies: Floats, aim: Aim
) -> Inversion:
    log_norm, log_scale = runs.log_one_step(order), runs.log_moment(order)
    centre, _ = moments(runs.panels, order, slice(0, runs.split.jumps(runs.panels).stop))
    tilt = Tilt(order, log_norm, centre)
    offset = runs.iterations * log_norm - log_scale
    composition = _composition(runs, tilt, offset, frequencies)
    coefficients = _coefficients(order, kernel, frequencies)
    last = float(frequencies[-1])
    # |D| at the frequencies left out is at most D(λ), which is its value at the first.
    most = abs(complex(composition.values[0])) + float(composition.errors[0])
    drift = math.exp(order * kernel.drift)
    beyond = most * kernel.bound_beyond(order, last) * drift / (math.pi * last)
    error = float(np.abs(coefficients) @ composition.errors) + beyond * (1 + 1e-9)
    error += _kernel_rounding(order, kernel, frequencies, composition)
    if not math.isfinite(error) or error > TOLERABLE * aim.precision * math.exp(
        log_share(runs, order, aim)
    ):
        raise NoCertifiedInterval(f"errors of {error:.1e} remain.")
    logs = runs.iterations * (abs(log_norm) + order * abs(centre)) + abs(log_scale)
    return Inversion(
        split=runs.split,
        aliases=_aliases(_tails(runs, order, kernel), runs.mass(), order, period),
        kernel=kernel,
        outside=outside(runs.panels, runs.iterations),
        order=order,
        log_scale=log_scale,
        frequencies=frequencies,
        terms=coefficients * composition.values,
        centre=runs.iterations * centre,
        error=error,
        relative_error=UNIT_ROUNDOFF * (16 * logs + 128),
    )


def outside(panels: Panels, iterations: int) -> float:
    """A bound on the probability under P that some step leaves the span."""
    lost = panels.step.below(panels.edges[0]).p + panels.step.above(panels.edges[-1]).p
    return iterations * lost * (1 + 1e-9)


def _composition(runs: Runs, tilt: Tilt, offset: float, frequencies: Floats) -> Composition:
    bulk_part, jump_part = runs.split.bulk(runs.panels), runs.split.jumps(runs.panels)
    least = 1e-19 / runs.iterations
    jumps = transform(
        runs.panels, jump_part, tilt, frequencies, least_weight=least * math.exp(min(-offset, 0.0))
    )
    if runs.split.bulk_end is None:
        bulk = Transform(np.zeros_like(jumps.values), np.zeros_like(jumps.errors))
    else:
        bulk = transform(runs.panels, bulk_part, tilt, frequencies, least_weight=least)
    return compose(bulk, jumps, runs.iterations, offset=offset)


def _coefficients(order: float, kernel: Kernel, frequencies: Floats) -> Complex:
    """complex128[F]: the integrand but for D and e^{−zε}, times Δ/2π; both signs of t at once."""
    z = np.asarray(order + 1j * frequencies, np.complex128)
    coefficients: Complex = kernel.moment(z) * np.exp(z * kernel.drift) / (z * (1 + z))
    coefficients *= frequencies[1] / (2 * math.pi)
    coefficients[1:] *= 2
    return coefficients


def _kernel_rounding(
    order: float, kernel: Kernel, frequencies: Floats, composition: Composition
) -> float:
    """Round-off of the coefficients: of the kernel relative to its value at λ, of e^{zc} in t."""
    z = order + 1j * frequencies
    size = math.exp(kernel.log_moment(order) + order * kernel.drift)
    weights = np.abs(composition.values) / np.abs(z * (1 + z))
    roundings = 64 + 8 * kernel.shape + 4 * kernel.drift * np.abs(z)
    total = float(weights @ roundings) * frequencies[1] / math.pi
    return float(UNIT_ROUNDOFF * size * total)


def _log_difference(log_bulk: float, log_jumps: float, iterations: int) -> float:
    """log((e^bulk + e^jumps)^T − e^{T·bulk})."""
    if log_jumps == -math.inf:
        return -math.inf
    if log_bulk == -math.inf:
        return iterations * log_jumps
    growth = iterations * float(np.logaddexp(0.0, log_jumps - log_bulk))
    log_growth = growth if growth > 40 else math.log(max(math.expm1(growth), 1e-320))
    return iterations * log_bulk + log_growth
