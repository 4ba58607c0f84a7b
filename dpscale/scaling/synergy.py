"""What doubling a budget does to the noise-batch ratio, alone and in tandem with others.

The noise-batch ratio, noise_multiplier / expected_batch_size, is what the loss depends on
beside size and iterations. Three budgets push it down (arXiv 2501.18914, section 4.5):

- privacy: epsilon, at a fixed delta;
- compute: the expected batch size, at fixed iterations, model and sequence length, so that
  doubling it doubles train_flops = 6·M·B·T·S;
- data: the number of privacy units, at a fixed batch and fixed iterations.

Falls are in log2: 1 is a halved ratio, and falls of budgets that do not interact add up. The
answer needs accounting only: no model, no law, no training.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, Self

from dpscale.errors import InputError

BudgetName = Literal["privacy", "compute", "data"]
BUDGETS: Final[tuple[BudgetName, ...]] = ("privacy", "compute", "data")

PAIRS: Final[tuple[tuple[BudgetName, BudgetName], ...]] = (
    ("privacy", "compute"),
    ("privacy", "data"),
    ("compute", "data"),
)
"""The two budgets along the axes of each field; the third stays as it is."""

HALVINGS_BELOW: Final = 3
"""How far below the base a field begins."""

FIELD_WIDTH: Final = 8
"""A field has 8 by 8 points a doubling apart, from an eighth of each budget to 16 times it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The three budgets of a private run, with its delta and iterations.

    The two counts are whole where a run is meant; in a field they are the base's times powers
    of two, whatever fraction that leaves, for only their ratio q = B/N matters to the noise.
    """

    epsilon: float
    delta: float
    dataset_size: float
    expected_batch_size: float
    iterations: int

    @property
    def sampling_prob(self) -> float:
        """q = B/N."""
        return self.expected_batch_size / self.dataset_size

    def value(self, budget: BudgetName) -> float:
        """How much of a budget there is: epsilon, expected batch size or dataset size."""
        values = {
            "privacy": self.epsilon,
            "compute": self.expected_batch_size,
            "data": self.dataset_size,
        }
        return values[budget]

    def doubled(self, *budgets: BudgetName) -> Self:
        """The same with each of `budgets` doubled, once for each time that it is named."""
        return self._times(2.0, budgets)

    def halved(self, *budgets: BudgetName) -> Self:
        """The same with each of `budgets` halved, once for each time that it is named."""
        return self._times(0.5, budgets)

    def _times(self, factor: float, budgets: Sequence[BudgetName]) -> Self:
        return dataclasses.replace(
            self,
            epsilon=self.epsilon * factor ** budgets.count("privacy"),
            expected_batch_size=self.expected_batch_size * factor ** budgets.count("compute"),
            dataset_size=self.dataset_size * factor ** budgets.count("data"),
        )


NoiseOf = Callable[[Setting], float]
"""The noise multiplier that a setting needs; raises `InputError` where there is none."""


class ExactNoise:
    """The least noise multiplier of each setting, by the accountant, without a cap on batches.

    The mechanism depends on batch and data through q only, so that settings which share
    (epsilon, delta, q, T) share one calibration. Failures are remembered too.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[float, float, float, int], float | InputError] = {}

    def __call__(self, setting: Setting) -> float:
        """To 4 digits; see `calibrate_noise_multiplier`.

        Raises:
          InputError: A number out of range, or a target that no noise meets.
        """
        found = self.remember(setting)
        if isinstance(found, InputError):
            raise found
        return found

    def remember(self, setting: Setting) -> float | InputError:
        """The same with the failure returned: for filling the memory ahead of a field."""
        key = (setting.epsilon, setting.delta, setting.sampling_prob, setting.iterations)
        if key not in self._known:
            self._known[key] = _calibrated(setting)
        return self._known[key]


def _calibrated(setting: Setting) -> float | InputError:
    from dpscale.privacy.accounting.calibration import calibrate_noise_multiplier

    batch, size = Fraction(setting.expected_batch_size), Fraction(setting.dataset_size)
    whole = math.lcm(batch.denominator, size.denominator)  # the same q in whole numbers
    try:
        return calibrate_noise_multiplier(
            target_epsilon=setting.epsilon,
            target_delta=setting.delta,
            dataset_size=int(size * whole),
            expected_batch_size=int(batch * whole),
            iterations=setting.iterations,
        )
    except InputError as error:
        return error


@dataclass(frozen=True)
class Doubling:
    """The noise with some budgets doubled (none: the base), and what it gains.

    Attributes:
      relative_ratio: The noise-batch ratio over that of the base.
    """

    budgets: tuple[BudgetName, ...]
    setting: Setting
    noise_multiplier: float
    relative_ratio: float

    @property
    def noise_batch_ratio(self) -> float:
        """Noise on the mean gradient, in clip norms."""
        return self.noise_multiplier / self.setting.expected_batch_size

    @property
    def log2_fall(self) -> float:
        """By how many halvings the ratio fell: 1 is half the base, 0 is no gain."""
        return -math.log2(self.relative_ratio)


def every_choice() -> tuple[tuple[BudgetName, ...], ...]:
    """What may be doubled: nothing, each budget, each pair, all three."""
    sizes = range(len(BUDGETS) + 1)
    return tuple(itertools.chain(*(itertools.combinations(BUDGETS, size) for size in sizes)))


def doublings(base: Setting, noise_of: NoiseOf) -> tuple[Doubling, ...]:
    """The base, and every choice of budgets doubled: 8 settings, 6 different noises.

    Compute and data in tandem leave q as it is, hence the noise: the ratio falls by exactly
    one half.

    Raises:
      InputError: Twice the batch exceeds the data set, or a setting that no noise meets.
    """
    if 2 * base.expected_batch_size > base.dataset_size:
        raise InputError(
            "expected_batch_size",
            f"expected at most half of dataset_size={base.dataset_size:.0f}, as it is doubled, "
            f"found {base.expected_batch_size:.0f}.",
        )
    rows: list[Doubling] = []
    for budgets in every_choice():  # the base comes first
        setting = base.doubled(*budgets)
        noise = noise_of(setting)
        ratio = noise / setting.expected_batch_size
        base_ratio = rows[0].noise_batch_ratio if rows else ratio
        rows.append(Doubling(budgets, setting, noise, ratio / base_ratio))
    return tuple(rows)


def reading(rows: Sequence[Doubling]) -> str:
    """What `doublings` says, in one sentence.

    It names the best and the worst budget to double alone, how much of a larger batch the
    noise takes back, and whether all three together gain more than apart.
    """
    by_choice = {row.budgets: row for row in rows}
    alone = {budget: by_choice[budget,] for budget in BUDGETS}
    best = max(BUDGETS, key=lambda budget: alone[budget].log2_fall)
    worst = min(BUDGETS, key=lambda budget: alone[budget].log2_fall)
    growth = alone["compute"].noise_multiplier / by_choice[()].noise_multiplier
    together = by_choice[BUDGETS]
    apart = sum(alone[budget].log2_fall for budget in BUDGETS)
    return (
        f"Alone, {best} gains most (x{alone[best].relative_ratio:.2f}) and {worst} least "
        f"(x{alone[worst].relative_ratio:.2f}); a doubled batch asks for x{growth:.2f} the noise, "
        f"so that compute alone gives {alone['compute'].log2_fall:.2f} halvings; all three in "
        f"tandem give x{together.relative_ratio:.2f}, that is {together.log2_fall:.2f} halvings, "
        f"{_compared(together.log2_fall, apart)}."
    )


def _compared(together: float, apart: float) -> str:
    if abs(together - apart) < 0.005:
        return "as many as the three alone add up to"
    return f"where the three alone add up to {apart:.2f}"


@dataclass(frozen=True)
class Arrow:
    """A point of a field, and by how much doubling each axis's budget moves the ratio there.

    Attributes:
      x_fall, y_fall: Fall of log2(noise-batch ratio) when one budget is doubled; the arrow.
      both_fall: The same when both are.
      missing: Why there is no arrow ("" where there is): one of its four settings cannot be.
        The numbers are NaN then.
    """

    setting: Setting
    noise_batch_ratio: float
    x_fall: float
    y_fall: float
    both_fall: float
    missing: str = ""


@dataclass(frozen=True)
class Field:
    """Arrows over two budgets, a doubling apart; the third budget is that of `base`."""

    base: Setting
    x: BudgetName
    y: BudgetName
    arrows: tuple[Arrow, ...]


def field_points(base: Setting, x: BudgetName, y: BudgetName) -> tuple[Setting, ...]:
    """Where a field's arrows stand, x running fastest."""
    corner = base.halved(*[x] * HALVINGS_BELOW, *[y] * HALVINGS_BELOW)
    steps = range(FIELD_WIDTH)
    return tuple(corner.doubled(*[x] * i, *[y] * j) for j in steps for i in steps)


def field_settings(base: Setting, x: BudgetName, y: BudgetName) -> tuple[Setting, ...]:
    """Every setting that a field needs noise for: its points, and one more row and column."""
    around = (
        setting
        for point in field_points(base, x, y)
        for setting in (point, point.doubled(x), point.doubled(y), point.doubled(x, y))
    )
    return tuple(dict.fromkeys(around))


def field(base: Setting, x: BudgetName, y: BudgetName, noise_of: NoiseOf) -> Field:
    """The arrows over the budgets `x` and `y`, from an eighth of each to 16 times it."""
    arrows = tuple(_arrow(point, x, y, noise_of) for point in field_points(base, x, y))
    return Field(base, x, y, arrows)


def _arrow(point: Setting, x: BudgetName, y: BudgetName, noise_of: NoiseOf) -> Arrow:
    around = (point, point.doubled(x), point.doubled(y), point.doubled(x, y))
    if missing := _impossible(around):
        return _no_arrow(point, missing)
    try:
        here, right, above, beyond = (
            noise_of(setting) / setting.expected_batch_size for setting in around
        )
    except InputError as error:
        return _no_arrow(point, str(error))
    x_fall, y_fall, both_fall = (math.log2(here / there) for there in (right, above, beyond))
    return Arrow(point, here, x_fall, y_fall, both_fall)


def _impossible(settings: Sequence[Setting]) -> str:
    """Why one of `settings` is no private run, or ""."""
    if any(setting.expected_batch_size < 1 for setting in settings):
        return "the batch is below one unit"
    if any(setting.sampling_prob > 1 for setting in settings):
        return "the batch, doubled or not, exceeds the data set"
    return ""


def _no_arrow(point: Setting, missing: str) -> Arrow:
    return Arrow(point, math.nan, math.nan, math.nan, math.nan, missing)
