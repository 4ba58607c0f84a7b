"""A `dpscale` process that gets a signal at a stated moment: python kill_at.py SIGNAL MOMENT ...

The moment is `EVENT:PATTERN:COUNT`: the COUNT-th time that Python raises the audit event
EVENT (`open`, `os.rename`, `os.mkdir`) with arguments that match PATTERN; the signal comes
before the operation is done. The rest of the command line is dpscale's.
"""

import os
import re
import signal
import sys


def send_at(signal_number: int, moment: str) -> None:
    event, pattern, count = moment.split(":")
    left = int(count)

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if name == event and re.search(pattern, repr(arguments)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal_number)

    sys.addaudithook(hook)


if __name__ == "__main__":
    from dpscale.cli.main import main

    send_at(signal.Signals[sys.argv[1]], sys.argv[2])
    sys.exit(main(sys.argv[3:]))
