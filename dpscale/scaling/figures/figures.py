"""Every figure of a law as PNG, readable in grey: those of its fit and those of its advice."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.figures import fit_figures
from dpscale.scaling.figures.budget_figures import BUDGET_FIGURES, survey
from dpscale.scaling.figures.figure_style import write_figures
from dpscale.scaling.law.law import ScalingLaw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(law: ScalingLaw, curves: Sequence[PlanCurve], directory: str | Path) -> list[Path]:
    """Writes the figures of a fit into `directory`; returns their paths.

    Args:
      curves: The smoothed runs that the law was fitted to (`smoothing.smooth`). Without any,
        only what was held out is drawn, as the law itself remembers that.
    """
    drawings: dict[str, Callable[[], Figure]] = {"held_out": partial(fit_figures.held_out, law)}
    if curves:
        drawings |= {
            "loss_by_iterations": partial(fit_figures.loss_by_iterations, law, curves),
            "loss_by_noise": partial(fit_figures.loss_by_noise, law, curves),
            "residuals": partial(fit_figures.residuals, law, curves),
        }
    return write_figures(drawings, directory)


def draw_budget_figures(
    law: ScalingLaw, budget: Budget, epsilons: Sequence[float], directory: str | Path
) -> list[Path]:
    """Writes the figures of what a law recommends into `directory`; returns their paths.

    Args:
      budget, epsilons: See `budget_figures.survey`.
    """
    found = survey(law, budget, epsilons)
    return write_figures(
        {name: partial(draw, found) for name, draw in BUDGET_FIGURES.items()}, directory
    )
