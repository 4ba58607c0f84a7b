"""Characteristic functions of parts of the tilted step, at many equally spaced frequencies.

    φ(t) = Σ_k weight_k e^{it (loss_k − centre)},    t = 0, Δ, 2Δ, ..., NΔ,

where weight_k is the quadrature's, tilted by e^{λ·loss} and divided by a constant that makes the
sum over all parts about 1. Frequencies are written as (b·r + j)Δ, so that the sum is a product of
two matrices of exponentials.

What is added up as its error: the quadrature's bound (which grows with t), nodes that are left
out because their weights are tiny, and round-off: of each weight (`Panels.rounding`), of each
phase (t times that of the loss), of the exponentials and of the sum. Nodes are summed in blocks,
so that the sum's share is below 2·(block + number of blocks)·u for any order of summation.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpscale.privacy.accounting.certified.loss import UNIT_ROUNDOFF, Floats
from dpscale.privacy.accounting.certified.quadrature import (
    LOG_LARGEST,
    RULE_SIZE,
    Panels,
    nodes_of,
)

Complex = NDArray[np.complex128]

BLOCK: Final = 512
"""Nodes that are summed in one matrix product."""

CELLS: Final = 2_000_000
"""Complex numbers in one intermediate matrix: 32 MB."""

ERROR_TABLE: Final = 24
"""Frequencies at which the quadrature's bound is worked out; others take the next higher one's."""


@dataclass(frozen=True)
class Tilt:
    """The tilted step, normalised: weights e^{order·loss − log_norm} and a centre of the losses."""

    order: float
    log_norm: float
    centre: float


@dataclass(frozen=True)
class Transform:
    """φ at the frequencies, and bounds on the absolute errors of the computed values."""

    values: Complex
    errors: Floats


def transform(
    panels: Panels, part: slice, tilt: Tilt, frequencies: Floats, *, least_weight: float
) -> Transform:
    """φ of some panels at 0, Δ, 2Δ, ...; weights below `least_weight` count as errors only."""
    at = nodes_of(part)
    losses = panels.losses[at]
    weights = np.exp(panels.log_weights[at] + tilt.order * losses - tilt.log_norm)
    keep = weights > least_weight
    values = _sums(losses[keep] - tilt.centre, weights[keep], frequencies)
    table = np.concatenate(
        [[0.0], np.geomspace(frequencies[-1] / 1e4, frequencies[-1], ERROR_TABLE)]
    )
    table[-1] = frequencies[-1]
    quadrature = panel_errors(panels, part, tilt, table).sum(axis=1)
    quadrature = np.maximum.accumulate(quadrature)[np.searchsorted(table, frequencies)]
    dropped = 2 * float(weights[~keep].sum())
    return Transform(
        values, quadrature + dropped + _round_off(panels, at, weights, tilt, frequencies)
    )


def panel_errors(panels: Panels, part: slice, tilt: Tilt, frequencies: Floats) -> Floats:
    """float64[F, panels]: bounds on each panel's quadrature error in φ.

    Never more than what a panel can do at all: the tilted mass by the rule, twice, and the error
    of that mass.
    """
    at = nodes_of(part)
    log_mass = panels.log_weights[at] + tilt.order * panels.losses[at] - tilt.log_norm
    mass = np.exp(log_mass).reshape(-1, RULE_SIZE).sum(axis=1)
    zero_and_all = np.concatenate([[0.0], frequencies])
    log_errors = panels.log_errors(tilt.order, zero_and_all)[:, part] - tilt.log_norm
    errors = np.exp(np.minimum(log_errors, LOG_LARGEST))
    return np.asarray(np.minimum(errors[1:], 2.001 * mass + errors[0]), np.float64)


def _round_off(
    panels: Panels, at: slice, weights: Floats, tilt: Tilt, frequencies: Floats
) -> Floats:
    """float64[F]: round-off of the computed sums, to first order in u."""
    blocks = math.ceil(len(weights) / BLOCK)
    of_sum = 2 * (min(len(weights), BLOCK) + blocks) + 2 * abs(tilt.log_norm) + 32
    constant = weights @ (panels.rounding(tilt.order)[at] + of_sum)
    distances = np.abs(panels.losses[at] - tilt.centre)
    growing = weights @ (16 * panels.loss_scales[at] + 8 * distances)
    return UNIT_ROUNDOFF * (float(constant) + float(growing) * frequencies)


def _sums(losses: Floats, weights: Floats, frequencies: Floats) -> Complex:
    """complex128[F]: Σ_k weights_k e^{it losses_k}."""
    count = len(frequencies)
    spacing = float(frequencies[1])
    fast = max(4, min(256, math.ceil(math.sqrt(count))))
    rows = math.ceil(count / fast)
    values = np.zeros((rows, fast), np.complex128)
    stride = max(1, CELLS // BLOCK)
    for start in range(0, len(losses), BLOCK):
        some = slice(start, start + BLOCK)
        within = np.exp(1j * spacing * np.outer(losses[some], np.arange(fast)))
        for row in range(0, rows, stride):
            numbers = fast * np.arange(row, min(rows, row + stride))
            across = np.exp(1j * spacing * np.outer(numbers, losses[some])) * weights[some]
            values[row : row + stride] += across @ within
    return values.ravel()[:count]
