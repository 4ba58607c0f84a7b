"""Traced programs of all strategies: in which precision they multiply, and what they hold."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from dpscale.config import ModelConfig
from dpscale.model import decoder
from dpscale.ops import unembed
from dpscale.privacy.clipping import ClippedSum, ClipRule
from dpscale.privacy.strategies import Strategy
from dpscale.sizes import NAMED_SHAPES
from dpscale.training.step import tapped_loss

SMALL = ModelConfig(
    vocab_size=23,
    seq_len=70,
    num_layers=2,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    feed_forward_width=12,
)
STRATEGIES = {
    "vmap": Strategy("vmap"),
    "ghost-gram": Strategy("ghost", "gram"),
    "ghost-direct": Strategy("ghost", "direct"),
    "bookkeeping-gram": Strategy("bookkeeping", "gram"),
    "bookkeeping-direct": Strategy("bookkeeping", "direct"),
}


def trace(model: ModelConfig, strategy: Strategy, num_examples: int = 3) -> Any:
    """The program of one microbatch; nothing is computed."""
    params = jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))
    units = jax.ShapeDtypeStruct((num_examples, model.seq_len + 1), jnp.int32)
    is_counted = jax.ShapeDtypeStruct((num_examples,), jnp.bool_)

    def program(params: Any, units: jax.Array, is_counted: jax.Array) -> ClippedSum:
        return strategy(tapped_loss(model), params, units, is_counted, ClipRule(1.0, True))

    return jax.make_jaxpr(program)(params, units, is_counted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_layers", [1, 17], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_float32_is_float32_in_fact(name, num_layers, dtype, equations, contractions) -> None:
    """Catches a product that an accelerator would round, or sum in bfloat16, before a norm.

    Products within attention alone may be given in bfloat16: they are activations and their
    gradients, of which norm and sum are then taken alike. They run along two axes or more.
    """
    model = dataclasses.replace(
        SMALL, num_layers=num_layers, rematerialize=num_layers > 1, compute_dtype=dtype
    )
    program = trace(model, STRATEGIES[name])
    found = contractions(program)
    assert all(contraction.is_highest for contraction in found)
    outside = [contraction for contraction in found if contraction.num_batch_axes < 2]
    assert all(contraction.is_exact for contraction in outside), outside
    assert len(outside) >= 7 * 3  # seven kernels in a layer: forward, backward, weights
    assert len(outside) < len(found)
    sums = [found for found in equations(program) if found.primitive.name == "reduce_sum"]
    assert not [found for found in sums if found.invars[0].aval.dtype == jnp.bfloat16]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "vmap"])
def test_logits_of_a_large_vocabulary_never_exist_at_once(name, equations, monkeypatch) -> None:
    # Catches: a pass of some strategy that holds more than one chunk, or a tape of all chunks.
    model = dataclasses.replace(SMALL, vocab_size=5000, num_layers=1)
    max_logits = 20 * 3 * model.seq_len * 10
    monkeypatch.setattr(unembed.vocab_chunk, "__defaults__", (max_logits,))
    monkeypatch.setitem(unembed.cross_entropy.__kwdefaults__, "max_logits", max_logits)
    sizes = sizes_of(trace(model, STRATEGIES[name]), equations)
    assert max(sizes.values()) <= max_logits < 3 * model.seq_len * model.vocab_size / 20


@pytest.mark.parametrize("name", ["ghost-direct", "bookkeeping-gram"])
def test_a_vocabulary_of_256000_fits(name, equations) -> None:
    # Catches: [B, S, V] logits, or one of the chunks' gradients kept for all chunks.
    model = dataclasses.replace(NAMED_SHAPES["gemma2-2b"], seq_len=1024, num_layers=2)
    params = jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))
    sizes = sizes_of(trace(model, STRATEGIES[name], num_examples=1), equations)
    large = {size for size in sizes.values() if size > unembed.MAX_LOGITS}
    # What is left is parameters, gate and up as one, their activations in all layers, and a
    # chunk's rows of the table: an eighth of it.
    of_parameters = {leaf.size for leaf in jax.tree.leaves(params)}
    gate_and_up = 2 * model.feed_forward_width
    as_one = {model.width * gate_and_up, model.num_layers * model.seq_len * gate_and_up}
    assert large - of_parameters - as_one == {model.vocab_size // 8 * model.width}
    assert model.seq_len * model.vocab_size not in of_parameters


def sizes_of(program: Any, equations: Any) -> dict[tuple[int, ...], int]:
    """Elements of every shape that a program, or a program within it, computes."""
    shapes = {var.aval.shape for found in equations(program) for var in found.outvars}
    return {shape: math.prod(shape) for shape in shapes}
