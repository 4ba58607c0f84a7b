"""What the cache of keys and values is worth: a token with it, and a token from the whole text.

The rival computes each token from the full text in one compiled function, over a window that
holds prompt and continuation, padded behind; its logits are taken at one position only. Both
run in the same rounds, from the same prompt, and are checked to choose the same tokens.
Compilation and the reading of the prompt are not timed.

Axes: B texts, S positions of the window.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpscale.bench.timing import Ratio, Stopwatch
from dpscale.compute import count_params
from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.inference.generation import Generator, Growth
from dpscale.inference.sampling import Sampling
from dpscale.model.decoder import Params, hidden_states, init_params, logits_of

NEW_TOKENS = 256
"""Room for the continuation, in the cache and in the window of the rival."""

_CACHED, _FULL = "with the cache", "from the whole text"


@dataclass(frozen=True)
class GenerationReport:
    """Seconds of a greedy token, medians over rounds; `speedup` is taken within rounds."""

    model: ModelConfig
    batch_size: int
    prompt_tokens: int
    rounds: int
    cached_seconds: float
    full_seconds: float
    speedup: Ratio
    is_complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "num_params": count_params(self.model).total}


def measure_generation(
    model: ModelConfig,
    stopwatch: Stopwatch,
    *,
    batch_size: int,
    prompt_tokens: int,
    rounds: int,
    seed: int,
) -> GenerationReport | None:
    """Measures one shape with random parameters; None when stopped before the first round.

    Args:
      rounds: New tokens of each text that are timed, at most `NEW_TOKENS` - 2.

    Raises:
      InputError: More rounds than that.
      RuntimeError: The two ways chose different tokens. Random parameters do not make two
        tokens so nearly equal that float round-off decides.
    """
    if rounds > NEW_TOKENS - 2:
        raise InputError("rounds", f"expected at most {NEW_TOKENS - 2}, found {rounds}.")
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(seed))
    prompts_BxS = np.random.default_rng(seed).integers(
        0, model.vocab_size, (batch_size, prompt_tokens)
    )
    cached = _Cached(model, params, prompts_BxS.tolist())
    full = _Full(model, params, prompts_BxS)
    calls = {_CACHED: cached.step, _FULL: full.step}
    for index, (name, call) in enumerate(calls.items()):
        stopwatch.observe(f"compiling: {name}", index, len(calls))
        call(0)  # reads the prompt, for the cache
        call(0)
    seconds = stopwatch.rounds(calls, rounds)
    count = len(seconds[_CACHED])
    if count == 0:
        return None
    common = min(len(cached.tokens), len(full.tokens))
    if not np.array_equal(cached.tokens[:common], full.tokens[:common]):
        raise RuntimeError("Expected the same tokens with the cache and without, found others.")
    return GenerationReport(
        model=model,
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        rounds=count,
        cached_seconds=statistics.median(seconds[_CACHED]),
        full_seconds=statistics.median(seconds[_FULL]),
        speedup=Ratio.of(seconds[_FULL], seconds[_CACHED]),
        is_complete=not stopwatch.stop.is_set,
    )


class _Cached:
    """Texts that grow by the generator's own step, each waited for."""

    def __init__(self, model: ModelConfig, params: Params, prompts: Sequence[list[int]]) -> None:
        self._growth: Growth = Generator(model, params).growth(
            prompts, max_new_tokens=NEW_TOKENS, sampling=Sampling(temperature=0.0)
        )
        self.tokens: list[np.ndarray] = []

    def step(self, _: int) -> None:
        """One more token of each text."""
        self.tokens.append(np.asarray(self._growth.grow()))


class _Full:
    """Texts that are read anew for each token."""

    def __init__(self, model: ModelConfig, params: Params, prompts_BxS: np.ndarray) -> None:
        self._model, self._params = model, params
        self._texts_BxS = np.pad(prompts_BxS, ((0, 0), (0, NEW_TOKENS))).astype(np.int32)
        self._length = prompts_BxS.shape[1]
        self.tokens: list[np.ndarray] = []

    def step(self, _: int) -> None:
        """One more token of each text."""
        texts_BxS, last = self._texts_BxS, self._length - 1
        token_B = np.asarray(_likeliest_next(self._model, self._params, texts_BxS, last))
        self._texts_BxS[:, self._length] = token_B
        self._length += 1
        self.tokens.append(token_B)


@partial(jax.jit, static_argnums=0)
def _likeliest_next(
    model: ModelConfig, params: Params, texts_BxS: jax.Array, last: jax.Array
) -> jax.Array:
    """The likeliest token behind position `last`, int32[B]."""
    hidden_BxSxD = hidden_states(model, params, texts_BxS)
    hidden_BxD = jax.lax.dynamic_index_in_dim(hidden_BxSxD, last, axis=1, keepdims=False)
    return jnp.argmax(logits_of(model, params, hidden_BxD), axis=-1).astype(jnp.int32)
