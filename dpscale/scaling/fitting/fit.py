"""From runs to a law: smooth, hold out, fit every form, compare, fit again on everything."""

import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version

import numpy as np

from dpscale.errors import InputError
from dpscale.scaling.curves.observations import Setting, curves_for
from dpscale.scaling.curves.smoothing import LAST_PART, smooth
from dpscale.scaling.curves.surface import build_surface
from dpscale.scaling.fitting.bootstrap import fit_with_replicates, run_scatter
from dpscale.scaling.fitting.held_out import can_fit, score_forms, splits
from dpscale.scaling.fitting.progress import Progress, silent
from dpscale.scaling.forms import FORMS
from dpscale.scaling.law.law import LAW_VERSION, ParametricFit, ScalingLaw, ValidRange
from dpscale.scaling.law.learning_rate import fit_learning_rates
from dpscale.scaling.law.scores import FORM_NAMES, FormName, HeldOut
from dpscale.scaling.reading.fittable import what_can_be_fitted
from dpscale.scaling.reading.runs import RunCurve, RunSet

NUM_REPLICATES = 100
"""Bootstrap replicates of each parametric form."""


def fit_law(
    runs: RunSet,
    *,
    form: FormName | None = None,
    forms: Collection[FormName] = FORM_NAMES,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
    progress: Progress = silent,
) -> ScalingLaw:
    """Fits forms to `runs` and compares them on held-out runs.

    Args:
      form: The form that predictions use; default: the one with the least mean absolute
        error on held-out runs, averaged over the ways of holding out.
      forms: Which to fit and compare; the semi-parametric one is always there.
      num_replicates: Bootstrap replicates over runs, for the intervals.
      seed: Of the bootstrap; the same runs and seed give the same law.

    Raises:
      InputError: A single size or a single noise level: nothing to fit a law to; or `form`
        cannot be fitted to these runs.
    """
    fittable = what_can_be_fitted(runs)
    if not fittable.verdict("semi-parametric law").possible:
        raise InputError(runs.source, fittable.refusal("semi-parametric law"))
    held_out = []
    for split in splits(runs.runs):
        held_out.append(score_forms(split, {*forms, "semi-parametric"}))
        progress(f"compared the forms on {split.rule}")
    curves = smooth(runs.runs)
    batch = runs.runs[0].physical_batch_size
    setting = Setting.of(curves, batch)
    generator = np.random.default_rng(seed)
    parametric = tuple(
        fit_with_replicates(each, curves, setting, num_replicates, generator, progress)
        for each in FORMS.values()
        if each.name in forms and can_fit(each.name, curves_for(each, curves))
    )
    _expect_fitted(form, parametric)
    rates = [rate for curve in curves for rate, _ in curve.final_losses]
    return ScalingLaw(
        law_version=LAW_VERSION,
        target=runs.target,
        loss_unit="nats per token",
        form=form or best_form(held_out),
        form_chosen_by="request" if form else "least mean absolute error on held-out runs",
        num_params_meaning="all parameters, the tied embedding counted once",
        physical_batch_size=batch,
        seq_len=runs.runs[0].seq_len,
        vocab_size=runs.runs[0].vocab_size,
        valid_range=_valid_range(runs.runs),
        statement=f"fitted to {len(runs.runs)} law-fitting runs of {runs.source}",
        schedule_note=_schedule_note(runs.runs),
        held_out=tuple(held_out),
        run_scatter=run_scatter(runs.runs, curves, parametric, setting),
        ratio_floor=setting.ratio_floor,
        parametric=parametric,
        answers_at="own-batch",
        surface=build_surface(curves, batch),
        learning_rates=fit_learning_rates(curves, ratio_floor=setting.ratio_floor),
        swept_rates=(min(rates), max(rates)),
        source=runs.source,
        data_sha256=runs.data_sha256,
        run_ids=tuple(run.run_id for run in runs.runs),
        excluded=runs.excluded,
        notes=runs.notes,
        versions=fitted_with(),
    )


def best_form(held_out: Sequence[HeldOut]) -> FormName:
    """The form with the least mean absolute error, averaged over the ways of holding out.

    Only forms compete that have a score in every way, and describe noise.
    """
    errors: dict[FormName, list[float]] = {}
    for each in held_out:
        for score in each.scores:
            if score.form not in FORMS or not FORMS[score.form].noise_free:
                errors.setdefault(score.form, []).append(score.mean_abs_error)
    complete = {form: found for form, found in errors.items() if len(found) == len(held_out)}
    return min(complete, key=lambda form: float(np.mean(complete[form])))


def _expect_fitted(form: FormName | None, parametric: Sequence[ParametricFit]) -> None:
    fitted = [fit.form for fit in parametric if not FORMS[fit.form].noise_free]
    if form not in (None, "semi-parametric", *fitted):
        known = ", ".join(["semi-parametric", *fitted])
        raise InputError("--form", f"expected one of {known} for these runs, found {form!r}.")


def fitted_with() -> Mapping[str, str]:
    """Versions of what a fit rests on."""
    return {
        **{name: version(name) for name in ("dpscale", "numpy", "scipy")},
        "python": platform.python_version(),
    }


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
