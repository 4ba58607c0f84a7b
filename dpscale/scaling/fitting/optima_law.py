"""A law from a table of optima: every form fitted, judged by leaving rows out, and compared."""

from collections.abc import Sequence

import numpy as np

from dpscale.scaling.fitting.bootstrap import parametric_fit
from dpscale.scaling.fitting.fit import best_form, fitted_with
from dpscale.scaling.fitting.optima_fit import OptimaProblem, weights_of
from dpscale.scaling.fitting.progress import Progress, silent
from dpscale.scaling.forms import FORMS, Array, Form
from dpscale.scaling.law.law import LAW_VERSION, ParametricFit, ScalingLaw, ValidRange
from dpscale.scaling.law.scores import FormName, FormScore, HeldOut, HeldOutPoint
from dpscale.scaling.reading.optima import Optima

FACTS_OF_A_ROW = 3
"""A loss, and that it is least along two directions (size and batch at the row's compute)."""


def fit_optima_law(
    optima: Optima,
    *,
    form: FormName | None = None,
    num_replicates: int,
    seed: int = 0,
    progress: Progress = silent,
) -> ScalingLaw:
    """Fits every form that describes noise to `optima`.

    Args:
      form: The form that predictions use; default: the one with the least error on rows that
        were left out.
      num_replicates: Bootstrap replicates over groups of near-copies, for the intervals.
      seed: Of the bootstrap.
    """
    slices = optima.slices()
    generator = np.random.default_rng(seed)
    fits: list[ParametricFit] = []
    scores: list[FormScore] = []
    errors: dict[FormName, Array] = {}
    for each in (form for form in FORMS.values() if not form.noise_free):
        problem = OptimaProblem(each, optima, slices)
        fit = _fit_with_replicates(each, problem, optima, num_replicates, generator)
        fits.append(fit)
        start = list(fit.coefficients.values())
        scores.append(FormScore(each.name, left_out(problem, optima, start), None))
        errors[each.name] = problem.least_losses(start) / _losses(optima) - 1
        progress(
            f"{each.name}: fitted, {fit.starts_agreeing} of {fit.starts} starts agree; mean error "
            f"{np.mean(np.abs(errors[each.name])):.1%}, {scores[-1].mean_abs_error:.1%} left out"
        )
    rule = f"each of the {optima.num_distinct} distinct rows in turn"
    held_out = HeldOut("row", rule, tuple(scores))
    chosen = form or best_form([held_out])
    return ScalingLaw(
        law_version=LAW_VERSION,
        target=optima.target,
        loss_unit="nats per token",
        form=chosen,
        form_chosen_by="request" if form else "least mean absolute error on rows left out",
        num_params_meaning="all parameters",
        physical_batch_size=optima.physical_batch_size,
        seq_len=optima.seq_len,
        vocab_size=optima.vocab_size,
        valid_range=_valid_range(optima),
        statement=_statement(optima, errors[chosen], held_out, chosen),
        schedule_note="the rows are configurations, each with its own number of iterations",
        held_out=(held_out,),
        run_scatter=_scatter(optima, errors[chosen]),
        ratio_floor=optima.ratio_floor,
        parametric=tuple(fits),
        answers_at="physical-batch",
        surface=None,
        learning_rates=None,
        swept_rates=optima.swept_learning_rates,
        source=optima.source,
        data_sha256=optima.data_sha256,
        run_ids=(),
        excluded=(),
        notes=(f"{len(optima.rows)} rows, of which {optima.num_distinct} are distinct",),
        versions=fitted_with(),
    )


def _fit_with_replicates(
    form: Form,
    problem: OptimaProblem,
    optima: Optima,
    num_replicates: int,
    generator: np.random.Generator,
) -> ParametricFit:
    """The fit, and replicates with Dirichlet weights on whole groups of near-copies."""
    fit = problem.fit(weights_of(optima))
    groups = optima.num_distinct
    replicates = [
        problem.fit(
            weights_of(optima, groups * generator.dirichlet(np.ones(groups))),
            start=fit.coefficients,
        ).coefficients
        for _ in range(num_replicates)
    ]
    return parametric_fit(form, fit, FACTS_OF_A_ROW * groups, replicates)


def left_out(
    problem: OptimaProblem, optima: Optima, start: Sequence[float]
) -> tuple[HeldOutPoint, ...]:
    """The least loss promised for each row's budget by a fit without it and its near-copies."""
    predicted = np.empty(len(optima.rows))
    for group in range(optima.num_distinct):
        of_groups = np.ones(optima.num_distinct)
        of_groups[group] = 0.0
        without = problem.fit(weights_of(optima, of_groups), start=start)
        mine = np.array(optima.copies) == group
        predicted[mine] = problem.least_losses(without.coefficients)[mine]
    return tuple(
        HeldOutPoint(
            round(row.num_params), round(row.iterations), row.noise_batch_ratio, row.loss, float(p)
        )
        for row, p in zip(optima.rows, predicted, strict=True)
    )


def _losses(optima: Optima) -> Array:
    return np.array([row.loss for row in optima.rows])


def _scatter(optima: Optima, errors: Array) -> float:
    """Root mean square of the log errors of the distinct rows."""
    weights = weights_of(optima)
    return float(np.sqrt(np.average(np.log1p(errors) ** 2, weights=weights)))


def _statement(optima: Optima, errors: Array, held_out: HeldOut, form: FormName) -> str:
    score = next(score for score in held_out.scores if score.form == form)
    median, worst = np.median(np.abs(errors)), np.max(np.abs(errors))
    return (
        f"fitted to {optima.title} ({len(optima.rows)} optima, {optima.num_distinct} distinct: "
        f"{optima.setting}); its losses at those budgets are {median:.1%} off in the median and "
        f"{worst:.1%} at most, {score.median_abs_error:.1%} and {score.worst_abs_error:.1%} for "
        "rows left out"
    )


def _valid_range(optima: Optima) -> ValidRange:
    lengths = [row.iterations for row in optima.rows]
    ratios = [row.noise_batch_ratio for row in optima.rows]
    return ValidRange(
        num_params=optima.num_params_range,
        iterations=(min(lengths), max(lengths)),
        noise_batch_ratio=(min(ratios), max(ratios)),
    )
