"""Unembedding and cross-entropy: chunked against plain, and against the definition."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.soft_cap import soft_cap
from dpscale.ops.unembed import cross_entropy, unembed

VOCAB, WIDTH = 11, 4


def problem(num_examples, seq_len, seed=0):
    generator = np.random.default_rng(seed)
    return (
        jnp.asarray(generator.standard_normal((VOCAB, WIDTH)), jnp.float32),
        jnp.asarray(generator.standard_normal((num_examples, seq_len, WIDTH)), jnp.float32),
        jnp.asarray(generator.integers(0, VOCAB, (num_examples, seq_len)), jnp.int32),
    )


def plain(table, hidden, targets, cap):
    logits = hidden @ table.T
    logits = logits if cap is None else cap * jnp.tanh(logits / cap)
    shares = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(shares, targets[..., None], -1)[..., 0].mean(1)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("chunk_len", [1, 3, 4, VOCAB])
def test_chunks_change_neither_value_nor_gradient(chunk_len, cap):
    """Catches a lost or doubled position at the seams, where the last chunk is not full too.

    The last length is all at once, where it catches a cap that is lost from value or derivative.
    """
    table, hidden, targets = problem(num_examples=2, seq_len=7)

    def weighted(loss):
        weights = jnp.array([1.0, 2.0])
        total = jax.value_and_grad(lambda t, h: (loss(t, h) * weights).sum(), argnums=(0, 1))
        return jax.jit(total)

    max_logits = chunk_len * 2 * VOCAB
    chunked = functools.partial(cross_entropy, logit_softcap=cap, max_logits=max_logits)
    value, grads = weighted(lambda t, h: chunked(t, h, targets))(table, hidden)
    expected_value, expected_grads = weighted(lambda t, h: plain(t, h, targets, cap))(table, hidden)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for actual, expected in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_logits", [2 * VOCAB, 10_000], ids=["chunked", "at once"])
@pytest.mark.parametrize("odd_target", [VOCAB, -1])
def test_an_odd_target_or_hidden_state_spoils_its_own_example_only(odd_target, max_logits):
    """Catches rows that mix, and an id outside the vocabulary scored as some other token."""
    table, hidden, targets = problem(3, 5)
    loss = jax.jit(functools.partial(cross_entropy, logit_softcap=30.0, max_logits=max_logits))
    clean = loss(table, hidden, targets)
    spoiled = loss(table, hidden.at[0, 1, 2].set(jnp.nan), targets.at[1, 4].set(odd_target))
    assert np.isnan(spoiled[:2]).all()
    np.testing.assert_array_equal(spoiled[2], clean[2])


def test_logits_of_a_large_vocabulary_never_exist_at_once():
    """Catches a chunked loss whose backward pass keeps every chunk's logits."""
    vocab_size, seq_len, chunk_len = 5_000, 64, 4
    max_logits = vocab_size * chunk_len

    def loss(table, hidden, targets):
        return cross_entropy(
            table, hidden, targets, logit_softcap=30.0, max_logits=max_logits
        ).sum()

    program = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(
        jnp.zeros((vocab_size, 2)), jnp.zeros((1, seq_len, 2)), jnp.zeros((1, seq_len), jnp.int32)
    )
    assert max(_sizes(program.jaxpr)) <= max_logits


def _sizes(jaxpr):
    """Elements of every array that a program, or a program within it, computes."""
    for equation in jaxpr.eqns:
        yield from (math.prod(var.aval.shape) for var in equation.outvars)
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _sizes(inner)


def test_logits_are_float32_products_with_the_table():
    """Catches logits rounded to the compute dtype before the soft-max."""
    table, hidden, _ = problem(2, 3)
    np.testing.assert_allclose(unembed(table, hidden), hidden @ table.T, rtol=1e-5, atol=1e-6)
    half = unembed(table, hidden.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert np.any(half != half.astype(jnp.bfloat16).astype(jnp.float32))


def test_a_soft_cap_bounds_and_leaves_small_values():
    """Catches a cap that clips, or that is applied where there is none."""
    x = jnp.array([-1e6, -0.01, 0.0, 0.01, 1e6])
    np.testing.assert_allclose(soft_cap(x, 30.0), [-30, -0.01, 0, 0.01, 30], rtol=1e-5)
    np.testing.assert_array_equal(soft_cap(x, None), x)
