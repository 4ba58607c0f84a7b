"""Properties of the decoder that training and privacy rest on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.compute import count_params
from dpscale.config import ModelConfig
from dpscale.model import decoder
from dpscale.ops import stack
from dpscale.sizes import LADDER_WIDTHS, NAMED_SHAPES, ladder_shape

TINY = ModelConfig(
    vocab_size=29,
    seq_len=7,
    num_layers=2,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    feed_forward_width=16,
    sliding_window=3,
)
losses_of = jax.jit(decoder.per_example_loss, static_argnums=0)
logits_of = jax.jit(decoder.logits, static_argnums=0)
fresh = jax.jit(decoder.init_params, static_argnums=0)


def units(model, count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, model.vocab_size, (count, model.seq_len + 1), dtype=np.int32)


def shapes_of(model):
    return jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))


def random_params(model):
    """Parameters of ordinary size, norm scales included; nothing is compiled to make them."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: generator.normal(0, 0.4, x.shape).astype(np.float32), shapes_of(model)
    )


@pytest.mark.parametrize(
    "model",
    [
        *NAMED_SHAPES.values(),
        *(ladder_shape(w, vocab_size=1024, seq_len=64) for w in LADDER_WIDTHS),
    ],
    ids=[*NAMED_SHAPES, *(f"w{w}" for w in LADDER_WIDTHS)],
)
def test_parameters_are_as_many_as_counted(model):
    """Catches a parameter more or less than `compute` charges and the law is fitted in."""
    leaves = jax.tree.leaves(shapes_of(model))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count_params(model).total
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}


def test_gemma2_2b_has_its_published_size():
    """Catches counting and building wrong alike (arXiv 2408.00118, table 2)."""
    leaves = jax.tree.leaves(shapes_of(NAMED_SHAPES["gemma2-2b"]))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 2_614_341_888


@pytest.mark.parametrize("name", NAMED_SHAPES)
def test_large_shapes_trace_a_training_loss(name):
    """Catches a large model that can be counted but not run, at full vocabulary and length."""
    model = NAMED_SHAPES[name]
    tokens = jax.ShapeDtypeStruct((1, model.seq_len + 1), jnp.int32)
    gradient = jax.grad(lambda p, t: decoder.per_example_loss(model, p, t).sum())
    assert jax.eval_shape(gradient, shapes_of(model), tokens) == shapes_of(model)


def test_the_layout_of_parameters_is_the_documented_one():
    """Catches a renamed or restacked array: checkpoints and exports go by these names."""
    paths = {
        "/".join(str(key.key) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(TINY))
    }
    assert paths == {
        "embedding/table": (29, 8),
        "final_norm/scale": (8,),
        "layers/attention/query/kernel": (2, 8, 8),
        "layers/attention/key/kernel": (2, 8, 4),
        "layers/attention/value/kernel": (2, 8, 4),
        "layers/attention/output/kernel": (2, 8, 8),
        "layers/feed_forward/gate/kernel": (2, 8, 16),
        "layers/feed_forward/up/kernel": (2, 8, 16),
        "layers/feed_forward/down/kernel": (2, 16, 8),
        "layers/pre_attention_norm/scale": (2, 8),
        "layers/post_attention_norm/scale": (2, 8),
        "layers/pre_feed_forward_norm/scale": (2, 8),
        "layers/post_feed_forward_norm/scale": (2, 8),
    }


@pytest.mark.parametrize("width", [16, 96])
def test_the_first_loss_is_that_of_guessing(width):
    """Catches an initialisation that starts confidently wrong."""
    model = ladder_shape(width, vocab_size=1024, seq_len=64)
    params = fresh(model, jax.random.key(width))
    loss = float(losses_of(model, params, units(model, 4)).mean())
    assert loss == pytest.approx(math.log(1024), rel=0.02)


def test_initial_weights_differ_between_layers_and_keys_and_repeat():
    """Catches one key used for all layers, and an initialisation that ignores its key."""
    first, again, other = (fresh(TINY, jax.random.key(seed)) for seed in (1, 1, 2))
    kernel = first["layers"]["feed_forward"]["gate"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.allclose(kernel, other["layers"]["feed_forward"]["gate"]["kernel"])


def test_later_tokens_do_not_reach_earlier_logits():
    """Catches a mask that leaks the answer."""
    params = random_params(TINY)
    tokens = units(TINY, 1)[:, :-1]
    before = logits_of(TINY, params, tokens)
    for position in range(1, TINY.seq_len):
        changed = tokens.copy()
        changed[0, position:] = (changed[0, position:] + 11) % TINY.vocab_size
        after = logits_of(TINY, params, changed)
        np.testing.assert_array_equal(after[0, :position], before[0, :position])
        assert not np.allclose(after[0, position], before[0, position])


@pytest.mark.parametrize(
    ("num_layers", "reach"), [(1, 3), (2, 7)], ids=["sliding layer", "then a full one"]
)
def test_only_even_layers_slide(num_layers, reach):
    """Catches a window on the wrong layers, or off by one."""
    model = dataclasses.replace(TINY, num_layers=num_layers)
    params = random_params(model)
    tokens = units(model, 1)[:, :-1]
    before = logits_of(model, params, tokens)[0, -1]
    for distance in range(1, model.seq_len):
        changed = tokens.copy()
        changed[0, -1 - distance] = (changed[0, -1 - distance] + 5) % model.vocab_size
        seen = not np.array_equal(logits_of(model, params, changed)[0, -1], before)
        assert seen == (distance < reach)


@pytest.mark.parametrize("odd_token", [29, -1, 2**31 - 1])
@pytest.mark.parametrize("position", [0, 3, 7])
def test_an_odd_token_spoils_its_own_loss_only(odd_token, position):
    """Catches rows that mix, and an id outside the vocabulary read as some other token."""
    params = random_params(TINY)
    rows = units(TINY, 3)
    clean = losses_of(TINY, params, rows)
    rows[1, position] = odd_token
    spoiled = losses_of(TINY, params, rows)
    assert np.isnan(spoiled[1])
    np.testing.assert_array_equal(spoiled[jnp.array([0, 2])], clean[jnp.array([0, 2])])


def test_the_loss_is_the_same_one_by_one_and_under_vmap():
    """Catches a loss that depends on its batch, the value or the gradient of it."""
    params = random_params(TINY)
    rows = units(TINY, 3)

    def one(params, row):
        return decoder.per_example_loss(TINY, params, row[None])[0]

    losses, grads = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(params, rows)
    np.testing.assert_allclose(losses, losses_of(TINY, params, rows), rtol=1e-6)
    together = jax.jit(jax.grad(lambda p: decoder.per_example_loss(TINY, p, rows).sum()))(params)
    jax.tree.map(
        lambda each, total: np.testing.assert_allclose(each.sum(0), total, rtol=1e-4, atol=1e-5),
        grads,
        together,
    )


def test_a_scanned_stack_equals_an_unrolled_one(monkeypatch):
    """Catches layers in another order, or the window of another layer, when scanned."""
    model = dataclasses.replace(TINY, num_layers=3)
    params = random_params(model)
    rows = units(model, 2)
    unrolled = losses_of(model, params, rows)
    monkeypatch.setattr(stack, "UNROLLED_LAYERS", 0)
    scanned = jax.jit(lambda p: decoder.per_example_loss(model, p, rows))(params)
    np.testing.assert_allclose(scanned, unrolled, rtol=1e-6)


def test_bfloat16_compute_keeps_float32_parameters_and_gradients():
    """Catches parameters or gradients that are quietly rounded to the compute dtype."""
    model = dataclasses.replace(TINY, compute_dtype="bfloat16", num_layers=1)
    wide = dataclasses.replace(model, compute_dtype="float32")
    params = random_params(model)
    rows = units(model, 4)

    @jax.jit
    def half(params):
        return jax.value_and_grad(lambda p: decoder.per_example_loss(model, p, rows).sum())(params)

    loss, grads = half(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(loss, losses_of(wide, params, rows).sum(), rtol=0.01)
    kernel = grads["layers"]["feed_forward"]["down"]["kernel"]
    assert np.isfinite(kernel).all()
    assert np.any(kernel != kernel.astype(jnp.bfloat16).astype(jnp.float32))
