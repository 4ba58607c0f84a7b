"""A small random model that windows, shares key-value heads, and does not repeat itself."""

import jax
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.model import decoder

MODEL = ModelConfig(
    vocab_size=23,
    seq_len=24,
    num_layers=3,
    width=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    feed_forward_width=16,
    sliding_window=3,
)


@pytest.fixture(scope="session")
def model():
    return MODEL


@pytest.fixture(scope="session")
def params(model):
    """Layers of more weight than the embedding, so that tokens do not just repeat themselves."""
    generator = np.random.default_rng(8)
    shapes = decoder.params_shapes(model)
    random = jax.tree.map(lambda x: generator.normal(0, 1.0, x.shape).astype(np.float32), shapes)
    random["embedding"]["table"] *= 0.2
    return random


@pytest.fixture(scope="session")
def greedy_by_hand(model, params):
    """Greedy search that reads the whole text for every token, padded behind, without a cache."""
    logits_of = jax.jit(decoder.logits, static_argnums=0)

    def continued(prompt, max_new_tokens):
        text = np.zeros((1, 64), np.int32)
        text[0, : len(prompt)] = prompt
        for end in range(len(prompt), len(prompt) + max_new_tokens):
            text[0, end] = np.argmax(logits_of(model, params, text)[0, end - 1])
        return text[0, len(prompt) : len(prompt) + max_new_tokens].tolist()

    return continued
