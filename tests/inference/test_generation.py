"""Generation against greedy search done by hand on the plain logits."""

import jax
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.inference.generation import generate
from dpscale.model import decoder

MODEL = ModelConfig(
    vocab_size=23,
    seq_len=6,
    num_layers=1,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    feed_forward_width=16,
)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda key: decoder.init_params(MODEL, key), jax.random.key(0))
    generator = np.random.default_rng(7)
    return jax.tree.map(lambda x: generator.normal(0, 0.5, x.shape).astype(np.float32), shapes)


def continuation(params, prompt, *, max_new_tokens=4, temperature=0.0, seed=0, stop_token=None):
    return generate(
        MODEL,
        params,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop_token=stop_token,
    )


def by_hand(params, prompt, max_new_tokens):
    """Greedy search on logits of the bare prefix: no padding, no fixed window."""
    logits_of = jax.jit(decoder.logits, static_argnums=0)
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        prefix = np.array([tokens[-MODEL.seq_len :]], np.int32)
        tokens.append(int(np.argmax(logits_of(MODEL, params, prefix)[0, -1])))
    return tokens[len(prompt) :]


def test_greedy_continuation_is_that_of_the_unpadded_prefix(params):
    """Catches padding that is seen, a position off by one, and a window that does not slide."""
    expected = by_hand(params, [3, 1, 4], 9)
    assert len(set(expected)) > 1, "a constant continuation would not tell positions apart"
    assert continuation(params, [3, 1, 4], max_new_tokens=9) == expected


def test_a_prompt_longer_than_the_window_counts_by_its_end(params):
    """Catches a prompt that is cut at the wrong end."""
    long = [5, 9, 2, 6, 5, 3, 5, 8, 9, 7]
    assert continuation(params, long) == continuation(params, long[-MODEL.seq_len :])
    assert continuation(params, long) != continuation(params, long[: MODEL.seq_len])


def test_greedy_ignores_the_seed_and_draws_follow_it(params):
    """Catches a draw at temperature 0, and draws that ignore their seed."""
    assert continuation(params, [3], seed=1) == continuation(params, [3], seed=2)
    drawn = [
        continuation(params, [3], temperature=1.0, seed=seed, max_new_tokens=8)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_draws_have_the_softmax_frequencies(params):
    """Catches a temperature that multiplies, or draws that repeat one key."""
    temperature = 0.7
    prompt, count = [3, 1], 300
    seen = [
        continuation(params, prompt, temperature=temperature, seed=seed, max_new_tokens=1)[0]
        for seed in range(count)
    ]
    logits = np.asarray(decoder.logits(MODEL, params, np.array([prompt]))[0, -1], np.float64)
    shares = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    frequencies = np.bincount(seen, minlength=MODEL.vocab_size) / count
    # Total variation of 300 draws over 23 tokens stays near 0.1.
    assert np.abs(frequencies - shares).sum() / 2 < 0.2


def test_the_stop_token_ends_the_text_and_is_not_part_of_it(params):
    """Catches text that runs on behind its end."""
    full = continuation(params, [3, 1, 4], max_new_tokens=9)
    stop = full[4]
    stopped = continuation(params, [3, 1, 4], max_new_tokens=9, stop_token=stop)
    assert stopped == full[: full.index(stop)]


@pytest.mark.parametrize(
    ("prompt", "options", "place"),
    [
        ([], {}, "prompt_tokens"),
        ([23], {}, "prompt_tokens"),
        ([-1], {}, "prompt_tokens"),
        ([1], {"temperature": -0.5}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"max_new_tokens": -1}, "max_new_tokens"),
    ],
)
def test_wrong_arguments_are_named(params, prompt, options, place):
    """Catches a bad prompt that is silently continued as something else."""
    with pytest.raises(InputError, match=place):
        continuation(params, prompt, **options)
