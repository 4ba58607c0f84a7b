"""The two intervals by hand; what a law lacks is refused in one line."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student_t

from dpscale.errors import InputError
from dpscale.scaling.fitting.fit import fit_law
from dpscale.scaling.forms import FORMS, Points
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.reading.runs import select_runs

WHERE = (60_000, 300, 2.0**-9)


@pytest.fixture(scope="module")
def law(sweep: Callable) -> ScalingLaw:
    rows = sweep(form="form-3", noise=0.01, widths=(16, 24, 32, 48)).rows()
    runs = select_runs(rows, target="train_loss", source="x")
    return fit_law(runs, form="form-3", forms=("chinchilla", "form-3"), num_replicates=10)


def test_the_laws_own_interval_by_hand(law: ScalingLaw) -> None:
    fit = next(fit for fit in law.parametric if fit.form == "form-3")
    assert (fit.num_observations, fit.freedom) == (4 * 4 * 2, 4 * 4 * 2 - 7)
    points = Points.of(*WHERE, batch_size=64, ratio_floor=law.ratio_floor)
    form = FORMS["form-3"]
    middle = form.log_loss(list(fit.coefficients.values()), points)
    squares = [(form.log_loss(each, points) - middle) ** 2 for each in fit.replicates]
    half = student_t.ppf(0.95, 25) * 1.15 * np.sqrt(np.mean(squares) * 32 / 25)
    assert law.law_interval(*WHERE) == pytest.approx((np.exp(middle - half), np.exp(middle + half)))


def test_a_new_run_lies_in_a_wider_interval_than_the_law(law: ScalingLaw) -> None:
    for form in law.forms:
        low, high = law.law_interval(*WHERE, form=form)
        lower, higher = law.interval(*WHERE, form=form)
        assert lower < low < float(law.predict(*WHERE, form=form)) < high < higher


def test_the_interval_of_a_run_by_hand(law: ScalingLaw) -> None:
    score = law.score()
    others = np.log(law.predict(*WHERE, form="semi-parametric") / law.predict(*WHERE)) ** 2
    of_run = max(score.mean_squared_log_error, law.run_scatter**2, others)
    low, high = law.law_interval(*WHERE)
    of_fit = (np.log(high / low) / 2 / student_t.ppf(0.95, 25)) ** 2
    half = student_t.ppf(0.95, len(score.points)) * np.sqrt(of_run + of_fit)
    low, high = law.interval(*WHERE)
    assert np.log(high / low) / 2 == pytest.approx(half)


def test_without_other_forms_held_out_errors_and_scatter_set_the_interval(law: ScalingLaw) -> None:
    alone = replace(law, surface=None)
    score = law.score()
    low, high = law.law_interval(*WHERE)
    of_fit = (np.log(high / low) / 2 / student_t.ppf(0.95, 25)) ** 2
    for scatter in (0.0, 0.1):
        low, high = replace(alone, run_scatter=scatter).interval(*WHERE)
        of_run = max(score.mean_squared_log_error, scatter**2)
        half = student_t.ppf(0.95, len(score.points)) * np.sqrt(of_run + of_fit)
        assert np.log(high / low) / 2 == pytest.approx(half)


def test_intervals_open_where_no_run_has_been(law: ScalingLaw) -> None:
    def width(*where: float) -> float:
        low, high = law.law_interval(*where)
        return float(np.log(high / low))

    assert width(60_000 * 100, 300 * 100, 2.0**-9) > 2 * width(*WHERE)


def test_without_replicates_the_fit_brings_no_error(law: ScalingLaw) -> None:
    bare = replace(law, parametric=tuple(replace(fit, replicates=()) for fit in law.parametric))
    assert bare.law_interval(*WHERE) == pytest.approx([float(law.predict(*WHERE))] * 2)


@pytest.mark.parametrize("ask", ["predict", "interval", "law_interval", "replicate_log_losses"])
def test_a_form_that_the_law_lacks_is_one_line(law: ScalingLaw, ask: str) -> None:
    with pytest.raises(InputError, match=r"one of semi-parametric, form-3, .* found 'form-5'"):
        getattr(law, ask)(*WHERE, form="form-5")
    without = replace(law, surface=None)
    assert without.forms == ("form-3",)
    with pytest.raises(InputError, match=r"--form: expected one of form-3, .*'semi-parametric'"):
        getattr(without, ask)(*WHERE, form="semi-parametric")


def test_the_form_without_noise_answers_without_noise_only(law: ScalingLaw) -> None:
    quiet = law.predict(60_000, 300, 0.0, form="chinchilla")
    assert float(quiet) == pytest.approx(float(law.predict(60_000, 300, 0.0)), rel=0.03)
    low, high = law.law_interval(60_000, 300, 0.0, form="chinchilla")
    assert low < quiet < high
    with pytest.raises(InputError, match=r"for noise-batch ratio 0 only.*found 'chinchilla'"):
        law.predict([60_000, 60_000], 300, [0.0, 2.0**-9], form="chinchilla")


def test_a_form_without_a_held_out_score_has_no_interval_for_runs(law: ScalingLaw) -> None:
    first = replace(law.held_out[0], scores=law.held_out[0].scores[:1])
    unjudged = replace(law, held_out=(first, *law.held_out[1:]))
    with pytest.raises(InputError, match=r"'form-3' was not compared .* one of semi-parametric"):
        unjudged.interval(*WHERE)
    unjudged.law_interval(*WHERE)


def test_a_law_without_rates_answers_with_the_middle_and_says_so(law: ScalingLaw) -> None:
    tuned = law.learning_rate(*WHERE)
    assert tuned.is_tuned
    assert 2.0**-6 < tuned.learning_rate < 2.0**-4
    untuned = replace(law, learning_rates=None).learning_rate(*WHERE)
    assert not untuned.is_tuned
    assert untuned.learning_rate == pytest.approx(2.0**-5)


def test_arguments_broadcast(law: ScalingLaw) -> None:
    low, high = law.law_interval(np.array([[3e4], [6e4]]), [200, 300, 400], 2.0**-9)
    assert low.shape == high.shape == (2, 3)
    assert law.replicate_log_losses([3e4, 6e4], 200, 0.01).shape == (10, 2)
