"""Figures of a law beside the runs it was fitted to, and beside those it was not shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.figures.figure_style import (
    few_ticks,
    legend,
    look,
    loss_label,
    number_text,
    panels,
    ratio_text,
)
from dpscale.scaling.forms import Array
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.scores import FORM_NAMES, FormScore, HeldOut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWN_FROM: Final = 0.4
"""Curves are drawn from this share of the planned iterations on."""

_MARGIN: Final = 1.15
"""Held-out panels reach this far beyond the measured losses; predictions further off are drawn at
the edge."""


def loss_by_iterations(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """A panel for each noise-batch ratio: smoothed losses, and the law over them."""
    ratios = sorted({curve.noise_batch_ratio for curve in curves})
    sizes = sorted({curve.num_params for curve in curves})
    columns = min(len(ratios), 4)
    rows = -(-len(ratios) // columns)
    figure, grid = panels(rows, columns, width=2.8, height=3.4, sharex=True)
    for panel, ratio in zip(grid.flat, ratios, strict=False):
        for curve in (each for each in curves if each.noise_batch_ratio == ratio):
            _draw_curve(panel, law, curve, sizes)
        panel.set_xscale("log")
        few_ticks(panel, sorted({curve.iterations for curve in curves}))
        panel.set_title(f"noise-batch ratio {ratio_text(ratio)}")
        panel.set_xlabel("iterations")
    for panel in grid.flat[len(ratios) :]:
        panel.set_visible(False)
    for row in grid:
        row[0].set_ylabel(loss_label(law))
    _size_legend(figure, sizes)
    figure.suptitle(f"Smoothed runs (points; filled: last part) and the {law.form} law (lines)")
    return figure


def _draw_curve(panel: "Axes", law: ScalingLaw, curve: PlanCurve, sizes: list[int]) -> None:
    shade, marker = _size_look(curve.num_params, sizes)
    last = curve.last_part
    early = ~last & (curve.steps >= _DRAWN_FROM * curve.iterations)
    panel.plot(
        curve.steps[early],
        curve.losses[early],
        marker,
        markerfacecolor="none",
        color=shade,
        markersize=3,
        markeredgewidth=0.5,
    )
    panel.plot(curve.steps[last], curve.losses[last], marker, color=shade, markersize=3.5)
    span = np.geomspace(max(curve.steps[0], _DRAWN_FROM * curve.iterations), curve.steps[-1], 50)
    fitted = law.predict(curve.num_params, span, curve.noise_batch_ratio)
    panel.plot(span, fitted, "-", color=shade, linewidth=1)


def loss_by_noise(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """Final loss of the longest runs against noise-batch ratio, a line for each size.

    The axis is an inverse hyperbolic sine: logarithmic, but for its left end, which reaches 0.
    """
    longest = max(curve.iterations for curve in curves)
    ends = [curve for curve in curves if curve.iterations == longest]
    sizes = sorted({curve.num_params for curve in ends})
    ratios = sorted({curve.noise_batch_ratio for curve in ends})
    figure, ((panel,),) = panels(1, 1, width=6.6, height=3.9)
    span = _draw_noise_axis(panel, ratios)
    for size in sizes:
        shade, marker = _size_look(size, sizes)
        mine = [curve for curve in ends if curve.num_params == size]
        at = [curve.noise_batch_ratio for curve in mine]
        panel.plot(at, [curve.final_loss for curve in mine], marker, color=shade, markersize=5)
        panel.plot(span, law.predict(size, longest, span), "-", color=shade, linewidth=1)
    panel.set_ylabel(loss_label(law))
    panel.set_title(f"Runs of {longest:,} iterations (points) and the {law.form} law (lines)")
    _size_legend(figure, sizes)
    return figure


def _draw_noise_axis(panel: "Axes", ratios: Sequence[float]) -> Array:
    """Scales and labels the x axis; returns where lines are drawn, among them every ratio.

    It is linear well below the least noise only, and smooth everywhere: a corner in a line is
    the law's.
    """
    from matplotlib.ticker import NullLocator

    positive = [ratio for ratio in ratios if ratio > 0]
    unit = positive[0] / 4 if positive else 1.0
    panel.set_xscale("asinh", linear_width=unit)
    panel.set_xticks(ratios, ["none" if ratio == 0 else ratio_text(ratio) for ratio in ratios])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("noise-batch ratio (noise std on the mean gradient, clip norms)")
    low, high = (float(np.arcsinh(ratio / unit)) for ratio in (ratios[0], ratios[-1]))
    between = unit * np.sinh(np.linspace(low, high, 200)[1:-1])
    return np.unique(np.concatenate([ratios, between]))


def held_out(law: ScalingLaw) -> "Figure":
    """Predicted against measured loss: a row for each way of holding out, a column for each form.

    Predictions that miss by more than the panel shows are drawn at its edge as triangles.
    """
    scored = {score.form for each in law.held_out for score in each.scores}
    forms = [name for name in FORM_NAMES if name in scored]
    figure, grid = panels(
        *(len(law.held_out), len(forms)), width=2.0, height=2.2, sharex="row", sharey="row"
    )
    for row, each in zip(grid, law.held_out, strict=True):
        scores = {score.form: score for score in each.scores}
        for panel, name in zip(row, forms, strict=True):
            if name in scores:
                _draw_held_out(panel, scores[name], _ends(each))
            else:
                panel.set_title(f"{name}\nnot applicable")
                panel.set_axis_off()
        row[0].set_axis_on()
        row[0].set_ylabel(f"{each.name}\npredicted")
    for panel in grid[-1]:
        panel.set_xlabel("measured")
    loss = loss_label(law)
    figure.suptitle(f"Held out: predicted over measured {loss}; band: within 5 %")
    return figure


def _ends(each: HeldOut) -> Array:
    """The least and the largest loss that a row of panels shows."""
    measured = [point.measured_loss for score in each.scores for point in score.points]
    return np.array([min(measured) / _MARGIN, max(measured) * _MARGIN])


def _draw_held_out(panel: "Axes", score: FormScore, ends: Array) -> None:
    measured = np.array([point.measured_loss for point in score.points])
    predicted = np.array([point.predicted_loss for point in score.points])
    panel.fill_between(ends, 0.95 * ends, 1.05 * ends, color="0.9")
    panel.plot(ends, ends, "-", color="0.6", linewidth=0.8)
    above, below = predicted > ends[1], predicted < ends[0]
    for chosen, marker in ((above, "^"), (below, "v"), (~above & ~below, "o")):
        shown = np.clip(predicted[chosen], 1.01 * ends[0], ends[1] / 1.01)
        panel.plot(measured[chosen], shown, marker, color="0.1", markersize=4)
    panel.set_title(f"{score.form}\nmean error {score.mean_abs_error:.1%}")
    panel.set_xlim(*ends)
    panel.set_ylim(*ends)
    panel.locator_params(nbins=4)


def residuals(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """Residuals at the ends of the runs, against size, iterations and noise, for each form.

    Not for the semi-parametric form, which goes through them.
    """
    names = [name for name in law.forms if name != "semi-parametric"]
    figure, grid = panels(len(names), 3, width=2.9, height=1.8, sharex="col", sharey=True)
    size = np.array([curve.num_params for curve in curves], float)
    length = np.array([curve.final_step for curve in curves])
    ratio = np.array([curve.noise_batch_ratio for curve in curves])
    measured = np.array([curve.final_loss for curve in curves])
    edge = ratio[ratio > 0].min() / 4 if ratio.any() else 1.0
    sizes = sorted({curve.num_params for curve in curves})
    for row, name in zip(grid, names, strict=True):
        errors = 100 * (law.predict(size, length, ratio, form=name) / measured - 1)
        for panel, values in zip(row, (size, length, np.maximum(ratio, edge)), strict=True):
            panel.axhline(0, color="0.6", linewidth=0.8)
            for x, y, params in zip(values, errors, size, strict=True):
                shade, marker = _size_look(int(params), sizes)
                panel.plot(x, y, marker, color=shade, markersize=4)
            panel.set_xscale("log")
            few_ticks(panel, sorted(set(values.tolist())))
        row[0].set_ylabel(f"{name}\nerror, %")
    if ratio.min() == 0:
        texts = [number_text(tick) for tick in grid[0, 2].get_xticks()]
        grid[-1, 2].set_xticks(grid[0, 2].get_xticks(), ["none", *texts[1:]])
    labels = ("model size (parameters)", "iterations", "noise-batch ratio")
    for panel, label in zip(grid[-1], labels, strict=True):
        panel.set_xlabel(label)
    _size_legend(figure, sizes)
    figure.suptitle("Predicted over measured loss at the ends of the runs (fitted to all of them)")
    return figure


def _size_look(size: int, sizes: list[int]) -> tuple[str, str]:
    return look(sizes.index(size), len(sizes))


def _size_legend(figure: "Figure", sizes: list[int]) -> None:
    legend(figure, "parameters", [f"{size:,}" for size in sizes])
