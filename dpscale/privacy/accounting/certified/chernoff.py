"""Chernoff bounds on delta: how large E (1 − e^{ε−L})₊ can be, given a moment of L.

For λ > 0 and every real l, (1 − e^{ε−l})₊ ≤ e^{λ(l−ε)} · λ^λ / (1+λ)^{1+λ}: with v = e^{ε−l} the
ratio v^λ − v^{1+λ} is largest at v = λ/(1+λ). So delta(ε) ≤ E e^{λL} · e^{−λε} · λ^λ/(1+λ)^{1+λ},
over any event on which the expectation is taken.
"""

import math


def log_excess(order: float) -> float:
    """log(λ^λ / (1+λ)^{1+λ}), at most 0."""
    return order * (math.log(order) - math.log1p(order)) - math.log1p(order)
