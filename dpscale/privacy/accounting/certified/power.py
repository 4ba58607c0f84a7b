"""T-fold composition of transforms: (b + j)^T − b^T, with its error.

b and j are the transforms of bulk and jumps at one frequency, known to within B and J. The
polynomial D(b, j) = (b + j)^T − b^T has no negative coefficient, so that with |b| and |j| in
place of b and j it bounds itself, its partial derivatives do likewise, and they grow with |b|
and |j|. By the mean value theorem, at b* = |b| + B and j* = |j| + J,

    |error| ≤ B · T [(b* + j*)^{T−1} − b*^{T−1}] + J · T (b* + j*)^{T−1}.

Where the phases of b and j cancel, a second bound is smaller: of the two powers on their own,

    |error| ≤ (B + J) · T (|b + j| + B + J)^{T−1} + B · T (|b| + B)^{T−1}.

Round-off: a power is exp(T log ·), and the relative error of T·log is a few u of
T · (1 + |log|); the phase of T·log is at most πT in size.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expm1, log1p  # unlike NumPy's, exact for small complex numbers

from dpscale.privacy.accounting.certified.loss import UNIT_ROUNDOFF, Floats
from dpscale.privacy.accounting.certified.transform import Complex, Transform

LARGEST_LOG = 600.0
WORST = 1e300


@dataclass(frozen=True)
class Composition:
    """e^offset · [(b + j)^T − b^T] at every frequency, and bounds on the errors."""

    values: Complex
    errors: Floats


def compose(bulk: Transform, jumps: Transform, iterations: int, *, offset: float) -> Composition:
    """The scaled difference of powers; without a bulk its transform is zero."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = _difference(bulk.values, jumps.values, iterations, offset)
        errors = _propagated(bulk, jumps, iterations, offset)
        errors = errors + _round_off(bulk.values, jumps.values, iterations, offset)
    known = np.isfinite(values) & np.isfinite(errors)
    return Composition(np.where(known, values, 0.0), np.where(known, errors, WORST))


def _power(base: Floats, exponent: float, offset: float) -> Floats:
    """e^offset · base^exponent for base ≥ 0."""
    return np.exp(np.minimum(exponent * np.log(base) + offset, LARGEST_LOG))


def _magnitude(bulk: Floats, jumps: Floats, exponent: float, offset: float) -> Floats:
    """e^offset · [(b + j)^exponent − b^exponent], or a little more, for b and j ≥ 0."""
    growth = exponent * np.log1p(jumps / bulk)
    small = _power(bulk, exponent, offset) * np.expm1(np.minimum(growth, 1.0))
    return np.where(growth < 1, small, _power(bulk + jumps, exponent, offset))


def _difference(bulk: Complex, jumps: Complex, iterations: int, offset: float) -> Complex:
    growth = iterations * log1p(jumps / bulk)
    without = np.exp(iterations * np.log(bulk) + offset)
    apart = np.exp(iterations * np.log(bulk + jumps) + offset) - without
    return np.where(np.abs(growth) < 1, without * expm1(growth), apart)


def _propagated(bulk: Transform, jumps: Transform, iterations: int, offset: float) -> Floats:
    """The smaller of the two bounds."""
    b, j = np.abs(bulk.values) + bulk.errors, np.abs(jumps.values) + jumps.errors
    fewer = iterations - 1
    by_gradient = bulk.errors * _magnitude(b, j, fewer, offset)
    by_gradient = by_gradient + jumps.errors * _power(b + j, fewer, offset)
    both = bulk.errors + jumps.errors
    total = np.abs(bulk.values + jumps.values) + both
    by_powers = both * _power(total, fewer, offset) + bulk.errors * _power(b, fewer, offset)
    return iterations * np.fmin(by_gradient, by_powers)


def _round_off(bulk: Complex, jumps: Complex, iterations: int, offset: float) -> Floats:
    b, total = np.abs(bulk), np.abs(bulk + jumps)
    log_b = 8 + np.minimum(np.abs(np.log(b)), 1e3)
    log_total = 8 + np.minimum(np.abs(np.log(total)), 1e3)
    together = (log_b + log_total) * _magnitude(b, np.abs(jumps), iterations, offset)
    apart = log_total * _power(total, iterations, offset) + log_b * _power(b, iterations, offset)
    growth = np.abs(iterations * log1p(jumps / bulk))
    return 8 * UNIT_ROUNDOFF * iterations * np.where(growth < 1, together, apart)
