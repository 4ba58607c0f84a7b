"""What lm-evaluation-harness asks of a model: likelihoods of continuations, and short answers.

The conventions are those of the harness's own model of Transformers, so that both give the
same scores: a text that is too long loses its beginning, an empty context is the end of the
document before, and an answer ends where a stop string begins.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dpscale.errors import InputError
from dpscale.inference.generation import Generator
from dpscale.inference.sampling import Sampling
from dpscale.inference.scoring import Scorer
from dpscale.inference.trained import TrainedModel

_BATCH_SIZE = 16
"""Answers that are written side by side; it changes none of them."""

OnDone = Callable[[int], None]
"""Called with how many requests have just been answered."""


class Answers:
    """A trained model that answers requests of the harness."""

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        self.tokenizer = trained.tokenizer
        self.max_length = trained.model.seq_len
        self._scorer = Scorer(trained.model, trained.params)
        self._generator = Generator(trained.model, trained.params)

    def log_likelihoods(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        on_done: OnDone | None = None,
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, in nats, and whether greedy decoding gives it.

        Args:
          requests: Tokens of contexts and of their continuations, each at least one. Only the
            last `max_length` + 1 of both are read.

        Raises:
          InputError: A continuation is longer than `max_length`.
        """
        texts = []
        for context, continuation in requests:
            if len(continuation) > self.max_length:
                raise InputError(
                    "--tasks",
                    f"a continuation of {len(continuation)} tokens does not fit the model, which "
                    f"reads {self.max_length}.",
                )
            texts.append([*context, *continuation][-(self.max_length + 1) :])
        scores = self._scorer.score(texts, on_scored=on_done)
        answers = []
        for (_, continuation), score in zip(requests, scores, strict=True):
            last = slice(len(score.log_probs) - len(continuation), None)
            log_likelihood = float(score.log_probs[last].astype(np.float64).sum())
            answers.append((log_likelihood, bool(score.is_likeliest[last].all())))
        return answers

    def texts(
        self,
        contexts: Sequence[str],
        *,
        until: Sequence[str],
        max_new_tokens: int,
        on_done: OnDone | None = None,
    ) -> list[str]:
        """Greedy continuations, cut where the first of the stop strings begins.

        Raises:
          InputError: There is no room for a context beside `max_new_tokens`.
        """
        room = self.max_length - max_new_tokens
        if room < 1:
            raise InputError(
                "--tasks",
                f"answers of up to {max_new_tokens} tokens leave no room for a question in the "
                f"{self.max_length} that the model reads.",
            )
        prompts = [self.trained.prompt(context)[-room:] for context in contexts]
        texts: list[str] = []
        for start in range(0, len(prompts), _BATCH_SIZE):
            batch = prompts[start : start + _BATCH_SIZE]
            texts += self._batch(batch, until, max_new_tokens)
            if on_done is not None:
                on_done(len(batch))
        return texts

    def _batch(
        self, prompts: Sequence[list[int]], until: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        tokens: list[list[int]] = [[] for _ in prompts]
        texts = [""] * len(prompts)
        for new in self._generator.stream(
            prompts,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=0.0),
            stop_token=self.tokenizer.eos_id,
        ):
            for row, token in enumerate(new):
                if token is not None:
                    tokens[row].append(token)
                    texts[row] = self.tokenizer.decode(tokens[row])
            has_ended = (token is None for token in new)
            if all(
                end or any(stop in text for stop in until)
                for end, text in zip(has_ended, texts, strict=True)
            ):
                break
        return [_cut(text, until) for text in texts]


def _cut(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text
