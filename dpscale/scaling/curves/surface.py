"""The semi-parametric law: smoothed curves, a power law beyond their end, and interpolation.

For each size and noise-batch ratio a curve of loss against iterations (`Cell`); between
cells, log L is linear in log M, log T and log noise-batch ratio (arXiv 2501.18914, section 3).
No monotonicity is imposed along M.

What the paper leaves open, and what is done here:

- *Several planned lengths* for one cell: the shortest plan gives its whole curve, each longer
  one its last part (`smoothing.LAST_PART`), and the least loss so far counts.
- *Beyond the last iteration*: L = E + (L_last - E)·(T/T_last)^-a, with a fitted on the last
  7/8 of the longest run (the paper's 16K to 128K) and E on the noise-free run of the same
  size, or its least noisy one where there is none. The power law passes through the curve's
  end, so that there is no jump.
- *Ratio 0* has no logarithm. Between it and the smallest positive ratio, log L is linear in
  the log of the noise that a step has in all, sqrt(r² + 1/(P·M)) (`forms.sampling_noise`).
- *Outside* the sizes or ratios, or before the first measurement: the outermost segment is
  continued. That is extrapolation, and whoever prints such a number has to say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.forms import Array, sampling_noise

TAIL_FROM = 1 / 8
"""The power law in T is fitted from this share of the planned iterations on (16K of 128K)."""

_TAIL_EXPONENTS = np.geomspace(0.02, 3.0, 120)


@dataclass(frozen=True)
class Cell:
    """Loss against iterations at one size and noise-batch ratio.

    Args:
      steps: Increasing.
      losses: Nats per token at `steps`, not increasing.
      tail_floor: E of the power law beyond the last step, nats per token.
      tail_exponent: a of the power law.
    """

    noise_batch_ratio: float
    steps: tuple[float, ...]
    losses: tuple[float, ...]
    tail_floor: float
    tail_exponent: float

    def log_loss(self, iterations: Array) -> Array:
        """Log loss at `iterations`, any shape."""
        log_t, nodes, logs = np.log(iterations), np.log(self.steps), np.log(self.losses)
        inside = _linear(log_t, nodes, logs)
        above = max(self.losses[-1] - self.tail_floor, 0.0)
        decay = np.exp(-self.tail_exponent * np.maximum(log_t - nodes[-1], 0.0))
        beyond = np.log(self.tail_floor + above * decay)
        return np.where(log_t > nodes[-1], beyond, inside)


@dataclass(frozen=True)
class SizeSlice:
    """The cells of one model size, by increasing noise-batch ratio."""

    num_params: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Surface:
    """The whole semi-parametric law: slices by increasing size, at one physical batch."""

    slices: tuple[SizeSlice, ...]
    physical_batch_size: int

    def log_loss(
        self, num_params: ArrayLike, iterations: ArrayLike, noise_batch_ratio: ArrayLike
    ) -> Array:
        """Log of the loss in nats per token; the arguments broadcast against each other."""
        m, t, r = np.broadcast_arrays(
            *(np.asarray(x, np.float64) for x in (num_params, iterations, noise_batch_ratio))
        )
        at_sizes = np.stack([self._at_size(piece, t, r) for piece in self.slices])
        if len(self.slices) == 1:
            return np.asarray(at_sizes[0])
        nodes = np.log([piece.num_params for piece in self.slices])
        return _linear_between(np.log(m), nodes, at_sizes)

    def squared_weights(self, num_params: ArrayLike, noise_batch_ratio: ArrayLike) -> Array:
        """Sum of the squared weights with which the cells enter an answer.

        log L is a weighted mean of cells (the weights sum to 1, and are negative on one side
        outside the grid). Where each cell's run is off by its own error of variance v, the
        answer is off by v times this.
        """
        m, r = np.broadcast_arrays(
            *(np.asarray(x, np.float64) for x in (num_params, noise_batch_ratio))
        )
        at_sizes = np.stack([self._squares_at_size(piece, r) for piece in self.slices])
        if len(self.slices) == 1:
            return np.asarray(at_sizes[0])
        index, weight = _segment(np.log(m), np.log([piece.num_params for piece in self.slices]))
        low = np.take_along_axis(at_sizes, index[None], axis=0)[0]
        high = np.take_along_axis(at_sizes, index[None] + 1, axis=0)[0]
        return np.asarray((1 - weight) ** 2 * low + weight**2 * high)

    def _squares_at_size(self, piece: SizeSlice, ratio: Array) -> Array:
        if len(piece.cells) == 1:
            return np.ones(ratio.shape)
        ratios = np.array([cell.noise_batch_ratio for cell in piece.cells])
        own = float(sampling_noise(piece.num_params, self.physical_batch_size))
        _, weight = _segment(
            _ratio_coordinate(ratio, ratios, own), _ratio_coordinate(ratios, ratios, own)
        )
        return np.asarray((1 - weight) ** 2 + weight**2)

    def _at_size(self, piece: SizeSlice, iterations: Array, ratio: Array) -> Array:
        logs = np.stack([cell.log_loss(iterations) for cell in piece.cells])
        if len(piece.cells) == 1:
            return np.asarray(logs[0])
        ratios = np.array([cell.noise_batch_ratio for cell in piece.cells])
        own = float(sampling_noise(piece.num_params, self.physical_batch_size))
        return _linear_between(
            _ratio_coordinate(ratio, ratios, own), _ratio_coordinate(ratios, ratios, own), logs
        )


def build_surface(curves: Sequence[PlanCurve], physical_batch_size: int) -> Surface:
    """The law of `curves` (from `smoothing.smooth`)."""
    sizes = sorted({curve.num_params for curve in curves})
    return Surface(
        tuple(
            SizeSlice(size, _cells([curve for curve in curves if curve.num_params == size]))
            for size in sizes
        ),
        physical_batch_size,
    )


def _cells(curves: list[PlanCurve]) -> tuple[Cell, ...]:
    """The cells of one size, their tails sharing the E of the least noisy one."""
    ratios = sorted({curve.noise_batch_ratio for curve in curves})
    plans = {
        ratio: sorted(
            (curve for curve in curves if curve.noise_batch_ratio == ratio),
            key=lambda curve: curve.iterations,
        )
        for ratio in ratios
    }
    floor, _ = fit_tail(*_tail_points(plans[ratios[0]]), floor=None)
    cells = []
    for ratio in ratios:
        steps, losses = _join(plans[ratio])
        own_floor, exponent = fit_tail(*_tail_points(plans[ratio]), floor=floor)
        cells.append(Cell(ratio, tuple(steps), tuple(losses), own_floor, exponent))
    return tuple(cells)


def _tail_points(plans: list[PlanCurve]) -> tuple[Array, Array]:
    longest = plans[-1]
    tail = longest.steps >= TAIL_FROM * longest.iterations
    return longest.steps[tail], longest.losses[tail]


def _join(plans: list[PlanCurve]) -> tuple[list[float], list[float]]:
    """Steps and losses of one cell, from its plans by increasing length."""
    steps: list[float] = []
    losses: list[float] = []
    for index, plan in enumerate(plans):
        for step, loss, last in zip(plan.steps, plan.losses, plan.last_part, strict=True):
            if (index == 0 or last) and (not steps or step > steps[-1]):
                steps.append(float(step))
                losses.append(min(float(loss), losses[-1] if losses else np.inf))
    return steps, losses


def fit_tail(steps: Array, losses: Array, *, floor: float | None) -> tuple[float, float]:
    """E and a of L = E + A/T^a by least squares, E and A at least 0.

    The exponent is searched on a grid and E, A follow in closed form. With fewer than three
    measurements there is no curvature to see: the last loss is kept (E = L, a = 1).

    Args:
      floor: E where it is known already; it is cut to the last loss.

    >>> t = np.array([50.0, 100.0, 200.0, 400.0])
    >>> e, a = fit_tail(t, 2 + 10 / t**0.5, floor=None)
    >>> round(e, 1), round(a, 1)
    (2.0, 0.5)
    """
    last = float(losses[-1])
    if steps.size < 3:
        return last, 1.0
    best = (np.inf, last, 1.0)
    for exponent in _TAIL_EXPONENTS:
        column = (steps / steps[-1]) ** -exponent
        if floor is None:
            spread = column - column.mean()
            height = max(float(spread @ losses / (spread @ spread)), 0.0)
            level = float(np.clip((losses - height * column).mean(), 0.0, last))
        else:
            level = min(floor, last)
        height = max(float(column @ (losses - level) / (column @ column)), 0.0)
        error = float(np.sum((level + height * column - losses) ** 2))
        if error < best[0]:
            best = (error, level, float(exponent))
    return best[1], best[2]


def _ratio_coordinate(ratio: Array, nodes: Array, own_noise: float) -> Array:
    """log r, continued below the smallest positive node so that r = 0 has a place.

    Below it the coordinate is the log of all the noise of a step, shifted to join log r.
    """
    join = nodes[nodes > 0][0]
    low = 0.5 * np.log((np.minimum(ratio, join) ** 2 + own_noise**2) / (join**2 + own_noise**2))
    return np.asarray(np.where(ratio < join, low, np.log(np.maximum(ratio, join) / join)))


def _segment(x: Array, nodes: Array) -> tuple[NDArray[np.intp], Array]:
    """Index of the segment that holds `x` (outermost beyond the ends), and the place in it."""
    index = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
    weight = (x - nodes[index]) / (nodes[index + 1] - nodes[index])
    return index, weight


def _linear(x: Array, nodes: Array, values: Array) -> Array:
    """Piecewise linear through (nodes, values), the outermost segments continued."""
    if nodes.size == 1:
        return np.full(x.shape, values[0])
    index, weight = _segment(x, nodes)
    return np.asarray((1 - weight) * values[index] + weight * values[index + 1])


def _linear_between(x: Array, nodes: Array, layers: Array) -> Array:
    """The same where each node has a value of its own at every point: float64[nodes, ...]."""
    index, weight = _segment(x, nodes)
    low = np.take_along_axis(layers, index[None], axis=0)[0]
    high = np.take_along_axis(layers, index[None] + 1, axis=0)[0]
    return np.asarray((1 - weight) * low + weight * high)
