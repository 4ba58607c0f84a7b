"""Trains runs on as many devices as XLA_FLAGS forces, one after the other.

Run as a script with a JSON list of jobs: a config, its folder ({host} in it is the host's
number), and after how many iterations a stop is asked for (null: never). Further arguments name
the hosts of the runs: coordinator, how many there are, and which of them this is; then the last
of them is sent SIGTERM to stop. Exits with 75 where a run was stopped. The number of devices must
be known before JAX starts.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dpscale.config import RunConfig
from dpscale.errors import ExitCode, RunInterrupted
from dpscale.training.hosts import Hosts, join
from dpscale.training.interruption import StopRequest
from dpscale.training.loop import train


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

    config = RunConfig.from_dict(job["config"], where="job")
    try:
        run_dir = Path(job["run_dir"].format(host=hosts.host_index))
        train(config, run_dir, stop=stop, observe=observe)
    except RunInterrupted:
        return False
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
