"""What can be fitted to the runs there are, and what is missing for the rest."""

from dataclasses import dataclass
from typing import Literal

from dpscale.scaling.forms import FORMS
from dpscale.scaling.reading.run_set import RunCurve, RunSet

LawName = Literal[
    "semi-parametric law", "parametric laws of noise", "noise-free law", "learning-rate law"
]
"""Kinds of law; the noise-free one is the form `chinchilla`."""


@dataclass(frozen=True)
class Verdict:
    """Whether one kind of law can be fitted.

    Args:
      missing: What the runs lack for it, with what they have; None where it can be fitted.
      remedy: What to add to the sweep; None where it can be fitted.
    """

    law: LawName
    missing: str | None = None
    remedy: str | None = None

    @property
    def possible(self) -> bool:
        """Whether nothing is missing."""
        return self.missing is None

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if self.possible:
            return f"{self.law}: can be fitted"
        return f"{self.law}: cannot be fitted: {self.missing}; {self.remedy}"


@dataclass(frozen=True)
class Fittable:
    """The axes of the usable runs, and a verdict on every kind of law.

    Args:
      sizes: Their `num_params`, increasing.
      ratios: Their noise-batch ratios, increasing.
      lengths: Their planned iterations, increasing.
    """

    num_runs: int
    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    lengths: tuple[int, ...]
    verdicts: tuple[Verdict, ...]

    def verdict(self, law: LawName) -> Verdict:
        """That on `law`."""
        return next(each for each in self.verdicts if each.law == law)

    @property
    def possible(self) -> tuple[LawName, ...]:
        """The laws that can be fitted."""
        return tuple(each.law for each in self.verdicts if each.possible)

    def refusal(self, law: LawName) -> str:
        """Why `law` cannot be fitted, what to add, and what could still be fitted; one line."""
        verdict = self.verdict(law)
        rest = " and ".join(f"the {each}" for each in self.possible) or "nothing"
        plural = "" if self.num_runs == 1 else "s"
        return (
            f"cannot fit the {law} to {self.num_runs} usable run{plural}: {verdict.missing}; "
            f"{verdict.remedy}. What could still be fitted: {rest}."
        )


def what_can_be_fitted(runs: RunSet) -> Fittable:
    """Looks at the axes of the usable runs alone, not at their losses.

    Guarantees:
      The parametric laws of noise and the noise-free law are possible where
      `held_out.can_fit` says so of their forms, on the runs' smoothed curves.
    """
    usable = runs.runs
    spread = _lack_of_spread(usable)
    return Fittable(
        num_runs=len(usable),
        sizes=tuple(sorted({run.num_params for run in usable})),
        ratios=tuple(sorted({run.noise_batch_ratio for run in usable})),
        lengths=tuple(sorted({run.iterations for run in usable})),
        verdicts=(
            Verdict("semi-parametric law", *spread),
            Verdict("parametric laws of noise", *spread),
            Verdict("noise-free law", *_lack_for_chinchilla(usable)),
            Verdict("learning-rate law", *_lack_of_rates(usable)),
        ),
    )


_Lack = tuple[str, str] | tuple[()]


def _lack_of_spread(runs: tuple[RunCurve, ...]) -> _Lack:
    sizes = {run.num_params for run in runs}
    ratios = {run.noise_batch_ratio for run in runs}
    missing, add = [], []
    if len(sizes) < 2:
        missing.append(f"a single size (num_params={min(sizes)})")
        add.append("widths")
    if len(ratios) < 2:
        missing.append(f"a single noise level (noise_batch_ratio={min(ratios):g})")
        add.append("noise-batch ratios")
    if not missing:
        return ()
    return " and ".join(
        missing
    ), f"add {' and '.join(add)} to the sweep (two at least, better four)"


def _lack_for_chinchilla(runs: tuple[RunCurve, ...]) -> _Lack:
    quiet = [run for run in runs if run.noise_batch_ratio == 0]
    curves = {(run.num_params, run.iterations) for run in quiet}
    sizes = {run.num_params for run in quiet}
    needed = len(FORMS["chinchilla"].coefficient_names)
    if not quiet:
        return "no run is without noise", "add noise_batch_ratio = 0 to the sweep"
    if len(sizes) < 2:
        return (
            f"the runs without noise have a single size (num_params={min(sizes)})",
            "add widths to the sweep at noise_batch_ratio = 0",
        )
    if len(curves) < needed:
        return (
            f"the runs without noise have {len(curves)} combinations of size and iterations, "
            f"fewer than its {needed} coefficients",
            "add widths or iterations to the sweep at noise_batch_ratio = 0",
        )
    return ()


def _lack_of_rates(runs: tuple[RunCurve, ...]) -> _Lack:
    """An optimum between swept rates shows itself by a third rate."""
    cells: dict[tuple[float, ...], set[float]] = {}
    for run in runs:
        cell = (run.num_params, run.noise_batch_ratio, run.iterations)
        cells.setdefault(cell, set()).add(run.learning_rate)
    most = max(len(rates) for rates in cells.values())
    if most > 2:
        return ()
    return (
        f"no combination of size, noise-batch ratio and iterations has more than {most} of the "
        "three learning rates that an optimum takes",
        "add learning rates to the sweep, a factor of 2 apart",
    )
