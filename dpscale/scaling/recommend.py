"""The configuration with the least predicted loss under a budget, where the law can be trusted.

Candidates are the ladder's shapes times a fine grid of batches; the compute budget then sets
the iterations, the privacy budget the noise, and the law the loss. Far from its data a curve
that was continued too far promises losses that nobody will see; there the forms of the law
disagree and its prediction interval opens. So only candidates compete whose interval is at
most twice as wide, in log units, as the narrowest under the budget.

Thousands of candidates are compared with approximate noise. The exact noise is computed where the
search thinks the best is, the ratio of exact to approximate noise (mostly within 1 % of 1;
`privacy/accounting/surrogate.py`) corrects the neighbourhood, and this is repeated until a
candidate whose noise is exact is as good as the best. Only such numbers are reported.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpscale.compute import ParameterCount, count_params, train_flops
from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.scaling.budget import Accounting, Budget, Noise
from dpscale.scaling.extrapolation import Extrapolation, find_extrapolations
from dpscale.scaling.forms import Array
from dpscale.scaling.law import ScalingLaw
from dpscale.scaling.learning_rate import RateAnswer
from dpscale.scaling.scores import FormName
from dpscale.sizes import LADDER_WIDTHS, ladder_shape

BATCHES_PER_OCTAVE = 16
NEAR_OPTIMAL = 0.01
"""Candidates within this share of the best loss are near-optimal (the paper's 1 %)."""

MOST_ITERATIONS = 1_000_000
"""Ten times the longest private pretraining that was published (VaultGemma, 100,000)."""

TRUSTED = 2.0
"""How much wider than the narrowest a candidate's prediction interval may be."""

MOST_ROUNDS = 8
"""Exact calibrations at most; two or three are usual."""

SETTLED = 1e-4
"""The search ends when a candidate with exact noise is within this share of the best."""

MICROBATCH_SIZE = 16
"""Microbatch of the recommended run; it never changes the result."""


@dataclass(frozen=True)
class NearOptimal:
    """Least and largest value of each choice among the candidates that are nearly as good."""

    num_params: tuple[int, int]
    expected_batch_size: tuple[int, int]
    iterations: tuple[int, int]


@dataclass(frozen=True)
class Recommendation:
    """The best configuration and what is known about it.

    `predicted_loss_interval` is the law's 90 % interval for one run; `predicts` says for
    which loss. `form` is the form of the law that was asked.
    """

    model: ModelConfig
    params: ParameterCount
    expected_batch_size: int
    iterations: int
    noise_multiplier: float
    truncated_batch_size: int | None
    noise_batch_ratio: float
    learning_rate: RateAnswer
    form: FormName
    predicts: str
    predicted_loss: float
    predicted_loss_interval: tuple[float, float]
    epochs: float
    tokens_per_param: float
    train_flops: float
    near_optimal: NearOptimal
    extrapolations: tuple[Extrapolation, ...]


@dataclass(frozen=True)
class Candidates:
    """Every (shape, batch) that the budget pays at least one iteration of.

    `iterations` is what it pays, `MOST_ITERATIONS` at most.

    Args:
      shape: int[candidates], index into `shapes`.
      num_params, expected_batch_size, iterations: float64[candidates], whole numbers.
    """

    shapes: tuple[ModelConfig, ...]
    shape: NDArray[np.intp]
    num_params: Array
    expected_batch_size: Array
    iterations: Array


def recommend(
    law: ScalingLaw,
    budget: Budget,
    *,
    accounting: Accounting,
    form: FormName | None = None,
    with_cap: bool = False,
) -> Recommendation:
    """Searches the candidates; see the module docstring.

    Args:
      accounting: Where noise comes from; `budget.BudgetAccounting(budget)` outside tests.
      form: The law's form to ask; default: the law's own.
      with_cap: Whether to choose the cap on batches too, and account for it, as a run's
        config needs. It takes about a second, and changes the noise by less than 0.1 %.

    Raises:
      InputError: The compute does not pay one iteration of the smallest model.
    """
    form = form or law.form
    candidates = list_candidates(budget)
    approximate = accounting.approximate(
        candidates.expected_batch_size / budget.dataset_size, candidates.iterations
    )
    correction = np.zeros(approximate.size)
    exact: dict[int, float] = {}
    while True:
        losses = _losses(law, candidates, approximate * np.exp(correction), form)
        best = int(np.argmin(losses))
        settled = [at for at in exact if losses[at] <= (1 + SETTLED) * losses[best]]
        if settled or len(exact) == MOST_ROUNDS:
            break
        exact[best] = accounting.exact(
            int(candidates.expected_batch_size[best]), int(candidates.iterations[best])
        )
        correction = _correction(candidates, approximate, exact)
    best = min(exact, key=lambda index: float(losses[index]))  # the noise at each is exact
    batch, iterations = int(candidates.expected_batch_size[best]), int(candidates.iterations[best])
    noise = Noise(exact[best], None)
    if with_cap:
        noise = accounting.with_cap(batch, iterations, min(MICROBATCH_SIZE, batch))
    return _report(
        law,
        budget,
        model=candidates.shapes[int(candidates.shape[best])],
        expected_batch_size=batch,
        iterations=iterations,
        noise=noise,
        near_optimal=_near_optimal(candidates, losses <= (1 + NEAR_OPTIMAL) * losses[best]),
        form=form,
    )


def list_candidates(budget: Budget) -> Candidates:
    """The ladder's shapes times a grid of batches, with the iterations that compute pays."""
    octaves = np.log2(budget.dataset_size)
    grid = np.geomspace(1, budget.dataset_size, 1 + round(BATCHES_PER_OCTAVE * octaves))
    batches = np.unique(np.round(grid))
    shapes = tuple(
        ladder_shape(width, vocab_size=budget.vocab_size, seq_len=budget.seq_len)
        for width in LADDER_WIDTHS
    )
    sizes = np.array([count_params(shape).total for shape in shapes], float)
    index = np.repeat(np.arange(sizes.size, dtype=np.intp), batches.size)
    batch = np.tile(batches, sizes.size)
    per_iteration = train_flops(num_params=1, batch_size=1, iterations=1, seq_len=budget.seq_len)
    iterations = np.floor(budget.train_flops / (per_iteration * sizes[index] * batch))
    paid = iterations >= 1
    if not paid.any():
        raise InputError(
            "--flops",
            f"{budget.train_flops:.3g} does not pay one iteration of one unit of the smallest "
            f"model ({per_iteration * sizes[0]:.3g}).",
        )
    iterations = np.minimum(iterations, MOST_ITERATIONS)
    return Candidates(shapes, index[paid], sizes[index[paid]], batch[paid], iterations[paid])


def _losses(law: ScalingLaw, candidates: Candidates, noise: Array, form: FormName) -> Array:
    """The predicted loss of each candidate that the law can be trusted for, inf for the rest."""
    where = (
        candidates.num_params,
        candidates.iterations,
        noise / candidates.expected_batch_size,
    )
    batch_size = candidates.expected_batch_size
    low, high = law.interval(*where, batch_size=batch_size, form=form)
    width = np.log(high / low)
    losses = law.predict(*where, batch_size=batch_size, form=form)
    return np.where(width <= TRUSTED * width.min(), losses, np.inf)


def _correction(candidates: Candidates, approximate: Array, exact: dict[int, float]) -> Array:
    """Log of exact over approximate noise, spread from where it is known.

    Weights fall with the inverse square of the distance in (log batch, log iterations); at
    a known candidate the correction is its own.
    """
    place = np.log(np.stack([candidates.expected_batch_size, candidates.iterations], axis=1))
    nodes = np.array(list(exact))
    known = np.log(np.array(list(exact.values())) / approximate[nodes])
    squares = np.sum((place[:, None, :] - place[nodes][None, :, :]) ** 2, axis=2)
    weights = 1.0 / (squares + 1e-9)
    spread = (weights @ known) / weights.sum(axis=1)
    spread[nodes] = known
    return np.asarray(spread)


def _report(
    law: ScalingLaw,
    budget: Budget,
    *,
    model: ModelConfig,
    expected_batch_size: int,
    iterations: int,
    noise: Noise,
    near_optimal: NearOptimal,
    form: FormName,
) -> Recommendation:
    """Everything that follows from the choice of model, batch and iterations."""
    params, batch = count_params(model), expected_batch_size
    ratio = noise.noise_multiplier / batch
    loss = law.predict(params.total, iterations, ratio, batch_size=batch, form=form)
    low, high = law.interval(params.total, iterations, ratio, batch_size=batch, form=form)
    epochs = batch * iterations / budget.dataset_size
    return Recommendation(
        model=model,
        params=params,
        expected_batch_size=batch,
        iterations=iterations,
        noise_multiplier=noise.noise_multiplier,
        truncated_batch_size=noise.truncated_batch_size,
        noise_batch_ratio=ratio,
        learning_rate=law.learning_rate(params.total, iterations, ratio),
        form=form,
        predicts=law.target,
        predicted_loss=float(loss),
        predicted_loss_interval=(float(low), float(high)),
        epochs=epochs,
        tokens_per_param=batch * iterations * budget.seq_len / params.total,
        train_flops=train_flops(
            num_params=params.total,
            batch_size=batch,
            iterations=iterations,
            seq_len=budget.seq_len,
        ),
        near_optimal=near_optimal,
        extrapolations=find_extrapolations(
            law,
            num_params=params.total,
            iterations=iterations,
            noise_batch_ratio=ratio,
            epochs=epochs,
            seq_len=budget.seq_len,
            vocab_size=budget.vocab_size,
        ),
    )


def _near_optimal(candidates: Candidates, near: NDArray[np.bool_]) -> NearOptimal:
    return NearOptimal(
        _range(candidates.num_params[near]),
        _range(candidates.expected_batch_size[near]),
        _range(candidates.iterations[near]),
    )


def _range(values: Array) -> tuple[int, int]:
    return int(np.min(values)), int(np.max(values))
