"""`receipt.json`: what a private run did, what that is worth, and what it does not cover. No JAX.

A receipt states only what was done: a run that stopped early accounts for the steps it took.
It holds no key. `receipt.schema.json` describes its fields, and `receipt_check` reads it back.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dpscale.errors import DpscaleError
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.keys import (
    NOISE_GENERATOR,
    NOISE_KEY_BITS,
    SAMPLING_GENERATOR,
    SAMPLING_KEY_BITS,
)

if TYPE_CHECKING:
    from dpscale.privacy.accounting.accountant import Accounted

FORMAT_VERSION = 2

NORM_GUARANTEE = (
    "The norm of a unit's contribution to the sum is at most its bound (l2_clip_norm, or 1 where "
    "it is rescaled to unit norm) times 1 + norm_margin, and the noise is scaled by that. "
    "Per-example gradients and their norms are float32, and every contraction behind them asks "
    "for the highest precision; the margin is for their round-off. Factors allow for what is "
    "lost where terms of a norm cancel."
)
ASSUMPTIONS = (
    "Float32 norms are off by no more than norm_margin and the bound on what cancels, which exceed "
    "the most that was found in a search for bad cases but are not proved (docs/clipping.md).",
    "The sampling and noise keys stay secret.",
    "The noise is floating-point Gaussian noise from a counter-based generator, accounted for "
    "as if it were exact and truly random.",
    "Each noise value is made of 64 random bits (Box-Muller) and never exceeds 7.54 standard "
    "deviations, which a Gaussian one does with probability 4.7e-14; it is accounted for as if it "
    "did.",
    "Zero-out neighbours: the number of units N is public.",
    "One record is one privacy unit: a person or document that stands in k units is "
    "protected as a group of k.",
)
NOT_COVERED = (
    "Choices made by looking at the private data before this run: a sweep or a law fitted on "
    "it, tuned learning rates, repeated private runs (see `tuning_not_covered`).",
    "Files of this run that hold statistics without noise: metrics.jsonl (keys named "
    "not_private there), status.json, result.json, and the counts in this receipt's "
    "`not_private`.",
    "The held-out evaluation units.",
    "The tokenizer, where it was trained on the private text.",
)
NOTHING_DECLARED = (
    "Nothing was declared (private.tuning_not_covered in the run's config): whether anything was "
    "tuned on the private data before this run is not known."
)
GUARANTEE = "(epsilon, delta)-DP for one unit"
NO_CURVE: Final = {"curve": None, "attacker": None}
NO_EPSILON = "none: no accountant has an epsilon for this mechanism"
SEED_KNOWN = "seed known: no guarantee"


@dataclass(frozen=True, kw_only=True)
class ReceiptFacts:
    """What a run knows about itself when it writes its receipt.

    `accounted.iterations` is the number of steps taken. `tuning_not_covered` is the user's own
    statement, None where there is none; `versions` by package, and `commit` of the source, None
    where it is not known.
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
    tuning_not_covered: str | None
    versions: Mapping[str, str]
    commit: str | None


def make_receipt(facts: ReceiptFacts, *, with_curve: bool) -> dict[str, Any]:
    """The receipt of a private run, as plain data: what `receipt.schema.json` describes.

    Args:
      with_curve: Whether to work out the curve and what an attacker gets: some seconds, which
        a run that is being stopped may not have. Without it they are None.
    """
    run = facts.accounted
    spent = consequences(run, delta=facts.target_delta)
    return {
        "format_version": FORMAT_VERSION,
        "run_id": facts.run_id,
        "guarantee": _guarantee(spent, is_seed_known=facts.is_seed_known),
        "delta": facts.target_delta,
        "target_epsilon": facts.target_epsilon,
        "privacy_unit": facts.privacy_unit,
        "unit_origin": facts.unit_origin,
        "neighboring_relation": run.neighboring_relation,
        "dataset_size": run.dataset_size,
        "expected_batch_size": run.expected_batch_size,
        "truncated_batch_size": run.truncated_batch_size,
        "iterations": run.iterations,
        "planned_iterations": facts.planned_iterations,
        "noise_multiplier": run.noise_multiplier,
        **spent,
        **(curve_fields(run, delta=facts.target_delta) if with_curve else NO_CURVE),
        "l2_clip_norm": facts.l2_clip_norm,
        "rescale_to_unit_norm": facts.rescale_to_unit_norm,
        "normalizer": "expected_batch_size",
        "norm_margin": facts.norm_margin,
        "norm_guarantee": NORM_GUARANTEE,
        "keys": {
            "source": "pinned seed" if facts.is_seed_known else "operating system entropy",
            "noise": {"generator": NOISE_GENERATOR, "bits": NOISE_KEY_BITS},
            "sampling": {"generator": SAMPLING_GENERATOR, "bits": SAMPLING_KEY_BITS},
        },
        "assumptions": list(ASSUMPTIONS),
        "not_covered": list(NOT_COVERED),
        "tuning_not_covered": facts.tuning_not_covered or NOTHING_DECLARED,
        "not_private": {
            "num_truncated_batches": facts.num_truncated_batches,
            "num_truncated_examples": facts.num_truncated_examples,
        },
        "config_hash": facts.config_hash,
        "data_hash": facts.data_hash,
        "versions": dict(facts.versions),
        "commit": facts.commit,
    }


def consequences(mechanism: SubsampledGaussian, *, delta: float) -> dict[str, Any]:
    """The fields that follow from the mechanism and delta: what a check computes again.

    Epsilon is certified where it can be, dp_accounting's otherwise, and None where neither has
    an answer: a run that has ended keeps its receipt.
    """
    spent = _spent(mechanism, delta=delta)
    upper = spent.upper if math.isfinite(spent.upper) else None
    return {
        "epsilon": upper,
        "epsilon_lower": spent.lower,
        "epsilon_upper": upper,
        "is_certified": spent.is_certified,
        "accountant": spent.accountant,
        "sampling_prob": mechanism.sampling_prob,
        "noise_batch_ratio": mechanism.noise_multiplier / mechanism.expected_batch_size,
        "event": repr(mechanism.event()),
    }


def curve_fields(mechanism: SubsampledGaussian, *, delta: float) -> dict[str, Any]:
    """The (epsilon, delta) curve, and bounds on what an attacker gets; None where there are none.

    They follow from the mechanism too, and take longer.
    """
    from dpscale.privacy.accounting.attacker import attacker_figures
    from dpscale.privacy.accounting.curve import PrivacyCurve

    curve = PrivacyCurve(mechanism, delta=delta)
    with contextlib.suppress(DpscaleError):
        return {
            "curve": [dataclasses.asdict(point) for point in curve.table()],
            "attacker": dataclasses.asdict(attacker_figures(curve)),
        }
    return NO_CURVE


def _guarantee(spent: Mapping[str, Any], *, is_seed_known: bool) -> str:
    if is_seed_known:
        return SEED_KNOWN
    return NO_EPSILON if spent["epsilon"] is None else GUARANTEE


def _spent(mechanism: SubsampledGaussian, *, delta: float) -> "Accounted":
    # SciPy takes a second to import, and runs that fit a law do without it.
    from dpscale.privacy.accounting import accountant

    for account in (accountant.accounted, accountant.uncertified):
        with contextlib.suppress(DpscaleError):
            return account(mechanism, delta=delta)
    return accountant.Accounted(None, math.inf, "none", is_certified=False)
