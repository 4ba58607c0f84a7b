"""Text generation, simple and exact: every new token is computed from the full prefix.

One compiled function sees a fixed window of `seq_len` tokens, padded behind the prefix, so
that nothing is compiled again as the text grows. There is no KV cache: a token costs a whole
forward pass over the window.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.model.decoder import Params, logits


def generate(
    model: ModelConfig,
    params: Params,
    prompt_tokens: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_token: int | None = None,
) -> list[int]:
    """Continues a prompt, one token at a time.

    The model sees the last `seq_len` tokens of prompt and continuation: beyond that the
    window slides, and its first token then stands at position 0.

    Args:
      params: As `init_params` lays them out.
      prompt_tokens: At least one token id in [0, V).
      max_new_tokens: Length of the continuation unless a stop token ends it, at least 0.
      temperature: 0 takes the likeliest token (the lowest id of equals); above, tokens are
        drawn from softmax(logits / temperature).
      seed: Of the draws, in [0, 2^32). The same arguments give the same continuation.
      stop_token: Ends the text when drawn; it is not returned.

    Returns:
      The new tokens only.

    Raises:
      InputError: An argument is out of the range given above.
    """
    _check(model, prompt_tokens, max_new_tokens=max_new_tokens, temperature=temperature)
    key = jax.random.key(seed)
    tokens = list(prompt_tokens)
    for index in range(max_new_tokens):
        prefix = tokens[-model.seq_len :]
        window_S = np.zeros(model.seq_len, np.int32)
        window_S[: len(prefix)] = prefix
        draw_key = jax.random.fold_in(key, index)
        token = int(_next_token(model, params, window_S, len(prefix), temperature, draw_key))
        if token == stop_token:
            break
        tokens.append(token)
    return tokens[len(prompt_tokens) :]


@partial(jax.jit, static_argnums=0)
def _next_token(
    model: ModelConfig,
    params: Params,
    window_S: jax.Array,
    prefix_len: jax.Array,
    temperature: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """The token behind the first `prefix_len` of the window; causality hides the padding."""
    logits_V = logits(model, params, window_S[None])[0, prefix_len - 1]
    # Both branches are computed; the guarded divisor keeps the unused one finite.
    drawn = jax.random.categorical(key, logits_V / jnp.where(temperature > 0, temperature, 1.0))
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits_V))


def _check(
    model: ModelConfig, prompt_tokens: Sequence[int], *, max_new_tokens: int, temperature: float
) -> None:
    if not prompt_tokens:
        raise InputError("prompt_tokens", "expected at least one token, found none.")
    for token in prompt_tokens:
        if not 0 <= token < model.vocab_size:
            raise InputError(
                "prompt_tokens", f"expected ids in [0, {model.vocab_size}), found {token}."
            )
    if max_new_tokens < 0:
        raise InputError("max_new_tokens", f"expected at least 0, found {max_new_tokens}.")
    if not 0 <= temperature < float("inf"):
        raise InputError("temperature", f"expected at least 0 and finite, found {temperature}.")
