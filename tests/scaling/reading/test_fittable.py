"""What is said about the laws that runs are enough for."""

import itertools
from collections.abc import Callable

import pytest

from dpscale.scaling.curves.observations import curves_for
from dpscale.scaling.curves.smoothing import smooth
from dpscale.scaling.fitting.held_out import can_fit
from dpscale.scaling.forms import FORMS
from dpscale.scaling.reading.fittable import what_can_be_fitted
from dpscale.scaling.reading.runs import RunSet, select_runs


def runs_of(sweep: Callable, **axes: tuple[float, ...]) -> RunSet:
    return select_runs(sweep(**axes).rows(), target="train_loss", source="x")


WIDTHS, RATIOS, RATES, LENGTHS = (
    (16, 32, 48),
    (0.0, 2.0**-8),
    (2.0**-6, 2.0**-5, 2.0**-4),
    (200, 400),
)


def test_a_full_sweep_can_be_fitted_in_every_way(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=WIDTHS, ratios=RATIOS, rates=RATES, lengths=LENGTHS)
    fittable = what_can_be_fitted(runs)
    assert fittable.possible == (
        "semi-parametric law",
        "parametric laws of noise",
        "noise-free law",
        "learning-rate law",
    )
    assert fittable.num_runs == 36
    assert fittable.sizes == tuple(sorted({run.num_params for run in runs.runs}))
    assert (len(fittable.sizes), fittable.ratios, fittable.lengths) == (3, RATIOS, LENGTHS)
    assert fittable.verdict("noise-free law").line == "noise-free law: can be fitted"


def test_a_single_noise_level_leaves_what_needs_no_noise(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=WIDTHS, ratios=(0.0,), rates=RATES, lengths=LENGTHS)
    fittable = what_can_be_fitted(runs)
    assert fittable.possible == ("noise-free law", "learning-rate law")
    assert fittable.refusal("semi-parametric law") == (
        "cannot fit the semi-parametric law to 18 usable runs: a single noise "
        "level (noise_batch_ratio=0); add noise-batch ratios to the sweep (two at least, better "
        "four). What could still be fitted: the noise-free law and the learning-rate law."
    )


def test_a_single_size_leaves_the_learning_rate(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=(16,), ratios=RATIOS, rates=RATES, lengths=LENGTHS)
    size = runs.runs[0].num_params
    fittable = what_can_be_fitted(runs)
    assert fittable.possible == ("learning-rate law",)
    assert fittable.refusal("parametric laws of noise") == (
        "cannot fit the parametric laws of noise to 12 usable runs: a single size "
        f"(num_params={size}); add widths to the sweep (two at least, better four). What could "
        "still be fitted: the learning-rate law."
    )
    assert fittable.verdict("noise-free law").line == (
        "noise-free law: cannot be fitted: the runs without noise have a single size "
        f"(num_params={size}); add widths to the sweep at noise_batch_ratio = 0"
    )


def test_one_run_leaves_nothing(sweep: Callable) -> None:
    runs = runs_of(sweep, widths=(16,), ratios=(2.0**-8,), rates=(2.0**-5,), lengths=(200,))
    size = runs.runs[0].num_params
    assert what_can_be_fitted(runs).refusal("semi-parametric law") == (
        "cannot fit the semi-parametric law to 1 usable run: a single size "
        f"(num_params={size}) and a single noise level (noise_batch_ratio=0.00390625); add widths "
        "and noise-batch ratios to the sweep (two at least, better four). What could still be "
        "fitted: nothing."
    )


@pytest.mark.parametrize(
    ("axes", "law", "line"),
    [
        (
            {"ratios": (2.0**-8, 2.0**-7)},
            "noise-free law",
            "noise-free law: cannot be fitted: no run is without noise; add noise_batch_ratio = 0 "
            "to the sweep",
        ),
        (
            {"widths": (16, 32)},
            "noise-free law",
            "noise-free law: cannot be fitted: the runs without noise have 4 combinations of size "
            "and iterations, fewer than its 5 coefficients; add widths or iterations to the sweep "
            "at noise_batch_ratio = 0",
        ),
        (
            {"rates": RATES[:2]},
            "learning-rate law",
            "learning-rate law: cannot be fitted: no combination of size, noise-batch ratio and "
            "iterations has more than 2 of the three learning rates that an optimum takes; add "
            "learning rates to the sweep, a factor of 2 apart",
        ),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(
    sweep: Callable, axes: dict[str, tuple[float, ...]], law: str, line: str
) -> None:
    full = {"widths": WIDTHS, "ratios": RATIOS, "rates": RATES, "lengths": LENGTHS}
    fittable = what_can_be_fitted(runs_of(sweep, **{**full, **axes}))
    assert fittable.verdict(law).line == line
    assert law not in fittable.possible


def test_verdicts_agree_with_what_is_tried(sweep: Callable) -> None:
    for widths, ratios, lengths in itertools.product(
        ((16,), (16, 32), (16, 24, 32), (16, 24, 32, 48, 64)),
        ((0.0,), (2.0**-8,), (0.0, 2.0**-8)),
        ((200,), (200, 400)),
    ):
        runs = runs_of(sweep, widths=widths, ratios=ratios, rates=(2.0**-5,), lengths=lengths)
        curves, fittable = smooth(runs.runs), what_can_be_fitted(runs)
        for form in FORMS.values():
            law = "noise-free law" if form.noise_free else "parametric laws of noise"
            tried = can_fit(form.name, curves_for(form, curves))
            assert fittable.verdict(law).possible == tried, (form.name, widths, ratios, lengths)
