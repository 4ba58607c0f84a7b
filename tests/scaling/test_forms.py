"""The forms compute their formulas, written out here by hand, and the derivatives of these."""

import math

import numpy as np
import pytest

from dpscale.scaling.forms import FORMS, Points, noise_floor, sampling_noise
from dpscale.scaling.synthetic import TRUTHS

M, T, R, P = 64_000.0, 300.0, 2.0**-9, 64.0
E, A, ALPHA, B, BETA, C, GAMMA, ALPHA2, U = 1.7, 90.0, 0.4, 30.0, 0.3, 9.0, 0.8, 0.1, 3.5


def predict(name: str, coefficients: list[float], ratio: float = R) -> float:
    points = Points.of(M, T, ratio, batch_size=P, ratio_floor=1e-12)
    return float(np.exp(FORMS[name].log_loss(coefficients, points)))


def test_chinchilla_is_a_floor_and_a_power_law_each_in_size_and_examples() -> None:
    coefficients = [*map(math.log, (E, A, B)), ALPHA, BETA]
    expected = E + A / M**ALPHA + B / (P * T) ** BETA
    assert predict("chinchilla", coefficients, 0.0) == pytest.approx(expected, rel=1e-12)


def test_form_3_is_equation_3_with_examples_as_data() -> None:
    coefficients = [*map(math.log, (E, A, B, C)), ALPHA, BETA, GAMMA]
    expected = E + A / M**ALPHA + B / (P * T) ** BETA + C * R**GAMMA
    assert predict("form-3", coefficients) == pytest.approx(expected, rel=1e-12)


def test_form_5_uses_the_sigmoid_and_the_second_size_exponent() -> None:
    coefficients = [*map(math.log, (E, A, B, C)), ALPHA, BETA, GAMMA, ALPHA2]
    sigmoid = 1 / (1 + math.exp(-(math.log(R) + 8) / 1.6))
    expected = E + A / M**ALPHA + B / (P * T) ** BETA + C * sigmoid**GAMMA / M**ALPHA2
    assert predict("form-5", coefficients) == pytest.approx(expected, rel=1e-12)


def above_the_floor(ratio: float = R) -> float:
    effective = math.sqrt(ratio**2 + 1 / (P * M))
    return A / M**ALPHA + B / T**BETA + C * effective**GAMMA / M**ALPHA2


def test_effective_noise_adds_the_batch_noise_in_quadrature_and_counts_iterations() -> None:
    coefficients = [*map(math.log, (E, A, B, C)), ALPHA, BETA, GAMMA, ALPHA2]
    expected = E + above_the_floor()
    assert predict("effective-noise", coefficients) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ratio", [0.0, R, 0.5, 1e3])
def test_ceiling_bends_the_sum_and_leaves_the_floor_alone(ratio: float) -> None:
    coefficients = [*map(math.log, (E, A, B, C, U)), ALPHA, BETA, GAMMA, ALPHA2]
    expected = E + 1 / math.sqrt(1 / above_the_floor(ratio) ** 2 + 1 / U**2)
    assert predict("ceiling", coefficients, ratio) == pytest.approx(expected, rel=1e-12)
    assert predict("ceiling", coefficients, ratio) < E + U


def test_ceiling_far_above_the_losses_is_effective_noise() -> None:
    constants = [*map(math.log, (E, A, B, C))]
    exponents = [ALPHA, BETA, GAMMA, ALPHA2]
    expected = predict("effective-noise", constants + exponents)
    far = predict("ceiling", [*constants, math.log(1e6), *exponents])
    assert far == pytest.approx(expected, rel=1e-10)


def test_coefficients_are_named_in_the_order_in_which_they_are_read() -> None:
    assert FORMS["ceiling"].coefficient_names == (
        *("log_E", "log_A", "log_B", "log_C", "log_U"),
        *("alpha", "beta", "gamma", "alpha2"),
    )
    for name, form in FORMS.items():
        assert form.name == name
        assert set(form.bounds) == set(form.exponents)


@pytest.mark.parametrize("name", list(FORMS))
def test_jacobian_is_the_slope_of_the_log_loss(name: str) -> None:
    form = FORMS[name]
    coefficients = np.array(TRUTHS[name])
    m, t, r = np.meshgrid([2e4, 2e5, 2e6], [100.0, 1000.0], [0.0, 2.0**-11, 2.0**-4])
    points = Points.of(m.ravel(), t.ravel(), r.ravel(), batch_size=P, ratio_floor=1e-6)
    slopes = []
    for index in range(coefficients.size):
        step = np.zeros(coefficients.size)
        step[index] = 1e-6
        ahead, behind = (form.log_loss(coefficients + sign * step, points) for sign in (1, -1))
        slopes.append((ahead - behind) / 2e-6)
    jacobian = form.jacobian(coefficients, form.design(points))
    np.testing.assert_allclose(jacobian, np.array(slopes).T, rtol=1e-6, atol=1e-8)
    assert np.abs(jacobian).max(axis=0).min() > 1e-3, "a coefficient that these points never see"


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if not form.noise_free])
def test_ratio_zero_is_finite_and_below_every_positive_ratio(name: str) -> None:
    form = FORMS[name]
    coefficients = [0.0] * len(form.constants) + [0.5] * len(form.exponents)
    assert predict(name, coefficients, 0.0) < predict(name, coefficients, 2.0**-12)
    assert math.isfinite(predict(name, coefficients, 0.0))


def test_floor_keeps_the_order_of_ratios_and_sits_below_the_sampling_noise() -> None:
    floor = noise_floor([64_000], 64, [2.0**-10, 2.0**-8])
    assert floor == pytest.approx(float(sampling_noise(64_000, 64)) / 8)
    assert noise_floor([64_000], 64, [1e-5]) == pytest.approx(1e-5 / 8)
