"""Replicates spread as other sweeps would; the scatter of runs by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dpscale.scaling.curves.observations import Setting, observe
from dpscale.scaling.curves.smoothing import PlanCurve, smooth
from dpscale.scaling.fitting.bootstrap import fit_with_replicates, run_scatter
from dpscale.scaling.fitting.progress import silent
from dpscale.scaling.forms import FORMS
from dpscale.scaling.law.law import ParametricFit
from dpscale.scaling.reading.runs import RunCurve, select_runs
from dpscale.scaling.synthetic import BATCH

FORM = FORMS["form-3"]


def curves_of(sweep: Callable, **settings: object) -> tuple[tuple[RunCurve, ...], list[PlanCurve]]:
    runs = select_runs(sweep(**settings).rows(), target="train_loss", source="x").runs
    return runs, smooth(runs)


def replicated(curves: list[PlanCurve], number: int, seed: int = 0) -> ParametricFit:
    generator = np.random.default_rng(seed)
    setting = Setting.of(curves, BATCH)
    return fit_with_replicates(FORM, curves, setting, number, generator, silent)


def test_replicates_spread_about_as_fits_of_other_sweeps_do(sweep: Callable) -> None:
    place = {"form": "form-3", "noise": 0.01, "rates": (2.0**-5,), "lengths": (100, 200, 400)}
    fits, spreads = [], []
    for seed in range(12):
        _, curves = curves_of(sweep, **place, seed=seed)
        where = Setting.of(curves, BATCH).ends(curves)
        fit = replicated(curves, 12, seed)
        fits.append(FORM.log_loss(list(fit.coefficients.values()), where))
        logs = [FORM.log_loss(each, where) for each in fit.replicates]
        spreads.append(np.mean((np.array(logs) - fits[-1]) ** 2, axis=0) * 72 / fit.freedom)
    among = np.sqrt(np.mean(np.var(fits, axis=0, ddof=1)))
    assert np.sqrt(np.mean(spreads)) == pytest.approx(among, rel=0.25)


def test_the_same_generator_gives_the_same_replicates(sweep: Callable) -> None:
    _, curves = curves_of(sweep, form="form-3", widths=(16, 24, 32), rates=(2.0**-5,))
    assert replicated(curves, 3) == replicated(curves, 3)
    assert replicated(curves, 3).replicates != replicated(curves, 3, seed=1).replicates


def test_measurements_of_one_curve_share_its_weight(sweep: Callable) -> None:
    _, curves = curves_of(sweep, form="form-3", widths=(16, 24), lengths=(400,))
    data = observe(curves, Setting.of(curves, BATCH))
    assert data.losses.size == 4 * len(curves)
    assert np.bincount(data.curve_of, data.weights) == pytest.approx(1.0)
    assert set(data.points.iterations) <= set(curves[0].steps)
    assert min(data.points.iterations) >= 400 * 100 / 128


def test_with_several_lengths_only_the_ends_count(sweep: Callable) -> None:
    _, curves = curves_of(sweep, form="form-3", widths=(16, 24))
    data = observe(curves, Setting.of(curves, BATCH))
    assert data.losses.tolist() == [curve.final_loss for curve in curves]


def test_scatter_of_runs_is_that_about_the_law_or_between_seeds(sweep: Callable) -> None:
    runs, curves = curves_of(sweep, form="form-3", noise=0.01, rates=(2.0**-5,), jitter=0.0)
    setting, fit = Setting.of(curves, BATCH), replicated(curves, 0)
    about_law = run_scatter(runs, curves, [fit], setting)
    assert about_law == pytest.approx(0.01, rel=0.35)
    # Seeds a factor e^±0.05 apart at every point: standard deviation 0.05·√2.
    others = [
        replace(
            run, run_id=f"{run.run_id}-{sign}", seed=sign, losses=run.losses * np.exp(sign / 20)
        )
        for run in runs
        for sign in (-1, 1)
    ]
    assert run_scatter(others, curves, [fit], setting) == pytest.approx(0.05 * np.sqrt(2))
    assert run_scatter(runs, curves, [], setting) == 0.0  # no seeds, no form
