"""Scores against the plain logits of each text alone."""

import jax
import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.inference import scoring
from dpscale.inference.scoring import Scorer
from dpscale.model import decoder


@pytest.fixture(scope="module")
def texts(model):
    generator = np.random.default_rng(2)
    lengths = (5, 1, 40, 16, 17, 2, 33)
    return [generator.integers(0, model.vocab_size, length).tolist() for length in lengths]


@pytest.mark.parametrize("limits", [{}, {"_BATCH_TOKENS": 64, "_LOGITS": 100}], ids=["", "small"])
def test_scores_are_those_of_each_text_alone(model, params, texts, monkeypatch, limits):
    """Catches scores in another order, off by one token, or of padded positions."""
    jax.clear_caches()  # the limits are read when a program is traced
    for name, value in limits.items():
        monkeypatch.setattr(scoring, name, value)
    done = []
    scores = Scorer(model, params).score(texts, on_scored=done.append)
    assert sum(done) == len(texts)
    logits_of = jax.jit(decoder.logits, static_argnums=0)
    for text, score in zip(texts, scores, strict=True):
        behind = [0] * (40 - len(text))
        logits = np.asarray(logits_of(model, params, np.array([text + behind])), np.float64)
        logits = logits[0, : len(text)]
        shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = np.log(shares[np.arange(len(text) - 1), text[1:]])
        np.testing.assert_allclose(score.log_probs, expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(score.is_likeliest, logits[:-1].argmax(-1) == text[1:])
    jax.clear_caches()


def test_a_greedy_text_is_the_likeliest_everywhere(model, params, greedy_by_hand):
    """Catches `is_likeliest` that means something else than greedy decoding."""
    text = [3, 1, *greedy_by_hand([3, 1], 10)]
    (score,) = Scorer(model, params).score([text])
    assert score.is_likeliest[1:].all()


@pytest.mark.parametrize("text", [[], [1, 23], [-1]])
def test_wrong_texts_are_named(model, params, text):
    """Catches an id out of range that is scored as another."""
    with pytest.raises(InputError, match=r"texts\[1\]"):
        Scorer(model, params).score([[1], text])
