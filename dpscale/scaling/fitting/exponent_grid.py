"""Thousands of combinations of exponents, tried at the price of one matrix product.

For given exponents a form without a ceiling is linear in its constants, and the best of these
solve a non-negative least-squares problem that only needs the inner products of the terms'
columns. A column knows the exponents of its own term alone: a hundred columns serve every
combination, and one Gram matrix holds all their inner products. Residuals are relative there, and
Huber's loss is met by weights from the best combination of a first round; the cheapest are then
ranked by the objective itself.

A form with a ceiling is linear in the constants of x once E and U are given, with
x = 1/√(1/(L-E)² - 1/U²) as the target: a few pairs (E, U), a Gram matrix each.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpscale.scaling.fitting.centred import CentredProblem
from dpscale.scaling.forms import Array

NUM_STARTS = 8
"""Distinct combinations that are searched further."""

_ROUNDS = 2
"""The second with the robust weights that the first one's best combination suggests."""

_RANKED = 256
"""So many of the cheapest combinations are compared by the objective itself."""

_NEARLY_THERE = 0.9
"""A loss this far up or further, between E and E + U, asks only for a large x."""

_FLOOR_SHARES = (0.1, 0.5, 0.85)
_CEILING_PLACES = (0.15, 0.5, 1.0)
"""Where E is tried between 0 and the least loss, and log U between its bounds."""


@dataclass(frozen=True)
class _Linear:
    """A weighted linear problem, and what of `theta` it takes as given.

    Args:
      given: Logs of E and U of a form with a ceiling, or none.
      place: Where on their grid those are.
      target: float64[points], what the columns are to add up to.
      weights: float64[points].
    """

    given: tuple[float, ...]
    place: tuple[int, ...]
    target: Array
    weights: Array


@dataclass(frozen=True)
class _Trials:
    """Combinations with their best constants; the first axis of every array is the trial.

    Args:
      thetas: float64[trials, coefficients].
      places: float64[trials, searched], where on the grid; NaN for an exponent whose term
        vanished, as it does not matter there.
      costs: float64[trials], the objective.
    """

    thetas: Array
    places: Array
    costs: Array


def starts_on_grid(problem: CentredProblem) -> list[Array]:
    """The best `NUM_STARTS` combinations that are not neighbours on the grid, the best first."""
    columns = _Columns(problem)
    pull = problem.weights
    for _ in range(_ROUNDS):
        trials = _join([columns.trials(each) for each in _linear(problem, pull)])
        best = problem.inside(trials.thetas[int(np.argmin(trials.costs))])
        pull = problem.pull(problem.residuals(best))
    return [problem.inside(theta) for theta in _distinct(trials)]


def _linear(problem: CentredProblem, pull: Array) -> Iterator[_Linear]:
    """The linear problems whose constants the grid asks for."""
    losses = np.exp(problem.log_losses)
    if not problem.form.has_ceiling:
        yield _Linear((), (), losses, pull / losses**2)
        return
    least = float(np.quantile(losses, 0.05))
    low, high = problem.low[problem.num_terms], problem.high[problem.num_terms]
    for place in itertools.product(range(len(_FLOOR_SHARES)), range(len(_CEILING_PLACES))):
        floor = _FLOOR_SHARES[place[0]] * least
        ceiling = float(np.exp(low + _CEILING_PLACES[place[1]] * (high - low)))
        above = np.clip(losses - floor, 1e-3 * losses, _NEARLY_THERE * ceiling)
        target = 1.0 / np.sqrt(above**-2.0 - ceiling**-2.0)
        slope = (above / target) ** 3 / losses  # of log L by x
        given = (float(np.log(floor)), float(np.log(ceiling)))
        yield _Linear(given, place, target, pull * slope**2)


class _Columns:
    """The columns of every term over the grid of its own exponents."""

    def __init__(self, problem: CentredProblem) -> None:
        self._problem = problem
        self._terms = range(int(problem.form.has_ceiling), problem.num_terms)
        self._exponents: list[Array] = []  # [term] -> [combinations, exponents of the term]
        self._places: list[NDArray[np.int_]] = []
        columns = []
        for k in self._terms:
            mine = np.flatnonzero([name in self._names(k) for name in self._all_names])
            grids = [_values(problem.low[i], problem.high[i]) for i in mine]
            exponents = np.array(list(itertools.product(*grids)))
            places = np.array(list(itertools.product(*(range(grid.size) for grid in grids))))
            self._exponents.append(exponents)
            self._places.append(places)
            columns.append(np.exp(exponents @ problem.design[k][:, mine].T))
        self._stack = np.concatenate(columns)  # [columns, points]
        self._choice = self._all_choices([len(each) for each in columns])

    @property
    def _all_names(self) -> tuple[str, ...]:
        return self._problem.form.coefficient_names

    def _names(self, term: int) -> tuple[str, ...]:
        return tuple(power[0] for power in self._problem.form.terms[term].powers)

    @staticmethod
    def _all_choices(sizes: list[int]) -> NDArray[np.int_]:
        """int[trials, terms]: one combination of each term, in every way."""
        return np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(
            -1, len(sizes)
        )

    def trials(self, linear: _Linear) -> _Trials:
        """The cheapest combinations, with the best constants for `linear`."""
        weighted = self._stack * np.sqrt(linear.weights)
        gram, moments = weighted @ weighted.T, weighted @ (linear.target * np.sqrt(linear.weights))
        offsets = np.cumsum([0, *(len(each) for each in self._exponents)])[:-1]
        rows = self._choice + offsets
        constants, explained = non_negative(gram[rows[:, :, None], rows[:, None, :]], moments[rows])
        cheapest = np.argsort(-explained)[:_RANKED]
        return self._ranked(linear, rows[cheapest], self._choice[cheapest], constants[cheapest])

    def _ranked(
        self, linear: _Linear, rows: NDArray[np.int_], choice: NDArray[np.int_], constants: Array
    ) -> _Trials:
        """The objective of the given combinations; int[trials, terms] and float64 alike."""
        losses = sum(constants[:, [k]] * self._stack[row] for k, row in enumerate(rows.T))
        if linear.given:
            floor, ceiling = np.exp(linear.given)
            losses = floor + losses / np.hypot(1.0, losses / ceiling)
        exponents = [e[c] for e, c in zip(self._exponents, choice.T, strict=True)]
        places = [
            np.where(constants[:, [k]] > 0, p[c].astype(float), np.nan)
            for k, (p, c) in enumerate(zip(self._places, choice.T, strict=True))
        ]
        size = len(rows)
        given = np.broadcast_to(linear.given, (size, len(linear.given)))
        with np.errstate(divide="ignore"):  # a constant of 0 is moved to its bound later
            logs, log_losses = np.log(constants), np.log(losses)
        return _Trials(
            thetas=np.hstack([given[:, :1], logs, given[:, 1:], *exponents]),
            places=np.hstack([*places, np.full((size, len(linear.place)), linear.place)]),
            costs=self._problem.objectives(log_losses - self._problem.log_losses),
        )


def _values(low: float, high: float) -> Array:
    """Eight exponents between bounds, evenly in the log; nine, evenly, where any sign may be."""
    if low < 0:
        return np.linspace(0.5 * low, 0.5 * high, 9)
    return np.geomspace(4.0 * low, 0.8 * high, 8)


def non_negative(gram: Array, moments: Array) -> tuple[Array, Array]:
    """Non-negative least squares, exactly, for many small problems at once.

    Every subset of the columns is solved for; the best solution without a negative constant
    is the optimum. Columns outside a subset are replaced by those of the unit matrix.

    Args:
      gram: float64[problems, k, k].
      moments: float64[problems, k], the columns' products with the target.

    Returns:
      The constants, float64[problems, k], and the part of the target's squares that they
      explain, float64[problems].
    """
    size = moments.shape[1]
    ridge = 1e-12 * np.einsum("gkk->gk", gram)[:, :, None] * np.eye(size)
    constants, explained = np.zeros(moments.shape), np.zeros(len(moments))
    for chosen in itertools.product((False, True), repeat=size):
        inside = np.array(chosen)
        matrix = np.where(inside[:, None] & inside, gram + ridge, np.eye(size))
        wanted = np.where(inside, moments, 0.0)
        found = np.linalg.solve(matrix, wanted[:, :, None])[:, :, 0]
        better = (found >= 0).all(axis=1) & (np.sum(found * wanted, axis=1) > explained)
        constants[better] = found[better]
        explained[better] = np.sum(found * wanted, axis=1)[better]
    return constants, explained


def _join(parts: list[_Trials]) -> _Trials:
    return _Trials(
        np.concatenate([part.thetas for part in parts]),
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.costs for part in parts]),
    )


def _distinct(trials: _Trials) -> list[Array]:
    """The cheapest trials of which no two are neighbours in every coordinate that matters."""
    left = np.argsort(trials.costs)
    chosen: list[Array] = []
    while left.size and len(chosen) < NUM_STARTS:
        chosen.append(trials.thetas[left[0]])
        apart = np.abs(trials.places[left] - trials.places[left[0]])
        left = left[(np.nan_to_num(apart) > 1.0).any(axis=1)]
    return chosen
