"""The search finds what an exhaustive look finds, and reports only exact noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from dpscale.compute import count_params
from dpscale.errors import InputError
from dpscale.scaling.advice.budget import Budget, Noise
from dpscale.scaling.advice.candidates import SEARCH_WIDTHS, list_candidates
from dpscale.scaling.advice.recommend import Recommendation, recommend
from dpscale.scaling.fitting.fit import fit_law
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.reading.runs import select_runs
from dpscale.sizes import ladder_shape

SIZE = 60_000


@dataclass
class FakeAccounting:
    """Noise as sqrt(T)·q over epsilon, approximated with a bias that varies over the plane."""

    budget: Budget
    asked: list[tuple[int, int]] = field(default_factory=list)

    def noise(self, sampling_prob: np.ndarray, iterations: np.ndarray) -> np.ndarray:
        return 0.35 + 12 * sampling_prob * np.sqrt(iterations) / self.budget.epsilon

    def approximate(self, sampling_prob: np.ndarray, iterations: np.ndarray) -> np.ndarray:
        bias = 1 + 0.15 * np.sin(np.log(sampling_prob) + np.log(iterations) / 2)
        return self.noise(sampling_prob, iterations) * bias

    def exact(self, expected_batch_size: int, iterations: int) -> float:
        self.asked.append((expected_batch_size, iterations))
        prob = expected_batch_size / self.budget.dataset_size
        return float(self.noise(np.array(prob), np.array(iterations)))

    def with_cap(self, expected_batch_size: int, iterations: int, microbatch_size: int) -> Noise:
        return Noise(1.0005 * self.exact(expected_batch_size, iterations), 2 * expected_batch_size)


class Unbiased(FakeAccounting):
    """For comparisons between budgets, where a bias would drown what is compared."""

    def approximate(self, sampling_prob: np.ndarray, iterations: np.ndarray) -> np.ndarray:
        return self.noise(sampling_prob, iterations)


@pytest.fixture(scope="module")
def law(sweep: Callable) -> ScalingLaw:
    rows = sweep(form="form-5", noise=0.01, lengths=(100, 200, 400), failed=1, diverged=2).rows()
    runs = select_runs(rows, target="train_loss", source="x")
    return fit_law(runs, form="form-5", num_replicates=3)


def budget(flops: float = 3e12) -> Budget:
    return Budget(
        epsilon=4, delta=1e-8, train_flops=flops, dataset_size=SIZE, seq_len=64, vocab_size=1024
    )


def ask(law: object, asked: Budget, **options: object) -> Recommendation:
    return recommend(law, asked, **{"accounting_of": FakeAccounting, **options})  # type: ignore[arg-type]


def exact_noise(batch: np.ndarray, iterations: np.ndarray) -> np.ndarray:
    return FakeAccounting(budget()).noise(batch / SIZE, iterations)


def exhaustive(loss: Callable, flops: float) -> float:
    """The least loss over shapes and whole batches, with exact noise: a slow look."""
    batches = np.arange(1, 6000.0)
    best = math.inf
    for width in SEARCH_WIDTHS[:12]:
        size = count_params(ladder_shape(width, vocab_size=1024, seq_len=64)).total
        iterations = np.floor(flops / (6 * size * batches * 64))
        paid = iterations >= 1
        b, t = batches[paid], iterations[paid]
        best = min(best, float(np.min(loss(np.array(size), t, exact_noise(b, t) / b))))
    return best


def trusted(law: ScalingLaw, flops: float) -> Callable:
    """What candidates are compared by: the prediction, where the interval is narrow enough."""
    listed = list_candidates(budget(flops))
    b, most = listed.expected_batch_size, listed.iterations
    narrowest = math.inf
    for halvings in range(21):  # the narrowest of all that is paid for, shorter runs among it
        t = np.maximum(np.floor(most / 2**halvings), 1)
        low, high = law.interval(listed.num_params, t, exact_noise(b, t) / b)
        narrowest = min(narrowest, np.log(high / low).min())

    def loss(size: np.ndarray, t: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        low, high = law.interval(size, t, ratio)
        inside = np.log(high / low) <= 2 * narrowest
        return np.where(inside, law.predict(size, t, ratio), np.inf)

    return loss


@pytest.mark.parametrize("flops", [3e11, 3e12, 3e13])
def test_as_good_as_an_exhaustive_look_at_the_law(law: ScalingLaw, flops: float) -> None:
    best = ask(law, budget(flops))
    assert best.predicted_loss <= 1.002 * exhaustive(trusted(law, flops), flops)


class Dreamer:
    """A law that promises the moon where it has no data, and whose interval says so."""

    def __init__(self, law: ScalingLaw) -> None:
        self.law = law

    def __getattr__(self, name: str) -> object:
        return getattr(self.law, name)

    def predict(self, size, t, ratio, **options):  # type: ignore[no-untyped-def]
        return np.where(np.asarray(ratio) > 0.02, 1.0, self.law.predict(size, t, ratio, **options))

    def interval(self, size, t, ratio, **options):  # type: ignore[no-untyped-def]
        low, high = self.law.interval(size, t, ratio, **options)
        dreams = np.asarray(ratio) > 0.02
        return np.where(dreams, 0.01, low), np.where(dreams, 100.0, high)


def test_a_promise_without_data_is_not_believed(law: ScalingLaw) -> None:
    # Catches: the least predicted loss wherever it stands. A real semi-parametric law,
    # continued in T without end, promised that a flood of noise beats every run of its sweep.
    best = ask(Dreamer(law), budget())
    plain = ask(law, budget())
    assert best.noise_batch_ratio < 0.02
    assert best.predicted_loss == plain.predicted_loss


class Biased(FakeAccounting):
    """An approximation four times too high, and tilted as the closed form was measured to be."""

    def approximate(self, sampling_prob: np.ndarray, iterations: np.ndarray) -> np.ndarray:
        return 4 * self.noise(sampling_prob, iterations) * (sampling_prob / 0.01) ** -0.02


def test_exact_noise_corrects_a_biased_approximation(law: ScalingLaw) -> None:
    best = ask(law, budget(), accounting_of=Biased)
    assert best.predicted_loss <= 1.002 * exhaustive(trusted(law, 3e12), 3e12)
    listed = list_candidates(budget())
    b, t = listed.expected_batch_size, listed.iterations
    losses = trusted(law, 3e12)(listed.num_params, t, exact_noise(b, t) / b)
    near = losses <= 1.01 * losses.min()
    assert best.near_optimal.num_params[1] == listed.num_params[near].max()
    for name, values in (("expected_batch_size", b), ("iterations", t)):
        got = getattr(best.near_optimal, name)
        assert got == pytest.approx((values[near].min(), values[near].max()), rel=0.2)


@pytest.mark.parametrize("flops", [3e11, 3e12])
def test_regret_against_the_true_law_is_small(
    law: ScalingLaw, sweep: Callable, flops: float
) -> None:
    truth = sweep(form="form-5")
    best = ask(law, budget(flops))
    got = float(truth.loss(best.params.total, best.iterations, best.noise_batch_ratio))
    assert got <= 1.005 * exhaustive(truth.loss, flops)


def test_what_is_reported_is_exact_and_consistent(law: ScalingLaw) -> None:
    made: list[FakeAccounting] = []

    def accounting_of(asked: Budget) -> FakeAccounting:
        made.append(FakeAccounting(asked))
        return made[-1]

    best = ask(law, budget(), accounting_of=accounting_of)
    asked = [pair for each in made for pair in each.asked]
    assert (best.expected_batch_size, best.iterations) in asked
    assert len(asked) <= 8
    exact = FakeAccounting(budget()).exact(best.expected_batch_size, best.iterations)
    assert best.noise_multiplier == exact
    assert best.noise_batch_ratio == exact / best.expected_batch_size
    assert best.train_flops <= 3e12
    assert best.train_flops == 6.0 * best.params.total * (
        best.expected_batch_size * best.iterations * 64
    )
    assert best.epochs == best.expected_batch_size * best.iterations / SIZE
    low, high = best.predicted_loss_interval
    assert low < best.predicted_loss < high
    law_low, law_high = best.predicted_law_interval
    assert low < law_low < best.predicted_loss < law_high < high
    near = best.near_optimal
    assert near.num_params[0] <= best.params.total <= near.num_params[1]
    assert near.iterations[0] <= best.iterations <= near.iterations[1]


def test_every_coordinate_outside_the_law_is_flagged(law: ScalingLaw) -> None:
    asked = Budget(
        epsilon=4, delta=1e-8, train_flops=1e15, dataset_size=SIZE, seq_len=128, vocab_size=2048
    )
    best = ask(law, asked)
    flagged = {each.coordinate: each.message for each in best.extrapolations}
    assert best.params.total > law.valid_range.num_params[1]
    expected = best.params.total / law.valid_range.num_params[1]
    assert f"{expected:.3g}"[:3] in flagged["num_params"]
    assert "beyond the largest model the law saw" in flagged["num_params"]
    assert {"seq_len", "vocab_size", "epochs"} <= set(flagged)


def test_inside_the_law_nothing_is_flagged(law: ScalingLaw) -> None:
    asked = Budget(
        epsilon=4, delta=1e-8, train_flops=4e11, dataset_size=10**7, seq_len=64, vocab_size=1024
    )
    best = ask(law, asked)
    flagged = {each.coordinate for each in best.extrapolations}
    assert "epochs" not in flagged
    assert flagged <= {"iterations", "num_params", "noise_batch_ratio"}
    low, high = law.valid_range.iterations
    assert ("iterations" in flagged) == (not low <= best.iterations <= high)


def test_candidates_never_overspend_and_use_realisable_shapes() -> None:
    listed = list_candidates(budget())
    flops = 6 * 64 * listed.num_params * listed.expected_batch_size * listed.iterations
    assert (flops <= 3e12).all()
    assert (listed.iterations >= 1).all()
    assert listed.expected_batch_size.max() == SIZE


def test_a_budget_below_one_iteration_is_refused(law: ScalingLaw) -> None:
    with pytest.raises(InputError, match="--flops: 100 does not pay one iteration"):
        ask(law, budget(100.0))


@pytest.mark.parametrize("name", ["epsilon", "delta", "train_flops", "dataset_size", "seq_len"])
def test_a_budget_below_zero_is_refused(name: str) -> None:
    fields = {**budget().__dict__, name: -1}
    with pytest.raises(InputError, match="found -1"):
        Budget(**fields)
