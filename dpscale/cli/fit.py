"""`dpscale fit`: scaling laws from the results of a sweep."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dpscale.cli.choices import AskedForm
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dpscale.scaling.curves.smoothing import PlanCurve
    from dpscale.scaling.law.law import ScalingLaw
    from dpscale.scaling.law.scores import HeldOut


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Fit scaling laws to the law-fitting runs of a sweep, and compare them on held-out runs.

    Fits the semi-parametric law and the parametric forms of arXiv 2501.18914, Chinchilla's form
    to the runs without noise, and two forms of our own: first without the largest model, the
    longest runs, the least and the most noise in turn, which they then predict, and in the end
    to all runs. The form with the least held-out error is the law's default. Runs that are left
    out are listed with their reasons.
    """

    runs: Annotated[str, tyro.conf.Positional]
    """A sweep's folder, a folder of runs, a results table (.parquet, .csv), or a table of optima
    (.toml; `embedded:mckenna2025-table2` ships with the package)."""
    out: Path
    """Where the law is written, such as law.json."""
    format: Literal["dpscale", "mckenna2025", "optima"] = "dpscale"
    """Whose layout the input has: ours, the results.csv of the authors of arXiv 2501.18914, or a
    table of the best configurations under several budgets."""
    figures: Path | None = None
    """Folder for figures (PNG)."""
    target: Literal["train_loss", "eval_loss"] = "train_loss"
    """Which loss the law predicts."""
    form: AskedForm | None = None
    """Make this form the law's default, whatever the comparison says."""
    bootstraps: int = 100
    """Bootstrap replicates over runs, for the prediction intervals."""


def run(options: Options, output: Output) -> ExitCode:
    """Fits, reports, writes the law and its figures."""
    from dpscale.scaling.law.lawfile import save_law

    if options.bootstraps < 2:
        raise InputError("--bootstraps", f"expected at least 2, found {options.bootstraps}.")
    law, curves = (
        _fit_optima(options, output) if options.format == "optima" else _fit_runs(options, output)
    )
    save_law(law, options.out)
    figures: list[Path] = []
    if options.figures is not None:
        from dpscale.scaling.figures.figures import draw_figures

        figures = draw_figures(law, curves, options.figures)
    _print(law, output)
    output.say(f"wrote {options.out}" + (f" and {len(figures)} figures" if figures else ""))
    output.result(_json(law, options.out, figures))
    return ExitCode.OK


def _fit_runs(options: Options, output: Output) -> "tuple[ScalingLaw, list[PlanCurve]]":
    """The law of a sweep's runs, and the curves it was fitted to."""
    from dpscale.scaling.curves.smoothing import smooth
    from dpscale.scaling.fitting.fit import fit_law
    from dpscale.scaling.reading.runs import RunFormat, read_runs

    format: RunFormat = "mckenna2025" if options.format == "mckenna2025" else "dpscale"
    runs = read_runs(options.runs, target=options.target, format=format)
    output.say(f"{len(runs.runs)} runs to fit, {len(runs.excluded)} left out")
    law = fit_law(
        runs, form=options.form, num_replicates=options.bootstraps, progress=output.progress
    )
    return law, smooth(runs.runs)


def _fit_optima(options: Options, output: Output) -> "tuple[ScalingLaw, list[PlanCurve]]":
    """The law of a table of optima, behind which there are no curves."""
    from dpscale.scaling.fitting.optima_law import fit_optima_law
    from dpscale.scaling.law.published import find_table
    from dpscale.scaling.reading.optima import read_optima

    if options.form == "semi-parametric":
        raise InputError("--form", "semi-parametric needs curves, and a table of optima has none.")
    if options.figures is not None:
        raise InputError(
            "--figures", "there are no runs to draw; `dpscale figures --law LAW` draws what it can."
        )
    optima = read_optima(find_table(options.runs), source=options.runs)
    output.say(f"{len(optima.rows)} optima to fit, {optima.num_distinct} of them distinct")
    law = fit_optima_law(
        optima, form=options.form, num_replicates=options.bootstraps, progress=output.progress
    )
    return law, []


def _print(law: "ScalingLaw", output: Output) -> None:
    for reason, count in Counter(run.reason for run in law.excluded).items():
        names = [run.run_id for run in law.excluded if run.reason == reason]
        shown = ", ".join(names[:3]) + (", ..." if count > 3 else "")
        output.say(f"left out {count}: {reason} ({shown})")
    for note in law.notes:
        output.say(f"assumed: {note}")
    for each in law.held_out:
        output.say(f"held out: {each.rule}; {len(each.scores[0].points)} measurements")
        _print_scores(each, law, output)
    for point in law.score().points:
        output.say(
            f"  {law.form}: {point.num_params:,} parameters, {point.iterations:,} iterations, "
            f"ratio {point.noise_batch_ratio:.3g}: predicted {point.predicted_loss:.3f}, measured "
            f"{point.measured_loss:.3f} ({point.relative_error:+.2%})"
        )
    for fit in law.parametric:
        if not fit.converged:
            output.warn(f"{fit.form}: the search did not converge; do not use its coefficients.")
        if fit.at_bound:
            output.say(f"{fit.form}: {', '.join(fit.at_bound)} at a bound: not set by these runs")
    spans = law.valid_range
    output.say(
        f"predicts {law.target} in nats per token, for {spans.num_params[0]:,.0f} to "
        f"{spans.num_params[1]:,.0f} parameters ({law.num_params_meaning}), "
        f"{spans.iterations[0]:,.0f} to {spans.iterations[1]:,.0f} iterations, noise-batch ratio "
        f"{spans.noise_batch_ratio[0]:.3g} to {spans.noise_batch_ratio[1]:.3g}, at physical batch "
        f"{law.physical_batch_size}"
    )
    output.say(f"schedule: {law.schedule_note}")
    optima = () if law.learning_rates is None else law.learning_rates.optima
    edges = sum(optimum.at_edge for optimum in optima)
    if edges:
        output.say(
            f"learning rate: at the edge of the swept rates in {edges} of {len(optima)} cells; "
            "widen the rates to find the optimum there"
        )


def _print_scores(held_out: "HeldOut", law: "ScalingLaw", output: Output) -> None:
    output.table(
        ("form", "mean error", "worst error", "signed mean", "regret", ""),
        [
            (
                score.form,
                f"{score.mean_abs_error:.2%}",
                f"{score.worst_abs_error:.2%}",
                f"{score.mean_error:+.2%}",
                "-" if score.regret is None else f"{score.regret:.2%}",
                "default" if score.form == law.form else "",
            )
            for score in held_out.scores
        ],
    )


def _json(law: "ScalingLaw", path: Path, figures: list[Path]) -> dict[str, object]:
    return {
        "law": str(path),
        "form": law.form,
        "form_chosen_by": law.form_chosen_by,
        "target": law.target,
        "held_out": [_held_out_json(each) for each in law.held_out],
        "num_runs": len(law.run_ids),
        "num_excluded": len(law.excluded),
        "excluded": [dataclasses.asdict(run) for run in law.excluded],
        "coefficients": {fit.form: dict(fit.coefficients) for fit in law.parametric},
        "converged": {fit.form: fit.converged for fit in law.parametric},
        "valid_range": dataclasses.asdict(law.valid_range),
        "physical_batch_size": law.physical_batch_size,
        "seq_len": law.seq_len,
        "vocab_size": law.vocab_size,
        "run_scatter": law.run_scatter,
        "schedule_note": law.schedule_note,
        "figures": [str(figure) for figure in figures],
    }


def _held_out_json(held_out: "HeldOut") -> dict[str, object]:
    return {
        "name": held_out.name,
        "rule": held_out.rule,
        "errors": {
            score.form: {
                "mean_abs_error": score.mean_abs_error,
                "worst_abs_error": score.worst_abs_error,
                "mean_error": score.mean_error,
                "regret": score.regret,
                "points": [
                    {**dataclasses.asdict(point), "relative_error": point.relative_error}
                    for point in score.points
                ],
            }
            for score in held_out.scores
        },
    }
