"""What one recommendation asks of a law: its losses and its doubts, over configurations."""

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpscale.compute import train_flops
from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.candidates import MOST_ITERATIONS, Candidates, list_candidates
from dpscale.scaling.advice.limits import Limits
from dpscale.scaling.advice.multilinear import multilinear
from dpscale.scaling.advice.noise_field import NoiseField
from dpscale.scaling.forms import Array
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.scores import FormName

TRUSTED: Final = 2.0
"""How much wider than the narrowest a candidate's prediction interval may be."""

SHAPE_STEP: Final = 2
"""Widths of intervals are worked out at every second shape, and at octaves of B and T."""


@dataclass(frozen=True)
class Question:
    """A law asked under one budget, within limits; `noise` ties privacy to configurations."""

    law: ScalingLaw
    form: FormName
    budget: Budget
    limits: Limits
    noise: NoiseField

    def losses(self, num_params: Array, batch: Array, iterations: Array) -> Array:
        """Predicted losses, in nats per token."""
        where = self._where(num_params, batch, iterations)
        averaged = self.averaged_batch(batch)
        return self.law.predict(*where, batch_size=averaged, form=self.form)

    def log_widths(self, num_params: Array, batch: Array, iterations: Array) -> Array:
        """Log of the upper over the lower end of the interval for one new run."""
        where = self._where(num_params, batch, iterations)
        averaged = self.averaged_batch(batch)
        low, high = self.law.interval(*where, batch_size=averaged, form=self.form)
        return np.asarray(np.log(high / low))

    def replicate_log_losses(self, candidates: Candidates) -> Array:
        """Log losses by each replicate of the form, float64[replicates, candidates]."""
        batch = candidates.expected_batch_size
        where = self._where(candidates.num_params, batch, candidates.iterations)
        averaged = self.averaged_batch(batch)
        return self.law.replicate_log_losses(*where, batch_size=averaged, form=self.form)

    def averaged_batch(self, batch: Array) -> Array | None:
        """The batch at which the law is asked for the loss of a run with expected batch `batch`.

        None stands for the law's physical batch (`ScalingLaw.answers_at`).
        """
        return None if self.law.answers_at == "physical-batch" else batch

    def _where(
        self, num_params: Array, batch: Array, iterations: Array
    ) -> tuple[Array, Array, Array]:
        """Size, iterations and noise-batch ratio."""
        return num_params, iterations, self.noise.noise_multiplier(batch, iterations) / batch

    def losses_of(self, candidates: Candidates) -> Array:
        """`losses` of candidates."""
        return self.losses(
            candidates.num_params, candidates.expected_batch_size, candidates.iterations
        )

    def under(self, budget: Budget) -> "Question":
        """The same under a budget that differs in compute only."""
        return dataclasses.replace(self, budget=budget)


@dataclass(frozen=True)
class TrustRegion:
    """Where the law's interval is at most `TRUSTED` times as wide as its narrowest, in log units.

    The narrowest is that of whatever the budget pays for, so that a larger budget is never
    answered from farther outside the law (`docs/decisions/0003-where-a-law-is-trusted.md`).
    Widths are interpolated.

    Args:
      nodes: log M, log B and log T, rising.
      log_widths: float64[sizes, batches, iterations].
    """

    nodes: tuple[Array, Array, Array]
    log_widths: Array
    widest: float

    def holds(self, num_params: Array, batch: Array, iterations: Array) -> NDArray[np.bool_]:
        """Whether each configuration is inside."""
        widths = self.log_width(num_params, batch, iterations)
        return np.asarray(widths <= self.widest * (1 + 1e-9))

    def log_width(self, num_params: Array, batch: Array, iterations: Array) -> Array:
        """Log of the upper over the lower end of the interval."""
        places = (np.log(num_params), np.log(batch), np.log(iterations))
        return multilinear(self.nodes, self.log_widths, places)

    def within(self, question: Question) -> "TrustRegion":
        """The region for the budget and the limits of `question`."""
        candidates = list_candidates(question.budget, question.limits, batches_per_octave=1)
        spending = self.log_width(
            candidates.num_params, candidates.expected_batch_size, candidates.iterations
        )
        size, batch, iterations = np.meshgrid(*map(np.exp, self.nodes), indexing="ij")
        limits, budget = question.limits, question.budget
        spent = train_flops(num_params=1, batch_size=1, iterations=1, seq_len=budget.seq_len)
        fits = spent * size * batch * iterations <= budget.train_flops
        fits &= iterations >= limits.fewest_iterations
        for bound, value in (
            (limits.max_params, size),
            (limits.max_batch, batch),
            (limits.max_epochs, batch * iterations / budget.dataset_size),
        ):
            if bound is not None:
                fits &= value <= bound
        narrowest = min(spending.min(), self.log_widths[fits].min(initial=np.inf))
        return dataclasses.replace(self, widest=TRUSTED * float(narrowest))


def find_trusted(question: Question) -> TrustRegion:
    """The region for the budget and the limits of `question`."""
    everything = list_candidates(
        dataclasses.replace(question.budget, train_flops=np.inf), batches_per_octave=1
    )
    sizes = np.unique(everything.num_params)
    sizes = np.append(sizes[:-1:SHAPE_STEP], sizes[-1])
    octaves = 1 + int(np.ceil(np.log2(MOST_ITERATIONS)))
    axes = (
        sizes,
        np.unique(everything.expected_batch_size),
        np.geomspace(1, MOST_ITERATIONS, octaves),
    )
    widths = question.log_widths(*np.meshgrid(*axes, indexing="ij"))
    size, batch, iterations = map(np.log, axes)
    region = TrustRegion((size, batch, iterations), widths, np.inf)
    return region.within(question)
