"""Examples that are not finite, in the model and by every strategy: exactly nothing is added."""

from functools import partial

import jax
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.model import decoder
from dpscale.privacy.clipping import ClippedSum, ClipRule
from dpscale.privacy.strategies import Strategy
from dpscale.training.step import tapped_loss

MODEL = ModelConfig(
    vocab_size=13,
    seq_len=5,
    num_layers=1,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    feed_forward_width=12,
    # Around a hidden state of zeros a norm is this steep, to the power of -1/2.
    norm_eps=1e-37,
)
ZEROS = 0
"""The token whose embedding is zero: where a unit begins with it, its gradient overflows."""

LOSS = tapped_loss(MODEL)
STRATEGIES = {
    "vmap": Strategy("vmap"),
    "ghost": Strategy("ghost", "direct"),
    "bookkeeping": Strategy("bookkeeping", "gram"),
}
SLOTS = 8


def random_params() -> decoder.Params:
    shapes = jax.eval_shape(lambda key: decoder.init_params(MODEL, key), jax.random.key(0))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: generator.normal(0, 0.4, x.shape).astype(np.float32), shapes)
    params["embedding"]["table"][ZEROS] = 0
    return params


PARAMS = random_params()
UNITS = np.random.default_rng(1).integers(1, 13, (SLOTS, MODEL.seq_len + 1), dtype=np.int32)
SPOILT = {
    "unknown token": (2, 13),
    "unknown token at the end": (MODEL.seq_len, 13),
    "negative token": (0, -1),
    "gradient overflows": (0, ZEROS),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_contributes_exactly_nothing(name, clipped) -> None:
    # Catches: 0 · NaN, a norm that a mask makes finite, others that are dropped or changed,
    # a padded row that is computed with, a batch without a good example that never ends.
    clip = partial(
        clipped, STRATEGIES[name], LOSS, PARAMS, rule=ClipRule(0.1, False), microbatch_size=4
    )
    for kind, (position, token) in SPOILT.items():
        for rows in ([1, 2, 6], [0, 1, 2, 3], list(range(SLOTS))):
            spoilt, is_bad = UNITS.copy(), np.isin(np.arange(SLOTS), rows)
            spoilt[rows, position] = token
            actual = clip(units=spoilt, is_padding=np.zeros(SLOTS, bool))
            assert not np.isfinite(actual.norms + actual.losses)[is_bad].any(), kind
            for padded in (
                clip(units=spoilt, is_padding=is_bad),
                clip(units=UNITS, is_padding=is_bad),
            ):
                assert_equal(actual, padded, ~is_bad)
                np.testing.assert_array_equal(padded.norms[is_bad], 0)
                np.testing.assert_array_equal(padded.losses[is_bad], 0)


def assert_equal(actual: ClippedSum, expected: ClippedSum, others: np.ndarray) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual.total, expected.total)
    np.testing.assert_array_equal(actual.norms[others], expected.norms[others])
    np.testing.assert_array_equal(actual.losses[others], expected.losses[others])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected.total))
    assert np.all(expected.norms[others] > 0)


def test_the_model_of_these_tests_overflows_only_where_it_shall(looped) -> None:
    # Catches: tests that would pass because nothing, or everything, is spoilt.
    units = UNITS.copy()
    units[0, 0] = ZEROS
    measured = looped(LOSS, PARAMS, units, np.zeros(SLOTS, bool), ClipRule(0.1, False))
    np.testing.assert_array_equal(np.isfinite(measured.norms), np.arange(SLOTS) > 0)
    assert np.isfinite(measured.losses).all()
