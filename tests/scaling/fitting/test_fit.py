"""A law comes back from sweeps made with it."""

from collections.abc import Callable

import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.scaling.fitting.fit import best_form, fit_law
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.scores import FormName, FormScore, HeldOut, HeldOutPoint
from dpscale.scaling.reading.runs import RunSet, select_runs

M, T, R = np.meshgrid([30_000, 60_000, 120_000, 300_000], [120, 200, 300, 400], [0, 2**-9, 2**-7])


def runs_of(sweep: Callable, **settings: object) -> RunSet:
    return select_runs(sweep(**settings).rows(), target="train_loss", source="sweep")


def worst_error(law: ScalingLaw, sweep: Callable, form: str, asked: str) -> float:
    predicted = law.predict(M, T, R, form=asked)
    return float(np.abs(predicted / sweep(form=form).loss(M, T, R) - 1).max())


@pytest.mark.parametrize("form", ["form-3", "form-5", "effective-noise", "ceiling"])
def test_predictions_recover_the_law_behind_a_sweep_with_faults(
    form: FormName, sweep: Callable
) -> None:
    runs = runs_of(sweep, form=form, noise=0.01, lengths=(100, 200, 400), failed=2, diverged=3)
    law = fit_law(runs, forms=(form,), num_replicates=2)
    assert len(law.excluded) == 5
    assert worst_error(law, sweep, form, form) < 0.02
    assert law.score(form).mean_abs_error < 0.02


def test_the_noise_free_form_recovers_its_law_from_noise_free_runs_alone(sweep: Callable) -> None:
    rows = sweep(form="chinchilla", noise=0.005, lengths=(100, 200, 400)).rows()
    noisy = [
        {**row, "step_train_loss": 6.0, "train_loss": 6.0} if row["noise_batch_ratio"] else row
        for row in rows
    ]
    runs = select_runs(noisy, target="train_loss", source="x")
    law = fit_law(runs, forms=("chinchilla", "form-3"), num_replicates=2)
    quiet = law.predict(M[..., 0], T[..., 0], 0, form="chinchilla")
    truth = sweep(form="chinchilla").loss(M[..., 0], T[..., 0], 0)
    assert float(np.abs(quiet / truth - 1).max()) < 0.02
    fit = next(fit for fit in law.parametric if fit.form == "chinchilla")
    assert fit.num_observations == 6 * 3  # noise-free curves: widths times lengths
    assert "chinchilla" not in law.forms


def test_the_semi_parametric_law_follows_the_sweep_at_its_own_points(sweep: Callable) -> None:
    law = fit_law(runs_of(sweep, noise=0.005), forms=(), num_replicates=2)
    truth = sweep()
    for size in (24_720, 117_168):
        for ratio in (0.0, 2.0**-8):
            got = float(law.predict(size, 400, ratio, form="semi-parametric"))
            assert got == pytest.approx(float(truth.loss(size, 400, ratio)), rel=0.015)


def held_out(**errors: float) -> HeldOut:
    """A way of holding out with one point a form, off by the given share."""
    scores = [
        FormScore(name.replace("_", "-"), (HeldOutPoint(1, 1, 0.0, 2.0, 2.0 * (1 + error)),), None)
        for name, error in errors.items()
    ]
    return HeldOut("x", "x", tuple(scores))


def test_the_best_form_has_the_least_mean_error_over_all_ways() -> None:
    ways = [held_out(form_3=0.01, form_5=-0.03), held_out(form_3=-0.06, form_5=0.03)]
    assert best_form(ways) == "form-5"
    assert best_form(ways[:1]) == "form-3"


def test_a_form_without_noise_or_without_a_score_somewhere_is_never_the_best() -> None:
    complete = {"chinchilla": 0.0, "form_5": 0.02}
    assert best_form([held_out(form_3=0.001, **complete), held_out(**complete)]) == "form-5"


def test_the_default_form_is_the_best_one_unless_asked_for(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=(16, 24, 32), rates=(2.0**-5,))
    two: tuple[FormName, FormName] = ("form-3", "form-5")
    law = fit_law(runs, forms=two, num_replicates=2)
    assert law.form == best_form(law.held_out)
    asked = fit_law(runs, forms=two, form="form-3", num_replicates=2)
    assert (asked.form, asked.form_chosen_by) == ("form-3", "request")
    assert asked.forms == ("semi-parametric", *two)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"widths": (16,)}, "a single size \\(num_params=24720\\)"),
        ({"ratios": (2.0**-8,)}, "a single noise level \\(noise_batch_ratio=0.00390625\\)"),
    ],
)
def test_a_sweep_without_spread_is_refused(sweep: Callable, settings: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fit_law(runs_of(sweep, **settings))


def test_a_default_form_that_was_not_fitted_is_refused(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=(16, 24), rates=(2.0**-5,))
    with pytest.raises(InputError, match=r"--form: .*semi-parametric, form-3 .*'form-5'"):
        fit_law(runs, form="form-5", forms=("form-3",), num_replicates=2)


def test_one_planned_length_is_fitted_and_noted(sweep: Callable) -> None:
    law = fit_law(runs_of(sweep, lengths=(400,)), forms=("form-5",), num_replicates=2)
    assert "with one length" in law.schedule_note
    at_end = law.predict(64_000, 400, 2.0**-8, form="form-5")
    assert float(at_end) == pytest.approx(float(sweep().loss(64_000, 400, 2.0**-8)), rel=0.015)


def test_the_same_runs_give_the_same_law(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=(16, 24, 32), rates=(2.0**-5,))
    first, second = (fit_law(runs, forms=("form-3",), num_replicates=3) for _ in range(2))
    assert first == second
    assert len(first.parametric[0].replicates) == 3


def test_the_interval_holds_new_runs_about_as_often_as_it_says(sweep: Callable) -> None:
    """8 sweeps, 9 new runs each, 90 % intervals: far below 80 % would be dishonest."""
    inside, widths = [], []
    generator = np.random.default_rng(1)
    for seed in range(8):
        runs = runs_of(sweep, form="form-3", noise=0.01, rates=(2.0**-5,), seed=seed)
        law = fit_law(runs, form="form-3", forms=("form-3",), num_replicates=12)
        for size, steps, ratio in zip(M.ravel()[::5], T.ravel()[::5], R.ravel()[::5], strict=True):
            if steps < 200:
                continue
            measured = sweep(form="form-3").loss(size, steps, ratio) * np.exp(
                0.01 * generator.standard_normal()
            )
            low, high = law.interval(size, steps, ratio)
            inside.append(low <= measured <= high)
            widths.append(np.log(high / low))
    assert np.mean(inside) >= 0.8
    assert np.median(widths) < 0.12  # +-6 %: wider would say nothing
