"""Limits hold, and one that leaves nothing says which value would do."""

import dataclasses
import re

import numpy as np
import pytest

from dpscale.compute import count_params
from dpscale.errors import InputError
from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.candidates import SEARCH_WIDTHS, list_candidates, search_shapes
from dpscale.scaling.advice.limits import Limits

BUDGET = Budget(
    epsilon=4, delta=1e-8, train_flops=1e17, dataset_size=10**6, seq_len=64, vocab_size=1024
)
SMALLEST = count_params(search_shapes(1024, 64)[0]).total


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(max_params=1e6),
        Limits(max_batch=1000.5),
        Limits(min_iterations=1500),
        Limits(max_epochs=1),
        Limits(max_params=1e6, max_batch=1000, min_iterations=1500, max_epochs=0.75),
    ],
)
def test_no_candidate_breaks_a_limit_and_the_binding_ones_are_reached(limits: Limits) -> None:
    listed = list_candidates(BUDGET, limits)
    size, batch, iterations = listed.num_params, listed.expected_batch_size, listed.iterations
    epochs = batch * iterations / 10**6
    assert size.max() <= (limits.max_params or np.inf)
    assert batch.max() <= (limits.max_batch or np.inf)
    assert iterations.min() >= (limits.min_iterations or 1)
    assert epochs.max() <= (limits.max_epochs or np.inf)
    assert (6 * 64 * size * batch * iterations <= 1e17).all()
    if limits.max_batch == 1000.5:
        assert batch.max() == 1000
    if limits.max_epochs == 1:  # runs are cut short, not left out: no batch is missing
        assert epochs.max() == 1
        assert batch.max() == 10**6


def test_a_small_step_in_parameters_is_never_far() -> None:
    # Catches rungs so far apart that a near-optimal set holds one of them whatever it is.
    for vocab_size in (1024, 30_522, 256_000):
        sizes = [count_params(shape).total for shape in search_shapes(vocab_size, 64)]
        ratios = np.divide(sizes[1:], sizes[:-1])
        assert len(sizes) == len(SEARCH_WIDTHS)
        assert ratios.min() > 1
        assert ratios.max() < 1.75
        assert np.median(ratios) < 1.35


@pytest.mark.parametrize(
    ("limits", "message", "remedy"),
    [
        ({"max_params": 1000}, "--max-params: 1000 leaves no shape", "max_params"),
        ({"min_iterations": 1e9}, "--min-iterations: 1,000,000,000 leaves nothing", "iterations"),
        ({"max_epochs": 1e-9}, "--max-epochs: 1e-09 leaves nothing", "max_epochs"),
        ({"max_epochs": 1e-4, "min_iterations": 250}, "--max-epochs: 0.0001 leaves", "max_epochs"),
    ],
)
def test_what_leaves_nothing_names_a_value_that_works(
    limits: dict[str, float], message: str, remedy: str
) -> None:
    with pytest.raises(InputError) as caught:
        list_candidates(BUDGET, Limits(**limits))
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    named = float(re.findall(r"[\d.,e+-]*\d", text)[-1].replace(",", ""))
    name = "min_iterations" if remedy == "iterations" else remedy
    assert list_candidates(BUDGET, Limits(**{**limits, name: named})).iterations.size
    worse = named * (1.01 if remedy == "iterations" else 0.99)
    with pytest.raises(InputError):
        list_candidates(BUDGET, Limits(**{**limits, name: worse}))


def test_iterations_that_compute_does_not_pay_are_refused() -> None:
    poor = dataclasses.replace(BUDGET, train_flops=6.0 * SMALLEST * 64 * 100)
    assert list_candidates(poor, Limits(min_iterations=100)).iterations.size
    with pytest.raises(InputError, match="--min-iterations: 101 leaves nothing; at most 100 the c"):
        list_candidates(poor, Limits(min_iterations=101))


@pytest.mark.parametrize("name", ["max_params", "max_batch", "min_iterations", "max_epochs"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_below_anything_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: expected"):
        Limits(**{name: value})
