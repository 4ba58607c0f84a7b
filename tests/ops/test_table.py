"""The tied table: an example's gradient is the sum of what reading and predicting leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.dense import DenseFactors
from dpscale.ops.embed import EmbedFactors, embed
from dpscale.ops.table import TableRecord, output_record
from dpscale.ops.taps import CANCELLATION, Weighting, filled_records
from dpscale.ops.unembed import cross_entropy
from dpscale.privacy.clipping import NORM_MARGIN

WIDTH, SEQ_LEN = 4, 6
FACTORS = jnp.asarray([0.25, 0.0, 1.0], jnp.float32)


def problem(vocab_size, seed=0):
    """A table, and units in which tokens repeat, more and less."""
    generator = np.random.default_rng(seed)
    units = generator.integers(0, vocab_size, (3, SEQ_LEN + 1))
    units[1] = 1
    units[2, :4] = 0
    table = generator.standard_normal((vocab_size, WIDTH))
    return jnp.asarray(table, jnp.float32), jnp.asarray(units, jnp.int32)


def losses(table, units, tap, *, dtype, chunk_len, mixing=0.3):
    """A model with a tied table and nothing else; `mixing` carries tokens to later ones."""
    hidden = embed(table, units[:, :-1], dtype=dtype, tap=tap and tap.input)
    hidden = jnp.tanh(hidden + mixing * jnp.cumsum(hidden, axis=1))
    max_logits = 10**9 if chunk_len is None else chunk_len * units[:, 1:].size
    return cross_entropy(
        table,
        hidden,
        units[:, 1:],
        logit_softcap=2.0,
        max_logits=max_logits,
        tap=tap and tap.output,
    )


@jax.jit
@jax.grad
def gradient_of_one(table, unit):
    return losses(table, unit[None], None, dtype=jnp.float32, chunk_len=None)[0]


def each_gradient(table, units):
    """One example at a time, by the plain rules."""
    return np.stack([np.asarray(gradient_of_one(table, unit), np.float64) for unit in units])


def announced(table, units, dtype, chunk_len):
    tokens, targets = units[:, :-1], units[:, 1:]
    output = output_record(
        table,
        jnp.zeros((*targets.shape, WIDTH), dtype),
        targets,
        tokens,
        logit_softcap=2.0,
        chunk_len=chunk_len,
    )
    return TableRecord(EmbedFactors.empty(table, tokens, dtype), output)


@pytest.mark.parametrize("rule", ["gram", "direct"])
@pytest.mark.parametrize("measures", [True, False], ids=["measuring", "keeping"])
@pytest.mark.parametrize(("vocab_size", "chunk_len"), [(9, None), (3, None), (9, 4), (3, 1)])
def test_a_record_knows_each_examples_gradient(
    vocab_size, chunk_len, measures, rule, left_behind, assert_gradients
):
    """Catches a cross term that is dropped or halved, tokens that do not add up, a lost chunk."""
    table, units = problem(vocab_size)
    empty = announced(table, units, jnp.float32, chunk_len)
    empty = empty.measuring(rule) if measures else empty.keeping(rule)

    def op(tap):
        return losses(table, units, tap, dtype=jnp.float32, chunk_len=chunk_len)

    record = left_behind(jax.jit(op), empty, jnp.ones(3))
    each = each_gradient(table, units)
    if measures:
        norms = np.square(each).sum(axis=(1, 2))
        np.testing.assert_allclose(record.squares().norm_B, norms, rtol=2e-6)
    else:
        assert_gradients(record, each, FACTORS, 2e-6)


@pytest.mark.parametrize("chunk_len", [None, 4])
def test_a_weighting_weights_both_uses(chunk_len):
    """Catches factors that reach one use of the table, or the activations between them."""
    table, units = problem(9)
    tap = TableRecord(None, None).weighting(FACTORS)
    assert tap == TableRecord(Weighting(FACTORS), Weighting(FACTORS))
    total = jax.jit(
        jax.grad(
            lambda table: losses(table, units, tap, dtype=jnp.float32, chunk_len=chunk_len).sum()
        )
    )(table)
    expected = np.tensordot(FACTORS, each_gradient(table, units), 1)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


def test_the_cross_term_matters(left_behind):
    """Catches a problem of these tests in which it would not show."""
    table, units = problem(9)
    empty = announced(table, units, jnp.float32, None)

    def op(tap):
        return losses(table, units, tap, dtype=jnp.float32, chunk_len=None)

    record = left_behind(jax.jit(op), empty, jnp.ones(3))
    apart = record.input.squares() + record.output.squares()
    crossed = np.abs(record.squares().norm_B - apart.norm_B)
    assert np.all(crossed > 0.01 * apart.norm_B)


@pytest.mark.parametrize("rule", ["gram", "direct"])
def test_uses_that_cancel_stay_within_their_bound(rule):
    """Catches a squared norm that is what float32 left of a², b² and 2ab.

    Here every token is read once and predicting it undoes the reading, but for a little.
    """
    was_off = False
    for seed in range(10):
        generator = np.random.default_rng(seed)
        read = generator.standard_normal((1, SEQ_LEN, WIDTH)).astype(np.float32)
        tokens = jnp.arange(SEQ_LEN, dtype=jnp.int32)[None]
        undone = -read * (1 + 1e-4 * generator.standard_normal((1, SEQ_LEN, 1)))
        one_hot = jnp.eye(SEQ_LEN, dtype=jnp.float32)[None]
        output = DenseFactors(one_hot, jnp.asarray(undone, jnp.float32))
        kept = output.keeping(rule).filled(output.x_BxSxD, output.y_grad_BxSxP)
        record = TableRecord(EmbedFactors(tokens, jnp.asarray(read), SEQ_LEN), kept)
        left = np.asarray(read, np.float64) + np.asarray(output.y_grad_BxSxP, np.float64)
        squares, exact = record.squares(), np.square(left).sum()
        error = abs(float(squares.norm_B[0]) - exact)
        assert error <= float(squares.error_B[0])
        # One reading a row, and one position a row: nothing cancels within either use.
        lengths = np.linalg.norm(read, axis=2), np.linalg.norm(undone, axis=2)
        alone = lengths[1].sum() if rule == "gram" else 0.0
        size = np.square(sum(map(np.linalg.norm, lengths))) + np.square(alone)
        np.testing.assert_allclose(squares.error_B, CANCELLATION * 2.0**-24 * size, rtol=1e-5)
        was_off |= error > NORM_MARGIN * exact
    assert was_off


@pytest.mark.parametrize("use", ["input", "output"])
def test_a_table_that_is_used_once_is_the_record_of_that_use(use):
    """Catches an untied table that is asked for its other use."""
    table, units = problem(9)
    both = announced(table, units, jnp.float32, None)
    only = TableRecord(both.input, None) if use == "input" else TableRecord(None, both.output)
    alone = getattr(both, use)
    generator = np.random.default_rng(1)

    def random(leaf):
        is_integer = jnp.issubdtype(leaf.dtype, jnp.integer)
        return leaf if is_integer else jnp.asarray(generator.standard_normal(leaf.shape))

    alone = jax.tree.map(random, alone)
    only = TableRecord(**{"input": None, "output": None, use: alone})
    np.testing.assert_array_equal(only.squares().norm_B, alone.squares().norm_B)
    np.testing.assert_array_equal(
        only.weighted_sum(FACTORS).finished(), alone.weighted_sum(FACTORS).finished()
    )
    for derived in (only.measuring("auto"), only.keeping("direct"), only.keeping("gram")):
        derived.squares()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rule", ["gram", "direct"])
@pytest.mark.parametrize("chunk_len", [None, 4])
def test_every_contraction_is_float32_in_fact(dtype, rule, chunk_len, contractions):
    """Catches a norm, a row or a sum that an accelerator would round, in a loop over chunks too."""
    table, units = problem(9)

    def program(table, units, factors):
        empty = announced(table, units, dtype, chunk_len)
        results = []
        for tap in (empty.measuring(rule), empty.keeping(rule)):
            _, pull_back = jax.vjp(
                lambda tap: losses(table, units, tap, dtype=dtype, chunk_len=chunk_len), tap
            )
            record = filled_records(tap, pull_back(jnp.ones(3))[0])
            results.append(record.squares())
        return results, record.weighted_sum(factors).finished()

    found = contractions(jax.make_jaxpr(program)(table, units, FACTORS))
    assert len(found) >= 12
    assert all(contraction.is_exact for contraction in found), found
