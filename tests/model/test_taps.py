"""Every parameter announces a record, and a tap goes to the op that asked for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.model import decoder
from dpscale.ops.chunked_records import ChunkedOutput
from dpscale.ops.dense import DenseFactors
from dpscale.ops.scale import ScaleGradients
from dpscale.ops.table import TableRecord
from dpscale.sizes import LADDER_WIDTHS, NAMED_SHAPES, ladder_shape

LADDER = {f"w{w}": ladder_shape(w, vocab_size=1024, seq_len=64) for w in LADDER_WIDTHS}
RECORDS = (DenseFactors, ScaleGradients, TableRecord)


def announced(model: ModelConfig, num_examples: int):
    """Shapes of parameters and of their records; no memory is used."""
    params = jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))
    units = jax.ShapeDtypeStruct((num_examples, model.seq_len + 1), jnp.int32)
    records = jax.eval_shape(lambda p, u: decoder.empty_records(model, p, u), params, units)
    return params, records


@pytest.mark.parametrize(
    "model", [*NAMED_SHAPES.values(), *LADDER.values()], ids=[*NAMED_SHAPES, *LADDER]
)
def test_every_parameter_announces_a_record(model):
    """Catches a parameter whose gradient no norm would know of."""
    params, records = announced(model, num_examples=2)
    tops = jax.tree.map(lambda node: 0, records, is_leaf=lambda node: isinstance(node, RECORDS))
    assert jax.tree.structure(tops) == jax.tree.structure(params)

    def check(param, record):
        layers = param.shape[: param.ndim - record.weight_ndim]
        if isinstance(record, DenseFactors):
            shape = record.x_BxSxD.shape[-1], record.y_grad_BxSxP.shape[-1]
            assert record.x_BxSxD.shape[:-1] == (*layers, 2, model.seq_len)
        elif isinstance(record, ScaleGradients):
            shape = record.grad_BxD.shape[-1:]
            assert record.grad_BxD.shape[:-1] == (*layers, 2)
        else:
            shape = record.input.vocab_size, record.input.x_grad_BxSxD.shape[-1]
            assert record.tokens_BxS.shape == (2, model.seq_len)
            is_large = 2 * model.seq_len * model.vocab_size > 2**25
            assert isinstance(record.output, ChunkedOutput if is_large else DenseFactors)
        assert (*layers, *shape) == param.shape

    jax.tree.map(check, params, records, is_leaf=lambda node: isinstance(node, RECORDS))


def test_taps_change_no_loss():
    """Catches a model that computes something else when it is asked for records."""
    model = dataclasses.replace(LADDER["w16"], seq_len=5, vocab_size=20, num_layers=1)
    params = decoder.init_params(model, jax.random.key(0))
    units = np.random.default_rng(0).integers(0, 20, (3, 6), dtype=np.int32)

    @jax.jit
    def losses(params):
        taps = decoder.empty_records(model, params, units)
        with_taps = decoder.per_example_loss(model, params, units, taps)
        return with_taps, decoder.per_example_loss(model, params, units)

    with_taps, without = losses(params)
    np.testing.assert_allclose(with_taps, without, rtol=1e-6)
