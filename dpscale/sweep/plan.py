"""What a sweep would do, before it does anything: the order of its points, and what they cost."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from dpscale.records import Status
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.schedule import in_order, planned_flops
from dpscale.sweep.spec import Sweep
from dpscale.sweep.survey import RunState, point_state


@dataclass(frozen=True)
class PlannedPoint:
    """A point that is left.

    Attributes:
      state: Where it stands.
      flops: What is left of its `train_flops`.
      needs: Its resources in words; empty where the sweep file says nothing.
    """

    state: RunState
    flops: float
    needs: str


@dataclass(frozen=True)
class Plan:
    """The points that are left, in the order in which they start, and how many have ended."""

    points: tuple[PlannedPoint, ...]
    num_ended: int

    @property
    def flops(self) -> float:
        """What is left to compute."""
        return sum(point.flops for point in self.points)

    def stretch(self, slots: int) -> float:
        """Wall time in this order, to the least that any order could reach.

        The least is the larger of an equal share for every slot and the longest point. Each
        point is taken to last as long as its FLOPs say.
        """
        costs = [point.flops for point in self.points]
        if not costs:
            return 1.0
        return wall_time(costs, slots) / max(sum(costs) / slots, *costs)


def plan_sweep(sweep: Sweep, folder: SweepFolder, *, now: float) -> Plan:
    """The plan of a sweep in its folder, which is only read.

    Args:
      now: Unix time in seconds.
    """
    states = {point.run_id: point_state(folder, point, {}, now=now) for point in sweep.points}
    waiting = [
        point
        for point in sweep.points
        if states[point.run_id].status not in (Status.FINISHED, Status.DIVERGED)
    ]
    planned = []
    for point in in_order(waiting):
        state = states[point.run_id]
        left = 1 - state.step / point.training.iterations
        needs = sweep.resources_of(point).describe()
        planned.append(PlannedPoint(state, planned_flops(point) * left, needs))
    return Plan(tuple(planned), num_ended=len(sweep.points) - len(waiting))


def wall_time(durations: Sequence[float], slots: int) -> float:
    """When the last of some tasks ends that start in this order, each as a slot becomes free.

    >>> wall_time([3.0, 2.0, 2.0, 1.0], slots=2)
    4.0
    """
    ends = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)
