"""Parameter counts and FLOPs against published and hand-made numbers."""

import dataclasses

import pytest

from dpscale.compute import count_params, train_flops
from dpscale.sizes import NAMED_SHAPES, ladder_shape


def test_gemma2_2b_is_counted_as_published():
    """Catches a miscounted matrix (arXiv 2408.00118, table 2)."""
    count = count_params(NAMED_SHAPES["gemma2-2b"])
    assert count.embedding == 589_824_000
    assert count.non_embedding == 2_024_517_888
    assert count.total == 2_614_341_888


def test_a_small_shape_is_counted_by_hand():
    """Catches a tied table counted twice, or norms left out."""
    shape = ladder_shape(16, vocab_size=100, seq_len=8)
    layer = 2 * 16 * 16 + 2 * 16 * 16 + 3 * 16 * 64 + 4 * 16
    assert count_params(shape).non_embedding == 2 * layer + 16
    assert count_params(shape).embedding == 1600


def test_leaving_out_post_norms_saves_two_scales_a_layer():
    """Catches norms counted alike in Gemma 2 and VaultGemma."""
    shape = ladder_shape(64, vocab_size=100, seq_len=8)
    bare = dataclasses.replace(shape, post_norms=False)
    saved = count_params(shape).total - count_params(bare).total
    assert saved == 2 * shape.num_layers * shape.width


def test_flops_follow_the_six_mbts_convention():
    """Catches a convention that drifts from the law's (arXiv 2501.18914, section 2)."""
    flops = train_flops(num_params=1e9, batch_size=1024, iterations=1000, seq_len=512)
    assert flops == pytest.approx(6 * 1e9 * 1024 * 1000 * 512)
