"""What doubling a budget would buy, the configuration chosen anew each time."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.noise_field import NoiseTable
from dpscale.scaling.advice.question import Question, TrustRegion
from dpscale.scaling.advice.search import look
from dpscale.scaling.synergy import BUDGETS, BudgetName

CHOICES: Final[tuple[tuple[BudgetName, ...], ...]] = (*((name,) for name in BUDGETS), BUDGETS)
"""Each budget alone, and all together."""


@dataclass(frozen=True)
class Gain:
    """The best configuration with some budgets doubled.

    Args:
      budgets: Which of `privacy` (epsilon), `compute` (train_flops), `data` (dataset_size).
      predicted_loss: Nats per token, by noise that is approximate: corrected as the exact noise at
        the recommended configuration asks, it is mostly well within 1 %.
    """

    budgets: tuple[BudgetName, ...]
    predicted_loss: float
    num_params: int
    expected_batch_size: int
    iterations: int


def doubled(budget: Budget, names: tuple[BudgetName, ...]) -> Budget:
    """`budget` with those named doubled."""
    return dataclasses.replace(
        budget,
        epsilon=budget.epsilon * (2 if "privacy" in names else 1),
        train_flops=budget.train_flops * (2 if "compute" in names else 1),
        dataset_size=budget.dataset_size * (2 if "data" in names else 1),
    )


def find_gains(
    question: Question, trust: TrustRegion, tables: Mapping[float, NoiseTable]
) -> tuple[Gain, ...]:
    """One for each of `CHOICES`.

    Args:
      trust: That of the budget itself; where it holds, it holds with less noise.
      tables: Approximate noise by epsilon: for the budget's, and for twice that, both down to
        a sampling probability of 1/2N.
    """
    return tuple(_gain(question, trust, tables, names) for names in CHOICES)


def _gain(
    question: Question,
    trust: TrustRegion,
    tables: Mapping[float, NoiseTable],
    names: tuple[BudgetName, ...],
) -> Gain:
    budget = doubled(question.budget, names)
    noise = question.noise.moved_to(tables[budget.epsilon], budget.dataset_size)
    field = look(dataclasses.replace(question, budget=budget, noise=noise), trust)
    size, batch, iterations = field.candidates.place(field.best)
    return Gain(names, field.least_loss, size, batch, iterations)
