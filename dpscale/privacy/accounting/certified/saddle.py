"""A saddle-point estimate of epsilon: where to look first. Nothing rests on it."""

import math

from scipy.optimize import brentq

from dpscale.privacy.accounting.certified.building import moments
from dpscale.privacy.accounting.certified.quadrature import Panels


def saddle_point_epsilon(panels: Panels, iterations: int, delta: float) -> float:
    """About epsilon at delta; 0 or less where it is small.

    To each order λ belongs the epsilon at which the integrand of the inversion has its saddle
    point there, and delta to second order around it; delta falls as λ grows.
    """
    everything = slice(0, len(panels.edges) - 1)
    _, one_spread = moments(panels, 0.0, everything)
    start = -math.log(max(math.sqrt(iterations) * one_spread, 1e-150))

    def epsilon_and_log_delta(log_order: float) -> tuple[float, float]:
        order = math.exp(log_order)
        mean, spread = moments(panels, order, everything)
        epsilon = iterations * mean - 1 / order - 1 / (1 + order)
        curvature = iterations * spread**2 + order**-2 + (1 + order) ** -2
        log_moment = iterations * panels.log_moment(order, everything) - order * epsilon
        log_delta = log_moment - log_order - math.log1p(order)
        return epsilon, log_delta - 0.5 * math.log(2 * math.pi * curvature)

    def excess(log_order: float) -> float:
        return epsilon_and_log_delta(log_order)[1] - math.log(delta)

    low = high = start
    while excess(high) > 0 and high < start + 80:
        high += 1
    while excess(low) < 0 and low > start - 12:
        low -= 1
    if excess(low) < 0:
        return epsilon_and_log_delta(low)[0]
    root = brentq(excess, low, high, xtol=1e-5) if excess(high) < 0 else high
    return epsilon_and_log_delta(root)[0]
