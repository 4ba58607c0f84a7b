"""How often a law's 90 % interval holds the truth, and what its recommendations cost.

    export OMP_NUM_THREADS=1
    python analysis/law_coverage.py --trials 200 --seed 1000 --figure docs/images/law_coverage.png
    python analysis/law_coverage.py --trials 40 --fit chosen

For each parametric form: a synthetic sweep from known coefficients (1 % scatter a run, three
divergent runs) is fitted by `fit_law`, the law recommends a configuration under each of four
budgets, and the law behind the sweep says what that really costs. Printed are the coverage of
`law_interval` at the recommended configuration, with its binomial standard error (the four answers
of one trial share a fit, so a trial counts once), and the regret: by how much the true loss
there exceeds that of the best of all candidates.

Noise comes from the surrogate, once a budget. Candidates compete within a factor of two of what
the sweep covered, coordinate by coordinate; the best they are held against is free to lie anywhere.
"""

import argparse
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dpscale.scaling.advice.budget import Budget, BudgetAccounting
from dpscale.scaling.advice.candidates import list_candidates
from dpscale.scaling.fitting.fit import fit_law
from dpscale.scaling.forms import FORMS, Array
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.scores import FORM_NAMES, FormName
from dpscale.scaling.reading.runs import select_runs
from dpscale.scaling.synthetic import BATCH, SEQ_LEN, VOCAB_SIZE, SyntheticSweep

Spent = tuple[float, float, int]
"""Epsilon, FLOPs and dataset size."""

PRIVATE: tuple[Spent, ...] = (
    (4, 1e12, 60_000),
    (8, 3e12, 60_000),
    (4, 3e12, 600_000),
    (8, 1e13, 600_000),
)
NOISE_FREE: tuple[Spent, ...] = tuple((1.0, flops, 60_000) for flops in (1e11, 2e11, 3e11, 5e11))
"""For the form without noise. Chosen, as the private ones, so that the true optima lie inside
the sweep."""


@dataclass(frozen=True)
class Choices:
    """The candidates under one budget; float64[candidates] each."""

    num_params: Array
    iterations: Array
    noise_batch_ratio: Array
    batch_size: Array

    def place(self, at: int) -> tuple[float, float, float]:
        """Size, iterations and ratio of one candidate."""
        return self.num_params[at], self.iterations[at], self.noise_batch_ratio[at]


@dataclass(frozen=True)
class Answer:
    """One recommendation against the truth; errors in log units."""

    regret: float
    error: float
    half_width: float

    @property
    def is_covered(self) -> bool:
        """Whether the interval holds the truth."""
        return abs(self.error) <= self.half_width


@dataclass(frozen=True)
class Coverage:
    """All answers of one form: `answers[trial][budget]`."""

    form: str
    answers: tuple[tuple[Answer, ...], ...]

    @property
    def by_budget(self) -> list[float]:
        """Share of the trials that are covered, for each budget."""
        return [
            float(np.mean([answers[k].is_covered for answers in self.answers]))
            for k in range(len(self.answers[0]))
        ]

    @property
    def share(self) -> float:
        """The mean over budgets."""
        return float(np.mean(self.by_budget))

    @property
    def binomial_error(self) -> float:
        """Of `share`, had each trial but one answer."""
        return math.sqrt(self.share * (1 - self.share) / len(self.answers))


@cache
def list_choices(form: FormName) -> tuple[Choices, ...]:
    """The candidates of `recommend` under each budget, with the surrogate's noise.

    For a form without noise, the candidates at the sweep's own batch, without any.
    """
    noise_free = FORMS[form].noise_free
    return tuple(
        _noise_free_choices(budget) if noise_free else _private_choices(budget)
        for budget in (
            Budget(epsilon, 1e-8, flops, dataset_size, SEQ_LEN, VOCAB_SIZE)
            for epsilon, flops, dataset_size in (NOISE_FREE if noise_free else PRIVATE)
        )
    )


def _private_choices(budget: Budget) -> Choices:
    listed = list_candidates(budget)
    batch = listed.expected_batch_size
    noise = BudgetAccounting(budget).approximate(batch / budget.dataset_size, listed.iterations)
    return Choices(listed.num_params, listed.iterations, noise / batch, batch)


def _noise_free_choices(budget: Budget) -> Choices:
    listed = list_candidates(budget)
    batch = listed.expected_batch_size
    own = batch == batch[np.argmin(np.abs(batch - BATCH))]
    return Choices(listed.num_params[own], listed.iterations[own], 0 * batch[own], batch[own])


def covered_by(law: ScalingLaw, choices: Choices) -> Array:
    """bool[candidates]: within a factor of two of what the law's runs covered."""
    spans = law.valid_range
    return np.asarray(
        (choices.num_params <= 2 * spans.num_params[1])
        & (choices.num_params >= spans.num_params[0] / 2)
        & (choices.iterations <= 2 * spans.iterations[1])
        & (choices.iterations >= spans.iterations[0] / 2)
        & (choices.noise_batch_ratio <= 2 * spans.noise_batch_ratio[1])
    )


def answer(law: ScalingLaw, form: FormName, sweep: SyntheticSweep, choices: Choices) -> Answer:
    """What `law` recommends, against what `sweep` was made with."""
    where = (choices.num_params, choices.iterations, choices.noise_batch_ratio)
    asked = law.predict(*where, batch_size=choices.batch_size, form=form)
    truth = sweep.loss(*where, choices.batch_size)
    best = int(np.argmin(np.where(covered_by(law, choices), asked, np.inf)))
    low, high = law.law_interval(
        *choices.place(best), batch_size=choices.batch_size[best], form=form
    )
    return Answer(
        regret=float(truth[best] / truth.min() - 1),
        error=float(np.log(asked[best] / truth[best])),
        half_width=float(np.log(high / low) / 2),
    )


@dataclass(frozen=True)
class Trial:
    """One sweep to make, fit and ask.

    Args:
      chosen: Whether to ask the form that the comparison on held-out runs chose, in place of
        the one behind the sweep.
    """

    form: FormName
    seed: int
    replicates: int
    chosen: bool

    def run(self) -> tuple[Answer, ...]:
        """An answer for each budget."""
        sweep = SyntheticSweep(
            form=self.form, noise=0.01, lengths=(100, 200, 400), diverged=3, seed=self.seed
        )
        source = f"{self.form}, seed {self.seed}"
        runs = select_runs(sweep.rows(), target="train_loss", source=source)
        law = fit_law(
            runs,
            forms=FORM_NAMES if self.chosen else (self.form,),
            num_replicates=self.replicates,
            seed=self.seed,
        )
        form = law.form if self.chosen else self.form
        return tuple(answer(law, form, sweep, choices) for choices in list_choices(self.form))


def measure(trials: Sequence[Trial], processes: int) -> Coverage:
    """Runs `trials`, all of one form."""
    form, started, answers = trials[0].form, time.monotonic(), []
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(Trial.run, trials):
            answers.append(found)
            if len(answers) % 20 == 0:
                spent = time.monotonic() - started
                print(f"  {form}: {len(answers)} of {len(trials)}, {spent:.0f} s", flush=True)
    return Coverage(form, tuple(answers))


def print_table(found: Sequence[Coverage]) -> None:
    """One line a form."""
    headings = f"{'form':17}{'coverage':>15}{'by budget':>22}"
    print(f"{headings}{'regret':>9}{'95 %':>8}{'worst':>8}{'half':>8}")
    for each in found:
        flat = [one for answers in each.answers for one in answers]
        regrets = [one.regret for one in flat]
        by_budget = " ".join(f"{share:.0%}" for share in each.by_budget)
        print(
            f"{each.form:17}{f'{each.share:.1%} ± {each.binomial_error:.1%}':>15}{by_budget:>22}"
            f"{np.mean(regrets):9.3%}{np.quantile(regrets, 0.95):8.2%}{np.max(regrets):8.2%}"
            f"{np.median([one.half_width for one in flat]):8.2%}"
        )


def draw(found: Sequence[Coverage], path: Path) -> None:
    """Coverage by form: the mean with its binomial error, the budgets as small marks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.0, 3.0), layout="constrained")
    axes.axvspan(85, 95, color="0.9", label="85 to 95 %")
    axes.axvline(90, color="0.5", linewidth=1)
    for row, each in enumerate(found):
        first = row == 0
        axes.plot(
            [100 * share for share in each.by_budget],
            [row] * len(each.by_budget),
            "|",
            color="0.35",
            markersize=10,
            label="each budget" if first else None,
        )
        axes.errorbar(
            100 * each.share,
            row,
            xerr=100 * each.binomial_error,
            fmt="o",
            color="black",
            capsize=4,
            label="mean, binomial error" if first else None,
        )
    axes.set_yticks(range(len(found)), [each.form for each in found])
    axes.invert_yaxis()
    axes.set_xlim(70, 100)
    axes.set_xlabel(f"trials whose 90 % interval holds the truth (%), of {len(found[0].answers)}")
    axes.legend(loc="lower left", frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measures, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=50)
    parser.add_argument("--form", choices=list(FORMS), help="default: every form in turn")
    parser.add_argument("--fit", choices=["generating", "chosen"], default="generating")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    names: list[FormName] = [
        form.name for form in FORMS.values() if arguments.form in (None, form.name)
    ]
    seeds = range(arguments.seed, arguments.seed + arguments.trials)
    chosen = arguments.fit == "chosen"
    found = [
        measure(
            [Trial(name, seed, arguments.replicates, chosen) for seed in seeds], arguments.processes
        )
        for name in names
    ]
    print_table(found)
    if arguments.figure:
        draw(found, arguments.figure)
        print(f"wrote {arguments.figure}")


if __name__ == "__main__":
    main()
