"""The last value of one number at which a run still meets its target.

Epsilon is monotone in each number that calibration solves for, so that the answer is a root. It
is found by secants in (log value, log epsilon), which is nearly a line: some four evaluations
where the start is good. Only what has been evaluated is believed: the answer has been seen to
meet the target, and a neighbour on the less private side has been seen to miss it. Epsilon that
is not to be had at some value counts as too much, so that the search turns to more privacy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

TOLERANCE: Final = 1e-4
"""The answer and its neighbour that misses are this close, as a share; whole numbers next to
each other where they are below 10,000."""

DIGITS: Final = 6
"""Significant digits of an answer that is not whole, so that configs are readable."""

LONGEST_STEP: Final = 0.7
"""Of the first probe, in the logarithm; each may be four times as long as the last."""

MOST_PROBES: Final = 100


@dataclass(frozen=True)
class Unknown:
    """The number that is solved for.

    Args:
      least_private, most_private: The ends of its range; epsilon falls from one to the other.
      is_whole: Whether only whole numbers will do.
    """

    least_private: float
    most_private: float
    is_whole: bool

    @property
    def sign(self) -> int:
        """1 if epsilon falls as the number grows."""
        return 1 if self.most_private > self.least_private else -1

    def at(self, place: float) -> float:
        """The admissible number at a place: the logarithm, turned so that epsilon falls."""
        low, high = sorted((self.least_private, self.most_private))
        log_value = self.sign * place
        if not math.log(low) < log_value < math.log(high):
            return low if log_value <= math.log(low) else high
        value = math.exp(log_value)
        value = float(round(value)) if self.is_whole else float(f"{value:.{DIGITS}g}")
        return min(max(value, low), high)

    def place(self, value: float) -> float:
        """The other way round."""
        return self.sign * math.log(value)

    def gap(self, value: float) -> float:
        """How far apart in place the answer and its neighbour may be."""
        return max(TOLERANCE, math.log1p(1 / value)) if self.is_whole else TOLERANCE


class TargetOutOfReach(Exception):
    """The most private value there is misses the target."""

    def __init__(self, value: float, epsilon: float) -> None:
        super().__init__(f"{epsilon} at {value}")
        self.value = value
        self.epsilon = epsilon


@dataclass(frozen=True)
class Probe:
    """A value, its place, and log(epsilon / target) there."""

    value: float
    place: float
    excess: float


@dataclass(frozen=True)
class _Bracket:
    """What has been seen: the last probe on either side, and the last two for a line."""

    unknown: Unknown
    misses: Probe | None = None
    meets: Probe | None = None
    line: tuple[Probe, ...] = ()
    count: int = 0

    def seen(self, probe: Probe) -> "_Bracket":
        line = (*self.line, probe)[-2:] if math.isfinite(probe.excess) else self.line
        seen = replace(self, line=line, count=self.count + 1)
        return replace(seen, meets=probe) if probe.excess <= 0 else replace(seen, misses=probe)

    @property
    def is_settled(self) -> bool:
        if self.meets is None or self.misses is None:
            return self.meets is not None and self.meets.value == self.unknown.least_private
        are_next = self.unknown.is_whole and abs(self.meets.value - self.misses.value) <= 1
        return are_next or self.meets.place - self.misses.place <= TOLERANCE * (1 + 1e-9)

    def next_value(self) -> float:
        """Where to look next: strictly between the ends that are known."""
        last = self.meets or self.misses
        assert last is not None, "there is a first probe"
        if self.meets is None or self.misses is None:
            away = LONGEST_STEP * 4.0 ** min(self.count - 1, 10)
            side = 1 if self.meets is None else -1
            root = self._root()
            aim = last.place + side * away if root is None else self._near(root)
            value = self.unknown.at(max(-away, min(away, aim - last.place)) + last.place)
            further = last.place + side * self.unknown.gap(last.value)
            return value if value != last.value else self.unknown.at(further)
        low, high = self.misses.place, self.meets.place
        root, middle = self._root(), (low + high) / 2
        slow = self.count > 8 and self.count % 2
        aim = middle if root is None or slow or not low < root < high else self._near(root)
        value = self.unknown.at(aim)
        between = low < self.unknown.place(value) < high
        return value if between else self.unknown.at(middle)

    def _root(self) -> float | None:
        """Where the line through the last two probes crosses; one probe has a slope of -1."""
        if not self.line:
            return None
        last, slope = self.line[-1], -1.0
        if len(self.line) == 2:
            first = self.line[0]
            slope = (last.excess - first.excess) / (last.place - first.place)
        return last.place - last.excess / slope if slope < 0 else None

    def _near(self, root: float) -> float:
        """The root, a little to the private side; if that was seen, what settles the matter."""
        gap = self.unknown.gap(self.unknown.at(root))
        step = 0.9 * gap * 4.0 ** max(0, self.count - 4)
        if self.meets is not None and abs(self.meets.place - root) < gap:
            return self.meets.place - step
        if self.misses is not None and abs(self.misses.place - root) < gap:
            return self.misses.place + step
        return root + gap / 4


def last_that_meets(
    spent: Callable[[float], float], unknown: Unknown, *, target: float, start: float
) -> float:
    """The least private value at which `spent` is at most `target`.

    Guarantee: `spent` of the returned value has been seen to be at most `target`; unless it is
    the least private end, `spent` has been seen above the target at a neighbour no further than
    `TOLERANCE` of it, or the next whole number.

    Args:
      spent: Epsilon at a value; infinite where none is to be had.
      target: Above 0.
      start: A first guess.

    Raises:
      TargetOutOfReach: The most private value misses the target.
    """
    bracket = _Bracket(unknown)
    value = unknown.at(unknown.place(start))
    for _ in range(MOST_PROBES):
        epsilon = spent(value)
        excess = math.log(epsilon / target) if epsilon > 0 else -math.inf
        if excess > 0 and value == unknown.most_private:
            raise TargetOutOfReach(value, epsilon)
        bracket = bracket.seen(Probe(value, unknown.place(value), excess))
        if bracket.is_settled:
            assert bracket.meets is not None, "the end that meets is the answer"
            return bracket.meets.value
        value = bracket.next_value()
    raise AssertionError("bisection ends long before this")
