"""From runs to a law: smooth, hold out, fit every form, compare, fit again on everything."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from dpscale.errors import InputError
from dpscale.scaling.forms import FORMS, Array, Form, Points, noise_floor
from dpscale.scaling.law import (
    FORM_NAMES,
    LAW_VERSION,
    FormName,
    FormScore,
    HeldOutPoint,
    ParametricFit,
    ScalingLaw,
    ValidRange,
)
from dpscale.scaling.learning_rate import fit_learning_rates
from dpscale.scaling.robust import fit_form
from dpscale.scaling.runs import RunCurve, RunSet
from dpscale.scaling.smoothing import LAST_PART, PlanCurve, smooth
from dpscale.scaling.surface import build_surface

HoldOut = Literal["largest-size", "largest-size-and-noise"]
NUM_REPLICATES = 100
"""Bootstrap replicates of each parametric form."""


@dataclass(frozen=True)
class Split:
    """Runs to fit and runs to predict; `rule` says in words how they were told apart."""

    fitted: tuple[RunCurve, ...]
    held_out: tuple[RunCurve, ...]
    rule: str


def fit_law(
    runs: RunSet,
    *,
    hold_out: HoldOut = "largest-size",
    form: FormName | None = None,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
) -> ScalingLaw:
    """Fits all forms to `runs` and compares them on held-out runs.

    Args:
      hold_out: Which runs the comparison predicts; the law itself is fitted to all.
      form: The form that predictions use; default: the one with the least mean absolute
        error on the held-out runs.
      num_replicates: Bootstrap replicates over runs, for the intervals.
      seed: Of the bootstrap; the same runs and seed give the same law.

    Raises:
      InputError: A single size or a single noise level: nothing to fit a law to.
    """
    _expect_spread(runs)
    split = split_runs(runs, hold_out)
    held_out = smooth(split.held_out)
    scores = _score_forms(split, held_out)
    curves = smooth(runs.runs)
    batch = runs.runs[0].physical_batch_size
    floor = _floor(runs.runs)
    generator = np.random.default_rng(seed)
    parametric = tuple(
        _fit_with_replicates(each, curves, batch, floor, num_replicates, generator)
        for each in FORMS.values()
    )
    best = min(scores, key=lambda score: score.mean_abs_error)
    return ScalingLaw(
        law_version=LAW_VERSION,
        target=runs.target,
        loss_unit="nats per token",
        form=form or best.form,
        form_chosen_by="request" if form else "least mean absolute error on the held-out runs",
        num_params_meaning="all parameters, the tied embedding counted once",
        physical_batch_size=batch,
        seq_len=runs.runs[0].seq_len,
        vocab_size=runs.runs[0].vocab_size,
        valid_range=_valid_range(runs.runs),
        schedule_note=_schedule_note(runs.runs),
        held_out_rule=split.rule,
        scores=scores,
        t_quantile=float(student_t.ppf(0.95, df=len(held_out))),
        run_scatter=_run_scatter(runs.runs, curves, parametric, batch, floor),
        ratio_floor=floor,
        parametric=parametric,
        surface=build_surface(curves, batch),
        learning_rates=fit_learning_rates(curves, ratio_floor=floor),
        source=runs.source,
        data_sha256=runs.data_sha256,
        run_ids=tuple(run.run_id for run in runs.runs),
        excluded=runs.excluded,
        versions={
            **{name: version(name) for name in ("dpscale", "numpy", "scipy")},
            "python": platform.python_version(),
        },
    )


def split_runs(runs: RunSet, hold_out: HoldOut) -> Split:
    """Holds out the largest size, and on request the highest noise at every size.

    With two sizes only, fitting without the larger would leave nothing to see size in: then
    the highest noise at the larger size is held out alone.
    """
    largest = max(run.num_params for run in runs.runs)
    loudest = max(run.noise_batch_ratio for run in runs.runs)
    sizes = {run.num_params for run in runs.runs}
    if len(sizes) == 2:
        rule = f"the runs of {largest:,} parameters at noise-batch ratio {loudest:.3g}"
        held = {
            run.run_id
            for run in runs.runs
            if run.num_params == largest and run.noise_batch_ratio == loudest
        }
    else:
        too = hold_out == "largest-size-and-noise"
        rule = f"the largest size ({largest:,} parameters)"
        rule += f" and the highest noise-batch ratio ({loudest:.3g})" if too else ""
        held = {
            run.run_id
            for run in runs.runs
            if run.num_params == largest or (too and run.noise_batch_ratio == loudest)
        }
    fitted = tuple(run for run in runs.runs if run.run_id not in held)
    return Split(fitted, tuple(run for run in runs.runs if run.run_id in held), rule)


@dataclass(frozen=True)
class FitPoints:
    """What a parametric form is fitted to.

    Args:
      losses: float64[points], nats per token.
      weights: float64[points]; those of one curve sum to 1.
      curve_of: int[points], index of the curve that each point comes from.
    """

    points: Points
    losses: Array
    weights: Array
    curve_of: NDArray[np.intp]


def fit_points(curves: Sequence[PlanCurve], batch: int, floor: float) -> FitPoints:
    """The ends of the runs; with one planned length, a few points of their last part.

    In mid-run the learning rate has not decayed, so that the slope inside a run is steeper
    than that between runs of different lengths. Where there are different lengths only ends
    count; where there are not, the last part is all there is to see the iterations in.
    """
    chosen = [np.array([curve.steps.size - 1]) for curve in curves]
    if len({curve.iterations for curve in curves}) == 1:
        chosen = [_spread(np.flatnonzero(curve.last_part)) for curve in curves]
    repeats = [index.size for index in chosen]
    points = Points.of(
        np.repeat([curve.num_params for curve in curves], repeats),
        np.concatenate([curve.steps[i] for curve, i in zip(curves, chosen, strict=True)]),
        np.repeat([curve.noise_batch_ratio for curve in curves], repeats),
        batch_size=batch,
        ratio_floor=floor,
    )
    return FitPoints(
        points,
        losses=np.concatenate([curve.losses[i] for curve, i in zip(curves, chosen, strict=True)]),
        weights=np.repeat(1.0 / np.array(repeats), repeats),
        curve_of=np.repeat(np.arange(len(curves)), repeats),
    )


def _spread(indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most four of `indices`, evenly spread, the last among them."""
    places = np.unique(np.linspace(0, indices.size - 1, min(4, indices.size)).round().astype(int))
    return indices[places] if indices.size else indices


def _score_forms(split: Split, held_out: Sequence[PlanCurve]) -> tuple[FormScore, ...]:
    """Every form, fitted without the held-out runs, against them."""
    curves = smooth(split.fitted)
    batch, floor = split.fitted[0].physical_batch_size, _floor(split.fitted)
    return tuple(
        FormScore(name, tuple(_predict_held_out(name, curves, held_out, batch, floor)))
        for name in FORM_NAMES
    )


def _predict_held_out(
    name: FormName,
    curves: Sequence[PlanCurve],
    held_out: Sequence[PlanCurve],
    batch: int,
    floor: float,
) -> list[HeldOutPoint]:
    """Each held-out curve's end, predicted by a form fitted to `curves`."""
    m = [curve.num_params for curve in held_out]
    t = [curve.final_step for curve in held_out]
    r = [curve.noise_batch_ratio for curve in held_out]
    if name == "semi-parametric":
        logs = build_surface(curves, batch).log_loss(m, t, r)
    else:
        data = fit_points(curves, batch, floor)
        fit = fit_form(FORMS[name], data.points, data.losses, data.weights)
        where = Points.of(m, t, r, batch_size=batch, ratio_floor=floor)
        logs = FORMS[name].log_loss(fit.coefficients, where)
    return [
        HeldOutPoint(
            curve.num_params,
            curve.iterations,
            curve.noise_batch_ratio,
            curve.final_loss,
            float(predicted),
        )
        for curve, predicted in zip(held_out, np.exp(logs), strict=True)
    ]


def _fit_with_replicates(
    form: Form,
    curves: Sequence[PlanCurve],
    batch: int,
    floor: float,
    num_replicates: int,
    generator: np.random.Generator,
) -> ParametricFit:
    """The fit, and replicates with random weights on whole curves (Rubin 1981).

    Weights from a Dirichlet distribution in place of drawing curves with replacement: no
    replicate loses a size or a noise level, which a form with eight coefficients would not
    survive. All measurements of a curve share its weight.
    """
    data = fit_points(curves, batch, floor)
    fit = fit_form(form, data.points, data.losses, data.weights)
    replicates = []
    for _ in range(num_replicates):
        of_curves = generator.dirichlet(np.ones(len(curves))) * len(curves)
        again = fit_form(
            form,
            data.points,
            data.losses,
            data.weights * of_curves[data.curve_of],
            start=np.array(fit.coefficients),
        )
        replicates.append(again.coefficients)
    return ParametricFit(
        form=form.name,
        formula=form.formula,
        coefficients=dict(zip(form.coefficient_names, fit.coefficients, strict=True)),
        objective=fit.objective,
        converged=fit.converged,
        starts=fit.starts,
        starts_agreeing=fit.starts_agreeing,
        at_bound=fit.at_bound,
        replicates=tuple(replicates),
    )


def _run_scatter(
    runs: Sequence[RunCurve],
    curves: Sequence[PlanCurve],
    parametric: Sequence[ParametricFit],
    batch: int,
    floor: float,
) -> float:
    """Scatter of single runs in log units.

    The least residual scale among the parametric forms at the ends of the runs (corrected
    for the number of coefficients), or the scatter between seeds where that is larger.
    """
    where = Points.of(
        [curve.num_params for curve in curves],
        [curve.final_step for curve in curves],
        [curve.noise_batch_ratio for curve in curves],
        batch_size=batch,
        ratio_floor=floor,
    )
    measured = np.log([curve.final_loss for curve in curves])
    scales = []
    for fit in parametric:
        residuals = FORMS[fit.form].log_loss(list(fit.coefficients.values()), where) - measured
        freedom = max(1, len(curves) - len(fit.coefficients))
        scales.append(float(np.sqrt(np.sum(residuals**2) / freedom)))
    return max(min(scales), _seed_scatter(runs))


def _seed_scatter(runs: Sequence[RunCurve]) -> float:
    """Pooled standard deviation of log final losses between seeds; 0 without repeats."""
    groups: dict[tuple[float, ...], list[float]] = {}
    for run in runs:
        key = (run.num_params, run.noise_batch_ratio, run.learning_rate, run.iterations)
        groups.setdefault(key, []).append(float(np.log(run.losses[-1])))
    freedom = sum(len(group) - 1 for group in groups.values())
    squares = sum(float(np.var(group)) * len(group) for group in groups.values())
    return float(np.sqrt(squares / freedom)) if freedom else 0.0


def _floor(runs: Sequence[RunCurve]) -> float:
    positive = [run.noise_batch_ratio for run in runs if run.noise_batch_ratio > 0]
    sizes = [run.num_params for run in runs]
    return noise_floor(sizes, runs[0].physical_batch_size, positive)


def _expect_spread(runs: RunSet) -> None:
    sizes = sorted({run.num_params for run in runs.runs})
    ratios = sorted({run.noise_batch_ratio for run in runs.runs})
    if len(sizes) < 2:
        raise InputError(
            runs.source,
            f"the {len(runs.runs)} usable runs have a single size (num_params={sizes[0]}); a law "
            "needs at least two, better four: add widths to the sweep.",
        )
    if len(ratios) < 2:
        raise InputError(
            runs.source,
            f"the {len(runs.runs)} usable runs have a single noise level (noise_batch_ratio="
            f"{ratios[0]:g}); a law needs at least two, better four: add ratios to the sweep.",
        )


def _valid_range(runs: Sequence[RunCurve]) -> ValidRange:
    sizes = [float(run.num_params) for run in runs]
    ratios = [run.noise_batch_ratio for run in runs]
    lengths = [float(run.iterations) for run in runs]
    return ValidRange(
        num_params=(min(sizes), max(sizes)),
        iterations=(LAST_PART * min(lengths), max(lengths)),
        noise_batch_ratio=(min(ratios), max(ratios)),
    )


def _schedule_note(runs: Sequence[RunCurve]) -> str:
    lengths = sorted({run.iterations for run in runs})
    text = (
        f"planned iterations {', '.join(map(str, lengths))}; the learning rate decays over each "
        "run's own length, "
    )
    if len(lengths) > 1:
        return text + "so parametric forms see only the ends of the runs"
    return text + (
        "and with one length the effect of the iterations rests on the last 22 % of the runs, "
        "where it looks stronger than it is between runs of different lengths"
    )
