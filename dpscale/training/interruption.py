"""Stopping on request: the first signal asks, the second insists."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.is_set = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a request; a second signal acts as it did before."""
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in numbers}

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.is_set = True
        _restore(previous)

    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        _restore(previous)


Handlers = Mapping[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]


def _restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
