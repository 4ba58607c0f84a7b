"""The forms compute their formulas, written out here by hand."""

import math

import numpy as np
import pytest

from dpscale.scaling.forms import FORMS, Points, noise_floor, sampling_noise

M, T, R, P = 64_000.0, 300.0, 2.0**-9, 64.0
E, A, ALPHA, B, BETA, C, GAMMA, ALPHA2 = 1.7, 90.0, 0.4, 30.0, 0.3, 9.0, 0.8, 0.1


def predict(name: str, coefficients: list[float], ratio: float = R) -> float:
    points = Points.of(M, T, ratio, batch_size=P, ratio_floor=1e-12)
    return float(np.exp(FORMS[name].log_loss(coefficients, points)))


def test_form_3_is_equation_3_with_examples_as_data() -> None:
    coefficients = [*map(math.log, (E, A, B, C)), ALPHA, BETA, GAMMA]
    expected = E + A / M**ALPHA + B / (P * T) ** BETA + C * R**GAMMA
    assert predict("form-3", coefficients) == pytest.approx(expected, rel=1e-12)


def test_form_5_uses_the_sigmoid_and_the_second_size_exponent() -> None:
    coefficients = [*map(math.log, (E, A, B, C)), ALPHA, BETA, GAMMA, ALPHA2]
    sigmoid = 1 / (1 + math.exp(-(math.log(R) + 8) / 1.6))
    expected = E + A / M**ALPHA + B / (P * T) ** BETA + C * sigmoid**GAMMA / M**ALPHA2
    assert predict("form-5", coefficients) == pytest.approx(expected, rel=1e-12)


def test_effective_noise_adds_the_batch_noise_in_quadrature_and_counts_iterations() -> None:
    coefficients = [*map(math.log, (E, A, B, C)), ALPHA, BETA, GAMMA, ALPHA2]
    effective = math.sqrt(R**2 + 1 / (P * M))
    expected = E + A / M**ALPHA + B / T**BETA + C * effective**GAMMA / M**ALPHA2
    assert predict("effective-noise", coefficients) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", list(FORMS))
def test_ratio_zero_is_finite_and_below_every_positive_ratio(name: str) -> None:
    form = FORMS[name]
    coefficients = [0.0] * len(form.intercepts) + [0.5] * len(form.exponents)
    assert predict(name, coefficients, 0.0) < predict(name, coefficients, 2.0**-12)
    assert math.isfinite(predict(name, coefficients, 0.0))


def test_floor_keeps_the_order_of_ratios_and_sits_below_the_sampling_noise() -> None:
    floor = noise_floor([64_000], 64, [2.0**-10, 2.0**-8])
    assert floor == pytest.approx(float(sampling_noise(64_000, 64)) / 8)
    assert noise_floor([64_000], 64, [1e-5]) == pytest.approx(1e-5 / 8)
