"""All strategies against plain gradients of one example at a time, over shapes and dtypes."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dpscale.config import ModelConfig
from dpscale.model import decoder
from dpscale.model.weights import TAPS, Dense, RMSNorm, TiedEmbedding
from dpscale.ops import unembed
from dpscale.privacy.clipping import ClipRule
from dpscale.privacy.strategies import Strategy, TappedLoss
from dpscale.training.step import tapped_loss

SLOTS = 8
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}
TINY = ModelConfig(
    vocab_size=23,
    seq_len=6,
    num_layers=2,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    feed_forward_width=12,
    sliding_window=3,
)
SHAPES = {
    "tiny": TINY,
    "few-words": dataclasses.replace(TINY, vocab_size=5, rematerialize=True),
    "one-token": dataclasses.replace(TINY, seq_len=1, num_layers=1, width=6),
    "multi-head-without-caps": dataclasses.replace(
        TINY,
        num_kv_heads=2,
        sliding_window=None,
        attn_logit_softcap=None,
        final_logit_softcap=None,
        post_norms=False,
    ),
    "grouped-query": dataclasses.replace(
        TINY, num_heads=4, num_kv_heads=2, head_dim=2, feed_forward_width=3, num_layers=3
    ),
    "70-tokens": dataclasses.replace(TINY, seq_len=70, num_layers=1, final_logit_softcap=1.0),
    "scanned": dataclasses.replace(TINY, num_layers=17, sliding_window=2),
    "recomputed": dataclasses.replace(TINY, num_layers=17, rematerialize=True),
}
STRATEGIES = {
    "vmap": Strategy("vmap"),
    "ghost-gram": Strategy("ghost", "gram"),
    "ghost-direct": Strategy("ghost", "direct"),
    "bookkeeping-gram": Strategy("bookkeeping", "gram"),
    "bookkeeping-direct": Strategy("bookkeeping", "direct"),
    "bookkeeping-auto": Strategy("bookkeeping", "auto"),
}


@cache
def loss_of(model: ModelConfig) -> TappedLoss:
    """One object a shape, so that compilations are reused."""
    return tapped_loss(model)


def random_params(model: ModelConfig, seed: int) -> Any:
    """Parameters of ordinary size, norm scales included, in the compute dtype.

    Embeddings are larger than what layers add to them, and norms shrink, so that neither the sum
    nor a probability near 1 cancels: then any program's gradient is off by many roundings.
    """
    shapes = jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))
    generator = np.random.default_rng(seed)

    def random_leaf(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        kind = jax.tree_util.keystr(path)
        mean, spread = (-0.5, 0.2) if "scale" in kind else (0, 0.8 if "table" in kind else 0.4)
        return generator.normal(mean, spread, leaf.shape).astype(model.compute_dtype)

    return jax.tree_util.tree_map_with_path(random_leaf, shapes)


@st.composite
def batches(draw: st.DrawFn, model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Units in which few or many tokens occur, and padding anywhere."""
    num_tokens = draw(st.sampled_from([1, 2, model.vocab_size]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = generator.integers(0, model.vocab_size, (SLOTS, num_tokens))
    picked = generator.integers(0, num_tokens, (SLOTS, model.seq_len + 1))
    units = np.take_along_axis(few, picked, axis=1).astype(np.int32)
    is_padding = draw(st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS))
    return units, np.asarray(is_padding)


@partial(jax.jit, static_argnums=0)
def hang_on_rounding(loss: TappedLoss, params: Any, units: jax.Array) -> jax.Array:
    """bool[B]: examples that no two programs agree about to the tolerance.

    Their gradients move by half of it and more where each parameter moves by one rounding.
    """

    def gradient(params: Any, unit: jax.Array) -> Any:
        return jax.grad(lambda params: loss.per_example(params, unit[None], None)[0])(params)

    def nudged(leaf: jax.Array) -> jax.Array:
        signs = np.random.default_rng(leaf.size).choice([-1, 1], leaf.shape)
        return leaf * (1 + jnp.finfo(leaf.dtype).eps * signs).astype(leaf.dtype)

    def length(tree: Any) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))

    def hangs(unit: jax.Array) -> jax.Array:
        here, beside = gradient(params, unit), gradient(jax.tree.map(nudged, params), unit)
        tolerance = TOLERANCE[str(jax.tree.leaves(params)[0].dtype)]
        return length(jax.tree.map(jnp.subtract, here, beside)) > tolerance / 2 * length(here)

    return jax.lax.map(hangs, units)


QUICK = {
    ("tiny", "vmap", "float32"): 8,
    ("tiny", "ghost-gram", "float32"): 4,
    ("one-token", "ghost-direct", "float64"): 2,
    ("tiny", "bookkeeping-gram", "float64"): 4,
    ("tiny", "bookkeeping-direct", "float32"): 1,
    ("scanned", "ghost-direct", "float64"): 2,
    ("recomputed", "bookkeeping-auto", "float64"): 4,
}
"""Combinations of every run of the tests, with their microbatch sizes."""


def combinations() -> list[Any]:
    """Those, and as `deep` ones every shape by every strategy, by turns in both dtypes.

    Those of deep models and of many equal tokens, whose float32 gradients are off by more than
    the tolerance in any program, are in float64.
    """
    pairs = [(shape, strategy) for shape in SHAPES for strategy in STRATEGIES]
    turns = {}
    for turn, (shape, strategy) in enumerate(pairs):
        is_rough = SHAPES[shape].num_layers > 4 or SHAPES[shape].seq_len > 8
        is_wide = is_rough or (turn + turn // len(STRATEGIES)) % 2
        turns[shape, strategy, "float64" if is_wide else "float32"] = 2 ** (turn // 2 % 4)
    return [
        pytest.param(
            SHAPES[case[0]],
            STRATEGIES[case[1]],
            case[2],
            microbatch_size,
            id="-".join(case),
            marks=[] if case in QUICK else [pytest.mark.deep],
        )
        for case, microbatch_size in (turns | QUICK).items()
    ]


@pytest.mark.parametrize(("model", "strategy", "dtype", "microbatch_size"), combinations())
def test_equals_a_loop_over_examples(
    model, strategy, dtype, microbatch_size, clipped, looped, assert_same, request
) -> None:
    # Catches: a parameter, a layer, a token or a use of the table that the norm or the sum
    # forgets or counts twice, examples that mix, padding that counts, clipping of anything
    # but the whole gradient.
    model = dataclasses.replace(model, compute_dtype=dtype)
    loss = loss_of(model)
    is_deep = request.node.get_closest_marker("deep") is not None

    @settings(
        max_examples=30 if is_deep else 6,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(
        batch=batches(model),
        seed=st.integers(0, 3),
        clip_norm=st.sampled_from([0.01, 1.0, 4.0, 1e3]),
    )
    def check(batch, seed, clip_norm) -> None:
        params, rule = random_params(model, seed), ClipRule(clip_norm, seed % 2 == 1)
        units, is_padding = batch
        is_padding = is_padding | np.asarray(hang_on_rounding(loss, params, units))
        batch = units, is_padding
        actual = clipped(strategy, loss, params, *batch, rule, microbatch_size=microbatch_size)
        assert {leaf.dtype for leaf in jax.tree.leaves(actual.total)} == {jnp.dtype(dtype)}
        assert_same(actual, looped(loss, params, *batch, rule), TOLERANCE[dtype])

    with jax.enable_x64(dtype == "float64"):
        check()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ghost-gram", marks=pytest.mark.deep),
        pytest.param("ghost-direct", marks=pytest.mark.deep),
        pytest.param("bookkeeping-gram", marks=pytest.mark.deep),
        "bookkeeping-direct",
    ],
)
def test_a_chunked_loss_changes_nothing(name, clipped, looped, assert_same, monkeypatch) -> None:
    # Catches: a chunk lost from the tied table's norm, rows or sum, in the model as it is used.
    model = dataclasses.replace(TINY, num_layers=1)
    batch = batch_with_padding(model)
    params, rule = random_params(model, 0), ClipRule(1.0, False)
    expected = looped(loss_of(model), params, *batch, rule)
    max_logits = 4 * model.seq_len * 5  # four examples, five entries of the vocabulary
    monkeypatch.setattr(unembed.vocab_chunk, "__defaults__", (max_logits,))
    monkeypatch.setitem(unembed.cross_entropy.__kwdefaults__, "max_logits", max_logits)
    chunked = tapped_loss(model)
    actual = clipped(STRATEGIES[name], chunked, params, *batch, rule, microbatch_size=4)
    assert_same(actual, expected, TOLERANCE["float32"])


@pytest.mark.parametrize("name", ["ghost-gram", "bookkeeping-gram", "bookkeeping-direct"])
def test_lanes_change_nothing(name, clipped, looped, assert_same) -> None:
    # Catches: sums of the lanes that cannot be added up in the form they come about in.
    model = dataclasses.replace(TINY, num_layers=1)
    batch, params, rule = batch_with_padding(model), random_params(model, 0), ClipRule(1.0, False)
    loss, sizes = loss_of(model), {"microbatch_size": 4, "lanes": 2}
    actual = clipped(STRATEGIES[name], loss, params, *batch, rule, **sizes)
    assert_same(actual, looped(loss, params, *batch, rule), TOLERANCE["float32"])


def batch_with_padding(model: ModelConfig, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    units = generator.integers(0, model.vocab_size, (SLOTS, model.seq_len + 1), dtype=np.int32)
    units[2, 1:] = units[2, 0]
    return units, np.arange(SLOTS) % 5 == 3


class Untied(nn.Module):
    """A model with one table to read from and one to predict with."""

    predicts_beside: bool = False

    @nn.compact
    def __call__(self, units_BxS1: jax.Array) -> jax.Array:
        """float32[B]."""
        tokens_BxS, targets_BxS = units_BxS1[:, :-1], units_BxS1[:, 1:]
        x = TiedEmbedding(11, 6, jnp.dtype("float32"), None, name="reading").embed(tokens_BxS)
        x += Dense(6, name="out")(jnp.tanh(Dense(9, name="into")(RMSNorm(1e-6, name="norm")(x))))
        if self.predicts_beside:
            x += self.param("bias", nn.initializers.zeros, (6,))
        predicting = TiedEmbedding(11, 6, jnp.dtype("float32"), 3.0, name="predicting")
        return predicting.cross_entropy(x, targets_BxS)


def untied_loss(module: Untied) -> TappedLoss:
    def per_example(params: Any, units: jax.Array, taps: Any) -> jax.Array:
        variables = {"params": params} if taps is None else {"params": params, TAPS: taps}
        return module.apply(variables, units)

    def empty_records(params: Any, units: jax.Array) -> Any:
        return module.apply({"params": params}, units, mutable=[TAPS])[1][TAPS]

    return TappedLoss(per_example, empty_records)


UNITS = np.random.default_rng(4).integers(0, 11, (SLOTS, 6), dtype=np.int32)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "bookkeeping-auto"])
def test_untied_tables_are_two_parameters(name, clipped, looped, assert_same) -> None:
    # Catches: rules that take every table for tied, and a model that only the decoder fits.
    module = Untied()
    params = module.init(jax.random.key(1), UNITS)["params"]
    loss, rule = untied_loss(module), ClipRule(0.5, True)
    is_padding = np.arange(SLOTS) == 0
    actual = clipped(STRATEGIES[name], loss, params, UNITS, is_padding, rule, microbatch_size=4)
    assert_same(actual, looped(loss, params, UNITS, is_padding, rule), TOLERANCE["float32"])


@pytest.mark.parametrize("name", ["ghost-gram", "bookkeeping-direct"])
def test_a_parameter_without_a_record_is_an_error(name, clipped) -> None:
    # Catches: a new kind of layer whose gradient would be added without being clipped.
    module = Untied(predicts_beside=True)
    params = module.init(jax.random.key(1), UNITS)["params"]
    with pytest.raises(ValueError, match="bias"):
        clipped(
            STRATEGIES[name],
            untied_loss(module),
            params,
            UNITS,
            np.zeros(SLOTS, bool),
            ClipRule(1.0, False),
            microbatch_size=4,
        )
