"""Ties a process to its parent's life and to some cores, then becomes the given command.

    python -m dpscale.sweep.launchers.leash PARENT_PID CORES COMMAND...

A small program of its own, because both settings must be made inside the child, and running
Python between fork and exec is unsafe in a parent that has threads. CORES are numbers
with commas between them, or `any` to leave the cores alone.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h; it survives exec


def main(arguments: list[str]) -> None:
    """Applies the settings and replaces this process by the command."""
    parent, cores, *command = arguments
    # Slurm sends it to every process of a job whose time is up, for the one that watches over
    # the others; it would end a run that is about to be asked to save.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        # SIGKILL, not SIGTERM: a run loses nothing by it (it resumes from its checkpoint),
        # and none may go on writing to a folder that the next sweep has locked.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit(1)  # the parent died before the line above
        if cores != "any":
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
