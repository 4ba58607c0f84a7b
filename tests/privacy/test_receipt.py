"""The receipt states what was done, for how much, and what it does not cover."""

import dataclasses
import json
import math

import pytest
from scipy.stats import norm

from dpscale.privacy.accounting import accountant
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.interval import epsilon_interval
from dpscale.privacy.accounting.pld import epsilon
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.noise import LARGEST_NOISE
from dpscale.privacy.receipt import (
    GUARANTEE,
    NO_EPSILON,
    NOTHING_DECLARED,
    SEED_KNOWN,
    ReceiptFacts,
    make_receipt,
)
from dpscale.privacy.receipt_check import mismatches, violations

ACCOUNTED = SubsampledGaussian(
    dataset_size=2000,
    expected_batch_size=20,
    iterations=7,
    noise_multiplier=0.7,
    truncated_batch_size=100,
)
CUT = dataclasses.replace(ACCOUNTED, truncated_batch_size=40)
"""Its cap bites too often for a certified interval."""
FACTS = ReceiptFacts(
    accounted=ACCOUNTED,
    planned_iterations=50,
    target_epsilon=8.0,
    target_delta=1e-5,
    privacy_unit="sequence",
    unit_origin="cut from documents",
    l2_clip_norm=0.5,
    rescale_to_unit_norm=True,
    norm_margin=1e-5,
    is_seed_known=False,
    num_truncated_batches=1,
    num_truncated_examples=2,
    run_id="a-run",
    config_hash="c" * 64,
    data_hash="d" * 64,
    tuning_not_covered=None,
    versions={"dpscale": "0.1.0", "jax": "0.10.2"},
    commit=None,
)


def test_epsilon_is_that_of_the_steps_taken() -> None:
    # Catches: the target, or the planned iterations, in the place of what was spent.
    receipt = make_receipt(FACTS, with_curve=False)
    interval = epsilon_interval(ACCOUNTED, delta=1e-5)
    assert (receipt["epsilon_lower"], receipt["epsilon_upper"]) == (interval.lower, interval.upper)
    assert receipt["epsilon"] == interval.upper  # the claim is the safe end
    assert receipt["is_certified"]
    whole = accounted(dataclasses.replace(ACCOUNTED, iterations=50), delta=1e-5).upper
    assert 0 < receipt["epsilon"] < whole
    assert (receipt["iterations"], receipt["planned_iterations"]) == (7, 50)
    assert receipt["delta"] == 1e-5


def test_no_step_taken_nothing_spent() -> None:
    nothing = dataclasses.replace(ACCOUNTED, iterations=0)
    receipt = make_receipt(dataclasses.replace(FACTS, accounted=nothing), with_curve=True)
    assert receipt["epsilon"] == 0.0
    assert mismatches(receipt) == []


def test_where_a_cap_bites_the_estimate_says_that_it_is_one() -> None:
    # Catches: dp_accounting's number with the word "certified" beside it.
    receipt = make_receipt(dataclasses.replace(FACTS, accounted=CUT), with_curve=False)
    assert receipt["epsilon"] == epsilon(CUT, delta=1e-5)
    assert (receipt["epsilon_lower"], receipt["is_certified"]) == (None, False)
    assert "dp_accounting" in receipt["accountant"]
    assert mismatches(receipt) == []


def test_a_run_that_has_ended_gets_a_receipt_whatever_the_accountants_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: a finished run that fails, or that claims a number which nobody computed.
    def fails(*_: object, **__: object) -> float:
        raise NoCertifiedInterval("no")

    uncapped = dataclasses.replace(ACCOUNTED, truncated_batch_size=None)
    facts = dataclasses.replace(FACTS, accounted=uncapped)
    monkeypatch.setattr(accountant, "epsilon_interval", fails)
    receipt = make_receipt(facts, with_curve=False)
    assert receipt["epsilon"] == epsilon(uncapped, delta=1e-5)
    assert (receipt["epsilon_lower"], receipt["is_certified"]) == (None, False)
    assert receipt["guarantee"] == GUARANTEE

    monkeypatch.setattr("dpscale.privacy.accounting.pld.epsilon", fails)
    receipt = json.loads(json.dumps(make_receipt(facts, with_curve=False), allow_nan=False))
    assert receipt["epsilon"] is receipt["epsilon_upper"] is None
    assert receipt["guarantee"] == NO_EPSILON
    assert violations(receipt) == []
    assert (
        make_receipt(dataclasses.replace(facts, is_seed_known=True), with_curve=False)["guarantee"]
        == SEED_KNOWN
    )


def test_curve_and_attacker_of_a_single_gaussian_are_known() -> None:
    # Catches: figures of another mechanism, of the planned run, or the safe end mistaken.
    # Every unit in every batch: one Gaussian with mu = sqrt(T) / sigma, whose trade-off curve is
    # that of two normals mu apart (Dong, Roth and Su 2019).
    whole = SubsampledGaussian(
        dataset_size=20,
        expected_batch_size=20,
        iterations=7,
        noise_multiplier=5.0,
        truncated_batch_size=20,
    )
    receipt = make_receipt(dataclasses.replace(FACTS, accounted=whole), with_curve=True)
    mu = math.sqrt(7) / 5
    for point in receipt["curve"]:
        epsilon = point["epsilon_upper"]
        left, right = norm.cdf(mu / 2 - epsilon / mu), norm.cdf(-mu / 2 - epsilon / mu)
        assert left - math.exp(epsilon) * right == pytest.approx(point["delta"], rel=1e-6)
    at_delta = [point for point in receipt["curve"] if point["delta"] == receipt["delta"]]
    assert [point["epsilon_upper"] for point in at_delta] == [receipt["epsilon"]]
    attacker = receipt["attacker"]
    assert attacker["membership_advantage"] == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-6)
    for fpr, tpr in attacker["tpr_at_fpr"].items():
        truth = norm.cdf(norm.ppf(float(fpr)) + mu)
        assert truth <= tpr <= 1.01 * truth
    assert attacker["is_certified"]
    assert all(point["is_certified"] for point in receipt["curve"])


def test_a_known_seed_is_no_guarantee() -> None:
    # Catches: an (epsilon, delta) claim for keys that anyone can repeat.
    receipt = make_receipt(dataclasses.replace(FACTS, is_seed_known=True), with_curve=False)
    assert receipt["guarantee"] == SEED_KNOWN == "seed known: no guarantee"
    assert receipt["keys"]["source"] == "pinned seed"
    secret = make_receipt(FACTS, with_curve=False)
    assert "DP" in secret["guarantee"]
    assert secret["keys"]["source"] == "operating system entropy"


def test_another_can_recompute_epsilon_from_the_receipt_alone() -> None:
    # Catches: a number that the accountant used and the receipt does not name, the cap for one.
    receipt = json.loads(
        json.dumps(make_receipt(dataclasses.replace(FACTS, accounted=CUT), with_curve=False))
    )
    names = [field.name for field in dataclasses.fields(SubsampledGaussian)]
    again = SubsampledGaussian(**{name: receipt[name] for name in names})
    assert epsilon(again, delta=receipt["delta"]) == receipt["epsilon"]
    assert receipt["noise_batch_ratio"] == pytest.approx(0.7 / 20)
    assert receipt["sampling_prob"] == pytest.approx(0.01)
    assert "truncated_batch_size=40" in receipt["event"]


def test_it_names_what_it_does_not_cover() -> None:
    receipt = make_receipt(FACTS, with_curve=False)
    text = " ".join(receipt["not_covered"])
    for word in ("metrics.jsonl", "status.json", "result.json", "evaluation", "tokenizer", "sweep"):
        assert word in text
    assert receipt["norm_margin"] == 1e-5
    assert receipt["not_private"] == {"num_truncated_batches": 1, "num_truncated_examples": 2}


def test_it_repeats_what_the_user_says_about_tuning() -> None:
    # Catches: silence read as "nothing was tuned".
    said = dataclasses.replace(FACTS, tuning_not_covered="a sweep on the same speeches")
    assert (
        make_receipt(said, with_curve=False)["tuning_not_covered"] == "a sweep on the same speeches"
    )
    assert make_receipt(FACTS, with_curve=False)["tuning_not_covered"] == NOTHING_DECLARED
    assert "not known" in NOTHING_DECLARED


def test_the_noise_is_described_as_it_is_made() -> None:
    # Catches: a receipt that still describes an earlier generator of noise.
    (sentence,) = (
        line
        for line in make_receipt(FACTS, with_curve=False)["assumptions"]
        if "Box-Muller" in line
    )
    beyond = 2 * norm.sf(LARGEST_NOISE)
    assert f"exceeds {math.ceil(100 * LARGEST_NOISE) / 100} standard deviations" in sentence
    assert f"probability {beyond:.2g};" in sentence
