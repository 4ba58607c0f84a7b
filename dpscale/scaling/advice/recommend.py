"""The configuration with the least predicted loss under a budget, and all that is to be said of it.

Candidates are shapes times a fine grid of batches (`candidates`); the compute budget sets the
iterations, the privacy budget the noise, and the law the loss. Far from its data a law may promise
anything; only candidates compete at which its prediction interval is narrow enough
(`question.TrustRegion`). Candidates are compared by approximate noise, which is corrected by exact
noise where the best is (`search.settle`).

Exact are the noise of the recommended configuration and what follows from it: its ratio, predicted
loss and intervals. Approximate (noise off by about 1 % at most places, losses by far less) are
the near-optimal set, what doublings would buy, the saturating budget, and where the replicates'
optima lie.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpscale.compute import ParameterCount, count_params, train_flops
from dpscale.config import ModelConfig
from dpscale.scaling.advice.budget import Accounting, Budget, BudgetAccounting, Noise
from dpscale.scaling.advice.candidates import MOST_ITERATIONS, NO_LIMITS, list_candidates
from dpscale.scaling.advice.gains import Gain, find_gains
from dpscale.scaling.advice.limits import Limits
from dpscale.scaling.advice.membership import membership_advantage
from dpscale.scaling.advice.near_optimal import NearOptimal, Preference, near_optimal, preferred
from dpscale.scaling.advice.noise_field import NoiseField, NoiseTable, tabulate_noise
from dpscale.scaling.advice.optimum_interval import OptimumInterval, optimum_interval
from dpscale.scaling.advice.question import Question, find_trusted
from dpscale.scaling.advice.saturation import Saturation, find_saturation
from dpscale.scaling.advice.search import Settled, look, settle
from dpscale.scaling.law.extrapolation import Extrapolation, find_extrapolations
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.learning_rate import RateAnswer
from dpscale.scaling.law.scores import FormName

__all__ = ["Recommendation", "list_candidates", "recommend"]

MICROBATCH_SIZE = 16
"""Microbatch of the recommended run; it never changes the result."""


NEGLIGIBLE_CORRECTION = 0.01
"""Where exact noise is off the approximation by more, what is trusted is worked out again."""


@dataclass(frozen=True)
class Recommendation:
    """The recommended configuration and what is known about it.

    Args:
      budget: What it was chosen under; compute is the saturating one where none was given.
      limits, prefer: Within what, and for what.
      form: The form of the law that was asked; `predicts` says which loss that predicts.
      predicted_loss_interval: 90 %, for the loss of one new run.
      predicted_law_interval: 90 %, for the law's own loss, should its form be right.
      membership_advantage: An upper bound's value to 0.1 %, at exact noise (`membership.py`).
      optimum_interval: Where the optima of the law's replicates lie; None if it has none.
      is_saturated: Whether the budget's compute is at or beyond the saturating one.
      gains: What doubling each budget alone, and all three, would buy.
    """

    budget: Budget
    limits: Limits
    prefer: Preference
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
    predicted_law_interval: tuple[float, float]
    epochs: float
    tokens_per_param: float
    train_flops: float
    membership_advantage: float
    near_optimal: NearOptimal
    optimum_interval: OptimumInterval | None
    saturation: Saturation
    is_saturated: bool
    gains: tuple[Gain, ...]
    extrapolations: tuple[Extrapolation, ...]


def recommend(
    law: ScalingLaw,
    budget: Budget,
    *,
    limits: Limits = NO_LIMITS,
    prefer: Preference = "loss",
    form: FormName | None = None,
    with_cap: bool = False,
    accounting_of: Callable[[Budget], Accounting] = BudgetAccounting,
) -> Recommendation:
    """Searches the candidates; see the module docstring.

    Args:
      budget: Infinite compute asks for the saturating budget.
      prefer: `loss` for the least predicted loss; of the configurations within 1 % of it `small`
        for the smallest model at its best batch, `low-risk` for the least membership advantage.
      form: The law's form to ask; default: the law's own.
      with_cap: Whether to choose the cap on batches too, and account for it, as a run's
        config needs. It takes about a second, and changes the noise by less than 0.1 %.
      accounting_of: Where noise comes from; another one in tests.

    Raises:
      InputError: The compute does not pay one iteration of the smallest model, or a limit
        leaves nothing.
    """
    list_candidates(budget, limits)  # what cannot be is refused before anything is worked out
    accounting = accounting_of(budget)
    more_private = dataclasses.replace(budget, epsilon=2 * budget.epsilon)
    tables = {
        each.epsilon: _table(accounting_of(each), budget.dataset_size)
        for each in (budget, more_private)
    }
    noise = NoiseField(tables[budget.epsilon], budget.dataset_size)
    question = Question(law, form or law.form, budget, limits, noise)
    trust = find_trusted(question)
    saturation = find_saturation(question, trust)
    if math.isinf(budget.train_flops):
        budget = dataclasses.replace(budget, train_flops=saturation.train_flops)
        question = question.under(budget)
    choose = None if prefer == "loss" else lambda field: preferred(field, prefer)
    trust = trust.within(question)
    settled = settle(look(question, trust), accounting, choose)
    if settled.field.question.noise.largest_correction > NEGLIGIBLE_CORRECTION:
        question = settled.field.question  # the law's doubts depend on noise too
        trust = find_trusted(question)
        settled = settle(look(question, trust), accounting, choose)
    _, batch, iterations = settled.field.candidates.place(settled.at)
    cap = Noise(settled.noise_multiplier, None)
    if with_cap:
        cap = accounting.with_cap(batch, iterations, min(MICROBATCH_SIZE, batch))
    return _report(
        settled,
        noise=cap,
        prefer=prefer,
        saturation=saturation,
        gains=find_gains(settled.field.question, trust, tables),
    )


def _table(accounting: Accounting, dataset_size: int) -> NoiseTable:
    """Down to a sampling probability of 1/2N, so that it serves twice the data too."""
    return tabulate_noise(
        accounting, least_prob=1 / (2 * dataset_size), most_iterations=MOST_ITERATIONS
    )


def _report(
    settled: Settled,
    *,
    noise: Noise,
    prefer: Preference,
    saturation: Saturation,
    gains: tuple[Gain, ...],
) -> Recommendation:
    """Everything that follows from the choice of model, batch and iterations."""
    field, question = settled.field, settled.field.question
    law, form, budget = question.law, question.form, question.budget
    size, batch, iterations = field.candidates.place(settled.at)
    model = field.candidates.shapes[int(field.candidates.shape[settled.at])]
    ratio = noise.noise_multiplier / batch
    averaged = question.averaged_batch(np.array(float(batch)))
    where = (size, iterations, ratio)
    rate = law.learning_rate(*where)
    low, high = law.interval(*where, batch_size=averaged, form=form)
    law_low, law_high = law.law_interval(*where, batch_size=averaged, form=form)
    epochs = batch * iterations / budget.dataset_size
    return Recommendation(
        budget=budget,
        limits=question.limits,
        prefer=prefer,
        model=model,
        params=count_params(model),
        expected_batch_size=batch,
        iterations=iterations,
        noise_multiplier=noise.noise_multiplier,
        truncated_batch_size=noise.truncated_batch_size,
        noise_batch_ratio=ratio,
        learning_rate=rate,
        form=form,
        predicts=law.target,
        predicted_loss=float(law.predict(*where, batch_size=averaged, form=form)),
        predicted_loss_interval=(float(low), float(high)),
        predicted_law_interval=(float(law_low), float(law_high)),
        epochs=epochs,
        tokens_per_param=batch * iterations * budget.seq_len / size,
        train_flops=train_flops(
            num_params=size, batch_size=batch, iterations=iterations, seq_len=budget.seq_len
        ),
        membership_advantage=membership_advantage(
            batch / budget.dataset_size, noise.noise_multiplier, iterations
        ),
        near_optimal=near_optimal(field),
        optimum_interval=optimum_interval(field),
        saturation=saturation,
        is_saturated=budget.train_flops >= saturation.train_flops,
        gains=gains,
        extrapolations=find_extrapolations(
            law,
            num_params=size,
            iterations=iterations,
            noise_batch_ratio=ratio,
            epochs=epochs,
            seq_len=budget.seq_len,
            vocab_size=budget.vocab_size,
            form=form,
            averaged_batch=None if averaged is None else batch,
            rate=rate,
        ),
    )
