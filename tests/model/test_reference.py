"""The decoder against the formulas of Gemma 2, written out again in float64 loops."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.model import decoder

GROUPED = ModelConfig(
    vocab_size=37,
    seq_len=9,
    num_layers=3,
    width=12,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    feed_forward_width=20,
    sliding_window=4,
    # Low caps, so that leaving one out shows at the scores of a random model.
    attn_logit_softcap=1.5,
    final_logit_softcap=2.0,
    query_pre_attn_scalar=3.0,
)
SHAPES = {
    "grouped-query, window, post-norms": GROUPED,
    "vaultgemma: multi-query, full, no post-norms": dataclasses.replace(
        GROUPED,
        num_kv_heads=1,
        sliding_window=None,
        post_norms=False,
        query_pre_attn_scalar=None,
        rope_theta=100.0,
    ),
    "multi-head, no caps": dataclasses.replace(
        GROUPED,
        num_kv_heads=4,
        num_layers=2,
        attn_logit_softcap=None,
        final_logit_softcap=None,
    ),
}


def random_params(model, seed):
    """Parameters of ordinary size, norm scales included; nothing is compiled to make them."""
    shapes = jax.eval_shape(lambda key: decoder.init_params(model, key), jax.random.key(0))
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: generator.normal(0, 0.4, x.shape).astype(np.float32), shapes)


def reference_logits(model, params, tokens):
    """Logits [S, V] of one example, one position and one head at a time."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    table = wide["embedding"]["table"]
    x = [table[token] * math.sqrt(model.width) for token in tokens]
    for layer in range(model.num_layers):
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], wide["layers"])
        x = reference_block(model, weights, x, layer)
    final = [rms_norm(model, wide["final_norm"]["scale"], row) for row in x]
    return np.array([[capped(row @ table[v], model.final_logit_softcap)
                      for v in range(model.vocab_size)] for row in final])  # fmt: skip


def reference_block(model, weights, x, layer):
    def norm(name, rows):
        return [rms_norm(model, weights[name]["scale"], row) for row in rows]

    def post(name, rows):
        return norm(name, rows) if model.post_norms else rows

    windowed = model.sliding_window is not None and layer % 2 == 0
    attended = reference_attention(
        model,
        weights["attention"],
        norm("pre_attention_norm", x),
        model.sliding_window if windowed else len(x),
    )
    x = [a + b for a, b in zip(x, post("post_attention_norm", attended), strict=True)]
    ff = weights["feed_forward"]
    fed = [
        (gelu(row @ ff["gate"]["kernel"]) * (row @ ff["up"]["kernel"])) @ ff["down"]["kernel"]
        for row in norm("pre_feed_forward_norm", x)
    ]
    return [a + b for a, b in zip(x, post("post_feed_forward_norm", fed), strict=True)]


def reference_attention(model, weights, x, window):
    width = model.head_dim

    def head(name, index, row):
        kernel = weights[name]["kernel"]
        return row @ kernel[:, index * width : (index + 1) * width]

    outputs = []
    for s in range(len(x)):
        heads = []
        for h in range(model.num_heads):
            k = h // (model.num_heads // model.num_kv_heads)
            query = turned(model, head("query", h, x[s]), s)
            seen = [t for t in range(s + 1) if s - t < window]
            scale = (model.query_pre_attn_scalar or width) ** -0.5
            scores = np.array([
                capped(query @ turned(model, head("key", k, x[t]), t) * scale,
                       model.attn_logit_softcap) for t in seen])  # fmt: skip
            shares = np.exp(scores) / np.exp(scores).sum()
            heads.append(sum(p * head("value", k, x[t]) for p, t in zip(shares, seen, strict=True)))
        outputs.append(np.concatenate(heads) @ weights["output"]["kernel"])
    return outputs


def turned(model, vector, position):
    half = model.head_dim // 2
    result = np.empty_like(vector)
    for i in range(half):
        angle = position / model.rope_theta ** (2 * i / model.head_dim)
        a, b = vector[i], vector[i + half]
        result[i] = a * math.cos(angle) - b * math.sin(angle)
        result[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return result


def rms_norm(model, scale, row):
    return row / math.sqrt(np.mean(row**2) + model.norm_eps) * (1 + scale)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def capped(x, cap):
    return x if cap is None else cap * math.tanh(x / cap)


@pytest.mark.parametrize("model", SHAPES.values(), ids=SHAPES)
def test_logits_and_losses_follow_the_formulas(model):
    """Catches any slip in the arithmetic: head grouping, window, caps, norms, rotation."""
    params = random_params(model, seed=3)
    units = np.random.default_rng(4).integers(0, model.vocab_size, (2, model.seq_len + 1))
    expected = np.array([reference_logits(model, params, unit[:-1]) for unit in units])
    actual, losses = jax.jit(logits_and_losses, static_argnums=0)(model, params, units)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)

    log_shares = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_shares, units[:, 1:, None], -1).mean((1, 2))
    np.testing.assert_allclose(losses, nats, rtol=1e-5)


def logits_and_losses(model, params, units):
    return (
        decoder.logits(model, params, units[:, :-1]),
        decoder.per_example_loss(model, params, units),
    )
