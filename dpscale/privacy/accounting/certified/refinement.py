"""Panels cut until the quadrature's bound is small enough where it matters."""

from dataclasses import dataclass

import numpy as np

from dpscale.privacy.accounting.certified.errors import NoCertifiedInterval
from dpscale.privacy.accounting.certified.quadrature import RULE_SIZE, Panels
from dpscale.privacy.accounting.certified.split import Split
from dpscale.privacy.accounting.certified.transform import Tilt, panel_errors


@dataclass(frozen=True)
class Goal:
    """What errors of the transforms should stay below at one frequency."""

    frequency: float
    bulk: float
    jumps: float


def refined(
    panels: Panels, split: Split, order: float, goals: list[Goal], most_nodes: float
) -> Panels:
    """Halves panels until all goals are met.

    Raises:
      NoCertifiedInterval: That takes more nodes than `most_nodes`.
    """
    frequencies = np.array([goal.frequency for goal in goals])
    for _ in range(40):
        which = np.zeros(len(panels.edges) - 1, np.bool_)
        bulk, jumps = split.bulk(panels), split.jumps(panels)
        tilt = Tilt(order, panels.log_moment(order, slice(0, jumps.stop)), 0.0)
        for part, limits in (
            (bulk, [goal.bulk for goal in goals]),
            (jumps, [goal.jumps for goal in goals]),
        ):
            count = part.stop - part.start
            if not count:
                continue
            errors = panel_errors(panels, part, tilt, frequencies)
            missed = errors.sum(axis=1) > np.array(limits)
            allowed = np.array(limits)[:, None] / (2 * count)
            which[part] = ((errors > allowed) & missed[:, None]).any(axis=0)
        if not which.any():
            return panels
        if (which.sum() + which.size) * RULE_SIZE > most_nodes:
            break
        panels = panels.halved(which)
    raise NoCertifiedInterval(f"more than {most_nodes:.1e} quadrature nodes would be needed.")
