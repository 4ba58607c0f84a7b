"""What the paper found holds for the law that ships, as inequalities; and its table comes back."""

import math
from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
import pytest

from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.recommend import Recommendation, recommend
from dpscale.scaling.law.published import find_law, find_table
from dpscale.scaling.reading.optima import read_optima


@cache
def best(epsilon: float, flops: float, dataset_size: int = 10**7) -> Recommendation:
    budget = Budget(epsilon, 1e-8, flops, dataset_size, seq_len=512, vocab_size=30_522)
    return recommend(find_law("published"), budget)


def chinchilla(flops: float) -> float:
    """Parameters at 20 tokens each, without privacy."""
    return math.sqrt(flops / (6 * 20))


@pytest.mark.parametrize(
    ("epsilon", "flops"), [(1.0, 1e20), (4.0, 1e20), (4.0, 1e21), (10.0, 1e20)]
)
def test_the_best_model_is_at_most_a_tenth_of_chinchillas(epsilon: float, flops: float) -> None:
    assert best(epsilon, flops).params.total <= chinchilla(flops) / 10


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 10.0])
def test_a_parameter_sees_a_thousand_to_a_hundred_thousand_tokens(epsilon: float) -> None:
    assert 1e3 <= best(epsilon, math.inf).tokens_per_param <= 1e5
    assert 1e3 <= best(epsilon, 1e20).tokens_per_param <= 1e5


def test_less_privacy_budget_asks_for_larger_batches_and_smaller_models() -> None:
    tight, middle, loose = (best(epsilon, 1e21) for epsilon in (1.0, 4.0, 10.0))
    assert tight.expected_batch_size > middle.expected_batch_size > loose.expected_batch_size
    small, _, large = (best(epsilon, math.inf).params.total for epsilon in (1.0, 4.0, 10.0))
    assert small < large
    assert tight.predicted_loss > middle.predicted_loss > loose.predicted_loss


def test_the_loss_saturates_in_compute() -> None:
    losses = [best(4.0, flops).predicted_loss for flops in (1e19, 1e20, 1e21, 1e22)]
    gains = -np.diff(np.log(losses))
    assert gains[0] > 0.05
    assert np.all(np.diff(gains) < 0)
    assert gains[-1] < 0.01
    assert not best(4.0, 1e20).is_saturated
    assert best(4.0, 1e22).is_saturated


def test_budgets_help_more_in_tandem_than_alone() -> None:
    found = best(4.0, 1e21)
    gains = {each.budgets: each.predicted_loss for each in found.gains}
    together = gains.pop(max(gains, key=len))
    assert all(together < loss <= found.predicted_loss * 1.001 for loss in gains.values())


def test_more_data_makes_up_for_less_epsilon() -> None:
    """In the table ten times the data is worth about four times the epsilon."""
    ours = best(1.0, math.inf, 10**8).predicted_loss
    assert ours < best(4.0, math.inf, 10**7).predicted_loss


@pytest.fixture(scope="module")
def script(analysis_script: Callable[[str], ModuleType]) -> ModuleType:
    return analysis_script("published_law")


@pytest.mark.deep
def test_the_twenty_budgets_of_the_table(script: ModuleType) -> None:
    table = read_optima(find_table(script.TABLE), source=script.TABLE)
    comparisons = [script.compare(row, table) for row in table.rows]
    errors = np.abs([each.error for each in comparisons])
    assert np.max(errors) < 0.065
    assert np.median(errors) < 0.027
    assert sum(len(each.outside) for each in comparisons) <= 3
    assert np.max([each.decades for each in comparisons]) <= 1.5
