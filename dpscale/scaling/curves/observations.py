"""From smoothed curves to the points that parametric forms are fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpscale.scaling.curves.smoothing import PlanCurve
from dpscale.scaling.forms import Array, Form, Points, noise_floor


@dataclass(frozen=True)
class Observations:
    """What a parametric form is fitted to.

    Args:
      losses: float64[points], nats per token.
      weights: float64[points]; those of one curve sum to 1.
      curve_of: int[points], index of the curve that each point comes from.
    """

    points: Points
    losses: Array
    weights: Array
    curve_of: NDArray[np.intp]


@dataclass(frozen=True)
class Setting:
    """What all runs of a law share: the batch of an iteration, and what stands for r = 0."""

    batch: int
    ratio_floor: float

    @classmethod
    def of(cls, curves: Sequence[PlanCurve], batch: int) -> "Setting":
        """The setting of `curves`, trained at `batch` examples an iteration."""
        positive = [curve.noise_batch_ratio for curve in curves if curve.noise_batch_ratio > 0]
        sizes = [curve.num_params for curve in curves]
        return cls(batch, noise_floor(sizes, batch, positive or [np.inf]))

    def ends(self, curves: Sequence[PlanCurve]) -> Points:
        """Where each curve ends."""
        return Points.of(
            [curve.num_params for curve in curves],
            [curve.final_step for curve in curves],
            [curve.noise_batch_ratio for curve in curves],
            batch_size=self.batch,
            ratio_floor=self.ratio_floor,
        )


def curves_for(form: Form, curves: Sequence[PlanCurve]) -> list[PlanCurve]:
    """The curves that `form` describes: all, or those without noise."""
    return [curve for curve in curves if not form.noise_free or curve.noise_batch_ratio == 0]


def observe(curves: Sequence[PlanCurve], setting: Setting) -> Observations:
    """The ends of the runs; with one planned length, a few points of their last part.

    In mid-run the learning rate has not decayed, so that the slope inside a run is steeper
    than that between runs of different lengths. Where there are different lengths only ends
    count; where there are not, the last part is all there is to see the iterations in.
    """
    chosen = [np.array([curve.steps.size - 1]) for curve in curves]
    if len({curve.iterations for curve in curves}) == 1:
        chosen = [_spread(np.flatnonzero(curve.last_part)) for curve in curves]
    repeats = [index.size for index in chosen]
    points = Points.of(
        np.repeat([curve.num_params for curve in curves], repeats),
        np.concatenate([curve.steps[i] for curve, i in zip(curves, chosen, strict=True)]),
        np.repeat([curve.noise_batch_ratio for curve in curves], repeats),
        batch_size=setting.batch,
        ratio_floor=setting.ratio_floor,
    )
    return Observations(
        points,
        losses=np.concatenate([curve.losses[i] for curve, i in zip(curves, chosen, strict=True)]),
        weights=np.repeat(1.0 / np.array(repeats), repeats),
        curve_of=np.repeat(np.arange(len(curves)), repeats),
    )


def _spread(indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most four of `indices`, evenly spread, the last among them."""
    places = np.unique(np.linspace(0, indices.size - 1, min(4, indices.size)).round().astype(int))
    return np.asarray(indices[places])
