"""The end of a process among several hosts that was asked to leave, also where it hangs.

JAX's runtime takes SIGTERM for itself, so that all hosts can agree on a step to save at. What it
leaves out is the rest of that signal's meaning: a host that waits for one that is gone would wait
on, whatever it is sent. Python's own handlers do not run while the main thread is inside a
computation; a thread of its own sees the signals all the same.
"""

import ctypes
import os
import signal
import threading

KILLED_BY_SIGTERM = 128 + signal.SIGTERM
"""Exit code of a process that left without having saved, as a shell gives it."""


def end_after_grace(grace_seconds: float) -> None:
    """Ends this process when a second SIGTERM comes, or some time after the first.

    The first one still reaches JAX. To be called once, in the main thread, after the hosts have
    found each other.

    Args:
      grace_seconds: From the first SIGTERM on; the state is saved within it, or not at all.
    """
    jax_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_replaced_handler())
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, jax_handler, grace_seconds), daemon=True).start()


def _replaced_handler() -> int:
    """Puts a handler of Python's, which wakes us up, in the place of JAX's; returns JAX's."""
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    handler: int | None = libc.signal(signal.SIGTERM, ctypes.c_void_p(None))
    if not handler:
        raise RuntimeError("Expected JAX to handle SIGTERM after jax.distributed.initialize().")
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return handler


def _watch(reader: int, jax_handler: "ctypes._CFunctionType", grace_seconds: float) -> None:
    is_first = True
    while received := os.read(reader, 1):
        if received[0] != signal.SIGTERM:
            continue
        if not is_first:
            os._exit(KILLED_BY_SIGTERM)
        is_first = False
        jax_handler(signal.SIGTERM)
        timer = threading.Timer(grace_seconds, os._exit, (KILLED_BY_SIGTERM,))
        timer.daemon = True
        timer.start()
