"""A parametric form fitted to curves, and how far other runs would have moved it."""

from collections.abc import Sequence

import numpy as np

from dpscale.scaling.curves.observations import Setting, curves_for, observe
from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.fitting.progress import Progress
from dpscale.scaling.fitting.robust import FormFit, fit_form
from dpscale.scaling.forms import FORMS, Form
from dpscale.scaling.law.law import ParametricFit
from dpscale.scaling.reading.runs import RunCurve


def fit_with_replicates(
    form: Form,
    curves: Sequence[PlanCurve],
    setting: Setting,
    num_replicates: int,
    generator: np.random.Generator,
    progress: Progress,
) -> ParametricFit:
    """The fit, and replicates with random weights on whole curves (Rubin 1981).

    Weights from a Dirichlet distribution in place of drawing curves with replacement: no
    replicate loses a size or a noise level, which a form with eight coefficients would not
    survive. All measurements of a curve share its weight.
    """
    mine = curves_for(form, curves)
    data = observe(mine, setting)
    fit = fit_form(form, data.points, data.losses, data.weights)
    progress(f"{form.name}: fitted, {fit.starts_agreeing} of {fit.starts} starts agree")
    replicates = []
    for index in range(num_replicates):
        of_curves = generator.dirichlet(np.ones(len(mine))) * len(mine)
        again = fit_form(
            form,
            data.points,
            data.losses,
            data.weights * of_curves[data.curve_of],
            start=np.array(fit.coefficients),
        )
        replicates.append(again.coefficients)
        if (index + 1) % 50 == 0:
            progress(f"{form.name}: {index + 1} of {num_replicates} bootstrap replicates")
    return parametric_fit(form, fit, len(mine), replicates)


def parametric_fit(
    form: Form,
    fit: FormFit,
    num_observations: int,
    replicates: Sequence[tuple[float, ...]],
) -> ParametricFit:
    """What a law keeps of a fit."""
    return ParametricFit(
        form=form.name,
        formula=form.formula,
        coefficients=dict(zip(form.coefficient_names, fit.coefficients, strict=True)),
        num_observations=num_observations,
        objective=fit.objective,
        converged=fit.converged,
        starts=fit.starts,
        starts_agreeing=fit.starts_agreeing,
        at_bound=fit.at_bound,
        replicates=tuple(replicates),
    )


def run_scatter(
    runs: Sequence[RunCurve],
    curves: Sequence[PlanCurve],
    parametric: Sequence[ParametricFit],
    setting: Setting,
) -> float:
    """Scatter of single runs in log units.

    The least residual scale among the forms that describe all curves, at their ends (corrected
    for the number of coefficients), or the scatter between seeds where that is larger.
    """
    where = setting.ends(curves)
    measured = np.log([curve.final_loss for curve in curves])
    scales = []
    for fit in parametric:
        if not FORMS[fit.form].noise_free:
            logs = FORMS[fit.form].log_loss(list(fit.coefficients.values()), where)
            scales.append(float(np.sqrt(np.sum((logs - measured) ** 2) / fit.freedom)))
    return max(min(scales, default=0.0), _seed_scatter(runs))


def _seed_scatter(runs: Sequence[RunCurve]) -> float:
    """Pooled standard deviation of log final losses between seeds; 0 without repeats."""
    groups: dict[tuple[float, ...], list[float]] = {}
    for run in runs:
        key = (run.num_params, run.noise_batch_ratio, run.learning_rate, run.iterations)
        groups.setdefault(key, []).append(float(np.log(run.losses[-1])))
    freedom = sum(len(group) - 1 for group in groups.values())
    squares = sum(float(np.var(group)) * len(group) for group in groups.values())
    return float(np.sqrt(squares / freedom)) if freedom else 0.0
