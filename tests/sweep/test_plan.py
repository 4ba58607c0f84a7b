"""The order and the packing of a sweep, by FLOPs and by wall times that were measured."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dpscale.config import RunConfig
from dpscale.sweep.launchers.protocol import Resources
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.plan import plan_sweep, wall_time
from dpscale.sweep.schedule import in_order, planned_flops
from dpscale.sweep.spec import Sweep, read_sweep

Finish = Callable[[SweepFolder, RunConfig], None]

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "dpscale" / "sweep" / "embedded" / "quickstart.toml"
OWN_TEXT = ROOT / "sweeps" / "own_text.toml"

# Seconds a run, by width and iterations: the quickstart's sweep on a 2-core x86 CPU.
MEASURED = {
    (16, 200): 6.0,
    (24, 200): 7.2,
    (32, 200): 9.1,
    (48, 200): 13.4,
    (64, 200): 19.7,
    (16, 400): 13.2,
    (24, 400): 15.3,
    (32, 400): 19.9,
}


def least(durations: list[float], slots: int) -> float:
    return max(sum(durations) / slots, *durations)


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("path", [QUICKSTART, OWN_TEXT], ids=lambda path: path.stem)
def test_our_sweeps_take_little_longer_than_the_least_possible(path: Path, slots: int) -> None:
    costs = [planned_flops(point) for point in in_order(read_sweep(path).points)]
    assert wall_time(costs, slots) <= 1.15 * least(costs, slots)


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_flops_order_well_also_where_small_models_are_slower_than_their_flops(slots: int) -> None:
    ordered = in_order(read_sweep(QUICKSTART).points)
    seconds = [MEASURED[point.model.width, point.training.iterations] for point in ordered]
    assert wall_time(seconds, slots) <= 1.15 * least(seconds, slots)
    backwards = wall_time(seconds[::-1], slots)
    assert wall_time(seconds, slots) < backwards


def test_sweeps_of_very_different_points_are_packed_within_a_seventh() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        slots = int(generator.integers(1, 33))
        costs = sorted(generator.lognormal(0.0, 1.5, size=6 * slots).tolist(), reverse=True)
        assert wall_time(costs, slots) <= 1.15 * least(costs, slots)


def test_a_plan_lists_what_is_left_in_order_and_reads_only(
    tmp_path: Path, make_point: Callable[..., RunConfig], finish: Finish
) -> None:
    points = [make_point(16), make_point(32), make_point(32, seed=1), make_point(16, seed=2)]
    needs = {point.run_id: Resources(hosts=2) for point in points}
    sweep, folder = Sweep(tuple(points), needs), SweepFolder(tmp_path / "out")
    plan = plan_sweep(sweep, folder, now=0.0)
    assert not folder.root.exists()
    assert plan.num_ended == 0
    assert plan.flops == pytest.approx(sum(map(planned_flops, points)))
    assert {point.needs for point in plan.points} == {"2 hosts"}
    flops = [point.flops for point in plan.points]
    assert flops[0] == max(flops)
    assert plan.stretch(slots=1) == pytest.approx(1.0)
    finish(folder, points[1])
    after = plan_sweep(sweep, folder, now=0.0)
    assert after.num_ended == 1
    assert points[1].run_id not in [point.state.run_id for point in after.points]


def test_a_plan_of_nothing_is_no_work(
    tmp_path: Path, points: list[RunConfig], finish: Finish
) -> None:
    point, folder = points[0], SweepFolder(tmp_path)
    finish(folder, point)
    plan = plan_sweep(Sweep((point,), {point.run_id: Resources()}), folder, now=0.0)
    assert (plan.points, plan.flops, plan.stretch(slots=2)) == ((), 0.0, 1.0)
