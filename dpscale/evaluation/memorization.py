"""The memorization test: does a model continue its training units as they go on?

As VaultGemma was tested (arXiv 2510.15001, after Carlini et al., arXiv 2202.07646): a unit's
first tokens are the prompt, and the greedy continuation is compared with the tokens that follow.
Held-out units are the control: what is easy to guess matches there too. `docs/memorization.md`
says how to read the result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dpscale.data.units import UnitArray
from dpscale.errors import InputError
from dpscale.evaluation.edit_distance import edit_distances
from dpscale.evaluation.memorization_report import ContinuedUnits, MemorizationReport, report
from dpscale.evaluation.occurrences import count_occurrences
from dpscale.evaluation.progress import OnProgress
from dpscale.inference.generation import Generator, generate
from dpscale.inference.sampling import Sampling

_BATCH_SIZE = 64
"""Units continued at once; it changes no text."""


@dataclass(frozen=True, kw_only=True)
class MemorizationTest:
    """What to test.

    Attributes:
      num_units: Units drawn on each side, all where there are fewer.
      prefix_tokens: Length of the prompt: a unit's first tokens.
      continuation_tokens: How many tokens after it are compared.
      seed: Of the draw.
    """

    num_units: int = 1000
    prefix_tokens: int = 50
    continuation_tokens: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for option in ("num_units", "prefix_tokens", "continuation_tokens"):
            if getattr(self, option) < 1:
                name = "--" + option.replace("_", "-")
                raise InputError(name, f"expected at least 1, found {getattr(self, option)}.")
        if self.seed < 0:
            raise InputError("--seed", f"expected at least 0, found {self.seed}.")

    @property
    def tested_tokens(self) -> int:
        """Prefix and continuation together."""
        return self.prefix_tokens + self.continuation_tokens


def measure_memorization(
    generator: Generator,
    test: MemorizationTest,
    *,
    train: UnitArray,
    held_out: UnitArray,
    on_progress: OnProgress = lambda _doing, _done, _total: None,
) -> MemorizationReport:
    """Tests a model on the units that it was trained on.

    Args:
      train: The model's training units, at least one.
      held_out: Units of the same source that it was not trained on; there may be none.

    Returns:
      Counts and rates. NOT PRIVATE: they depend on the training units themselves, not only on
      the model.

    Raises:
      InputError: Units are shorter than prefix and continuation.
    """
    _check(train.unit_len, test)
    train_text = drawn_texts(train, test, side=0)
    held_out_text = drawn_texts(held_out, test, side=1)
    texts = np.concatenate([train_text, held_out_text])
    counts = count_occurrences(
        train,
        texts,
        on_read=lambda done: on_progress("reading training units", done, len(train)),
    )
    distances = continuation_distances(
        generator,
        texts,
        test,
        on_done=lambda done: on_progress("continuing units", done, len(texts)),
    )
    sides = np.arange(len(texts)) < len(train_text)
    return report(
        train=ContinuedUnits(distances[sides], counts[sides]),
        held_out=ContinuedUnits(distances[~sides], counts[~sides]),
        prefix_tokens=test.prefix_tokens,
        continuation_tokens=test.continuation_tokens,
        seed=test.seed,
    )


def drawn_texts(units: UnitArray, test: MemorizationTest, *, side: int) -> npt.NDArray[np.int32]:
    """The tested tokens of units drawn uniformly without replacement, int32[n, tested].

    Args:
      side: Tells the draws of the two sides apart.
    """
    generator = np.random.default_rng([test.seed, side])
    count = min(test.num_units, len(units))
    indices = generator.choice(len(units), count, replace=False)
    return units.gather(np.sort(indices))[:, : test.tested_tokens]


def continuation_distances(
    generator: Generator,
    texts: npt.NDArray[np.int32],
    test: MemorizationTest,
    *,
    on_done: Callable[[int], None] = lambda _: None,
) -> npt.NDArray[np.int32]:
    """Edit distances, in tokens, between greedy continuations and the texts' own.

    A continuation has its full length even where an end-of-document token is part of it: so
    have the texts, which are cut from packed units.

    Args:
      texts: int32[n, tested tokens].
      on_done: Called with the number of texts done so far.

    Returns:
      int32[n].
    """
    distances = np.zeros(len(texts), np.int32)
    for start in range(0, len(texts), _BATCH_SIZE):
        batch = texts[start : start + _BATCH_SIZE]
        # The last batch is filled up with copies of a text, so that it is not compiled anew.
        rows = np.minimum(np.arange(min(_BATCH_SIZE, len(texts))), len(batch) - 1)
        continued = generate(
            generator,
            batch[rows, : test.prefix_tokens].tolist(),
            max_new_tokens=test.continuation_tokens,
            sampling=Sampling(temperature=0.0),
        )[: len(batch)]
        distances[start : start + len(batch)] = edit_distances(
            np.array(continued, np.int32), batch[:, test.prefix_tokens :]
        )
        on_done(start + len(batch))
    return distances


def _check(unit_len: int, test: MemorizationTest) -> None:
    if test.tested_tokens > unit_len:
        half = unit_len // 2
        fits = (
            f"take for example --prefix-tokens {half} --continuation-tokens {unit_len - half}"
            if half
            else "prepare longer units"
        )
        raise InputError(
            "--prefix-tokens, --continuation-tokens",
            f"{test.prefix_tokens} + {test.continuation_tokens} tokens do not fit into units of "
            f"{unit_len}; {fits}.",
        )
