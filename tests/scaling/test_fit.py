"""A law comes back from sweeps made with it, and what was held out stayed unseen."""

from collections.abc import Callable

import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.scaling.fit import fit_law, split_runs
from dpscale.scaling.law import FORM_NAMES, ScalingLaw
from dpscale.scaling.runs import RunSet, select_runs

M, T, R = np.meshgrid([30_000, 60_000, 120_000, 300_000], [120, 200, 300, 400], [0, 2**-9, 2**-7])


def runs_of(sweep: Callable, **settings: object) -> RunSet:
    return select_runs(sweep(**settings).rows(), target="train_loss", source="sweep")


def worst_error(law: ScalingLaw, sweep: Callable, form: str, asked: str) -> float:
    predicted = law.predict(M, T, R, form=asked)
    return float(np.abs(predicted / sweep(form=form).loss(M, T, R) - 1).max())


@pytest.mark.parametrize("form", ["form-3", "form-5", "effective-noise"])
def test_predictions_recover_the_law_behind_a_sweep_with_faults(form: str, sweep: Callable) -> None:
    runs = runs_of(sweep, form=form, noise=0.01, lengths=(100, 200, 400), failed=2, diverged=3)
    law = fit_law(runs, num_replicates=2)
    assert len(law.excluded) == 5
    assert worst_error(law, sweep, form, form) < 0.025
    assert law.score(form).mean_abs_error < 0.02
    assert law.score(law.form).mean_abs_error == min(s.mean_abs_error for s in law.scores)


def test_the_semi_parametric_law_follows_the_sweep_at_its_own_points(sweep: Callable) -> None:
    law = fit_law(runs_of(sweep, noise=0.005), num_replicates=2)
    truth = sweep()
    for size in (24_720, 117_168):
        for ratio in (0.0, 2.0**-8):
            got = float(law.predict(size, 400, ratio, form="semi-parametric"))
            assert got == pytest.approx(float(truth.loss(size, 400, ratio)), rel=0.015)


def test_held_out_runs_do_not_touch_their_own_predictions(sweep: Callable) -> None:
    rows = sweep(rates=(2.0**-5,)).rows()
    moved = [
        {**row, "step_train_loss": row["step_train_loss"] * 1.1} if row["width"] == 96 else row
        for row in rows
    ]
    plain, other = (
        fit_law(select_runs(each, target="train_loss", source="x"), num_replicates=2)
        for each in (rows, moved)
    )
    for name in FORM_NAMES:
        for a, b in zip(plain.score(name).points, other.score(name).points, strict=True):
            assert a.predicted_loss == b.predicted_loss
            assert b.measured_loss == pytest.approx(1.1 * a.measured_loss)


def test_holding_out_noise_too_leaves_neither_to_the_fit(sweep: Callable) -> None:
    split = split_runs(runs_of(sweep), "largest-size-and-noise")
    assert max(run.num_params for run in split.fitted) == 184_896
    assert max(run.noise_batch_ratio for run in split.fitted) == 2.0**-8
    assert len(split.fitted) + len(split.held_out) == len(runs_of(sweep).runs)


def test_two_sizes_hold_out_one_corner(sweep: Callable) -> None:
    law = fit_law(runs_of(sweep, widths=(16, 32), ratios=(0.0, 2.0**-8)), num_replicates=2)
    assert {point.noise_batch_ratio for point in law.scores[0].points} == {2.0**-8}
    assert {point.num_params for point in law.scores[0].points} == {63_776}


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


def test_one_planned_length_is_fitted_and_noted(sweep: Callable) -> None:
    law = fit_law(runs_of(sweep, lengths=(400,)), num_replicates=2)
    assert "with one length" in law.schedule_note
    at_end = law.predict(64_000, 400, 2.0**-8, form="form-5")
    assert float(at_end) == pytest.approx(float(sweep().loss(64_000, 400, 2.0**-8)), rel=0.015)


def test_the_same_runs_give_the_same_law(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=(16, 24, 32))
    assert fit_law(runs, num_replicates=3) == fit_law(runs, num_replicates=3)


def test_the_interval_holds_new_runs_about_as_often_as_it_says(sweep: Callable) -> None:
    """8 sweeps, 8 new runs each, 90 % intervals: far below 80 % would be dishonest."""
    inside, widths = [], []
    generator = np.random.default_rng(1)
    for seed in range(8):
        small = {"noise": 0.01, "rates": (2.0**-5,), "lengths": (200, 400), "seed": seed}
        law = fit_law(runs_of(sweep, form="form-3", **small), num_replicates=12)
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
