"""A process that takes a lease: python lease_process.py PATH LOST_SECONDS HOLD_SECONDS.

It waits for a line on stdin (so that several can reach for it at once), then prints `held`, holds
it for so long and prints `left`, or prints `refused`.
"""

import sys
import time

from dpscale.buckets import lease
from dpscale.errors import InputError
from dpscale.files import held_alone
from dpscale.paths import as_path


def take(text: str, lost_seconds: float, hold_seconds: float) -> None:
    lease.RENEW_SECONDS, lease.LOST_SECONDS = lost_seconds / 6, lost_seconds
    path = as_path(text)
    path.exists()  # connected
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with held_alone(path, InputError(text, "busy")):
            print("held", flush=True)
            time.sleep(hold_seconds)
        print("left", flush=True)
    except InputError:
        print("refused", flush=True)


if __name__ == "__main__":
    take(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
