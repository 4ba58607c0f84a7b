"""Which candidates a config's memory limit admits."""

import dataclasses
from collections.abc import Sequence
from typing import cast

from dpscale.bench.candidates import Candidate
from dpscale.config import ClippingConfig, ModelConfig, NormRule
from dpscale.training.clipping_choice import example_bytes


def within_limit(
    candidates: Sequence[Candidate], model: ModelConfig, clipping: ClippingConfig
) -> list[Candidate]:
    """Those whose microbatch is estimated to fit `memory_limit_gib`, by `auto`'s own estimate.

    All of them where the config sets no limit; the peer knows of none.
    """
    if clipping.memory_limit_gib is None:
        return list(candidates)
    limit = clipping.memory_limit_gib * 2**30

    def fits(candidate: Candidate) -> bool:
        rule = cast(NormRule, candidate.norm_rule or "auto")
        ruled = dataclasses.replace(clipping, norm_rule=rule)
        one = example_bytes(model, candidate.strategy, ruled)
        return candidate.microbatch_size * one <= limit

    return [candidate for candidate in candidates if not candidate.is_ours or fits(candidate)]
