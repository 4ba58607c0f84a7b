"""What the search promises between budgets: more of anything never costs, and compute saturates."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from dpscale.scaling.advice.budget import Accounting, Budget
from dpscale.scaling.advice.limits import Limits
from dpscale.scaling.advice.recommend import Recommendation, recommend
from dpscale.scaling.advice.search import NEAR_OPTIMAL
from dpscale.scaling.law.law import ScalingLaw

BASE = Budget(
    epsilon=4, delta=1e-8, train_flops=1e19, dataset_size=10**7, seq_len=512, vocab_size=30_522
)
HAIR = 1e-3
"""What a grid of configurations may cost: far below what any budget is worth."""


@pytest.fixture(scope="module")
def ask(
    published: ScalingLaw, closed_form: Callable[[Budget], Accounting]
) -> Callable[..., Recommendation]:
    def ask(budget: Budget = BASE, **options: object) -> Recommendation:
        return recommend(published, budget, accounting_of=closed_form, **options)  # type: ignore[arg-type]

    return ask


def series(ask: Callable[..., Recommendation], name: str, values: list[float]) -> list:
    return [ask(dataclasses.replace(BASE, **{name: value})) for value in values]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epsilon", [0.5, 1, 2, 4, 8, 16]),
        ("dataset_size", [10**6, 10**7, 10**8]),
        ("train_flops", [1e17, 1e18, 1e19, 1e20, 1e22, 1e25]),
    ],
)
def test_more_of_a_budget_never_costs(
    ask: Callable[..., Recommendation], name: str, values: list[float]
) -> None:
    losses = [each.predicted_loss for each in series(ask, name, values)]
    assert np.all(np.diff(losses) <= HAIR * np.array(losses[:-1])), losses
    assert losses[-1] < 0.95 * losses[0]


def test_less_privacy_budget_asks_for_larger_batches(ask: Callable[..., Recommendation]) -> None:
    batches = [each.expected_batch_size for each in series(ask, "epsilon", [1, 4, 16])]
    assert batches == sorted(set(batches), reverse=True)


def test_less_privacy_budget_saturates_at_less_compute_and_smaller_models(
    ask: Callable[..., Recommendation],
) -> None:
    found = [each.saturation for each in series(ask, "epsilon", [1, 4, 16])]
    sizes = [each.num_params for each in found]
    flops = [each.train_flops for each in found]
    assert sizes == sorted(set(sizes))
    assert flops == sorted(set(flops))


def test_the_saturating_budget_is_the_least_that_comes_within_a_percent(
    ask: Callable[..., Recommendation],
) -> None:
    free = dataclasses.replace(BASE, train_flops=np.inf)
    found = ask(free)
    flops = found.saturation.train_flops
    assert found.is_saturated
    assert found.budget.train_flops == flops
    assert 0.97 * flops <= found.train_flops <= flops
    best = ask(dataclasses.replace(BASE, train_flops=1e28)).predicted_loss
    assert found.predicted_loss == pytest.approx((1 + NEAR_OPTIMAL) * best, rel=2e-3)
    less = ask(dataclasses.replace(BASE, train_flops=flops / 2))
    assert less.predicted_loss > (1 + 1.2 * NEAR_OPTIMAL) * best
    assert not less.is_saturated
    assert less.saturation == found.saturation


def test_a_budget_far_beyond_saturation_is_left_unspent(
    ask: Callable[..., Recommendation],
) -> None:
    # Catches an answer that spends all it may: at a given batch longer runs ask for more noise.
    rich = ask(dataclasses.replace(BASE, train_flops=1e28))
    assert rich.is_saturated
    assert rich.train_flops < 1e27
    assert rich.predicted_loss == pytest.approx(rich.saturation.least_loss, rel=HAIR)


def test_limits_bind_the_answer_and_the_saturating_budget(
    ask: Callable[..., Recommendation],
) -> None:
    free = ask(dataclasses.replace(BASE, train_flops=np.inf))
    limits = Limits(max_params=2e7, max_batch=2e4, min_iterations=100, max_epochs=3)
    bound = ask(dataclasses.replace(BASE, train_flops=np.inf), limits=limits)
    assert bound.params.total <= 2e7
    assert bound.expected_batch_size <= 2e4
    assert bound.epochs <= 3
    assert bound.near_optimal.num_params[1] <= 2e7
    assert bound.saturation.train_flops < free.saturation.train_flops
    assert bound.predicted_loss > free.predicted_loss
    for gain in bound.gains:
        assert gain.num_params <= 2e7
        assert gain.expected_batch_size <= 2e4


def test_preferences_choose_from_the_near_optimal_set(ask: Callable[..., Recommendation]) -> None:
    loss, small, safe = (ask(prefer=prefer) for prefer in ("loss", "small", "low-risk"))
    for each in (small, safe):
        assert loss.predicted_loss <= each.predicted_loss <= 1.0101 * loss.predicted_loss
    assert small.params.total == loss.near_optimal.num_params[0] < loss.params.total
    assert safe.membership_advantage < loss.membership_advantage
    low, high = loss.near_optimal.membership_advantage
    assert safe.membership_advantage == pytest.approx(low, rel=1e-3)
    assert low <= loss.membership_advantage <= high
    risky = loss.near_optimal.least_risky
    assert (risky.num_params, risky.expected_batch_size) == (
        safe.params.total,
        safe.expected_batch_size,
    )


def test_the_members_of_the_set_are_what_they_say(
    ask: Callable[..., Recommendation],
    published: ScalingLaw,
    closed_form: Callable[[Budget], Accounting],
) -> None:
    best = ask()
    near = best.near_optimal
    sizes = [each.num_params for each in near.members]
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == near.num_params
    assert len(sizes) > 2
    assert near.smallest == near.members[0]
    for each in near.members:
        ratio = closed_form(BASE).exact(each.expected_batch_size, each.iterations)
        ratio /= each.expected_batch_size
        loss = float(published.predict(each.num_params, each.iterations, ratio))
        assert each.predicted_loss == pytest.approx(loss, rel=1e-3)
        assert each.predicted_loss <= (1 + NEAR_OPTIMAL) * best.predicted_loss * (1 + 1e-6)
        assert each.train_flops <= BASE.train_flops
        assert near.expected_batch_size[0] <= each.expected_batch_size
        assert each.expected_batch_size <= near.expected_batch_size[1]


def test_each_doubling_gains_what_asking_again_gains(ask: Callable[..., Recommendation]) -> None:
    best = ask()
    fields = {"privacy": "epsilon", "compute": "train_flops", "data": "dataset_size"}
    assert [each.budgets for each in best.gains] == [
        ("privacy",),
        ("compute",),
        ("data",),
        ("privacy", "compute", "data"),
    ]
    for gain in best.gains:
        changes = {fields[name]: 2 * getattr(BASE, fields[name]) for name in gain.budgets}
        again = ask(dataclasses.replace(BASE, **changes))
        assert gain.predicted_loss == pytest.approx(again.predicted_loss, rel=2e-3)
        assert gain.predicted_loss < best.predicted_loss
    together = best.gains[-1].predicted_loss
    assert together < min(each.predicted_loss for each in best.gains[:-1])


def test_replicates_optima_surround_the_best(ask: Callable[..., Recommendation]) -> None:
    best = ask()
    interval = best.optimum_interval
    assert interval is not None
    assert interval.replicates == 100
    assert interval.num_params[0] <= best.params.total <= interval.num_params[1]
    batch = interval.expected_batch_size
    assert batch[0] <= best.expected_batch_size <= batch[1]
    assert batch[0] < batch[1]


def test_a_form_without_replicates_has_no_interval_for_its_optimum(
    sweep: Callable, closed_form: Callable[[Budget], Accounting]
) -> None:
    from dpscale.scaling.fitting.fit import fit_law
    from dpscale.scaling.reading.runs import select_runs

    rows = sweep(form="form-5", noise=0.01, lengths=(100, 200, 400)).rows()
    law = fit_law(select_runs(rows, target="train_loss", source="x"), num_replicates=2)
    budget = Budget(4, 1e-8, 3e12, 60_000, 64, 1024)
    best = recommend(law, budget, form="semi-parametric", accounting_of=closed_form)
    assert best.optimum_interval is None
    assert best.form == "semi-parametric"


def test_an_untuned_rate_and_repetition_are_flagged(ask: Callable[..., Recommendation]) -> None:
    flagged = {each.coordinate: each.message for each in ask().extrapolations}
    assert "untuned" in flagged["learning_rate"]
    assert "epochs" in flagged
    once = ask(limits=Limits(max_epochs=1))
    assert "epochs" not in {each.coordinate for each in once.extrapolations}
