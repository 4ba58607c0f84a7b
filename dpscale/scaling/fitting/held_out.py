"""Forms judged by scale: fitted without the largest model, the longest runs, one end of the noise.

Each way of holding out takes one end of one axis away, and every form that can be fitted to the
rest predicts the ends of what was taken. The errors are signed, and a regret says what they mean
for a choice: at each held-out combination of iterations and noise, how much worse than the best
measured size is the size that the form would have taken.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dpscale.scaling.curves.observations import Setting, curves_for, observe
from dpscale.scaling.curves.smoothing import PlanCurve, smooth
from dpscale.scaling.curves.surface import build_surface
from dpscale.scaling.fitting.robust import fit_form
from dpscale.scaling.forms import FORMS, Array
from dpscale.scaling.law.scores import FORM_NAMES, FormName, FormScore, HeldOut, HeldOutPoint
from dpscale.scaling.reading.runs import RunCurve


@dataclass(frozen=True)
class Split:
    """Runs to fit and runs to predict; `rule` says in words how they were told apart."""

    name: str
    rule: str
    fitted: tuple[RunCurve, ...]
    held_out: tuple[RunCurve, ...]


def splits(runs: Sequence[RunCurve]) -> tuple[Split, ...]:
    """Every way of holding out that leaves two sizes and two noise levels to fit.

    The largest size comes first. With two sizes only, fitting without the larger would leave
    nothing to see size in: then the highest noise at the larger size is held out alone.
    """
    sizes = sorted({run.num_params for run in runs})
    ratios = sorted({run.noise_batch_ratio for run in runs})
    lengths = sorted({run.iterations for run in runs})
    found = []
    if len(sizes) > 2:
        rule = f"the largest size ({sizes[-1]:,} parameters)"
        found.append(_split("largest size", rule, runs, num_params=sizes[-1]))
    else:
        rule = f"the runs of {sizes[-1]:,} parameters at noise-batch ratio {ratios[-1]:.3g}"
        corner = {"num_params": sizes[-1], "noise_batch_ratio": ratios[-1]}
        found.append(_split("corner", rule, runs, **corner))
    if len(lengths) > 1:
        rule = f"the longest runs ({lengths[-1]:,} iterations)"
        found.append(_split("longest", rule, runs, iterations=lengths[-1]))
    if len(ratios) > 2:
        rule = "the {} noise-batch ratio ({:.3g})"
        for name, word, ratio in (
            ("least noise", "lowest", ratios[0]),
            ("most noise", "highest", ratios[-1]),
        ):
            found.append(_split(name, rule.format(word, ratio), runs, noise_batch_ratio=ratio))
    return tuple(found)


def _split(name: str, rule: str, runs: Sequence[RunCurve], **end: float) -> Split:
    """Holds out the runs whose attributes are those in `end`."""
    is_held = [all(getattr(run, key) == value for key, value in end.items()) for run in runs]
    return Split(
        name,
        rule,
        fitted=tuple(run for run, held in zip(runs, is_held, strict=True) if not held),
        held_out=tuple(run for run, held in zip(runs, is_held, strict=True) if held),
    )


def score_forms(split: Split, forms: Collection[FormName] = FORM_NAMES) -> HeldOut:
    """Those of `forms` that can be fitted without the held-out runs, against them."""
    known, asked = smooth(split.fitted), smooth(split.held_out)
    everything = smooth((*split.fitted, *split.held_out))
    batch = split.fitted[0].physical_batch_size
    scores = []
    for name in (name for name in FORM_NAMES if name in forms):
        predictor = _predictor(name, known, batch)
        mine = asked if name == "semi-parametric" else curves_for(FORMS[name], asked)
        if predictor is not None and mine:
            scores.append(
                FormScore(name, _points(mine, predictor), _regret(mine, everything, predictor))
            )
    return HeldOut(split.name, split.rule, tuple(scores))


Predictor = Callable[[Sequence[PlanCurve]], Array]
"""From curves to the losses that a form expects at their ends."""


def _predictor(name: FormName, known: Sequence[PlanCurve], batch: int) -> Predictor | None:
    """A form fitted to `known`; None where there is too little to fit it to."""
    if name == "semi-parametric":
        surface = build_surface(known, batch)
        return lambda curves: np.exp(
            surface.log_loss(
                [curve.num_params for curve in curves],
                [curve.final_step for curve in curves],
                [curve.noise_batch_ratio for curve in curves],
            )
        )
    form, setting = FORMS[name], Setting.of(known, batch)
    mine = curves_for(form, known)
    if not can_fit(name, mine):
        return None
    data = observe(mine, setting)
    coefficients = fit_form(form, data.points, data.losses, data.weights).coefficients
    return lambda curves: np.exp(form.log_loss(coefficients, setting.ends(curves)))


def can_fit(name: FormName, curves: Sequence[PlanCurve]) -> bool:
    """Whether `curves` (those that the form describes) are enough for a form's coefficients.

    A noise-free form has to see as many curves as it has coefficients, of two sizes; the
    others are tried on any sweep of two sizes and two noise levels.
    """
    form = FORMS[name]
    sizes = {curve.num_params for curve in curves}
    if form.noise_free:
        return len(sizes) > 1 and len(curves) >= len(form.coefficient_names)
    return len(sizes) > 1 and len({curve.noise_batch_ratio for curve in curves}) > 1


def _points(curves: Sequence[PlanCurve], predictor: Predictor) -> tuple[HeldOutPoint, ...]:
    return tuple(
        HeldOutPoint(
            curve.num_params,
            curve.iterations,
            curve.noise_batch_ratio,
            curve.final_loss,
            float(predicted),
        )
        for curve, predicted in zip(curves, predictor(curves), strict=True)
    )


def _regret(
    held_out: Sequence[PlanCurve], everything: Sequence[PlanCurve], predictor: Predictor
) -> float | None:
    """Mean regret of the form's choice of size over the held-out cells with two sizes or more."""
    regrets = []
    for iterations, ratio in {(curve.iterations, curve.noise_batch_ratio) for curve in held_out}:
        cell = [c for c in everything if (c.iterations, c.noise_batch_ratio) == (iterations, ratio)]
        if len(cell) > 1:
            chosen = cell[int(np.argmin(predictor(cell)))]
            regrets.append(chosen.final_loss / min(curve.final_loss for curve in cell) - 1)
    return float(np.mean(regrets)) if regrets else None
