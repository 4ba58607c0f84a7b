"""What an attacker gets: closed forms, brute force over tests, and simulated attacks."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from dpscale.privacy.accounting.attacker import AttackerFigures, attacker_figures, tpr_bound
from dpscale.privacy.accounting.curve import CurvePoint, PrivacyCurve
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

FPRS = (0.01, 0.001)


def figures(**mechanism: float) -> AttackerFigures:
    """The figures for a data set of 1000, of which `sampling` are expected in a batch."""
    run = SubsampledGaussian(
        dataset_size=1000,
        expected_batch_size=int(mechanism["sampling"]),
        iterations=int(mechanism["iterations"]),
        noise_multiplier=mechanism["sigma"],
    )
    return attacker_figures(PrivacyCurve(run, 1e-6))


@pytest.mark.parametrize("iterations", [1, 400])
@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0, 3.0, 5.0, 6.0, 10.0])
def test_the_gaussian_mechanism_has_a_closed_form(mu: float, iterations: int) -> None:
    """Catches a bound that is not one, a loose search, and a wrong bound above FPR 1/2."""
    found = figures(sampling=1000, iterations=iterations, sigma=iterations**0.5 / mu)
    assert found.is_certified
    assert found.membership_advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-9)
    for fpr in FPRS:
        truth = norm.cdf(mu + norm.ppf(fpr))
        assert (1 - 1e-9) * truth <= found.tpr_at_fpr[f"{fpr}"] <= (1 + 5e-4) * truth


def test_near_certain_membership_is_bounded_from_the_other_side() -> None:
    """Catches bounds of 1 where even the best attack misses some members."""
    found = figures(sampling=1000, iterations=1, sigma=1 / 6)
    missed = norm.cdf(norm.isf(0.001) - 6)
    assert 0.9 * missed <= 1 - found.tpr_at_fpr["0.001"] <= missed * (1 + 1e-9)


def best_tests(
    null: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FPR and TPR of every likelihood-ratio test between two laws in cells of the line."""
    order = np.argsort(-other / null)
    return np.cumsum(null[order]), np.cumsum(other[order])


@pytest.mark.parametrize(("sampling", "sigma"), [(1, 0.2), (5, 0.227), (100, 0.5), (500, 1.0)])
def test_one_subsampled_step_against_every_likelihood_ratio_test(
    sampling: int, sigma: float
) -> None:
    """Catches the wrong order of neighbours, and a search that misses the bend of rare records."""
    found = figures(sampling=sampling, iterations=1, sigma=sigma)
    x, q = np.linspace(-10 * sigma, 1 + 10 * sigma, 400_001), sampling / 1000
    without = norm.pdf(x, scale=sigma) * (x[1] - x[0])
    mixture = (1 - q) * without + q * norm.pdf(x, loc=1, scale=sigma) * (x[1] - x[0])
    advantage = np.abs(mixture - without).sum() / 2
    assert found.membership_advantage == pytest.approx(advantage, rel=1e-4)
    for fpr in FPRS:
        look_for_presence = np.interp(fpr, *best_tests(without, mixture))
        look_for_absence = np.interp(fpr, *best_tests(mixture, without))
        bound = found.tpr_at_fpr[f"{fpr}"]
        assert look_for_presence * (1 - 1e-6) <= bound <= 1.005 * look_for_presence
        assert bound >= look_for_absence * (1 - 1e-6)


def simulated_losses(q: float, sigma: float, steps: int) -> tuple[NDArray[np.float64], ...]:
    """The log-likelihood ratio of all steps in a million runs without and with the record."""
    generator, runs = np.random.default_rng(20), 1_000_000
    without, present = np.zeros(runs), np.zeros(runs)
    for total, probability in ((without, 0.0), (present, q)):
        for _ in range(steps):
            x = sigma * generator.standard_normal(runs) + (generator.random(runs) < probability)
            total += np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
    return without, present


@pytest.mark.parametrize(("sampling", "sigma"), [(100, 0.7), (20, 0.4)])
def test_several_steps_against_a_simulated_attack(sampling: int, sigma: float) -> None:
    """Catches figures below what an attack reaches, or far above it."""
    found = figures(sampling=sampling, iterations=10, sigma=sigma)
    without, present = simulated_losses(sampling / 1000, sigma, 10)
    for fpr, noise in ((0.01, 0.02), (0.001, 0.04)):
        reached = float(np.mean(present > np.quantile(without, 1 - fpr)))
        assert (1 - noise) * reached <= found.tpr_at_fpr[f"{fpr}"] <= (1 + noise) * reached
    cuts = np.linspace(-1, 1, 201)
    gaps = [np.mean(present > cut) - np.mean(without > cut) for cut in cuts]
    assert found.membership_advantage == pytest.approx(max(gaps), abs=3e-3)


def test_a_cap_that_bites_gives_more_and_is_not_certified() -> None:
    """Catches a cap that the figures have not heard of."""
    free = SubsampledGaussian(
        dataset_size=10_000, expected_batch_size=1000, iterations=512, noise_multiplier=3.0
    )
    capped = dataclasses.replace(free, truncated_batch_size=1100)
    without, with_cap = (attacker_figures(PrivacyCurve(run, 1e-6)) for run in (free, capped))
    assert without.is_certified
    assert not with_cap.is_certified
    assert with_cap.membership_advantage > 1.001 * without.membership_advantage
    for fpr in FPRS:
        more = with_cap.tpr_at_fpr[f"{fpr}"] / without.tpr_at_fpr[f"{fpr}"]
        assert 1.001 < more < 1.02


def test_points_that_are_not_to_be_had_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a search that asks for the same point again and again, or invents it."""
    asked: list[float] = []
    point = PrivacyCurve.point

    def patchy(curve: PrivacyCurve, delta: float) -> CurvePoint:
        asked.append(delta)
        if delta > 0.5:
            return CurvePoint(delta, None, None, is_certified=False)
        return point(curve, delta)

    monkeypatch.setattr(PrivacyCurve, "point", patchy)
    found = figures(sampling=1000, iterations=1, sigma=1 / 5)
    assert any(delta > 0.5 for delta in asked)
    assert len(asked) <= 5
    assert found.is_certified
    for fpr in FPRS:
        assert norm.cdf(5 + norm.ppf(fpr)) <= found.tpr_at_fpr[f"{fpr}"] <= 1


def test_no_steps_teach_nothing() -> None:
    found = figures(sampling=10, iterations=0, sigma=1.0)
    assert found.membership_advantage == 0
    assert found.tpr_at_fpr == pytest.approx({"0.01": 0.01, "0.001": 0.001})


def test_a_point_bounds_both_sides() -> None:
    """(ε, δ) = (log 2, 0): the trade-off curve of randomised response."""
    assert tpr_bound(0.1, np.log(2), 0.0) == pytest.approx(0.2)
    assert tpr_bound(0.8, np.log(2), 0.0) == pytest.approx(0.9)
