"""Epsilon of a run: certified where it can be, dp_accounting's otherwise.

Every number that leaves the project (a verb's answer, a receipt, a calibration) comes through
here, so that all of them agree on the accountant.
"""

import importlib.metadata
from dataclasses import dataclass
from typing import Final

from dpscale.privacy.accounting import pld
from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.interval import epsilon_interval
from dpscale.privacy.accounting.certified.truncated import log_overflow_bound
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian, check_budget

CERTIFIED: Final = "dpscale certified interval"


@dataclass(frozen=True)
class Accounted:
    """What a mechanism spends at one delta.

    Attributes:
      lower: The true epsilon is at least this; None where no such bound is known.
      upper: It is at most this: the epsilon to claim.
      accountant: What found them, with its version.
      is_certified: Whether every error of the computation is bounded and added
        (`docs/accounting.md`); where not, `upper` is dp_accounting's pessimistic estimate.
    """

    lower: float | None
    upper: float
    accountant: str
    is_certified: bool

    @property
    def certainty(self) -> str:
        """In words."""
        return "certified" if self.is_certified else f"not certified, by {self.accountant}"


def accounted(mechanism: SubsampledGaussian, *, delta: float) -> Accounted:
    """The epsilon that `mechanism` spends at `delta`.

    A cap that batches exceed too often for a certified interval is left to dp_accounting, whose
    analysis goes through each step's loss.

    Args:
      delta: In (0, 1).

    Raises:
      InputError: `delta` is out of range.
      NoCertifiedInterval: No interval of the promised width, and no cap to blame for it.
    """
    check_budget(delta=delta)
    if mechanism.iterations == 0:
        return Accounted(0.0, 0.0, _named(CERTIFIED, "dpscale"), is_certified=True)
    try:
        interval = epsilon_interval(mechanism, delta=delta)
    except NoCertifiedInterval:
        if log_overflow_bound(mechanism) == -float("inf"):
            raise
        return uncertified(mechanism, delta=delta)
    return Accounted(
        interval.lower, interval.upper, _named(CERTIFIED, "dpscale"), is_certified=True
    )


def uncertified(mechanism: SubsampledGaussian, *, delta: float) -> Accounted:
    """What dp_accounting says that `mechanism` spends at `delta`.

    Raises:
      InputError: So little noise that no grid of bearable size holds the privacy loss.
    """
    upper = pld.epsilon(mechanism, delta=delta)
    return Accounted(None, upper, _named(pld.ACCOUNTANT, "dp-accounting"), is_certified=False)


def _named(accountant: str, package: str) -> str:
    return f"{accountant} ({package} {importlib.metadata.version(package)})"
