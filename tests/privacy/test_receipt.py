"""The receipt states what was done, for how much, and what it does not cover."""

import dataclasses
import json

import pytest

from dpscale.privacy.accounting.pld import epsilon
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.receipt import SEED_KNOWN, ReceiptFacts, make_receipt

ACCOUNTED = SubsampledGaussian(
    dataset_size=2000,
    expected_batch_size=20,
    iterations=7,
    noise_multiplier=0.7,
    truncated_batch_size=40,
)
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
)


def test_epsilon_is_that_of_the_steps_taken() -> None:
    # Catches: the target, or the planned iterations, in the place of what was spent.
    receipt = make_receipt(FACTS)
    assert receipt["epsilon"] == epsilon(ACCOUNTED, delta=1e-5)
    whole = epsilon(dataclasses.replace(ACCOUNTED, iterations=50), delta=1e-5)
    assert 0 < receipt["epsilon"] < whole
    assert (receipt["iterations"], receipt["planned_iterations"]) == (7, 50)
    assert receipt["delta"] == 1e-5


def test_no_step_taken_nothing_spent() -> None:
    nothing = dataclasses.replace(ACCOUNTED, iterations=0)
    assert make_receipt(dataclasses.replace(FACTS, accounted=nothing))["epsilon"] == 0.0


def test_a_known_seed_is_no_guarantee() -> None:
    # Catches: an (epsilon, delta) claim for keys that anyone can repeat.
    receipt = make_receipt(dataclasses.replace(FACTS, is_seed_known=True))
    assert receipt["guarantee"] == SEED_KNOWN == "seed known: no guarantee"
    assert receipt["keys"]["source"] == "pinned seed"
    secret = make_receipt(FACTS)
    assert "DP" in secret["guarantee"]
    assert secret["keys"]["source"] == "operating system entropy"


def test_another_can_recompute_epsilon_from_the_receipt_alone() -> None:
    # Catches: a number that the accountant used and the receipt does not name, the cap for one.
    receipt = json.loads(json.dumps(make_receipt(FACTS)))
    names = [field.name for field in dataclasses.fields(SubsampledGaussian)]
    again = SubsampledGaussian(**{name: receipt[name] for name in names})
    assert epsilon(again, delta=receipt["delta"]) == receipt["epsilon"]
    assert receipt["noise_batch_ratio"] == pytest.approx(0.7 / 20)
    assert receipt["sampling_prob"] == pytest.approx(0.01)
    assert "truncated_batch_size=40" in receipt["event"]


def test_it_names_what_it_does_not_cover() -> None:
    receipt = make_receipt(FACTS)
    text = " ".join(receipt["not_covered"])
    for word in ("metrics.jsonl", "status.json", "result.json", "evaluation", "tokenizer", "sweep"):
        assert word in text
    assert receipt["norm_margin"] == 1e-5
    assert receipt["not_private"] == {"num_truncated_batches": 1, "num_truncated_examples": 2}
