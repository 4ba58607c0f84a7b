"""The saddle-point estimate of delta for many settings at once, solved for the noise.

With K(λ) the log moment generating function of one step's loss, and

    F(λ) = T K(λ) − λ ε − log λ − log(1 + λ),    log δ(ε) ≈ min F − ½ log(2π F″) at the minimum.

Each iteration takes a Newton step towards the minimum in λ and one towards the target in σ; at
the minimum F does not depend on λ to first order, so that the two do not disturb each other.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri_exp

Floats = NDArray[np.float64]

NODES: Final = 48
"""Of the noise, equally spaced (midpoint rule, which converges fast on what is nearly Gaussian)."""

SETTLED: Final = 1e-5
MOST_ROUNDS: Final = 120


@dataclass(frozen=True)
class Nodes:
    """float64[nodes, settings] of `remove`: losses, and log weights under N(0, σ²).

    `slopes` is how fast a loss grows with log σ, in units of the noise held fixed.
    """

    losses: Floats
    log_weights: Floats
    slopes: Floats


@dataclass(frozen=True)
class Steps:
    """q and T of many settings (float64[settings]) with one target."""

    sampling_prob: Floats
    iterations: Floats
    epsilon: float
    delta: float

    def some(self, chosen: NDArray[np.bool_]) -> "Steps":
        """A part of the settings."""
        return replace(
            self, sampling_prob=self.sampling_prob[chosen], iterations=self.iterations[chosen]
        )

    @property
    def amplified_epsilon(self) -> Floats:
        """ln(1 + (e^ε − 1)/q): a participation's epsilon at which the step's is ε."""
        return np.asarray(np.log1p(math.expm1(self.epsilon) / self.sampling_prob), np.float64)

    def nodes(self, noise: Floats) -> Nodes:
        """Nodes over all but a ten-thousandth of delta, shared among the steps."""
        log_lost = math.log(1e-4 * self.delta) - np.log(self.iterations)
        absent = -ndtri_exp(np.minimum(log_lost, -1.0))
        present = -ndtri_exp(np.minimum(log_lost - np.log(self.sampling_prob), -1.0))
        end = np.maximum(absent, present + 1 / noise)
        share = ((np.arange(NODES) + 0.5) / NODES)[:, None]
        x = share * (absent + end) - absent  # in units of the noise
        exponent = x / noise - 1 / (2 * noise**2)
        losses = np.log1p(self.sampling_prob * np.expm1(np.minimum(exponent, 700.0)))
        posterior = np.exp(np.log(self.sampling_prob) + exponent - losses)
        log_weights = np.log((absent + end) / NODES / math.sqrt(2 * math.pi)) - x**2 / 2
        return Nodes(losses, log_weights, posterior * (noise**-2 - x / noise))


def saddle_noise_multiplier(steps: Steps, start: Floats) -> Floats:
    """The noise at which the saddle-point estimate of delta is the target's.

    Args:
      start: A guess for each setting.
    """
    log_noise = np.log(start)
    log_order = np.full(start.shape, math.log(2 * math.log(1 / steps.delta) / steps.epsilon))
    reach, last_move = np.ones(start.shape), np.zeros(start.shape)
    active = np.full(start.shape, True)
    for _ in range(MOST_ROUNDS):
        order_move, noise_move = _moves(
            steps.some(active), np.exp(log_noise[active]), np.exp(log_order[active])
        )
        # A step that turns back has been too long: λ swings where F bends sharply.
        turns = order_move * last_move[active] < 0
        reach[active] = np.where(turns, 0.4, 1.2) * reach[active]
        reach[active] = np.minimum(reach[active], 1.0)
        order_move = np.clip(order_move, -reach[active], reach[active])
        last_move[active] = order_move
        log_order[active] += order_move
        log_noise[active] += noise_move
        still = (np.abs(order_move) > 1e-2) | (np.abs(noise_move) > SETTLED)
        active[active] = still
        if not active.any():
            break
    return np.asarray(np.exp(log_noise), np.float64)


def _moves(steps: Steps, noise: Floats, order: Floats) -> tuple[Floats, Floats]:
    """Newton steps in log λ and log σ, none too long."""
    nodes, t = steps.nodes(noise), steps.iterations
    exponents = nodes.log_weights + (1 + order) * nodes.losses
    most = exponents.max(axis=0)
    weights = np.exp(exponents - most)
    total = weights.sum(axis=0)
    log_moment = most + np.log(total)
    weights /= total
    mean = (weights * nodes.losses).sum(axis=0)
    variance = (weights * (nodes.losses - mean) ** 2).sum(axis=0)
    slope = t * (1 + order) * (weights * nodes.slopes).sum(axis=0)
    gradient = t * mean - steps.epsilon - 1 / order - 1 / (1 + order)
    curvature = t * variance + order**-2 + (1 + order) ** -2
    least = t * log_moment - order * steps.epsilon - np.log(order) - np.log1p(order)
    least -= gradient**2 / (2 * curvature)
    log_delta = least - 0.5 * np.log(2 * math.pi * curvature)
    order_move = np.clip(-gradient / (order * curvature), -1.0, 1.0)
    noise_move = np.clip((math.log(steps.delta) - log_delta) / np.minimum(slope, -1e-3), -0.2, 0.2)
    is_near = np.abs(gradient) < 0.3 * order * curvature  # else the estimate is not worth much
    return order_move, np.where(is_near, noise_move, 0.0)
