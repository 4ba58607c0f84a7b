"""A config's memory limit holds for what is measured, and so for what is written."""

from dpscale.bench.candidates import PEER, Candidate, all_candidates
from dpscale.bench.limits import within_limit
from dpscale.bench.shapes import SHAPES
from dpscale.config import ClippingConfig
from dpscale.training.clipping_choice import example_bytes

MODEL = SHAPES["wide"].model


def test_without_a_limit_everything_is_measured() -> None:
    candidates = all_candidates(32, with_peer=True)
    assert within_limit(candidates, MODEL, ClippingConfig()) == candidates


def test_a_limit_keeps_what_fits_by_strategy_and_rule() -> None:
    # Catches: one estimate for all, which vmap exceeds and ghost does not use up.
    open_clipping = ClippingConfig()
    two = 2 * example_bytes(MODEL, "vmap", open_clipping)
    limited = ClippingConfig(memory_limit_gib=two / 2**30)
    kept = within_limit(all_candidates(32, with_peer=True), MODEL, limited)
    assert [c.microbatch_size for c in kept if c.strategy == "vmap"] == [1, 2]
    most = max(c.microbatch_size for c in kept if c.strategy == "ghost")
    assert most * example_bytes(MODEL, "ghost", open_clipping) <= two
    assert most >= 4
    assert Candidate(PEER, None, 32) in kept
