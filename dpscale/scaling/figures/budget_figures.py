"""Figures of what a law recommends, budget by budget: by the search of `recommend` itself.

Noise is that of the surrogate throughout, as for everything that `recommend` compares; the
answers of the verb, by exact noise, differ by about as little as the surrogate does.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpscale.scaling.advice.budget import Budget, BudgetAccounting
from dpscale.scaling.advice.candidates import MOST_ITERATIONS, NO_LIMITS
from dpscale.scaling.advice.noise_field import NoiseField, tabulate_noise
from dpscale.scaling.advice.question import Question, TrustRegion, find_trusted
from dpscale.scaling.advice.saturation import Saturation, find_saturation
from dpscale.scaling.advice.search import NEAR_OPTIMAL, Field
from dpscale.scaling.advice.search import look as search
from dpscale.scaling.figures.figure_style import (
    count_axis,
    draw_line,
    extrapolated,
    legend,
    look,
    loss_label,
    panels,
    scientific_text,
)
from dpscale.scaling.forms import Array
from dpscale.scaling.law.law import ScalingLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COMPUTE_STEPS: Final = 21
"""Budgets along a curve against compute."""

DECADES_BELOW, DECADES_ABOVE = 4.0, 1.0
"""How far curves reach around the saturating compute of the middle epsilon."""

CHINCHILLA_TOKENS: Final = 20.0
"""Tokens a parameter of the best models without privacy (Hoffmann et al. 2022)."""

SLICE_DECADES: Final = (-2, -1, 0, 1, 2)
"""Computes of the slices, in decades from that of the region."""

SHOWN: Final = 1.3
"""A slice is drawn up to so many times its least loss."""

NOISE_NOTE: Final = "noise is approximate: mostly within 1 % of the exact"

REGION_LEVELS: Final = (0.0, NEAR_OPTIMAL, 0.02, 0.05)


@dataclass(frozen=True)
class OptimaByCompute:
    """The best configuration at one epsilon, against compute; float64[budgets] each."""

    epsilon: float
    train_flops: Array
    loss: Array
    num_params: Array
    expected_batch_size: Array
    iterations: Array
    is_outside: NDArray[np.bool_]
    tokens_per_param: Array
    saturation: Saturation


@dataclass(frozen=True)
class Asker:
    """A law at one epsilon, ready to be searched at any compute."""

    question: Question
    trust: TrustRegion

    @classmethod
    def of(cls, law: ScalingLaw, budget: Budget) -> "Asker":
        """Tabulates the noise of `budget` and finds where the law is trusted."""
        table = tabulate_noise(
            BudgetAccounting(budget),
            least_prob=1 / budget.dataset_size,
            most_iterations=MOST_ITERATIONS,
        )
        noise = NoiseField(table, budget.dataset_size)
        free = dataclasses.replace(budget, train_flops=math.inf)
        question = Question(law, law.form, free, NO_LIMITS, noise)
        return cls(question, find_trusted(question))

    def saturation(self) -> Saturation:
        """As `recommend` gives it."""
        return find_saturation(self.question, self.trust)

    def search(self, flops: float) -> Field:
        """What `recommend` compares at this compute."""
        asked = self.question.under(dataclasses.replace(self.question.budget, train_flops=flops))
        return search(asked, self.trust.within(asked))


@dataclass(frozen=True)
class Survey:
    """What the figures show: optima by epsilon, and the search at a few budgets of one epsilon.

    Args:
      fields: By increasing compute, at the middle epsilon.
      flops: Their compute.
    """

    law: ScalingLaw
    budget: Budget
    optima: tuple[OptimaByCompute, ...]
    fields: tuple[Field, ...]
    flops: tuple[float, ...]


def survey(law: ScalingLaw, budget: Budget, epsilons: Sequence[float]) -> Survey:
    """Searches at every epsilon over a range of compute.

    Args:
      budget: Its data and delta; its epsilon is not looked at. Its compute is that of the figure
        of one region; where infinite, a tenth of what saturates the middle epsilon.
    """
    middle = sorted(epsilons)[len(epsilons) // 2]
    askers = {
        each: Asker.of(law, dataclasses.replace(budget, epsilon=each)) for each in sorted(epsilons)
    }
    saturations = {each: asker.saturation() for each, asker in askers.items()}
    centre = saturations[middle].train_flops
    span = centre * np.logspace(-DECADES_BELOW, DECADES_ABOVE, COMPUTE_STEPS)
    chosen = centre / 10 if math.isinf(budget.train_flops) else budget.train_flops
    flops = tuple(chosen * 10.0**step for step in SLICE_DECADES)
    return Survey(
        law,
        dataclasses.replace(budget, epsilon=middle, train_flops=chosen),
        tuple(_optima(asker, span, saturations[each]) for each, asker in askers.items()),
        tuple(askers[middle].search(each) for each in flops),
        flops,
    )


def _optima(asker: Asker, span: Array, saturation: Saturation) -> OptimaByCompute:
    question = asker.question
    fields = [asker.search(float(flops)) for flops in span]
    places = [field.candidates.place(field.best) for field in fields]
    size, batch, iterations = np.array(places, float).T
    ratio = question.noise.noise_multiplier(batch, iterations) / batch
    return OptimaByCompute(
        question.budget.epsilon,
        span,
        np.array([field.least_loss for field in fields]),
        size,
        batch,
        iterations,
        question.law.valid_range.excludes(size, iterations, ratio),
        batch * iterations * question.budget.seq_len / size,
        saturation,
    )


def _panels(
    rows: int, columns: int, *, width: float, height: float, **shared: Any
) -> "tuple[Figure, NDArray[Any]]":
    """Panels above a line that says how far to believe their noise."""
    figure, grid = panels(rows, columns, width=width, height=height, **shared)
    figure.supxlabel(NOISE_NOTE, fontsize=7, color="0.35")
    return figure, grid


def iso_flop_slices(found: Survey) -> "Figure":
    """Predicted loss against model size at several computes, best batch and length at each."""
    figure, ((panel,),) = _panels(1, 1, width=6.8, height=3.9)
    for place, field in enumerate(found.fields):
        shade, marker = look(place, len(found.fields))
        best_at = (_best_at(field, size) for size in np.unique(field.candidates.num_params))
        at = [each for each in best_at if field.losses[each] <= SHOWN * field.least_loss]
        sizes, losses = field.candidates.num_params[at], field.losses[at]
        outside = _outside_field(field)[at]
        draw_line(panel, sizes, losses, outside, shade=shade)
        near = losses <= (1 + NEAR_OPTIMAL) * losses.min()
        panel.plot(sizes, np.where(near, losses, np.nan), "-", color=shade, linewidth=3.5)
        panel.plot(sizes[np.argmin(losses)], losses.min(), marker, color=shade, markersize=7)
    panel.set_xscale("log")
    count_axis(panel.xaxis)
    panel.set_xlabel("model size (parameters)")
    panel.set_ylabel(f"predicted {loss_label(found.law)}")
    where = _budget_text(found.budget)
    panel.set_title(f"At equal compute, {where} (thick: within 1 % of the least)")
    labels = [scientific_text(flops) for flops in found.flops]
    legend(figure, "FLOPs", labels, [extrapolated()])
    return figure


def _best_at(field: Field, size: float) -> int:
    mine = np.flatnonzero(field.candidates.num_params == size)
    return int(mine[np.argmin(field.losses[mine])])


def _outside_field(field: Field) -> NDArray[np.bool_]:
    listed = field.candidates
    noise = field.question.noise.noise_multiplier(listed.expected_batch_size, listed.iterations)
    ratio = noise / listed.expected_batch_size
    spans = field.question.law.valid_range
    return spans.excludes(listed.num_params, listed.iterations, ratio)


def optimum_by_compute(found: Survey) -> "Figure":
    """The best size, batch and iterations against compute, a line for each epsilon."""
    figure, (row,) = _panels(1, 3, width=3.0, height=3.4, sharex=True)
    names = (
        ("num_params", "parameters"),
        ("expected_batch_size", "expected batch size"),
        ("iterations", "iterations"),
    )
    for panel, (name, label) in zip(row, names, strict=True):
        for place, optima in enumerate(found.optima):
            _draw_optima(panel, optima, getattr(optima, name), place, len(found.optima))
        _log_compute(panel)
        panel.set_yscale("log")
        count_axis(panel.yaxis)
        panel.set_ylabel(label)
    figure.suptitle(f"The best configuration, {_data_text(found.budget)}")
    _epsilon_legend(figure, found)
    return figure


def tokens_per_param(found: Survey) -> "Figure":
    """Tokens seen for each parameter at the optimum, against compute."""
    figure, ((panel,),) = _panels(1, 1, width=6.4, height=3.7)
    for place, optima in enumerate(found.optima):
        _draw_optima(panel, optima, optima.tokens_per_param, place, len(found.optima))
    panel.axhline(CHINCHILLA_TOKENS, color="0.4", linestyle=":", linewidth=1.2)
    panel.text(
        *(found.optima[0].train_flops[0], 1.4 * CHINCHILLA_TOKENS),
        "without privacy: 20 (Chinchilla)",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    _log_compute(panel)
    panel.set_yscale("log")
    panel.set_ylabel("tokens seen for each parameter")
    panel.set_title(f"At the best configuration, {_data_text(found.budget)}")
    _epsilon_legend(figure, found)
    return figure


def saturation_by_compute(found: Survey) -> "Figure":
    """The least loss against compute, with the saturating budget of each epsilon."""
    from matplotlib.lines import Line2D

    figure, ((panel,),) = _panels(1, 1, width=6.6, height=3.8)
    for place, optima in enumerate(found.optima):
        shade, _ = look(place, len(found.optima))
        draw_line(panel, optima.train_flops, optima.loss, optima.is_outside, shade=shade)
        at = optima.saturation
        panel.plot(at.train_flops, at.predicted_loss, "*", color=shade, markersize=11)
    _log_compute(panel)
    panel.set_ylabel(f"least predicted {loss_label(found.law)}")
    panel.set_title(f"More compute stops helping, {_data_text(found.budget)}")
    star = Line2D([], [], color="0.3", marker="*", markersize=9, linestyle="")
    star.set_label("within 1 %\nof the best")
    _epsilon_legend(figure, found, star)
    return figure


def near_optimal_region(found: Survey) -> "Figure":
    """Sizes and batches by how far their loss is from the least, at one budget.

    Hatched where the law extrapolates.
    """
    from matplotlib.patches import Patch

    field = found.fields[SLICE_DECADES.index(0)]
    figure, ((panel,),) = _panels(1, 1, width=6.2, height=4.2)
    sizes, batches, excess = _plane(field, field.losses / field.least_loss - 1)
    *_, outside = _plane(field, _outside_field(field))
    shades = ("0.35", "0.6", "0.82")
    filled = panel.contourf(sizes, batches, excess.T, levels=REGION_LEVELS, colors=shades)
    panel.contourf(sizes, batches, outside.T, levels=(0.5, 1.5), colors="none", hatches=("///",))
    near_sizes = field.candidates.num_params[field.is_near_optimal]
    marks = (
        (field.best, "*", 15, "best"),
        (_best_at(field, near_sizes.min()), "o", 9, "smallest within 1 %"),
    )
    for at, marker, size, label in marks:
        place = field.candidates.place(at)[:2]
        panel.plot(*place, marker, color="white", mec="black", markersize=size, label=label)
    inside = excess <= 1.3 * REGION_LEVELS[-1]
    panel.set_xlim(sizes[inside.any(axis=1)].min(), sizes[inside.any(axis=1)].max())
    panel.set_ylim(batches[inside.any(axis=0)].min(), batches[inside.any(axis=0)].max())
    panel.set_xscale("log")
    panel.set_yscale("log")
    count_axis(panel.xaxis)
    count_axis(panel.yaxis)
    panel.set_xlabel("model size (parameters)")
    panel.set_ylabel("expected batch size")
    panel.set_title(
        f"{_budget_text(found.budget)}, {scientific_text(found.budget.train_flops)} FLOPs"
    )
    bar = figure.colorbar(filled, ax=panel, label="predicted loss above the least")
    bar.set_ticks(REGION_LEVELS, labels=[f"{level:.0%}" for level in REGION_LEVELS])
    hatched = Patch(facecolor="none", hatch="///", label="outside the law's range")
    handles, _ = panel.get_legend_handles_labels()
    panel.legend(handles=[*handles, hatched], loc="best", frameon=True)
    return figure


def _plane(field: Field, values: Array | NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Sizes, batches, and the value of each pair; NaN where it was not searched."""
    listed = field.candidates
    sizes, row = np.unique(listed.num_params, return_inverse=True)
    batches, column = np.unique(listed.expected_batch_size, return_inverse=True)
    plane = np.full((sizes.size, batches.size), np.nan)
    plane[row, column] = values
    return sizes, batches, plane


def _draw_optima(
    panel: "Axes", optima: OptimaByCompute, values: Array, place: int, count: int
) -> None:
    shade, marker = look(place, count)
    draw_line(panel, optima.train_flops, values, optima.is_outside, shade=shade)
    panel.plot(optima.train_flops[::6], values[::6], marker, color=shade, markersize=4)


def _log_compute(panel: "Axes") -> None:
    panel.set_xscale("log")
    panel.set_xlabel("compute (FLOPs)")


def _epsilon_legend(figure: "Figure", found: Survey, *more: "Line2D") -> None:
    labels = [f"{optima.epsilon:g}" for optima in found.optima]
    legend(figure, "epsilon", labels, [extrapolated(), *more])


def _data_text(budget: Budget) -> str:
    return f"{scientific_text(budget.dataset_size)} privacy units, delta {budget.delta:.3g}"


def _budget_text(budget: Budget) -> str:
    return f"epsilon {budget.epsilon:g}, {_data_text(budget)}"


BUDGET_FIGURES: Final = {
    each.__name__: each
    for each in (
        iso_flop_slices,
        optimum_by_compute,
        tokens_per_param,
        saturation_by_compute,
        near_optimal_region,
    )
}
"""The figures that a law and a budget are enough for, by name."""
