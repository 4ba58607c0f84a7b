"""Figures of a law beside the runs it was fitted to, readable in grey.

Sizes are told apart by shades and markers, never by hue alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpscale.scaling.law import ScalingLaw
from dpscale.scaling.smoothing import PlanCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWN_FROM = 0.4
"""Curves are drawn from this share of the planned iterations on."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "font.size": 9,
    "legend.frameon": False,
    "figure.dpi": 130,
}


def draw_figures(law: ScalingLaw, curves: Sequence[PlanCurve], directory: str | Path) -> list[Path]:
    """Writes every figure of a fit into `directory` as PNG; returns their paths.

    Args:
      curves: The smoothed runs that the law was fitted to (`smoothing.smooth`).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "loss_by_iterations": _loss_by_iterations,
        "loss_by_noise": _loss_by_noise,
        "held_out": _held_out,
        "residuals": _residuals,
    }
    paths = []
    with matplotlib.rc_context(_STYLE):
        for name, draw in drawings.items():
            figure = draw(law, curves)
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], bbox_inches="tight")
            pyplot.close(figure)
    return paths


def _loss_by_iterations(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """A panel for each noise-batch ratio: smoothed losses, and the law over them."""
    from matplotlib import pyplot

    ratios = sorted({curve.noise_batch_ratio for curve in curves})
    sizes = sorted({curve.num_params for curve in curves})
    columns = min(len(ratios), 4)
    rows = -(-len(ratios) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(2.7 * columns + 0.6, 3.6 * rows), squeeze=False, sharex=True
    )
    panels = grid.ravel()
    for panel, ratio in zip(panels, ratios, strict=False):
        for curve in (each for each in curves if each.noise_batch_ratio == ratio):
            _draw_curve(panel, law, curve, sizes)
        panel.set_xscale("log")
        _few_ticks(panel, sorted({curve.iterations for curve in curves}))
        panel.set_title(f"noise-batch ratio {_ratio_text(ratio)}")
        panel.set_xlabel("iterations")
    for panel in panels[len(ratios) :]:
        panel.set_visible(False)
    for row in grid:
        row[0].set_ylabel(f"{_loss_label(law)}")
    _size_legend(figure, sizes)
    figure.suptitle(f"Smoothed runs (points; filled: last part) and the {law.form} law (lines)")
    figure.tight_layout()
    return figure


def _draw_curve(panel: "Axes", law: ScalingLaw, curve: PlanCurve, sizes: list[int]) -> None:
    shade, marker = _look(curve.num_params, sizes)
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


def _loss_by_noise(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """Final loss against noise-batch ratio, a line for each size; ratio 0 at the left edge."""
    from matplotlib import pyplot

    longest = max(curve.iterations for curve in curves)
    ends = [curve for curve in curves if curve.iterations == longest]
    sizes = sorted({curve.num_params for curve in ends})
    positive = [curve.noise_batch_ratio for curve in ends if curve.noise_batch_ratio > 0]
    edge = min(positive) / 8
    figure, panel = pyplot.subplots(figsize=(5.6, 3.9))
    span = np.geomspace(edge, max(positive), 200)
    for size in sizes:
        shade, marker = _look(size, sizes)
        mine = [curve for curve in ends if curve.num_params == size]
        at = [curve.noise_batch_ratio or edge for curve in mine]
        panel.plot(at, [curve.final_loss for curve in mine], marker, color=shade, markersize=5)
        asked = np.where(span <= edge, 0.0, span)
        panel.plot(span, law.predict(size, longest, asked), "-", color=shade, linewidth=1)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("noise-batch ratio (noise std on the mean gradient, clip norms)")
    panel.set_ylabel(_loss_label(law))
    panel.set_title(f"Runs of {longest:,} iterations (points) and the {law.form} law (lines)")
    if any(curve.noise_batch_ratio == 0 for curve in ends):
        ticks = [edge, *sorted(set(positive))]
        panel.set_xticks(ticks, ["none", *(_ratio_text(tick) for tick in ticks[1:])])
    _size_legend(figure, sizes)
    figure.tight_layout()
    return figure


def _held_out(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """Predicted against measured loss of the held-out runs, a panel for each form."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(law.forms), figsize=(2.5 * len(law.forms), 2.9), sharex=True, sharey=True
    )
    every = [
        loss
        for score in law.held_out[0].scores
        for point in score.points
        for loss in (point.measured_loss, point.predicted_loss)
    ]
    ends = np.array([min(every) * 0.97, max(every) * 1.03])
    for panel, name in zip(panels, law.forms, strict=True):
        score = law.score(name)
        panel.fill_between(ends, 0.95 * ends, 1.05 * ends, color="0.93", label="within 5 %")
        panel.plot(ends, ends, "-", color="0.6", linewidth=0.8)
        panel.plot(
            [point.measured_loss for point in score.points],
            [point.predicted_loss for point in score.points],
            "o",
            color="0.1",
            markersize=4,
        )
        panel.set_title(f"{name}\nmean error {score.mean_abs_error:.1%}")
        panel.set_xlabel("measured")
        panel.set_xlim(*ends)
        panel.set_ylim(*ends)
    panels[0].set_ylabel(f"predicted {_loss_label(law)}")
    panels[0].legend(loc="upper left")
    figure.suptitle(f"Held out: {law.held_out[0].rule}", y=0.99)
    figure.tight_layout()
    return figure


def _residuals(law: ScalingLaw, curves: Sequence[PlanCurve]) -> "Figure":
    """Residuals at the ends of the runs, against size, iterations and noise, for each form."""
    from matplotlib import pyplot

    names = [fit.form for fit in law.parametric]
    figure, grid = pyplot.subplots(
        len(names), 3, figsize=(8.4, 1.9 * len(names)), sharex="col", sharey=True, squeeze=False
    )
    size = np.array([curve.num_params for curve in curves], float)
    length = np.array([curve.final_step for curve in curves])
    ratio = np.array([curve.noise_batch_ratio for curve in curves])
    measured = np.array([curve.final_loss for curve in curves])
    edge = ratio[ratio > 0].min() / 4
    sizes = sorted({curve.num_params for curve in curves})
    for row, name in zip(grid, names, strict=True):
        errors = 100 * (law.predict(size, length, ratio, form=name) / measured - 1)
        for panel, values in zip(row, (size, length, np.maximum(ratio, edge)), strict=True):
            panel.axhline(0, color="0.6", linewidth=0.8)
            for x, y, params in zip(values, errors, size, strict=True):
                shade, marker = _look(int(params), sizes)
                panel.plot(x, y, marker, color=shade, markersize=4)
            panel.set_xscale("log")
            _few_ticks(panel, sorted(set(values.tolist())))
        row[0].set_ylabel(f"{name}\nerror, %")
    labels = ["parameters", "iterations", "noise-batch ratio"]
    if ratio.min() == 0:
        labels[2] += f" (drawn at {_number_text(edge)}: none)"
    for panel, label in zip(grid[-1], labels, strict=True):
        panel.set_xlabel(label)
    _size_legend(figure, sizes)
    figure.suptitle("Predicted over measured loss at the ends of the runs (fitted to all of them)")
    figure.tight_layout()
    return figure


def _few_ticks(panel: "Axes", values: Sequence[float]) -> None:
    """At most four ticks on a logarithmic axis, at values that occur."""
    from matplotlib.ticker import NullLocator

    places = np.unique(np.linspace(0, len(values) - 1, min(4, len(values))).round().astype(int))
    ticks = [values[place] for place in places]
    panel.set_xticks(ticks, [_number_text(tick) for tick in ticks])
    panel.xaxis.set_minor_locator(NullLocator())


def _number_text(value: float) -> str:
    """A short label.

    >>> _number_text(24720), _number_text(400), _number_text(2**-8)
    ('25K', '400', '$2^{-8}$')
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value < 10 * unit else f"{value / unit:.0f}{name}"
    return f"{value:.0f}" if value >= 1 else _ratio_text(value)


def _look(size: int, sizes: list[int]) -> tuple[str, str]:
    """Shade (dark is large) and marker of a size."""
    place = sizes.index(size)
    shade = 0.72 * (1 - place / max(1, len(sizes) - 1))
    return f"{shade:.2f}", _MARKERS[place % len(_MARKERS)]


def _size_legend(figure: "Figure", sizes: list[int]) -> None:
    from matplotlib.lines import Line2D

    looks = [_look(size, sizes) for size in sizes]
    handles = [
        Line2D([], [], color=shade, marker=marker, markersize=4, label=f"{size:,}")
        for size, (shade, marker) in zip(sizes, looks, strict=True)
    ]
    figure.legend(handles=handles, title="parameters", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _loss_label(law: ScalingLaw) -> str:
    return f"{law.target.replace('_', ' ')} (nats per token)"


def _ratio_text(ratio: float) -> str:
    if ratio == 0:
        return "0"
    exponent = np.log2(ratio)
    whole = abs(exponent - round(exponent)) < 1e-9
    return f"$2^{{{round(exponent)}}}$" if whole else f"{ratio:.2g}"
