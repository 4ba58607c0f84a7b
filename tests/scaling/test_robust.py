"""The robust fit finds the coefficients that made the data, also among outliers."""

from collections.abc import Callable

import numpy as np
import pytest

from dpscale.scaling.forms import FORMS, Points
from dpscale.scaling.robust import fit_form


def grid(form: str, truth: list[float]) -> tuple[Points, np.ndarray]:
    m, t, r = np.meshgrid([2e4, 6e4, 2e5, 6e5], [100, 300, 1000], [2.0**-11, 2.0**-9, 2.0**-6])
    points = Points.of(m.ravel(), t.ravel(), r.ravel(), batch_size=64, ratio_floor=1e-9)
    return points, np.exp(FORMS[form].log_loss(truth, points))


@pytest.mark.parametrize("form", list(FORMS))
def test_exact_data_gives_back_the_coefficients(form: str, sweep: Callable) -> None:
    truth = sweep(form=form).coefficients()
    points, losses = grid(form, truth)
    fit = fit_form(FORMS[form], points, losses, np.ones(losses.size))
    assert fit.converged
    assert fit.starts_agreeing > 1
    np.testing.assert_allclose(fit.coefficients, truth, rtol=2e-2, atol=2e-2)


def test_a_few_wild_points_hardly_move_the_prediction(sweep: Callable) -> None:
    truth = sweep(form="form-3").coefficients()
    points, losses = grid("form-3", truth)
    spoiled = losses.copy()
    spoiled[[3, 17]] *= 1.3
    fit = fit_form(FORMS["form-3"], points, spoiled, np.ones(losses.size))
    predicted = np.exp(FORMS["form-3"].log_loss(fit.coefficients, points))
    assert np.abs(predicted / losses - 1).max() < 0.02


def test_weight_zero_takes_a_point_out(sweep: Callable) -> None:
    truth = sweep(form="form-3").coefficients()
    points, losses = grid("form-3", truth)
    spoiled, weights = losses.copy(), np.ones(losses.size)
    spoiled[::7] *= 3
    weights[::7] = 0
    fit = fit_form(FORMS["form-3"], points, spoiled, weights)
    predicted = np.exp(FORMS["form-3"].log_loss(fit.coefficients, points))
    np.testing.assert_allclose(predicted, losses, rtol=1e-4)
