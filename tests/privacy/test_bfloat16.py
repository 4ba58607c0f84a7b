"""What bfloat16 compute really adds for one example, measured in float64, is within the clip."""

import dataclasses

import jax
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.model import decoder
from dpscale.privacy.clipping import NORM_MARGIN, ClipRule
from dpscale.privacy.strategies import Strategy
from dpscale.training.step import tapped_loss

UNROLLED = ModelConfig(
    vocab_size=61,
    seq_len=16,
    num_layers=1,
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    feed_forward_width=24,
    sliding_window=3,
    compute_dtype="bfloat16",
)
MODELS = {
    "unrolled": UNROLLED,
    "scanned": dataclasses.replace(UNROLLED, num_layers=17),
    "recomputed": dataclasses.replace(UNROLLED, num_layers=17, rematerialize=True),
}
STRATEGIES = {
    "vmap": Strategy("vmap"),
    "ghost-gram": Strategy("ghost", "gram"),
    "ghost-direct": Strategy("ghost", "direct"),
    "bookkeeping-gram": Strategy("bookkeeping", "gram"),
    "bookkeeping-direct": Strategy("bookkeeping", "direct"),
}
QUICK = {
    ("scanned", "ghost-direct", True),
    ("unrolled", "bookkeeping-gram", False),
}


def units(kind: str, generator: np.random.Generator) -> np.ndarray:
    """Two units; equal tokens cancel much of each other's gradients."""
    different = generator.integers(0, UNROLLED.vocab_size, (2, UNROLLED.seq_len + 1))
    is_equal = (
        generator.random(different.shape) < {"equal": 1.0, "mostly": 0.8, "random": 0.0}[kind]
    )
    return np.where(is_equal, different[:, :1], different).astype(np.int32)


def random_params(model: ModelConfig, generator: np.random.Generator) -> decoder.Params:
    """Parameters of a size that differs from seed to seed, so that norms do."""
    shapes = jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))
    scale = generator.choice([0.05, 0.4, 1.0]) / model.num_layers**0.5
    return jax.tree.map(
        lambda leaf: generator.normal(0, scale, leaf.shape).astype(np.float32), shapes
    )


@pytest.mark.parametrize(
    ("model", "name", "rescale"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.deep])
        for case in (
            (model, name, rescale)
            for model in MODELS
            for name in STRATEGIES
            for rescale in (False, True)
        )
    ],
)
def test_a_contribution_is_within_the_margin(model, name, rescale, clipped) -> None:
    # Catches: factors rounded to bfloat16 with no room left for it, norms of bfloat16 sums,
    # a second backward pass that is not the one whose norms were taken.
    loss, num_clipped = tapped_loss(MODELS[model]), 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        params = random_params(MODELS[model], generator)
        batch = units(("equal", "mostly", "random")[seed % 3], generator)
        for clip_norm in (1e-3, 0.037, 0.5):
            rule = ClipRule(clip_norm, rescale)
            alone = clipped(
                STRATEGIES[name],
                loss,
                params,
                batch,
                np.array([False, True]),
                rule,
                microbatch_size=2,
            )
            leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(alone.total)]
            added = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves))
            limit = 1.0 if rescale else clip_norm
            assert added <= limit * (1 + NORM_MARGIN)
            if alone.norms[0] > 1.1 * clip_norm:
                assert added > 0.97 * limit
                num_clipped += 1
    assert num_clipped >= 24
