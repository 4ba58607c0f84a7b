"""Every figure is drawn, also from a sweep with holes."""

import dataclasses
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.recommend import recommend
from dpscale.scaling.curves.smoothing import smooth
from dpscale.scaling.figures.budget_figures import (
    BUDGET_FIGURES,
    Survey,
    iso_flop_slices,
    near_optimal_region,
    saturation_by_compute,
    survey,
    tokens_per_param,
)
from dpscale.scaling.figures.figure_style import count_axis, panels, style
from dpscale.scaling.figures.figures import draw_budget_figures, draw_figures
from dpscale.scaling.fitting.fit import fit_law
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.reading.runs import select_runs


def test_all_figures_are_png_files(sweep: Callable, tmp_path: Path) -> None:
    rows = sweep(widths=(16, 24, 32), failed=12, diverged=2, rates=(2.0**-5,)).rows()
    runs = select_runs(rows, target="train_loss", source="x")
    law = fit_law(runs, num_replicates=2)
    paths = draw_figures(law, smooth(runs.runs), tmp_path / "figures")
    assert sorted(path.stem for path in paths) == [
        "held_out",
        "loss_by_iterations",
        "loss_by_noise",
        "residuals",
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


@pytest.fixture(scope="module")
def found(published: ScalingLaw) -> Survey:
    budget = Budget(1.0, 1e-8, math.inf, 10**7, seq_len=512, vocab_size=30_522)
    return survey(published, budget, (4.0, 1.0))


def test_the_optima_are_those_that_recommend_finds(found: Survey) -> None:
    middle = found.optima[1]
    assert middle.epsilon == found.budget.epsilon == 4.0
    at = len(middle.train_flops) // 2
    budget = dataclasses.replace(found.budget, train_flops=float(middle.train_flops[at]))
    best = recommend(found.law, budget)
    assert middle.loss[at] == pytest.approx(best.predicted_loss, rel=2e-3)
    assert middle.num_params[at] == pytest.approx(best.params.total, rel=0.3)
    saturation = best.saturation.train_flops
    assert middle.saturation.train_flops == pytest.approx(saturation, rel=0.05)


def test_more_epsilon_lies_below_and_more_compute_to_the_right(found: Survey) -> None:
    tight, loose = found.optima
    assert np.all(loose.loss < tight.loss)
    assert np.all(np.diff(loose.loss) < 1e-6)
    assert tight.saturation.train_flops < loose.saturation.train_flops


def test_a_slice_for_each_compute_with_its_least_loss_marked(found: Survey) -> None:
    (panel,) = iso_flop_slices(found).axes
    marked = [line for line in panel.get_lines() if line.get_markersize() == 7]
    lows = [float(line.get_ydata()[0]) for line in marked]
    assert lows == [pytest.approx(field.least_loss) for field in found.fields]
    assert panel.get_xlabel() == "model size (parameters)"


def test_what_is_outside_the_law_is_not_drawn_solid(found: Survey) -> None:
    (panel,) = saturation_by_compute(found).axes
    solid = [line for line in panel.get_lines() if line.get_linestyle() == "-"]
    hidden = [np.isnan(np.asarray(line.get_ydata(), float)).sum() for line in solid]
    assert hidden[:2] == [optima.is_outside.sum() for optima in found.optima]


def test_the_region_marks_the_best_and_the_smallest_within_1_percent(found: Survey) -> None:
    field = found.fields[2]
    assert found.flops[2] == found.budget.train_flops
    panel = near_optimal_region(found).axes[0]
    best, smallest = (
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in panel.get_lines()
    )
    listed, losses = field.candidates, field.losses
    at = int(np.argmin(losses))
    assert best == (listed.num_params[at], listed.expected_batch_size[at])
    near = losses <= 1.01 * losses.min()
    assert smallest[0] == listed.num_params[near].min()
    (low, high) = panel.get_xlim()
    assert low <= smallest[0] <= best[0] <= high


def test_the_region_is_hatched_where_the_law_extrapolates(found: Survey) -> None:
    from matplotlib.contour import ContourSet

    panel = near_optimal_region(found).axes[0]
    (hatched,) = [
        each
        for each in panel.findobj(ContourSet)
        if isinstance(each, ContourSet) and any(each.hatches)
    ]
    corners = np.concatenate([path.vertices for path in hatched.get_paths()])
    largest = found.law.valid_range.num_params[1]
    assert corners[:, 0].max() > largest
    inside = found.optima[1].train_flops.searchsorted(found.budget.train_flops)
    assert not found.optima[1].is_outside[inside - 1]
    best = [float(values[0]) for values in panel.get_lines()[0].get_data()]
    assert not any(path.contains_point(best) for path in hatched.get_paths())


def test_tokens_stand_beside_those_without_privacy(found: Survey) -> None:
    (panel,) = tokens_per_param(found).axes
    dotted = [line for line in panel.get_lines() if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in dotted] == [[20.0, 20.0]]
    for optima in found.optima:
        tokens = optima.expected_batch_size * optima.iterations * 512
        assert optima.tokens_per_param == pytest.approx(tokens / optima.num_params)


def test_every_budget_figure_has_units_and_says_that_noise_is_approximate(found: Survey) -> None:
    for draw in BUDGET_FIGURES.values():
        figure = draw(found)
        assert "noise is approximate" in figure.get_supxlabel()
        labelled = [panel for panel in figure.axes if panel.get_xlabel()]
        assert labelled
        for panel in labelled:
            assert panel.get_xlabel() in ("compute (FLOPs)", "model size (parameters)")
            assert panel.get_ylabel()


def test_labels_of_a_short_logarithmic_axis_are_apart() -> None:
    with style():
        figure, ((panel,),) = panels(1, 1, width=6.0, height=3.0)
        panel.plot([24_720, 363_360], [1, 1])
        panel.set_xscale("log")
        count_axis(panel.xaxis)
        figure.savefig(io.BytesIO())
        boxes = [
            label.get_window_extent()
            for label in panel.get_xticklabels(which="both")
            if label.get_text()
        ]
    assert len(boxes) >= 3
    boxes.sort(key=lambda box: float(box.x0))
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_every_budget_figure_is_a_png(published: ScalingLaw, tmp_path: Path) -> None:
    budget = Budget(1.0, 1e-8, 1e20, 10**7, seq_len=512, vocab_size=30_522)
    paths = draw_budget_figures(published, budget, (2.0,), tmp_path)
    assert sorted(path.stem for path in paths) == [
        "iso_flop_slices",
        "near_optimal_region",
        "optimum_by_compute",
        "saturation_by_compute",
        "tokens_per_param",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
