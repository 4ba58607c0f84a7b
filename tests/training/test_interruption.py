"""Signals: the first one asks, the second acts as it would have without us."""

import os
import signal

import pytest

from dpscale.training.interruption import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    # Catches: a run that can be stopped by SIGKILL alone once it hangs.
    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    with stop_on_signals() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), number)
        assert stop.is_set
        for which, handler in before.items():
            assert signal.getsignal(which) == handler


def test_handlers_are_put_back_without_a_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
