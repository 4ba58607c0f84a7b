"""`receipt.json`: what a private run did, what that is worth, and what it does not cover. No JAX.

A receipt states only what was done: a run that stopped early accounts for the steps it took.
It holds no key.
"""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from dpscale.privacy.accounting.pld import ACCOUNTANT, epsilon
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.keys import (
    NOISE_GENERATOR,
    NOISE_KEY_BITS,
    SAMPLING_GENERATOR,
    SAMPLING_KEY_BITS,
)

FORMAT_VERSION = 1

ASSUMPTIONS = (
    "The sampling and noise keys stay secret.",
    "The noise is floating-point Gaussian noise from a counter-based generator, accounted for "
    "as if it were exact and truly random.",
    "Zero-out neighbours: the number of units N is public.",
    "One record is one privacy unit: a person or document that stands in k units is "
    "protected as a group of k.",
)
NOT_COVERED = (
    "Choices made by looking at the private data before this run: a sweep or a law fitted on "
    "it, tuned learning rates, repeated private runs.",
    "Files of this run that hold statistics without noise: metrics.jsonl (keys named "
    "not_private there), status.json, result.json, and the counts in this receipt's "
    "`not_private`.",
    "The held-out evaluation units.",
    "The tokenizer, where it was trained on the private text.",
)
SEED_KNOWN = "seed known: no guarantee"


@dataclass(frozen=True, kw_only=True)
class ReceiptFacts:
    """What a run knows about itself when it writes its receipt.

    `accounted.iterations` is the number of steps taken.
    """

    accounted: SubsampledGaussian
    planned_iterations: int
    target_epsilon: float
    target_delta: float
    privacy_unit: str
    unit_origin: str
    l2_clip_norm: float
    rescale_to_unit_norm: bool
    norm_margin: float
    is_seed_known: bool
    num_truncated_batches: int
    num_truncated_examples: int
    run_id: str
    config_hash: str
    data_hash: str


def make_receipt(facts: ReceiptFacts) -> dict[str, Any]:
    """The receipt of a private run, as plain data."""
    run = facts.accounted
    spent = epsilon(run, delta=facts.target_delta)
    return {
        "format_version": FORMAT_VERSION,
        "run_id": facts.run_id,
        "guarantee": SEED_KNOWN if facts.is_seed_known else "(epsilon, delta)-DP for one unit",
        "epsilon": spent,
        "delta": facts.target_delta,
        "target_epsilon": facts.target_epsilon,
        "privacy_unit": facts.privacy_unit,
        "unit_origin": facts.unit_origin,
        "neighboring_relation": run.neighboring_relation,
        "dataset_size": run.dataset_size,
        "expected_batch_size": run.expected_batch_size,
        "truncated_batch_size": run.truncated_batch_size,
        "sampling_prob": run.sampling_prob,
        "iterations": run.iterations,
        "planned_iterations": facts.planned_iterations,
        "noise_multiplier": run.noise_multiplier,
        "noise_batch_ratio": run.noise_multiplier / run.expected_batch_size,
        "l2_clip_norm": facts.l2_clip_norm,
        "rescale_to_unit_norm": facts.rescale_to_unit_norm,
        "normalizer": "expected_batch_size",
        "norm_margin": facts.norm_margin,
        "event": repr(run.event()),
        "accountant": f"{ACCOUNTANT} {importlib.metadata.version('dp-accounting')}",
        "keys": {
            "source": "pinned seed" if facts.is_seed_known else "operating system entropy",
            "noise": {"generator": NOISE_GENERATOR, "bits": NOISE_KEY_BITS},
            "sampling": {"generator": SAMPLING_GENERATOR, "bits": SAMPLING_KEY_BITS},
        },
        "not_private": {
            "num_truncated_batches": facts.num_truncated_batches,
            "num_truncated_examples": facts.num_truncated_examples,
        },
        "assumptions": list(ASSUMPTIONS),
        "not_covered": list(NOT_COVERED),
        "config_hash": facts.config_hash,
        "data_hash": facts.data_hash,
    }
