"""The semi-parametric law: through its nodes, straight in logs between them, stated beyond."""

import dataclasses

import numpy as np
import pytest

from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.curves.surface import Cell, Surface, build_surface
from dpscale.scaling.forms import sampling_noise

SIZES, RATIOS = (10_000, 40_000, 160_000), (0.0, 2.0**-10, 2.0**-8, 2.0**-6)
STEPS = np.arange(20.0, 401.0, 20.0)


def plan(size: int, ratio: float, steps: np.ndarray = STEPS, shift: float = 0.0) -> PlanCurve:
    losses = truth(size, steps, ratio) + shift
    return PlanCurve(size, ratio, int(steps[-1]), steps, losses, ("x",), ((0.1, losses[-1]),))


def truth(size: float, steps: np.ndarray | float, ratio: float) -> np.ndarray:
    return np.asarray(1.5 + 100 / size**0.5 + 8 / np.asarray(steps) ** 0.5 + 15 * ratio**0.6)


@pytest.fixture(scope="module")
def surface() -> Surface:
    return build_surface([plan(size, ratio) for size in SIZES for ratio in RATIOS], 64)


def test_nodes_come_back(surface: Surface) -> None:
    for size in SIZES:
        for ratio in RATIOS:
            got = np.exp(surface.log_loss(size, STEPS, ratio))
            np.testing.assert_allclose(got, truth(size, STEPS, ratio), rtol=1e-12)


def test_midpoints_in_logs_are_means_of_logs(surface: Surface) -> None:
    middle = surface.log_loss(20_000, 400, 2.0**-7)
    corners = [surface.log_loss(m, 400, r) for m in SIZES[:2] for r in RATIOS[2:]]
    assert float(middle) == pytest.approx(np.mean(corners), rel=1e-12)
    between = surface.log_loss(10_000, np.sqrt(100.0 * 120.0), 0.0)
    ends = [surface.log_loss(10_000, t, 0.0) for t in (100, 120)]
    assert float(between) == pytest.approx(np.mean(ends), rel=1e-12)


def test_below_the_smallest_ratio_the_loss_settles_at_that_of_no_noise(surface: Surface) -> None:
    ratios = np.array([0.0, 1e-9, 1e-5, 2.0**-12, 2.0**-11, 2.0**-10])
    losses = surface.log_loss(40_000, 400, ratios)
    assert (np.diff(losses) >= 0).all()
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    own = float(sampling_noise(40_000, 64))
    # half of the way in log effective noise
    target = np.sqrt(own * np.hypot(own, 2.0**-10))
    half = surface.log_loss(40_000, 400, np.sqrt(target**2 - own**2))
    assert float(half) == pytest.approx((losses[0] + losses[-1]) / 2, rel=1e-9)


def test_beyond_the_last_step_follows_a_power_law_without_a_jump(surface: Surface) -> None:
    just, far = np.exp(surface.log_loss(40_000, np.array([400.001, 3200.0]), 0.0))
    assert just == pytest.approx(float(truth(40_000, 400, 0.0)), rel=1e-5)
    assert far == pytest.approx(float(truth(40_000, 3200, 0.0)), rel=0.02)
    # With noise the floor is that of the noise-free runs, as in the paper: lower than the
    # truth here, whose noise does not wear off.
    noisy = float(np.exp(surface.log_loss(40_000, 1e20, 2.0**-6)))
    assert noisy == pytest.approx(float(truth(40_000, 1e20, 0.0)), rel=0.05)


def test_a_missing_cell_leaves_the_rest_of_its_size() -> None:
    curves = [plan(size, ratio) for size in SIZES for ratio in RATIOS]
    ragged = build_surface(
        [c for c in curves if (c.num_params, c.noise_batch_ratio) != (40_000, 2.0**-8)], 64
    )
    exact = truth(40_000, 400, 2.0**-8)
    assert np.exp(ragged.log_loss(40_000, 400, 2.0**-8)) == pytest.approx(exact, rel=0.06)
    assert np.exp(ragged.log_loss(40_000, 400, 2.0**-6)) == pytest.approx(
        float(truth(40_000, 400, 2.0**-6)), rel=1e-12
    )


def test_a_longer_plan_in_mid_run_does_not_stand_for_a_finished_run() -> None:
    short, long = plan(10_000, 0.0), plan(10_000, 0.0, STEPS * 2)
    long = PlanCurve(
        10_000, 0.0, 800, long.steps, long.losses * np.linspace(1.05, 1, 20) ** 2, ("y",), ()
    )
    joined = build_surface([short, long], 64)
    assert np.exp(joined.log_loss(10_000, 400, 0.0)) == pytest.approx(short.final_loss)
    assert np.exp(joined.log_loss(10_000, 800, 0.0)) == pytest.approx(long.final_loss)
    # Between the short run's end and the long run's last part: a line, not the mid-run losses,
    # which stand above the short run's end and would keep the curve flat.
    first_late = np.log(long.losses[long.last_part][0])
    start = np.log(short.final_loss)
    share = np.log(500 / 400) / np.log(long.steps[long.last_part][0] / 400)
    expected = start + share * (min(first_late, start) - start)
    assert float(joined.log_loss(10_000, 500, 0.0)) == pytest.approx(expected)
    assert first_late < start


@pytest.mark.parametrize("where", [(10_000, 2.0**-8), (20_000, 2.0**-7), (300_000, 2.0**-5.5)])
def test_squared_weights_are_what_independent_errors_do(
    surface: Surface, where: tuple[float, float]
) -> None:
    generator = np.random.default_rng(0)
    size, ratio = where

    def shifted(cell: Cell) -> Cell:
        factor = np.exp(0.01 * generator.standard_normal())
        return dataclasses.replace(cell, losses=tuple(loss * factor for loss in cell.losses))

    samples = []
    for _ in range(400):
        slices = [
            dataclasses.replace(piece, cells=tuple(map(shifted, piece.cells)))
            for piece in surface.slices
        ]
        noisy = Surface(tuple(slices), surface.physical_batch_size)
        samples.append(float(noisy.log_loss(size, 400, ratio)))
    expected = 0.01**2 * float(surface.squared_weights(size, ratio))
    assert np.var(samples) == pytest.approx(expected, rel=0.25)
