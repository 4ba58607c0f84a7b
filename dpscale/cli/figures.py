"""`dpscale figures`: every figure of a law."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpscale.cli.numbers import whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Draw a law: what it recommends, how it did on held-out runs, and the runs behind it.

    Slices of equal compute, the best configuration, tokens per parameter and the least loss
    against compute for several epsilons, and the near-optimal region; the held-out predictions;
    and with --runs the fitted curves over the data and the residuals. Noise is approximate (about
    1 %) throughout. Lines are dashed where the law extrapolates.
    """

    out: Path
    """Folder for the figures (PNG)."""
    law: str = "published"
    """A law written by `dpscale fit`, or `published`, the one that ships."""
    runs: Path | None = None
    """What the law was fitted to: a sweep's folder, a folder of runs or a table."""
    format: Literal["dpscale", "mckenna2025"] = "dpscale"
    """Whose layout the runs have; see `dpscale fit`."""
    eps: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """The epsilons of the curves; slices and region are for the middle one."""
    delta: float | None = None
    """By default the lesser of 1e-8 and one over the data set size."""
    dataset_size: float = 1e8
    """Privacy units in the data."""
    flops: float | None = None
    """Compute of the region; by default a tenth of what saturates the middle epsilon."""


def run(options: Options, output: Output) -> ExitCode:
    """Draws and says where."""
    from dpscale.scaling.advice.budget import Budget
    from dpscale.scaling.curves.smoothing import smooth
    from dpscale.scaling.figures.figures import draw_budget_figures, draw_figures
    from dpscale.scaling.law.published import find_law
    from dpscale.scaling.reading.runs import read_runs

    law = find_law(options.law)
    size = whole_number("--dataset-size", options.dataset_size)
    delta = min(1e-8, 1 / max(size, 1)) if options.delta is None else options.delta
    flops = math.inf if options.flops is None else options.flops
    budgets = [
        Budget(each, delta, flops, size, law.seq_len, law.vocab_size) for each in options.eps
    ]
    curves = []
    if options.runs is not None:
        curves = smooth(read_runs(options.runs, target=law.target, format=options.format).runs)
    paths = draw_figures(law, curves, options.out)
    paths += draw_budget_figures(law, budgets[0], options.eps, options.out)
    output.say(f"wrote {len(paths)} figures to {options.out}")
    for path in paths:
        output.say(f"  {path.name}")
    output.result({"figures": [str(path) for path in paths]})
    return ExitCode.OK
