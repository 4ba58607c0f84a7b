"""The loss over chunks of the vocabulary against the loss with all logits at once."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.chunked_records import OutputNorms
from dpscale.ops.table import output_record
from dpscale.ops.taps import Weighting
from dpscale.ops.unembed import cross_entropy, vocab_chunk

VOCAB, WIDTH, SEQ_LEN = 11, 4, 5
FACTORS = jnp.asarray([0.25, 1.0], jnp.float32)


def problem(dtype=jnp.float32, seed=0):
    generator = np.random.default_rng(seed)
    return (
        jnp.asarray(generator.standard_normal((VOCAB, WIDTH)), jnp.float32),
        jnp.asarray(generator.standard_normal((2, SEQ_LEN, WIDTH)), dtype),
        jnp.asarray(generator.integers(0, VOCAB, (2, SEQ_LEN)), jnp.int32),
        jnp.asarray(generator.integers(0, VOCAB, (2, SEQ_LEN)), jnp.int32),
    )


def loss(table, hidden, targets, tap, chunk_len):
    max_logits = 10**9 if chunk_len is None else chunk_len * targets.size
    return cross_entropy(table, hidden, targets, logit_softcap=2.0, max_logits=max_logits, tap=tap)


@pytest.mark.parametrize("chunk_len", [pytest.param(1, marks=pytest.mark.deep), 4])
@pytest.mark.parametrize("kept", ["gram", "direct", "keeping"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_record_of_chunks_says_what_one_of_all_logits_says(dtype, kept, chunk_len, left_behind):
    """Catches a chunk lost from norm, rounding bound, rows or sum; the seams count twice."""
    table, hidden, targets, tokens = problem(dtype)

    def record(chunk_len):
        empty = output_record(
            table, hidden, targets, tokens, logit_softcap=2.0, chunk_len=chunk_len
        )
        if kept == "keeping":
            empty = empty.keeping("gram")
        elif chunk_len is None:
            empty = OutputNorms.empty(tokens, hidden, kept)
        else:
            empty = empty.measuring(kept)

        def op(tap):
            return loss(table, hidden, targets, tap, chunk_len)

        return left_behind(jax.jit(op), empty, jnp.ones(2))

    whole, chunked = record(None), record(chunk_len)
    rtol = 1e-5 if dtype == jnp.float32 else 2e-3  # logits may be rounded the other way
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=rtol / 10)
    close(chunked.squares().norm_B, whole.squares().norm_B)
    close(chunked.squares().rounding_B, whole.squares().rounding_B)
    assert np.all((chunked.squares().rounding_B > 0) == (dtype == jnp.bfloat16))
    close(chunked.turned_rows(tokens), whole.turned_rows(tokens))
    if kept == "keeping":
        close(chunked.weighted_sum(FACTORS).finished(), whole.weighted_sum(FACTORS).finished())


@pytest.mark.parametrize("chunk_len", [pytest.param(1, marks=pytest.mark.deep), 4])
@pytest.mark.parametrize("tap", [None, Weighting(FACTORS), "norms", "record"], ids=str)
def test_a_tap_changes_neither_loss_nor_the_gradient_of_activations(tap, chunk_len):
    """Catches factors or a record's detour in the gradient that goes on to the layers below."""
    table, hidden, targets, tokens = problem()
    if tap == "norms":
        tap = OutputNorms.empty(tokens, hidden, "direct")
    elif tap == "record":
        tap = output_record(table, hidden, targets, tokens, logit_softcap=2.0, chunk_len=chunk_len)

    def losses_and_grad(tap, chunk_len):
        def op(table, hidden):
            return loss(table, hidden, targets, tap, chunk_len)

        losses, pull_back = jax.jit(lambda: jax.vjp(op, table, hidden))()
        return losses, *pull_back(jnp.ones(2))

    losses, table_grad, hidden_grad = losses_and_grad(tap, chunk_len)
    expected = losses_and_grad(tap if isinstance(tap, Weighting) else None, None)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-6)
    np.testing.assert_allclose(hidden_grad, expected[2], rtol=1e-5, atol=1e-6)
    if tap is None or isinstance(tap, Weighting):
        np.testing.assert_allclose(table_grad, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kept", ["gram", "direct", "keeping", "weighting"])
def test_a_vocabulary_of_256000_never_has_all_its_logits(kept, equations):
    """Catches a pass that holds more than one chunk; only shapes are computed here."""
    vocab_size, width, seq_len, max_logits = 256_000, 8, 1024, 2**25
    table = jax.ShapeDtypeStruct((vocab_size, width), jnp.float32)
    hidden = jax.ShapeDtypeStruct((2, seq_len, width), jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((2, seq_len), jnp.int32)
    chunk_len = vocab_chunk(2 * seq_len, vocab_size, max_logits)

    def program(table, hidden, targets, tokens):
        empty = output_record(
            table, hidden, targets, tokens, logit_softcap=30.0, chunk_len=chunk_len
        )
        tap = Weighting(FACTORS)
        if kept != "weighting":
            tap = empty.keeping("auto") if kept == "keeping" else empty.measuring(kept)

        def op(table, hidden, tap):
            return cross_entropy(
                table, hidden, targets, logit_softcap=30.0, max_logits=max_logits, tap=tap
            )

        _, pull_back = jax.vjp(op, table, hidden, tap)
        return pull_back(jnp.ones(2))

    traced = jax.make_jaxpr(program)(table, hidden, tokens, tokens)
    sizes = [math.prod(var.aval.shape) for found in equations(traced) for var in found.outvars]
    assert max(sizes) <= max_logits
    assert max_logits > 0.9 * chunk_len * 2 * seq_len > vocab_size * width
