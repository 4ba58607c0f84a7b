"""Projected constants are the best there are, and the projected slope is that of the objective."""

import numpy as np
import pytest

from dpscale.scaling.fitting.centred import CentredProblem
from dpscale.scaling.fitting.variable_projection import descend, project, projected_slopes
from dpscale.scaling.forms import FORMS, Points
from dpscale.scaling.synthetic import TRUTHS

EVERY_FORM = pytest.mark.parametrize("form", list(FORMS))


def problem(form: str) -> CentredProblem:
    """Losses with 2 % of scatter, so that about half of them are beyond Huber's threshold."""
    ratios = [0.0] if FORMS[form].noise_free else [0.0, 2.0**-11, 2.0**-9, 2.0**-6]
    m, t, r = np.meshgrid([2e4, 6e4, 2e5, 6e5], [100, 300, 1000], ratios)
    points = Points.of(m.ravel(), t.ravel(), r.ravel(), batch_size=64, ratio_floor=1e-6)
    generator = np.random.default_rng(0)
    logs = FORMS[form].log_loss(TRUTHS[form], points)
    logs = logs + 0.02 * generator.standard_normal(logs.size)
    return CentredProblem(FORMS[form], points, logs, generator.uniform(0.5, 2.0, logs.size))


def theta_of(given: CentredProblem) -> np.ndarray:
    """Exponents near the truth, constants far from the best."""
    theta = given.centre(np.array(TRUTHS[given.form.name]))
    theta[given.num_terms :] *= 1.1
    theta[: given.num_terms] += np.linspace(-0.5, 0.5, given.num_terms)
    return given.inside(theta)


def reached(given: CentredProblem, theta: np.ndarray) -> float:
    return given.objective(given.residuals(theta))


@EVERY_FORM
def test_no_change_of_a_projected_constant_is_a_gain(form: str) -> None:
    given = problem(form)
    theta = project(given, theta_of(given))
    np.testing.assert_array_equal(theta[given.num_terms :], theta_of(given)[given.num_terms :])
    least = reached(given, theta)
    assert least < reached(given, theta_of(given))
    for index in range(given.num_terms):
        for step in (-0.02, 0.02):
            moved = theta.copy()
            moved[index] = max(moved[index] + step, given.low[index])
            assert reached(given, moved) >= least


def test_a_constant_that_only_harms_goes_to_its_bound_and_may_come_back() -> None:
    given = problem("form-3")
    theta = theta_of(given)
    given.log_losses = np.full(given.log_losses.size, np.log(3.0))
    flat = project(given, theta)
    np.testing.assert_allclose(flat[1:4], given.low[1:4], atol=1e-3)
    given.log_losses = problem("form-3").log_losses
    back = project(given, flat)
    assert reached(given, back) == pytest.approx(reached(given, project(given, theta)), rel=1e-4)


@EVERY_FORM
def test_projected_slopes_give_the_slope_of_the_projected_objective(form: str) -> None:
    given = problem(form)
    theta = project(given, theta_of(given))
    residuals = given.residuals(theta)
    slope = projected_slopes(given, theta).T @ (given.pull(residuals) * residuals)
    for index, expected in enumerate(slope, start=given.num_terms):
        ends = []
        for step in (-1e-3, 1e-3):
            moved = theta.copy()
            moved[index] += step
            ends.append(reached(given, project(given, moved)))
        assert (ends[1] - ends[0]) / 2e-3 == pytest.approx(
            expected, rel=0.05, abs=2e-3 * np.abs(slope).max()
        )


@EVERY_FORM
def test_projected_slopes_are_what_constants_cannot_make_good(form: str) -> None:
    given = problem(form)
    theta = project(given, theta_of(given))
    pull = given.pull(given.residuals(theta))
    constants = given.jacobian(theta)[:, : given.num_terms]
    left = constants.T @ (pull[:, None] * projected_slopes(given, theta))
    np.testing.assert_allclose(left, 0.0, atol=1e-8 * np.abs(constants).max() * pull.sum())


@EVERY_FORM
def test_a_descent_from_afar_ends_where_one_from_the_truth_does(form: str) -> None:
    given = problem(form)
    far = theta_of(given)
    exponents = slice(len(given.form.constants), None)
    far[exponents] = np.where(given.low[exponents] < 0, 0.3, 1.0)
    ends = [reached(given, descend(given, start)) for start in (far, theta_of(given))]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
