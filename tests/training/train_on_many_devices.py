"""Trains runs on as many devices as XLA_FLAGS forces, one after the other.

Run as a script with a JSON list of jobs: a config, its folder, and after how many iterations a
stop is asked for (null: never). The number of devices must be known before JAX starts.
"""

import json
import sys
from pathlib import Path
from typing import Any

from dpscale.config import RunConfig
from dpscale.errors import RunInterrupted
from dpscale.training.interruption import StopRequest
from dpscale.training.loop import train


def run(job: dict[str, Any]) -> None:
    """Trains until the end, or until the stop."""
    stop = StopRequest()

    def observe(line: dict[str, Any]) -> None:
        stop.is_set = job["stop_after"] is not None and line["step"] >= job["stop_after"]

    config = RunConfig.from_dict(job["config"], where="job")
    try:
        train(config, Path(job["run_dir"]), stop=stop, observe=observe)
    except RunInterrupted:
        if job["stop_after"] is None:
            raise


for each in json.loads(sys.argv[1]):
    run(each)
