"""Continuations of prompts as text: what stands between the generator's tokens and people."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.inference.generation import Generator
from dpscale.inference.sampling import Sampling
from dpscale.inference.trained import TrainedModel


@dataclass(frozen=True)
class Continuation:
    """A prompt, the text that followed it, and that text's tokens."""

    prompt: str
    text: str
    tokens: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def continuations(
    trained: TrainedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    batch_size: int,
    on_text: Callable[[int, str], None] | None = None,
) -> Iterator[Continuation]:
    """Continues prompts until their documents end, batch by batch, in order.

    Args:
      max_new_tokens: Length of a continuation, at most; in tokens, at least 0.
      batch_size: How many prompts are continued at once, at least 1; it does not change a text.
      on_text: Called with a prompt's number and the text that has just been added to it.

    Raises:
      InputError: An argument is out of its range.
    """
    if batch_size < 1:
        raise InputError("batch_size", f"expected at least 1, found {batch_size}.")
    return _continued(trained, prompts, max_new_tokens, sampling, batch_size, on_text)


def _continued(
    trained: TrainedModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    sampling: Sampling,
    batch_size: int,
    on_text: Callable[[int, str], None] | None,
) -> Iterator[Continuation]:
    generator = Generator(trained.model, trained.params)
    tokens = [trained.prompt(prompt) for prompt in prompts]
    for start in range(0, len(prompts), batch_size):
        numbers = range(start, min(start + batch_size, len(prompts)))
        growing = [_GrowingText(trained.tokenizer, tokens[number]) for number in numbers]
        for new_tokens in generator.stream(
            [tokens[number] for number in numbers],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_token=trained.tokenizer.eos_id,
            first_number=start,
        ):
            for number, text, token in zip(numbers, growing, new_tokens, strict=True):
                added = text.grow(token)
                if on_text is not None and added:
                    on_text(number, added)
        for number, text in zip(numbers, growing, strict=True):
            yield Continuation(prompts[number], text.finished(), text.tokens)


class _GrowingText:
    """The text of new tokens as they come; what may still change is held back.

    The text is decoded with its prompt's tokens before it: a first piece may lose its space.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self.tokens: list[int] = []
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._start = len(tokenizer.decode(prompt))
        self._given = 0

    def grow(self, token: int | None) -> str:
        """The text that is settled by one more token; nothing by None."""
        if token is None:
            return ""
        self.tokens.append(token)
        text = self.finished()
        # Bytes of a character that are tokens of their own decode to U+FFFD until all are there.
        settled = text.rstrip("\ufffd")
        added, self._given = settled[self._given :], max(self._given, len(settled))
        return added

    def finished(self) -> str:
        """All of it, the end that was held back included."""
        return self._tokenizer.decode([*self._prompt, *self.tokens])[self._start :]
