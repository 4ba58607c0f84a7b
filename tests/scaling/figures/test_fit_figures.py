"""Figures of a fit show what was measured and what the law says of it, and hide nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dpscale.scaling.curves.smoothing import PlanCurve, smooth
from dpscale.scaling.figures.figure_style import style
from dpscale.scaling.figures.fit_figures import (
    held_out,
    loss_by_iterations,
    loss_by_noise,
    residuals,
)
from dpscale.scaling.fitting.fit import fit_law
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.reading.runs import select_runs

Fitted = tuple[ScalingLaw, list[PlanCurve]]


@pytest.fixture(scope="module")
def fitted(sweep: Callable) -> Fitted:
    rows = sweep(form="form-3", widths=(16, 24, 32), rates=(2.0**-5,)).rows()
    runs = select_runs(rows, target="train_loss", source="x")
    return fit_law(runs, form="form-3", num_replicates=2), smooth(runs.runs)


def _points(panel: Any) -> list[tuple[float, float, str]]:
    """(x, y, marker) of everything that is drawn as a marker."""
    return [
        (float(x), float(y), str(line.get_marker()))
        for line in panel.get_lines()
        if line.get_marker() != "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_a_row_for_each_way_of_holding_out_and_every_point_in_it(fitted: Fitted) -> None:
    law, _ = fitted
    forms = len({score.form for each in law.held_out for score in each.scores})
    panels = np.reshape(held_out(law).axes, (len(law.held_out), forms))
    for row, each in zip(panels, law.held_out, strict=True):
        drawn = [panel for panel in row if panel.axison and panel.get_lines()]
        assert row[0].get_ylabel() == f"{each.name}\npredicted"
        assert [panel.get_title().split("\n")[0] for panel in drawn] == [
            score.form for score in each.scores
        ]
        for panel, score in zip(drawn, each.scores, strict=True):
            assert len(_points(panel)) == len(score.points)
            assert f"{score.mean_abs_error:.1%}" in panel.get_title()


def test_a_prediction_that_is_far_off_is_drawn_at_the_edge(fitted: Fitted) -> None:
    law, _ = fitted
    first = law.held_out[0]
    score = first.scores[0]
    measured = score.points[0].measured_loss
    far = dataclasses.replace(score.points[0], predicted_loss=9 * measured)
    near = dataclasses.replace(score.points[0], predicted_loss=1.02 * measured)
    score = dataclasses.replace(score, points=(far, near))
    first = dataclasses.replace(first, scores=(score,))
    (panel,) = held_out(dataclasses.replace(law, held_out=(first,))).axes
    (edge,) = [(x, y) for x, y, marker in _points(panel) if marker == "^"]
    assert edge[0] == measured
    assert 1.1 * measured < edge[1] <= panel.get_ylim()[1]
    assert (measured, near.predicted_loss, "o") in _points(panel)


def test_lines_over_noise_are_the_law_at_every_ratio_from_none_on(fitted: Fitted) -> None:
    law, curves = fitted
    longest = max(curve.iterations for curve in curves)
    (panel,) = loss_by_noise(law, curves).axes
    sizes = sorted({curve.num_params for curve in curves if curve.iterations == longest})
    lines = [line for line in panel.get_lines() if line.get_linestyle() == "-"]
    assert len(lines) == len(sizes)
    for size, line in zip(sizes, lines, strict=True):
        x, y = (np.asarray(values, float) for values in line.get_data())
        assert y == pytest.approx(law.predict(size, longest, x), rel=1e-12)
        assert set(panel.get_xticks()) <= set(x)
    labels = [label.get_text() for label in panel.get_xticklabels()]
    assert panel.get_xticks()[0] == 0
    assert labels[0] == "none"


def test_the_axis_of_noise_puts_no_corner_into_a_line(fitted: Fitted) -> None:
    law, curves = fitted
    (panel,) = loss_by_noise(law, curves).axes
    x = np.asarray(panel.get_lines()[1].get_xdata(), float)
    place = panel.transData.transform(np.stack([x, np.full(x.size, 4.0)], axis=1))[:, 0]
    # Evenly in pixels, but for the ratios of the runs, which fall between: no step is longer.
    steps = np.diff(place)
    assert steps.min() >= 0
    assert steps.max() < 1.01 * np.median(steps)


def test_residuals_are_those_of_the_forms_at_the_ends(fitted: Fitted) -> None:
    law, curves = fitted
    names = [name for name in law.forms if name != "semi-parametric"]
    grid = np.reshape(residuals(law, curves).axes, (len(names), 3))
    ends = [(curve.num_params, curve.final_step, curve.noise_batch_ratio) for curve in curves]
    for row, name in zip(grid, names, strict=True):
        errors = [
            100 * (float(law.predict(*end, form=name)) / curve.final_loss - 1)
            for end, curve in zip(ends, curves, strict=True)
        ]
        for panel in row:
            assert [y for _, y, _ in _points(panel)] == pytest.approx(errors)
        assert [x for x, _, _ in _points(row[0])] == [end[0] for end in ends]
        assert [x for x, _, _ in _points(row[1])] == [end[1] for end in ends]
    labels = [panel.get_xlabel() for panel in grid[-1]]
    assert labels == ["model size (parameters)", "iterations", "noise-batch ratio"]
    assert grid[-1, 2].get_xticklabels()[0].get_text() == "none"


def test_a_panel_for_each_ratio_with_a_line_for_each_curve(fitted: Fitted) -> None:
    law, curves = fitted
    with style():
        panels = [panel for panel in loss_by_iterations(law, curves).axes if panel.get_visible()]
    ratios = sorted({curve.noise_batch_ratio for curve in curves})
    assert len(panels) == len(ratios)
    for panel, ratio in zip(panels, ratios, strict=True):
        lines = [line for line in panel.get_lines() if line.get_linestyle() == "-"]
        assert len(lines) == sum(curve.noise_batch_ratio == ratio for curve in curves)
