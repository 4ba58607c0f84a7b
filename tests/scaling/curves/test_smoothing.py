"""Each smoothing step does what it says, and they run in the stated order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpscale.scaling.curves.smoothing import (
    decreasing,
    increasing_over_ratio,
    least_over_rates,
    rolling_mean,
    rolling_window,
    smooth,
)
from dpscale.scaling.reading.runs import RunCurve


def curve(
    losses: list[float], *, ratio: float = 0.0, rate: float = 0.1, seed: int = 0, plan: int = 100
) -> RunCurve:
    steps = np.linspace(plan / len(losses), plan, len(losses))
    return RunCurve(
        run_id=f"{ratio}-{rate}-{seed}-{plan}",
        num_params=1000,
        num_params_non_embedding=500,
        iterations=plan,
        noise_batch_ratio=ratio,
        learning_rate=rate,
        seed=seed,
        physical_batch_size=16,
        seq_len=8,
        vocab_size=64,
        steps=steps,
        losses=np.array(losses),
    )


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_rolling_mean_against_a_loop(losses: list[float], window: int) -> None:
    expected = [np.mean(losses[max(0, i + 1 - window) : i + 1]) for i in range(len(losses))]
    np.testing.assert_allclose(rolling_mean(np.array(losses), window), expected, rtol=1e-9)


@pytest.mark.parametrize("measurements", range(1, 400, 7))
def test_window_never_covers_more_than_a_twentieth_unless_one(measurements: int) -> None:
    window = rolling_window(measurements)
    assert window == 1 or window <= measurements / 20
    assert window <= 10


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=30))
def test_decreasing_never_rises_and_keeps_the_mean(losses: list[float]) -> None:
    result = decreasing(np.array(losses))
    assert (np.diff(result) <= 1e-12).all()
    assert result.mean() == pytest.approx(np.mean(losses))


def test_ratio_regression_leaves_unmeasured_cells_alone() -> None:
    fixed = increasing_over_ratio(np.array([[4.0, 3.0], [3.0, np.nan], [5.0, 2.0]]))
    assert fixed[:, 0].tolist() == [3.5, 3.5, 5.0]
    assert fixed[0, 1] == fixed[2, 1] == 2.5
    assert np.isnan(fixed[1, 1])


def test_the_best_rate_wins_at_each_step_and_leads_the_run_ids() -> None:
    early, late = curve([4.0, 3.9, 3.8], rate=0.1), curve([5.0, 4.0, 3.0], rate=0.2)
    (joined,) = smooth([early, late])
    assert joined.losses.tolist() == pytest.approx([4.0, 3.9, 3.0])
    assert joined.run_ids[0] == late.run_id
    assert joined.final_losses == (pytest.approx((0.1, 3.8)), pytest.approx((0.2, 3.0)))


def test_seeds_are_averaged_before_the_minimum() -> None:
    lucky = [curve([4.0, 3.0], seed=0), curve([4.0, 3.6], seed=1)]
    (joined,) = smooth([*lucky, curve([4.0, 3.2], rate=0.2)])
    assert joined.final_loss == pytest.approx(3.2)  # not the lucky seed's 3.0


def test_smoothed_losses_fall_with_steps_and_rise_with_noise() -> None:
    generator = np.random.default_rng(0)
    runs = [
        curve((5 - np.linspace(0, 1, 60) + generator.normal(0, 0.2, 60)).tolist(), ratio=ratio)
        for ratio in (0.0, 0.001, 0.01)
    ]
    curves = smooth(runs)
    for each in curves:
        assert (np.diff(each.losses) <= 1e-9).all()
    assert (np.diff([each.losses for each in curves], axis=0) >= -1e-9).all()


def test_only_the_last_part_counts_as_a_finished_run() -> None:
    (joined,) = smooth([curve([5.0] * 10)])
    assert joined.steps[joined.last_part].tolist() == [80.0, 90.0, 100.0]


def test_the_rolling_mean_stands_where_its_steps_are_and_does_not_lag() -> None:
    losses = (5.0 - 0.3 * np.log(np.arange(1, 61))).tolist()  # a straight line over log T
    (joined,) = smooth([curve(losses)])
    run = curve(losses)
    on_the_line = np.interp(np.log(joined.steps), np.log(run.steps), run.losses)
    assert joined.losses == pytest.approx(on_the_line, abs=1e-12)


def test_curves_end_above_the_luckiest_of_several_rates() -> None:
    factors = {0.01: 1.02, 0.02: 1.0, 0.04: 1.02}
    runs = []
    for size in (1000, 2000, 4000, 8000):
        for rate, factor in factors.items():
            lucky = 0.97 if (size, rate) == (4000, 0.04) else 1.0
            run = curve([4.0 * factor * lucky, 3.0 * factor * lucky], rate=rate)
            runs.append(replace(run, num_params=size, run_id=f"{size}-{rate}"))
    ends = [each.final_loss for each in smooth(runs)]
    assert least_over_rates(runs)[2].final_loss == pytest.approx(3.0 * 1.02 * 0.97)
    assert ends[2] > 3.0 * 1.02 * 0.97 + 0.002
    assert [each.losses[0] / each.final_loss for each in smooth(runs)] == pytest.approx([4 / 3] * 4)


def test_a_curve_at_a_single_rate_is_not_shifted() -> None:
    runs = []
    for size in (1000, 2000, 4000, 8000):
        for rate, factor in {0.01: 1.02, 0.02: 1.0, 0.04: 1.02}.items():
            if size < 8000 or rate == 0.01:
                run = curve([4.0 * factor, 3.0 * factor], rate=rate)
                runs.append(replace(run, num_params=size, run_id=f"{size}-{rate}"))
    *swept, single = smooth(runs)
    assert single.final_loss == pytest.approx(3.0 * 1.02)
    assert [each.final_loss for each in swept] == pytest.approx([3.0] * 3, rel=0.001)
