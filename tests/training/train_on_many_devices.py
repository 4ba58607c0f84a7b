"""Trains runs on as many devices as XLA_FLAGS forces, one after the other.

Run as a script with a JSON list of jobs: a config, its folder ({host} in it is the host's
number), and after how many iterations a stop is asked for (null: never). Further arguments name
the hosts of the runs: coordinator, how many there are, and which of them this is; then the last
of them is sent SIGTERM to stop. Exits with 75 where a run was stopped. How many units a host has
read for its batches is left beside the run's folder, in `{run_dir}.read{host}`. The number of
devices must be known before JAX starts.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpscale.config import RunConfig
from dpscale.data.units import PreparedUnits, UnitArray, open_units
from dpscale.errors import ExitCode, RunInterrupted
from dpscale.training import loop
from dpscale.training.hosts import Hosts, join
from dpscale.training.interruption import StopRequest
from dpscale.training.loop import train


class CountedUnits(UnitArray):
    """Counts the units that are read of others."""

    def __init__(self, units: UnitArray) -> None:
        super().__init__([], units.unit_len)
        self._units = units
        self.num_read = 0

    def __len__(self) -> int:
        return len(self._units)

    def gather(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """As that of the others."""
        self.num_read += len(indices)
        return self._units.gather(indices)


def run(job: dict[str, Any], hosts: Hosts) -> bool:
    """Trains until the end, or until the stop; whether it came to the end."""
    stop = StopRequest()

    def observe(line: dict[str, Any]) -> None:
        if job["stop_after"] is None or line["step"] < job["stop_after"]:
            return
        if hosts.num_hosts is None:
            stop.is_set = True
        elif hosts.host_index == hosts.num_hosts - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def counted_units(path: str) -> PreparedUnits:
        units = open_units(path)
        counted.append(CountedUnits(units.train))
        return dataclasses.replace(units, train=counted[-1])

    counted: list[CountedUnits] = []
    config = RunConfig.from_dict(job["config"], where="job")
    run_dir = Path(job["run_dir"].format(host=hosts.host_index))
    loop.open_units = counted_units
    try:
        train(config, run_dir, stop=stop, observe=observe)
    except RunInterrupted:
        return False
    read = run_dir.with_name(f"{run_dir.name}.read{hosts.host_index or 0}")
    read.write_text(str(counted[0].num_read))
    return True


def main(jobs: str, *place: str) -> ExitCode:
    """All jobs, on this host."""
    hosts = Hosts()
    if place:
        coordinator, num_hosts, host_index = place
        hosts = Hosts(coordinator=coordinator, num_hosts=int(num_hosts), host_index=int(host_index))
    join(hosts)
    have_ended = [run(job, hosts) for job in json.loads(jobs)]
    return ExitCode.OK if all(have_ended) else ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
