"""The cut to the likeliest tokens, against a slow reference."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.errors import InputError
from dpscale.inference.sampling import Sampling, nucleus


def kept_by_hand(logits, top_p):
    """Tokens taken in falling order until they hold `top_p`."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    kept, held = set(), 0.0
    for token in sorted(range(len(logits)), key=lambda token: (-logits[token], token)):
        if held >= top_p:
            break
        kept.add(token)
        held += shares[token]
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), top_p=st.floats(0.05, 0.95))
def test_the_likeliest_tokens_are_kept(seed, top_p):
    """Catches a cut that drops the token which crosses top_p, or sorts the wrong way."""
    logits = np.random.default_rng(seed).normal(0, 2, (3, 11)).astype(np.float32)
    cut = np.asarray(nucleus(jnp.asarray(logits), jnp.float32(top_p)))
    for before, after in zip(logits, cut, strict=True):
        kept = kept_by_hand(before.astype(np.float64), top_p)
        assert {token for token in range(11) if np.isfinite(after[token])} == kept
        np.testing.assert_array_equal(after[list(kept)], before[list(kept)])


def test_all_of_the_probability_is_all_of_the_tokens():
    """Catches round-off that cuts unlikely tokens at top_p = 1."""
    logits = jnp.asarray([[40.0, 0.0, -40.0]])
    np.testing.assert_array_equal(nucleus(logits, jnp.float32(1.0)), logits)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.5), ("temperature", float("nan")), ("temperature", float("inf")),
     ("top_p", 0.0), ("top_p", 1.5), ("seed", -1), ("seed", 2**32)],
)  # fmt: skip
def test_values_out_of_range_are_named(field, value):
    """Catches a setting that draws nonsense."""
    with pytest.raises(InputError, match=field):
        Sampling(**{field: value})
