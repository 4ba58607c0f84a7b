"""Text generation with a cache of keys and values: each token costs one token's work.

Prompts of a batch may differ in length. They are padded in front to a common length, the
padding is never seen, and a text comes out as it would alone (but for float round-off, which
can tip a draw between tokens that are equally likely).

Positions go on beyond the `seq_len` that a model was trained at, as in other
implementations; what a model says there is not what it was trained for.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.inference.lengths import padded_length, round_up
from dpscale.inference.sampling import Sampling, draw
from dpscale.model.continuation import Memory, continued, empty_memory, unstacked
from dpscale.model.decoder import Params

Prompt = Sequence[int]


class Generator:
    """A model that is ready to continue prompts.

    Args:
      params: As `init_params` lays them out. A second copy, layer by layer, is kept.
    """

    def __init__(self, model: ModelConfig, params: Params) -> None:
        self.model = model
        self._params = jax.jit(unstacked, static_argnums=0)(model, params)

    def growth(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        first_number: int = 0,
    ) -> "Growth":
        """Prompts with room for `max_new_tokens` more tokens each; see `stream`."""
        return Growth(self.model, self._params, prompts, max_new_tokens, sampling, first_number)

    def stream(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        stop_token: int | None = None,
        first_number: int = 0,
    ) -> Iterator[list[int | None]]:
        """Continues a batch of prompts, and gives the next token of each as it is known.

        Args:
          prompts: Each at least one token id in [0, V).
          max_new_tokens: Length of a continuation unless a stop token ends it, at least 0.
          stop_token: Ends a text when drawn; it is not given.
          first_number: The first prompt's number among all that are continued, which its
            draws depend on.

        Yields:
          One token per prompt, None for a text that has ended; ends when all have.

        Raises:
          InputError: An argument is out of the range given above.
        """
        _check(self.model, prompts, max_new_tokens=max_new_tokens)
        if not prompts or max_new_tokens == 0:
            return
        growth = self.growth(
            prompts, max_new_tokens=max_new_tokens, sampling=sampling, first_number=first_number
        )
        has_ended = np.zeros(len(prompts), bool)
        coming = growth.grow()
        for index in range(max_new_tokens):
            # The next step starts before this one's token is waited for.
            token_B, coming = coming, coming if index + 1 == max_new_tokens else growth.grow()
            tokens = np.asarray(token_B)
            has_ended |= tokens == stop_token
            if has_ended.all():
                return
            yield [None if end else int(t) for t, end in zip(tokens, has_ended, strict=True)]


class Growth:
    """A batch of texts that grow by one token at a time."""

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        sampling: Sampling,
        first_number: int,
    ) -> None:
        self._model, self._params = model, params
        self._unread_BxS: Any
        self._unread_BxS, num_padding_B = padded_prompts(prompts)
        num_slots = self._unread_BxS.shape[1] + round_up(max_new_tokens, 16)
        self._memory = empty_memory(model, jnp.asarray(num_padding_B), num_slots)
        numbers_B = first_number + np.arange(len(prompts))
        self._keys_B = _text_keys(np.uint32(sampling.seed), numbers_B)
        self._sampling = np.float32(sampling.temperature), np.float32(sampling.top_p)
        self._length = 0

    def grow(self) -> jax.Array:
        """The next token of each text, int32[B]; it may still be on its way."""
        self._unread_BxS, self._memory = _next(
            self._model,
            self._params,
            self._memory,
            self._unread_BxS,
            self._length,
            self._keys_B,
            *self._sampling,
        )
        self._length += 1
        token_B: jax.Array = self._unread_BxS[:, 0]
        return token_B


def generate(
    generator: Generator,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop_token: int | None = None,
    first_number: int = 0,
) -> list[list[int]]:
    """The new tokens of each prompt; arguments are those of `Generator.stream`."""
    texts: list[list[int]] = [[] for _ in prompts]
    for tokens in generator.stream(
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_token=stop_token,
        first_number=first_number,
    ):
        for text, token in zip(texts, tokens, strict=True):
            if token is not None:
                text.append(token)
    return texts


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _next(
    model: ModelConfig,
    params: Params,
    memory: Memory,
    tokens_BxS: jax.Array,
    index: jax.Array,
    keys_B: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
) -> tuple[jax.Array, Memory]:
    """Reads S tokens and draws the next, int32[B, 1]: the text's `index`-th new one."""
    logits_BxV, memory = continued(model, params, memory, tokens_BxS)
    draw_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, index)
    return draw(logits_BxV, draw_keys_B, temperature, top_p)[:, None], memory


@jax.jit
def _text_keys(seed: jax.Array, numbers_B: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers_B)


def padded_prompts(prompts: Sequence[Prompt]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts with padding in front: int32[B, S], and int32[B] how much of it there is.

    >>> tokens_BxS, num_padding_B = padded_prompts([[5], [6, 7]])
    >>> tokens_BxS[:, -3:].tolist(), num_padding_B.tolist()
    ([[0, 0, 5], [0, 6, 7]], [15, 14])
    """
    length = padded_length(max(len(prompt) for prompt in prompts))
    tokens_BxS = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(tokens_BxS, prompts, strict=True):
        row[length - len(prompt) :] = prompt
    return tokens_BxS, np.array([length - len(prompt) for prompt in prompts], np.int32)


def _check(model: ModelConfig, prompts: Sequence[Prompt], *, max_new_tokens: int) -> None:
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompts[{number}]", "expected at least one token, found none.")
        wrong = [token for token in prompt if not 0 <= token < model.vocab_size]
        if wrong:
            raise InputError(
                f"prompts[{number}]",
                f"expected ids in [0, {model.vocab_size}), found {wrong[0]}.",
            )
    if max_new_tokens < 0:
        raise InputError("max_tokens", f"expected at least 0, found {max_new_tokens}.")
