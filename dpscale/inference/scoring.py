"""How likely a model finds given texts, token by token.

Texts are padded behind to a few common lengths; the padding is never seen, as attention is
causal. Logits of a large vocabulary exist for a few positions at a time only.

Axes: B texts, S tokens, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.inference.lengths import padded_length
from dpscale.model.decoder import Params, hidden_states, logits_of

_BATCH_TOKENS = 4096
"""Tokens that are scored at once."""

_LOGITS = 1 << 24
"""Logits that exist at once (64 MiB in float32)."""


@dataclass(frozen=True)
class TokenScores:
    """Scores of a text of n tokens: one for each token but the first, given those before.

    `log_probs` is float32[n - 1], in nats; `is_likeliest` is bool[n - 1], True where greedy
    decoding would have chosen the token.
    """

    log_probs: npt.NDArray[np.float32]
    is_likeliest: npt.NDArray[np.bool_]


class Scorer:
    """A model that is ready to score texts.

    Args:
      params: As `init_params` lays them out.
    """

    def __init__(self, model: ModelConfig, params: Params) -> None:
        self.model = model
        self._params = params

    def score(
        self, texts: Sequence[Sequence[int]], *, on_scored: Callable[[int], None] | None = None
    ) -> list[TokenScores]:
        """Scores texts, in whatever batches are quick; a text's score does not depend on them.

        Args:
          texts: Each at least one token id in [0, V), of any length. One beyond the model's
            `seq_len` is scored at positions that the model was not trained at.
          on_scored: Called with the number of texts of each batch that is done.

        Raises:
          InputError: A text is empty, or a token out of range.
        """
        self._check(texts)
        scores: list[TokenScores | None] = [None] * len(texts)
        longest_first = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        while longest_first:
            length = padded_length(len(texts[longest_first[0]]))
            batch_size = max(1, _BATCH_TOKENS // length)
            batch, longest_first = longest_first[:batch_size], longest_first[batch_size:]
            for index, score in zip(batch, self._score_batch(texts, batch, length), strict=True):
                scores[index] = score
            if on_scored is not None:
                on_scored(len(batch))
        return [score for score in scores if score is not None]

    def _score_batch(
        self, texts: Sequence[Sequence[int]], batch: list[int], length: int
    ) -> list[TokenScores]:
        # Rows as in a full batch, so that the last one is not compiled anew.
        tokens_BxS = np.zeros((max(1, _BATCH_TOKENS // length), length), np.int32)
        for row, index in zip(tokens_BxS, batch, strict=False):
            row[: len(texts[index])] = texts[index]
        log_probs, is_likeliest = map(np.asarray, _scores(self.model, self._params, tokens_BxS))
        return [
            TokenScores(log_probs[row, : size - 1], is_likeliest[row, : size - 1])
            for row, size in enumerate(len(texts[index]) for index in batch)
        ]

    def _check(self, texts: Sequence[Sequence[int]]) -> None:
        for number, text in enumerate(texts):
            if not len(text):
                raise InputError(f"texts[{number}]", "expected at least one token, found none.")
            if min(text) < 0 or max(text) >= self.model.vocab_size:
                raise InputError(
                    f"texts[{number}]",
                    f"expected ids in [0, {self.model.vocab_size}), "
                    f"found {min(text)} to {max(text)}.",
                )


@partial(jax.jit, static_argnums=0)
def _scores(
    model: ModelConfig, params: Params, tokens_BxS: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of tokens 1..S-1, float32[B, S-1], and whether each is the likeliest."""
    hidden_BxSxD = hidden_states(model, params, tokens_BxS[:, :-1])
    targets_BxS = tokens_BxS[:, 1:]

    def score_one(hidden_and_target: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_D, target = hidden_and_target
        logits_V = logits_of(model, params, hidden_D)
        log_prob = logits_V[target] - jax.scipy.special.logsumexp(logits_V)
        return log_prob, jnp.argmax(logits_V) == target

    width = hidden_BxSxD.shape[-1]
    log_probs, is_likeliest = jax.lax.map(
        score_one,
        (hidden_BxSxD.reshape(-1, width), targets_BxS.reshape(-1)),
        batch_size=max(1, _LOGITS // model.vocab_size),
    )
    return log_probs.reshape(targets_BxS.shape), is_likeliest.reshape(targets_BxS.shape)
