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
from dpscale.ops.side_by_side import Columns
from dpscale.ops.stack import UNROLLED_LAYERS
from dpscale.ops.table import TableRecord
from dpscale.sizes import LADDER_WIDTHS, NAMED_SHAPES, ladder_shape

LADDER = {f"w{w}": ladder_shape(w, vocab_size=1024, seq_len=64) for w in LADDER_WIDTHS}
RECORDS = (DenseFactors, Columns, ScaleGradients, TableRecord)


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
        if isinstance(record, Columns):
            factors = record.record
            shape = factors.x_BxSxD.shape[-1], record.stop - record.start
            assert 0 <= record.start < record.stop <= factors.y_grad_BxSxP.shape[-1]
            assert factors.y_grad_BxSxP.shape[:-1] == (*layers, 2, model.seq_len)
        elif isinstance(record, DenseFactors):
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


@pytest.mark.parametrize(
    ("num_layers", "seq_len", "is_one"),
    [(UNROLLED_LAYERS, 64, True), (UNROLLED_LAYERS + 1, 64, False), (1, 63, False)],
)
def test_what_reads_the_same_shares_a_record(num_layers, seq_len, is_one, monkeypatch):
    """Catches kernels that are joined in a loop over layers, or for a token; or nowhere."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    model = dataclasses.replace(LADDER["w16"], num_layers=num_layers, seq_len=seq_len)
    layers = announced(model, num_examples=2)[1]["layers"]
    attention, feed_forward = layers["attention"], layers["feed_forward"]
    bounds = {}
    for name, record in (attention | feed_forward).items():
        if isinstance(record["kernel"], Columns):
            bounds[name] = record["kernel"].start, record["kernel"].stop
    heads, kv, hidden = 16, 16, model.feed_forward_width
    expected = {
        "query": (0, heads),
        "key": (heads, heads + kv),
        "value": (heads + kv, heads + 2 * kv),
        "gate": (0, hidden),
        "up": (hidden, 2 * hidden),
    }
    assert bounds == (expected if is_one else {})


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
